"""Scripted policies of RoboHive's tasks: an expert, degraded levels of it, and a random policy.

The expert of a Franka arm follows a path of arm postures that depends only on where the robot and the furniture stand:

    (anywhere) ──► before ──► contact ──► carried along with the object ──► goal + overshoot
                    └── approach ──┘        └──────────── push ───────────┘

A row of experts.json selects one of a few strategies; most tasks differ in their parameters only:

    push      closed fingers push beside the object
    grasp     open fingers close around a handle; once they hold it, it is carried
    hook      open fingers around a handle or inside a hoop drag it without grasping
    rail      as grasp, for any value of the joint at the start and at the goal
    reach     the posture that brings the gripper to the target
    topple    a standing box is pulled over, grasped at its narrow side and carried
    pick      an object is grasped from above, in a way that succeeded in a rehearsal, and carried
    rehearsed several plans of the kinds above; the first that succeeds in a rehearsal is used
    carry     a handle is grasped and carried, in the quickest of many ways that succeeds in a rehearsal
    posture   the servos are commanded to the target pose
    muscles   MyoSuite's muscles move the joints to the target pose
    tips      MyoSuite's muscles move the fingertips to their targets
    sequence  the experts of several kitchen objects act one after another, in the order of ``obj_goal``

A rehearsal is an episode in the expert's own simulation. The progress on the path follows from the joints of the arm
and of the object, so that each action is a pure function of the simulator's state (and, for the degraded policies, of
the seed). Imitation learning of such a policy is well-posed, and an episode can be continued from any state.
"""

from collections.abc import Mapping
from typing import Any

from rlhive.envs._references import read_expert_rows
from rlhive.envs._robohive import RoboHiveEnv
from rlhive.envs._tasks import LEVELS
from rlhive.envs.experts._kitchen import CarryPolicy, KitchenPolicy, RailPolicy, RehearsedPolicy
from rlhive.envs.experts._muscles import PosePolicy, TipPolicy
from rlhive.envs.experts._posture import PosturePolicy
from rlhive.envs.experts._scripted import ExpertPolicy, RandomPolicy, ScriptedPolicy
from rlhive.envs.experts._sequence import SequencePolicy
from rlhive.envs.experts._tabletop_policies import PickPolicy, ReachPolicy, TopplePolicy

#: Degradation of the noisy level: standard deviation of the Gaussian noise on every action; no episode is given up.
NOISY = {"noise": 0.15}


def make_scripted_policy(env: RoboHiveEnv, level: str) -> ScriptedPolicy:
    """Return a behaviour policy of an environment.

    Args:
        env: The environment in which the policy acts. The policy reads its simulator's state.
        level: "expert", "medium" (the expert with some noise, which gives episodes up), "noisy" (the expert with much
            noise) or "random".

    Returns:
        A TorchRL policy, which writes float32 ``action`` into a TensorDict.

    Raises:
        ValueError: The level is unknown, or the environment has no scripted expert, or none for one of its goals.
    """
    if level not in LEVELS:
        msg = f"No policy level {level!r}: expected one of {', '.join(LEVELS)}."
        raise ValueError(msg)
    if level == "random":
        return RandomPolicy(env)
    row = read_expert_rows().get(env.robohive_id)
    if row is None:
        names = ", ".join(read_expert_rows())
        msg = f"No scripted {level} for {env.env_name}: expected one of {names}. The level 'random' is available."
        raise ValueError(msg)
    degradation = {"expert": {}, "medium": row["medium"], "noisy": NOISY}[level]
    return policy_class(row)(env, level, row["expert"], **degradation)


def policy_class(row: Mapping[str, Any]) -> type[ExpertPolicy]:
    """Return the policy class of a row of experts.json."""
    classes: dict[str, type[ExpertPolicy]] = {
        "rail": RailPolicy,
        "reach": ReachPolicy,
        "topple": TopplePolicy,
        "pick": PickPolicy,
        "rehearsed": RehearsedPolicy,
        "carry": CarryPolicy,
        "posture": PosturePolicy,
        "muscles": PosePolicy,
        "tips": TipPolicy,
        "sequence": SequencePolicy,
    }
    return classes.get(row.get("strategy", "push"), KitchenPolicy)
