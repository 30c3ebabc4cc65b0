"""The catalogue against what RoboHive registers and what experts ship."""

import re
from dataclasses import replace

import pytest

from rlhive.envs._tasks import LEVELS, TASKS, Recipe, get_task
from rlhive.errors import EnvNotFoundError, InvalidOptionError

#: RoboHive's standard list of kitchen tasks, CloseAll and OpenAll left out.
KITCHEN = {
    f"FK1_{task}Random-v4"
    for task in (
        *(f"Knob{number}{way}" for number in (1, 2, 3, 4) for way in ("On", "Off")),
        *("LightOn", "LightOff", "SdoorOpen", "SdoorClose", "LdoorOpen", "LdoorClose", "RdoorOpen", "RdoorClose"),
        *("MicroOpen", "MicroClose", "Stove1Kettle", "Stove4Kettle"),
    )
}
FRANKA = {f"franka_{part}_{what}-v3" for part in ("slide", "micro") for what in ("open", "close", "random")}
MYO = {"myoElbowPose1D6MRandom-v0", "myoFingerPoseRandom-v0", "myoHandReachRandom-v0"}
ROBOTIQ = {"rpFrankaRobotiqPoseRandom-v0"}
TABLETOP = {"FrankaReachRandom-v0", "FrankaPushRandom-v0", "FrankaPickPlaceRandom-v0"}


def test_every_standard_task_has_one_row():
    environments = [task.env_name for task in TASKS.values() if not task.env_kwargs]

    assert KITCHEN | FRANKA | MYO | ROBOTIQ | TABLETOP | {"ToyPoint-v0"} == set(environments)
    assert len(environments) == len(set(environments)) == 34
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) and name == task.name for name, task in TASKS.items())
    assert all(task.description.endswith(".") for task in TASKS.values())


def test_the_horizons_are_robohives():
    from rlhive.envs._loading import registered_specs

    specs = registered_specs()
    rows = {task.name: task for task in TASKS.values() if task.backend == "robohive" and not task.env_kwargs}

    assert {name: specs[task.env_name].max_episode_steps for name, task in rows.items()} == {
        name: task.horizon for name, task in rows.items()
    }


def test_the_first_row_is_the_one_that_the_published_dataset_was_made_with():
    task = get_task("kitchen_knob1")

    assert (task.env_name, task.horizon, dict(task.env_kwargs)) == ("FK1_Knob1OnRandom-v4", 50, {})
    assert task.recipe == Recipe("1.0.0", {"expert": 100, "medium": 100, "random": 100}, "apache-2.0")
    assert list(task.recipe.episodes) == ["expert", "medium", "random"]


def test_a_task_without_an_expert_has_random_actions_only():
    from rlhive.envs._references import read_expert_rows

    for task in TASKS.values():
        has_expert = task.backend == "toy" or task.env_name in read_expert_rows()
        assert task.levels == (LEVELS if has_expert else ("random",))
        assert ("expert" in task.recipe.episodes) == has_expert
        assert set(task.recipe.episodes) <= set(task.levels)


def test_an_invalid_row_is_refused():
    toy = get_task("toy_point")
    with pytest.raises(InvalidOptionError, match=r"'toy_point': its recipe has a split 'human', expected levels out"):
        replace(toy, recipe=Recipe("1.0.0", {"human": 3}, "mit"))
    with pytest.raises(InvalidOptionError, match="expected levels out of random"):
        replace(toy, backend="robohive", env_name="FK1_RelaxFixed-v4")
    with pytest.raises(InvalidOptionError, match="horizon of 1 or more transitions, an integer, got 0"):
        replace(toy, horizon=0)


def test_a_sequence_is_declared_by_its_goals_and_found_by_its_name_only():
    task = get_task("kitchen_sequence4")

    assert (task.env_name, task.horizon) == ("FK1_RelaxRandom-v4", task.env_kwargs["max_episode_steps"])
    assert list(task.env_kwargs["obj_goal"]) == ["knob1_joint", "knob3_joint", "lightswitch_joint", "slidedoor_joint"]
    # The id alone names RoboHive's kitchen without goals.
    with pytest.raises(EnvNotFoundError, match="No task named 'FK1_RelaxRandom-v4'"):
        get_task("FK1_RelaxRandom-v4")


def test_a_task_is_found_by_either_name_and_a_wrong_one_names_the_nearest():
    assert get_task("kitchen_light") is get_task("FK1_LightOnRandom-v4")
    with pytest.raises(EnvNotFoundError, match="nearest kitchen_light_off, kitchen_light"):
        get_task("kitchen_lightoff")
    with pytest.raises(EnvNotFoundError, match=r"nearest none\. List them: rlhive envs"):
        get_task("zzz")
