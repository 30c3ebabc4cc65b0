"""The tuner: the degraded levels, the row that it writes, and its command."""

import json
import subprocess
import sys

import numpy as np
import pytest

from rlhive.envs._tasks import TUNING_SEED

KNOB = "FK1_Knob2OffRandom-v4"


@pytest.fixture(scope="module")
def env(make):
    return make(KNOB, seed=0)


@pytest.fixture(scope="module")
def knob():
    """The first plan of the row that ships."""
    from rlhive.envs._references import read_expert_rows

    return {key: value for key, value in read_expert_rows()[KNOB]["expert"].items() if key != "otherwise"}


@pytest.mark.slow
def test_the_success_predicted_for_giving_up_is_measured(env, knob):
    """The success that is foretold for the chance is what the medium policy then has."""
    from rlhive.envs.experts import _search, _tune
    from rlhive.envs.experts._kitchen import KitchenPolicy

    medium, seen = _tune.tune_medium_give_up(env, {"expert": knob}, episodes=10)
    policy = KitchenPolicy(env, "medium", knob, **medium)
    seeds = range(TUNING_SEED + 600_000, TUNING_SEED + 600_010)
    solved = np.mean([_search.run_episode(env, policy, seed).solved_at is not None for seed in seeds])
    assert seen[str(medium["give_up"])] == pytest.approx(solved)
    assert 0.3 <= solved <= 0.6
    assert seen["without giving up"] > solved


def test_the_command_rewrites_one_row_of_a_copy_of_the_shipped_file(tmp_path, monkeypatch):
    from rlhive.envs._references import read_expert_rows
    from rlhive.envs.experts import _tune

    shipped = json.loads(_tune.EXPERTS.read_text(encoding="utf-8"))
    assert shipped["tasks"] == read_expert_rows()
    copy = tmp_path / "experts.json"
    copy.write_text(json.dumps(shipped), encoding="utf-8")
    monkeypatch.setattr(_tune, "EXPERTS", copy)
    medium, success = {"noise": 0.02, "give_up": 0.6}, {"without giving up": 0.9, "0.6": 0.45}
    monkeypatch.setattr(_tune, "tune_medium_give_up", lambda env, row: (medium, success))
    monkeypatch.setattr(sys, "argv", ["tuner", KNOB, "--medium"])

    _tune.main()

    expected = copy_of(shipped)
    expected["tasks"][KNOB]["medium"] = medium
    expected["tasks"][KNOB]["provenance"]["medium"] = success
    assert json.loads(copy.read_text(encoding="utf-8")) == expected


def copy_of(content):
    return json.loads(json.dumps(content))


@pytest.mark.slow
def test_the_package_is_the_command():
    command = [sys.executable, "-m", "rlhive.envs.experts", "--help"]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    assert process.stdout.startswith("usage: python -m rlhive.envs.experts")
    assert "Tune the scripted expert of a task." in process.stdout


def test_a_tabletop_expert_has_no_joint_to_tune(make):
    from rlhive.envs._references import read_expert_rows
    from rlhive.envs.experts import _tune

    reach = make("FrankaReachRandom-v0", seed=0)
    with pytest.raises(TypeError, match=r"FrankaReachRandom-v0: expected a strategy that moves a joint .* got 'reach'"):
        _tune.validate_expert(reach, read_expert_rows()["FrankaReachRandom-v0"], episodes=1)
