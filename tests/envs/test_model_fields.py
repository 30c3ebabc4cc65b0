"""States of strangers: MuJoCo gets only values that it accepts."""

import subprocess
import sys

import numpy as np
import pytest

from rlhive.envs._model_fields import require_field, require_numbers
from rlhive.errors import CheckpointMismatchError

PICK_PLACE = "FrankaPickPlaceRandom-v0"


@pytest.fixture(scope="module")
def env(make):
    return make(PICK_PLACE, seed=0)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("geom_type", 1e6, r"geom_type\[3\] is 1e\+06, expected the type of the compiled model or one of 2 to 6"),
        ("geom_type", -3.0, r"geom_type\[3\] is -3"),
        ("geom_type", 2.5, r"geom_type\[3\] is 2.5"),
        ("geom_type", np.nan, r"geom_type\[3\] is nan"),
        ("geom_size", -0.1, r"geom_size\[3\] is -0.1, expected a number of 0 or more"),
        ("body_pos", np.inf, r"body_pos\[3\] is inf, expected a number of magnitude 1e\+10 at most"),
        ("integration", np.nan, r"integration\[3\] is nan"),
        ("integration", 1e300, r"integration\[3\] is 1e\+300"),
    ],
)
def test_a_state_with_an_impossible_value_is_refused_and_changes_nothing(env, name, value, expected):
    env.reset(seed=1)
    before = env.get_state()
    state = {key: values.copy() for key, values in before.items()}
    state[name][3] = value

    with pytest.raises(CheckpointMismatchError, match=f"{PICK_PLACE}: the state cannot be restored: {expected}"):
        env.set_state(state)

    for key, values in env.get_state().items():
        np.testing.assert_array_equal(values, before[key], err_msg=key)


def test_a_geom_without_a_mesh_does_not_become_a_mesh_and_a_mesh_stays_one(env):
    built = env.get_state()["geom_type"]
    assert 7 in built
    env.set_state({**env.get_state(), "geom_type": built})
    with pytest.raises(CheckpointMismatchError, match=r"geom_type\[\d+\] is 7"):
        env.set_state({**env.get_state(), "geom_type": np.full_like(built, 7)})


def test_a_process_survives_a_hostile_state():
    """Without the check, this ends the process with a segmentation fault."""
    code = f"""
import numpy as np
from rlhive.envs import RoboHiveEnv
env = RoboHiveEnv({PICK_PLACE!r}, seed=0)
state = env.get_state()
try:
    env.set_state({{**state, "geom_type": np.full_like(state["geom_type"], 1e6)}})
except ValueError as error:
    print("refused")
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (answer.returncode, answer.stdout) == (0, "refused\n"), answer.stderr


def test_integers_other_than_the_type_are_refused():
    with pytest.raises(ValueError, match="geom_dataid: expected a field of real numbers, got one of int32"):
        require_field("geom_dataid", np.zeros(2), np.zeros(2, np.int32))


def test_numbers_that_mujoco_accepts_pass():
    require_numbers("integration", np.array([1e10, -1e10, 0.0]))
    require_field("body_pos", -np.ones((2, 3)), np.zeros((2, 3)))
    require_field("geom_type", np.array([2.0, 6.0, 7.0]), np.array([2, 2, 7], np.int32))
