"""Scripted policies of RoboHive's Franka arm: an expert, degraded ones, and a random one.

The expert follows a path of arm postures that depends on nothing but where the robot and the furniture stand:

    (anywhere) ──► before ──► contact ──► carried along with the object ──► goal + overshoot
                    └── approach ──┘        └──────────── push ───────────┘

The strategies are few, and differ in a task's parameters more than in code:

    push      closed fingers, beside the object
    grasp     open fingers around a handle; they close, and once they hold it, it is carried
    hook      open fingers around a handle or inside a hoop; it is dragged without being held
    rail      as grasp, wherever the joint stands when the episode begins, to wherever it should be
    reach     the posture that brings the gripper to the target
    topple    a standing box is pulled over, taken around its narrow side and carried
    pick      an object is taken from above, in a way that was rehearsed on the simulator, and carried
    rehearsed several plans of the kinds above; the first that succeeds in a simulation of the expert's own is taken
    carry     a handle is taken and carried off, in the quickest of many ways that succeeds in such a simulation

Where on the path it is follows from the arm's and the object's joints alone, so that each action is a pure
function of the simulator's state (and, for the degraded policies, of the seed). Imitation of such a policy is
well-posed, and an episode can be taken up at any state.
"""

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from rlhive.envs._robohive import RoboHiveEnv
from rlhive.envs._tasks import LEVELS
from rlhive.envs.experts._kitchen import CarryPolicy, KitchenPolicy, RailPolicy, RehearsedPolicy
from rlhive.envs.experts._scripted import ExpertPolicy, RandomPolicy, ScriptedPolicy
from rlhive.envs.experts._tabletop_policies import PickPolicy, ReachPolicy, TopplePolicy

#: What makes the expert noisy: standard deviation of the Gaussian on every action, with no episode given up.
NOISY = {"noise": 0.15}


def make_scripted_policy(env: RoboHiveEnv, level: str) -> ScriptedPolicy:
    """Return a behaviour policy of an environment.

    Args:
        env: The environment that it will act in; it reads the simulator's state there.
        level: "expert", "medium" (the expert with some noise, which gives up early), "noisy" (with much noise) or
            "random".

    Returns:
        A TorchRL policy: writes float32 ``action`` into the TensorDict that it is given.

    Raises:
        ValueError: No such level, or no scripted expert for this environment.
    """
    if level not in LEVELS:
        msg = f"No policy level {level!r}: expected one of {', '.join(LEVELS)}."
        raise ValueError(msg)
    if level == "random":
        return RandomPolicy(env)
    row = _table().get(env.robohive_id)
    if row is None:
        msg = f"No scripted {level} for {env.env_name}: expected one of {', '.join(_table())}. Use level 'random'."
        raise ValueError(msg)
    degraded = {"expert": {}, "medium": row["medium"], "noisy": NOISY}[level]
    return of_strategy(row)(env, level, row["expert"], **degraded)


def of_strategy(row: Mapping[str, Any]) -> type[ExpertPolicy]:
    """Return the class of the policy that a row of experts.json is for."""
    others = {
        "rail": RailPolicy,
        "reach": ReachPolicy,
        "topple": TopplePolicy,
        "pick": PickPolicy,
        "rehearsed": RehearsedPolicy,
        "carry": CarryPolicy,
    }
    return others.get(row.get("strategy", "push"), KitchenPolicy)


@cache
def _table() -> dict[str, Any]:
    return json.loads(resources.files("rlhive.envs").joinpath("experts.json").read_text(encoding="utf-8"))["tasks"]
