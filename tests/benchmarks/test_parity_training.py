"""The comparison of training libraries and the search for defaults, on the toy task."""

import itertools
import json
import shutil

import numpy as np
import pytest

from benchmarks import parity_training, tune_offline
from benchmarks.peers import rounds
from benchmarks.peers.environments import PEERS

pytestmark = pytest.mark.slow

TOY = ["toy_point", "--seeds", "2", "--episodes", "2", "--workers", "1", "--results", "toy"]


@pytest.fixture(autouse=True)
def results(filled, tmp_path, monkeypatch):
    """A folder of results, and a document with a place for their table."""
    folder = tmp_path / "results"
    (tmp_path / "parity.md").write_text(
        "Head\n<!-- toy -->\n<!-- /toy -->\n<!-- tune_iql -->\n<!-- /tune_iql -->\nfoot\n"
    )
    for module in (parity_training, tune_offline, rounds):
        monkeypatch.setattr(module, "RESULTS", folder)
    for module in (parity_training, tune_offline):
        monkeypatch.setattr(module, "DOCUMENT", tmp_path / "parity.md")
    return folder


def make_policies(algorithm, data, options, folder):
    generator = np.random.default_rng(0)
    sizes = [data.statistics.observation_dim, 256, 256, data.statistics.action_dim]
    layers = [
        (generator.standard_normal((outputs, inputs)).astype(np.float32), np.zeros(outputs, np.float32))
        for inputs, outputs in itertools.pairwise(sizes)
    ]
    return [data.make_policy(layers) for _ in range(options.seeds)]


def test_an_interrupted_comparison_goes_on_where_it_was(results, monkeypatch):
    trained = []

    def train_d3rlpy(algorithm, *arguments):
        trained.append(algorithm)
        if trained == ["bc", "cql"]:
            raise KeyboardInterrupt
        return make_policies(algorithm, *arguments)

    monkeypatch.setattr(parity_training, "_train_d3rlpy", train_d3rlpy)
    command = [*TOY, "--steps", "3", "--algorithms", "bc", "cql"]
    with pytest.raises(KeyboardInterrupt):
        parity_training.main(command)
    before = json.loads((results / "toy.json").read_text())["rows"]
    assert [(row["algorithm"], row["library"]) for row in before] == [
        ("bc", "rlhive"),
        ("bc", "d3rlpy"),
        ("cql", "rlhive"),
    ]

    content = parity_training.main(command)

    assert trained == ["bc", "cql", "cql"]
    assert content["rows"][:3] == before
    assert json.loads((results / "toy.json").read_text())["rows"] == json.loads(json.dumps(content["rows"]))
    document = parity_training.DOCUMENT.read_text()
    assert parity_training.table(content) in document
    assert document.startswith("Head\n")
    assert document.endswith("foot\n")
    assert "cql: d3rlpy's mean" in document
    assert "iql:" not in document  # nothing was compared


def test_results_of_other_settings_are_kept(results, monkeypatch):
    monkeypatch.setattr(parity_training, "_train_d3rlpy", make_policies)
    command = [*TOY, "--steps", "3", "--algorithms", "bc"]
    parity_training.main(command)
    before = (results / "toy.json").read_bytes()
    with pytest.raises(SystemExit, match="episodes=2, not 3"):
        parity_training.main([*command, "--episodes", "3"])
    assert (results / "toy.json").read_bytes() == before


def test_a_row_of_more_steps_replaces_the_one_before():
    def row(library, steps, low, high):
        figures = {"mean": 0.5, "interval": [low, high]}
        return {"algorithm": "bc", "library": library, "steps": steps, "solved": figures, "returns": figures}

    rows = [row("rlhive", 5, 0.1, 0.2), row("d3rlpy", 5, 0.2, 0.3)]
    content = {"dataset": "toy_point", "split": "all", "seeds": 2, "episodes": 2, "differences": {}, "rows": rows}
    assert parity_training.table(content).count("success yes, return yes") == 2
    parity_training._add(rows, row("d3rlpy", 9, 0.3, 0.4))
    assert [(one["library"], one["steps"]) for one in rows] == [("rlhive", 5), ("d3rlpy", 9)]
    parity_training._add(rows, {**row("d3rlpy", 5, 0.1, 0.2), "algorithm": "cql"})
    parity_training._add(rows, {**row("d3rlpy", 5, 0.1, 0.2), "algorithm": "iql"})
    assert [one["algorithm"] for one in rows] == ["bc", "bc", "iql", "cql"]
    assert "yes" not in parity_training.table(content)  # trainings of different length are not compared
    parity_training._add(rows, row("rlhive", 9, 0.1, 0.2))
    assert parity_training.table(content).count("success no, return no") == 2


@pytest.mark.parametrize("algorithm", parity_training.ALGORITHMS)
def test_d3rlpy_learns_from_the_same_transitions(algorithm):
    if not PEERS["d3rlpy"].installed or shutil.which(PEERS["d3rlpy"].python) is None:
        pytest.skip("d3rlpy is not installed: python -m benchmarks.peers.environments d3rlpy")
    content = parity_training.main([*TOY, "--steps", "2", "--algorithms", algorithm])

    assert [row["library"] for row in content["rows"]] == ["rlhive", "d3rlpy"]
    for row in content["rows"]:
        returns = np.array(row["episodes"]["returns"])
        assert returns.shape == (2, 2)
        assert (returns[0] != returns[1]).any()  # the seeds gave different policies


def test_the_search_measures_what_is_missing(results, monkeypatch):
    monkeypatch.setattr(tune_offline, "NUM_EPISODES", 2)
    command = ["--sources", "toy_point:medium", "toy_point:all", "--steps", "2"]
    first = tune_offline.main(["iql", *command, "--grid", "loss.temperature=1", "loss.expectile=0.7"])
    assert len(first["rows"]) == 2
    assert [len(row["score"]) for row in first["rows"]] == [3, 3]

    content = tune_offline.main(["iql", *command, "--grid", "loss.temperature=1,3", "loss.expectile=0.7"])

    assert content["rows"][:2] == first["rows"]
    assert [row["overrides"] for row in content["rows"][2:]] == [["loss.temperature=3", "loss.expectile=0.7"]] * 2
    table = tune_offline.table(content)
    assert "| temperature=3 expectile=0.7 | 2 |" in table
    assert table in tune_offline.DOCUMENT.read_text()
