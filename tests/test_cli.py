import json
import shutil

import pytest
from typer.testing import CliRunner

from rlhive.cli import app
from rlhive.collect import collect
from rlhive.envs.tasks import TASKS


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    store = tmp_path_factory.mktemp("made")
    collect("toy_point", store=store, progress=False)
    return store


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_help_lists_every_verb():
    shown = run("--help").stdout

    for verb in ("setup", "collect", "train", "evaluate", "show", "check", "list", "envs"):
        assert f" {verb} " in shown


def test_show_says_what_a_dataset_is(made, store):
    shutil.copytree(made, store)

    assert "expert: 8 episodes, 160 transitions" in run("show", "toy_point").stdout
    described = json.loads(run("show", "toy_point", "--json").stdout)
    assert described["splits"]["random"] == {"num_episodes": 8, "num_transitions": 160}
    assert described["version"] == "1.0.0"


def test_check_looks_at_everything_and_its_status_says_so(made, store):
    shutil.copytree(made, store)
    folder = store / "robohive/toy_point/1.0.0"

    clean = run("check", "toy_point", "--json")
    shard = folder / "data/random-00000-of-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-9])
    damaged = run("check", "toy_point")
    (folder / "rlhive.json").write_text("[]")
    unreadable = run("check", folder)

    assert clean.exit_code == 0
    assert {row["status"] for row in json.loads(clean.stdout)["checks"]} == {"passed"}
    assert damaged.exit_code == unreadable.exit_code == 1
    assert "files" in damaged.stdout
    assert "failed" in unreadable.stdout
    assert "Traceback" not in damaged.stderr + unreadable.stderr


def test_list_names_what_is_there_and_what_can_be_made(made, store):
    before = json.loads(run("list", "--json").stdout)
    shutil.copytree(made, store)

    assert before == {f"robohive/{name}": [] for name in TASKS}
    assert json.loads(run("list", "--json").stdout)["robohive/toy_point"] == ["1.0.0"]
    assert "rlhive collect kitchen_knob1" in run("list").stdout


def test_envs_lists_the_catalogue():
    assert json.loads(run("envs", "--json").stdout)["kitchen_knob1"] == "FK1_Knob1OnRandom-v4"
    assert "kitchen_knob1" in run("envs").stdout


def test_evaluate_shows_a_policy_beside_random_and_expert():
    ran = run("evaluate", "medium", "--env", "toy_point", "--episodes", 6, "--workers", 1, "--json")
    rows = json.loads(ran.stdout)

    assert [row["policy"] for row in rows] == ["medium", "random", "expert"]
    assert rows[2]["success_rate"] == 1.0
    assert rows[1]["return_mean"] < rows[0]["return_mean"] < rows[2]["return_mean"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["show", "toy_pont"], "Nearest: toy_point"),
        (["show", "toy_point"], "rlhive collect toy_point"),
        (["collect", "kitchen_knob"], "kitchen_knob1"),
        (["evaluate", "expert", "--env", "nowhere"], "No task named"),
        (["evaluate", "no/such/folder", "--env", "toy_point"], "No policy"),
        (["evaluate", "expert"], "--env"),
    ],
)
def test_bad_input_is_one_sentence_and_status_1(arguments, says):
    ran = run(*arguments)

    assert ran.exit_code == 1
    assert ran.stderr.startswith("error: ")
    assert says in ran.stderr
    assert "Traceback" not in ran.stderr
    assert ran.stdout == ""


def test_a_mistyped_verb_is_a_usage_error():
    ran = run("shw")

    assert ran.exit_code == 2
    assert "Did you mean 'show'" in ran.stderr
