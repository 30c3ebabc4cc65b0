"""The verb score."""

import json

import pytest

from rlhive import RoboHiveDataset, export
from rlhive.data.scores import score_path
from tests.cli.conftest import invoke
from tests.data.scores.arms import SCHEMA, make_planted


@pytest.fixture
def arms(store):
    """The store, with the dataset my/arms."""
    export(make_planted(), "my/arms", schema=SCHEMA, license="mit", store=store)
    return store


@pytest.mark.usefixtures("arms")
def test_score_prints_distributions_and_the_episodes_that_stand_out():
    rows = RoboHiveDataset("my/arms").score().to_pylist()
    outliers = [row for row in rows if row["outlier"]]
    printed = invoke("score", "my/arms", "--limit", 3).stdout
    lines = [line.split() for line in printed.splitlines()]

    assert ["my/arms", "1.0.0:", "100", "episodes"] in lines
    (saturation,) = [line for line in lines if line[:1] == ["saturation"]]
    assert saturation[-1] == str(sum("saturation" in row["outlier"] for row in rows))
    assert [line for line in lines if line[:1] == ["distance_to_goal"]] == [
        ["distance_to_goal", "-", "not", "known", "-"]
    ]
    for row in outliers[:3]:
        assert [str(row["episode"]), "train", *row["outlier"].split()] in lines
    assert f"{len(outliers)} of 100 episodes stand out, the first 3 of them above." in printed
    assert """Look at them: rlhive view my/arms --where "outlier != ''\"""" in printed
    assert max(map(len, printed.splitlines())) <= 80


@pytest.mark.usefixtures("arms")
def test_score_gives_the_table_as_json_for_the_episodes_that_meet_a_condition():
    rows = RoboHiveDataset("my/arms").score().to_pylist()

    printed = invoke("score", "my/arms", "--where", "duplicate", "--json").stdout

    assert json.loads(printed) == [row for row in rows if row["duplicate"]]
    assert len(json.loads(printed)) == 4


def test_force_computes_again(arms):
    dataset = RoboHiveDataset("my/arms")
    invoke("score", "my/arms")
    path = score_path(dataset.fingerprint, store=arms)
    before = path.stat().st_mtime_ns

    invoke("score", "my/arms")
    assert path.stat().st_mtime_ns == before
    invoke("score", "my/arms", "--force")
    assert path.stat().st_mtime_ns > before


@pytest.mark.usefixtures("arms")
def test_an_unknown_score_is_refused_with_the_names_of_the_others():
    refused = invoke("score", "my/arms", "--where", "jerky > 3")

    assert refused.exit_code == 1
    assert "there is no column jerky" in refused.stderr
    assert "Scores are jerk, idle, path_length" in " ".join(refused.stderr.split())
