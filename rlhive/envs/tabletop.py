"""Taking an object off a table: where the gripper goes next, read off where the object and the hand are.

    (standing) ──► toppled ──► above ──► down ──► fingers closed ──► carried to the target
                              └───────────── take ──────────────┘   └─ while both fingers touch it

The start of an episode is not remembered: each state says for itself which part of the way comes next.
"""

from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

from rlhive.envs.kinematics import ARM, Solver, ahead_on

_OPEN, _CLOSED = 0.04, 0.0

#: Of rotation errors about the gripper's three axes, in m per rad; a carried object may be turned about the vertical.
_TAKING = np.array([0.05, 0.05, 0.05])
_CARRYING = np.array([0.02, 0.02, 0.002])


@dataclass(frozen=True)
class ToppleParameters:
    """What is tuned for a box that stands; lengths in m.

    Attributes:
        way: Where the closed fingers go to pull the box over, the gripper pointing down.
        retreat: Where they wait while it falls.
        grasp: How far above the middle of the lying box the gripper takes it.
        clear: How far above that it comes from the side.
        carry: Height of the box's middle on its way.
        place: Height of the box's middle at the target.
        leash: How far ahead of the arm its reference may be, in rad.
    """

    way: tuple[tuple[float, float, float], ...]
    retreat: tuple[float, float, float]
    grasp: float
    clear: float
    carry: float
    place: float
    leash: float


class Topple(Solver):
    """Pulls a standing box over, so that the gripper fits around its narrow side, and carries it to the target.

    RoboHive's target lies 7 cm below the middle of the standing box, and solved is what is within 5 cm of it: only a
    lying box is. The box is too heavy to be lifted far, and slides along where it touches the table.
    """

    def __init__(self, env: Any, p: ToppleParameters) -> None:
        super().__init__(env)
        model = env.sim.model.ptr
        self._p, self._target, self._object = p, int(env.target_sid), int(env.object_sid)
        self._body = int(model.site_bodyid[self._object])
        self._sites = model.site_pos
        self._geoms = model.geom_bodyid
        self._fingers = [model.body(f"panda0_{side}finger").id for side in ("left", "right")]
        self._data.qpos[:] = env.init_qpos
        way = [env.init_qpos[ARM]]
        for point in p.way:
            way.append(self._solve(np.array(point), _downward(np.array([1.0, 0.0])), _TAKING, way[-1])[0])
        self._way = np.array(way)

    def towards(self, data: mujoco.MjData) -> tuple[np.ndarray, float]:
        """Return by how much the arm's joints [7] are to change next, in rad, and the finger joints' target in m."""
        posture, turned = data.qpos[ARM], data.xmat[self._body].reshape(3, 3)
        p, here, box = self._p, data.site_xpos[self._gripper], data.site_xpos[self._object]
        upright = turned[2, 2]
        if upright > 0.93:
            return _within(ahead_on(self._way, posture, p.leash, 1.0) - posture, p.leash), _CLOSED
        thin = turned[:2, 0] * (1.0 if turned[0, 0] > 0 else -1.0)
        rotation = _downward(thin)
        if upright > 0.3:
            return self._change(np.array(p.retreat), rotation, _TAKING, posture), _OPEN
        if self._holds(data, box - here):
            return self._change(here + self._way_on(box), rotation, _CARRYING, posture), _CLOSED
        goal = box + np.array([0.0, 0.0, p.grasp])
        aside, above = np.linalg.norm((goal - here)[:2]), abs(goal[2] - here[2])
        closing = aside < 0.012 and above < 0.012
        goal[2] += p.clear if aside > 0.03 else 0.0
        return self._change(goal, rotation, _TAKING, posture), _CLOSED if closing else _OPEN

    def _way_on(self, box: np.ndarray) -> np.ndarray:
        """Return where the held box goes from here: up a little, to the target, down."""
        p, (x, y, _) = self._p, self._sites[self._target]
        left = np.array([x, y, p.place]) - box
        distance = np.linalg.norm(left[:2])
        if distance < 0.035:
            return left
        lifted = np.clip((box[2] - p.place) / 0.006, 0.3, 1.0)
        left[:2] *= lifted * min(1.0, 0.3 / distance)
        left[2] = p.carry - box[2]
        return left

    def _holds(self, data: mujoco.MjData, away: np.ndarray) -> bool:
        """Whether the box is between the fingers, and both of them touch it."""
        along = data.site_xmat[self._gripper].reshape(3, 3).T @ away
        if np.any(np.abs(along) > [0.04, 0.012, 0.07]):
            return False
        touching = set()
        for contact in data.contact:
            pair = {self._geoms[contact.geom1], self._geoms[contact.geom2]}
            touching |= pair if self._body in pair else set()
        return touching.issuperset(self._fingers)

    def _change(self, goal: np.ndarray, rotation: np.ndarray, weights: np.ndarray, posture: np.ndarray) -> np.ndarray:
        return np.clip(self._solve(goal, rotation, weights, posture)[0] - posture, -self._p.leash, self._p.leash)


def _within(change: np.ndarray, leash: float) -> np.ndarray:
    return change * min(1.0, leash / max(np.abs(change).max(), 1e-9))


def _downward(across: np.ndarray) -> np.ndarray:
    """Return the axes of a gripper that points down, its fingers side by side along a horizontal direction [2]."""
    fingers = np.append(across / np.linalg.norm(across), 0.0)
    down = np.array([0.0, 0.0, -1.0])
    return np.stack([np.cross(fingers, down), fingers, down], axis=1)
