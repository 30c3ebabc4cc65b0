"""The single goals of an environment in which several objects are to be moved."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torchrl.envs import EnvBase

#: Short names of RoboHive's kitchen joints, as in the names of the tasks; other joints keep RoboHive's name.
_SHORT_NAMES = {
    "knob1_joint": "knob1",
    "knob2_joint": "knob2",
    "knob3_joint": "knob3",
    "knob4_joint": "knob4",
    "lightswitch_joint": "light",
    "slidedoor_joint": "sdoor",
    "leftdoorhinge": "ldoor",
    "rightdoorhinge": "rdoor",
    "micro0joint": "micro",
}


@dataclass(frozen=True)
class OpenGoal:
    """One object of a kitchen that is away from its goal at the start.

    Attributes:
        joint: Name of the object's joint in RoboHive's kitchen.
        address: Address of the joint in qpos.
        start: Value of the joint at the start, in m or rad.
        value: Value of the joint at the goal, in m or rad.
        tolerance: Distance from the goal below which the goal counts as reached, in m or rad.
    """

    joint: str
    address: int
    start: float
    value: float
    tolerance: float

    @property
    def name(self) -> str:
        """Short name of the object, for example "light"."""
        return _SHORT_NAMES.get(self.joint, self.joint.replace(":", "_"))


def open_goals(kitchen: Any) -> list[OpenGoal]:
    """Return the goals that are open at the start, in the order of ``obj_goal``.

    Args:
        kitchen: RoboHive's environment. One that is no kitchen, or whose goal is an array, has no open goals.
    """
    requested = getattr(kitchen, "input_obj_goal", None)
    objects = getattr(kitchen, "obj", None)
    if not isinstance(requested, Mapping) or not isinstance(objects, Mapping) or "dof_proximity" not in objects:
        return []
    joints = [name for name, entry in objects.items() if isinstance(entry, Mapping)]
    order = [*requested, *(joint for joint in joints if joint not in requested)]
    goals = [_read_goal(kitchen, joint) for joint in order]
    return [goal for goal in goals if abs(goal.value - goal.start) >= goal.tolerance]


def _read_goal(kitchen: Any, joint: str) -> OpenGoal:
    entry = kitchen.obj[joint]
    index, address = int(entry["goal_adr"]), int(entry["dof_adr"])
    return OpenGoal(
        joint=joint,
        address=address,
        start=float(kitchen.init_qpos[address]),
        value=float(kitchen.obj_goal[index]),
        tolerance=float(kitchen.obj["dof_proximity"][index]),
    )


class SubgoalTracker:
    """Records after which step of an episode each of several goals was reached first.

    Call :meth:`update` after the reset and after every step.

    Args:
        env: Environment of the episode.
    """

    def __init__(self, env: EnvBase) -> None:
        kitchen: Any = getattr(env, "unwrapped", None)
        goals = open_goals(kitchen)
        # A single goal is what ``success`` says.
        self._goals = goals if len(goals) > 1 else []
        self._kitchen = kitchen
        self._num_states = 0
        self._reached_at: dict[str, int] = {}

    def update(self) -> None:
        """Note the goals that the current state reaches."""
        if self._goals:
            qpos: np.ndarray = self._kitchen.sim.data.ptr.qpos
            for goal in self._goals:
                if abs(qpos[goal.address] - goal.value) < goal.tolerance:
                    self._reached_at.setdefault(goal.name, self._num_states)
        self._num_states += 1

    def metadata(self) -> dict[str, Any]:
        """Return what the episode table stores; empty for an environment with fewer than two goals.

        Returns:
            ``num_subgoals_reached``, and for each goal ``subgoal_NAME``, whether it was reached after the reset or any
            step, and ``subgoal_NAME_step``, the number of steps until then, None if it was not reached.
        """
        if not self._goals:
            return {}
        metadata: dict[str, Any] = {"num_subgoals_reached": len(self._reached_at)}
        for goal in self._goals:
            metadata[f"subgoal_{goal.name}"] = goal.name in self._reached_at
            metadata[f"subgoal_{goal.name}_step"] = self._reached_at.get(goal.name)
        return metadata
