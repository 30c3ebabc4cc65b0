"""Which goals of an environment are open, and when an episode reached them."""

from types import SimpleNamespace

import numpy as np

from rlhive.envs._make import make_env
from rlhive.envs._subgoals import SubgoalTracker, open_goals


def fake_kitchen(**changes):
    """Return what the functions read of RoboHive's kitchen: a light that is off and a door that is open."""
    objects = {
        "lightswitch_joint": {"goal_adr": 0, "dof_adr": 3},
        "slidedoor_joint": {"goal_adr": 1, "dof_adr": 4},
        "kettle0:Tx": {"goal_adr": 2, "dof_adr": 5},
        "dof_adrs": np.array([3, 4, 5]),
        "dof_proximity": np.array([0.1, 0.06, 0.05]),
    }
    qpos = np.array([0.0, 0.0, 0.0, 0.0, 0.44, 0.2])
    return SimpleNamespace(
        **{
            "input_obj_goal": {"slidedoor_joint": 0.0, "lightswitch_joint": -0.7},
            "obj": objects,
            "obj_goal": np.array([-0.7, 0.0, 0.2]),
            "init_qpos": qpos.copy(),
            "sim": SimpleNamespace(data=SimpleNamespace(ptr=SimpleNamespace(qpos=qpos))),
            **changes,
        }
    )


def test_the_open_goals_are_those_away_from_their_start_in_the_order_that_was_asked_for():
    assert [(goal.name, goal.start, goal.value, goal.address) for goal in open_goals(fake_kitchen())] == [
        ("sdoor", 0.44, 0.0, 4),
        ("light", 0.0, -0.7, 3),
    ]
    # A goal that was not asked for is where the object stands in the model, which may not be where it starts.
    displaced = fake_kitchen(obj_goal=np.array([-0.7, 0.0, 0.5]))
    assert [goal.name for goal in open_goals(displaced)] == ["sdoor", "light", "kettle0_Tx"]
    assert open_goals(fake_kitchen(input_obj_goal=np.zeros(3))) == []
    assert open_goals(None) == []


def test_the_tracker_notes_the_first_step_after_which_a_goal_was_reached():
    kitchen = fake_kitchen()
    tracker, qpos = SubgoalTracker(SimpleNamespace(unwrapped=kitchen)), kitchen.sim.data.ptr.qpos
    for light in (0.0, -0.3, -0.65, -0.3, -0.7):
        qpos[3] = light
        tracker.update()

    assert tracker.metadata() == {
        "num_subgoals_reached": 1,
        "subgoal_sdoor": False,
        "subgoal_sdoor_step": None,
        "subgoal_light": True,
        "subgoal_light_step": 2,
    }


def test_a_single_goal_needs_no_columns_beside_success():
    one = fake_kitchen(obj_goal=np.array([-0.7, 0.44, 0.2]))
    for env in (SimpleNamespace(unwrapped=one), make_env("toy_point")):
        tracker = SubgoalTracker(env)
        tracker.update()
        assert tracker.metadata() == {}
