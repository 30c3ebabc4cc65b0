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

import abc
import copy
import json
import operator
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from typing import Any

import mujoco
import numpy as np
import torch
from tensordict import TensorDictBase

from rlhive import keys
from rlhive.envs.carrying import Carrier, CarryParameters, CarryPlan
from rlhive.envs.kinematics import ARM, FINGERS, Arm, Job, Parameters, Path, Reach, ahead_on, project
from rlhive.envs.rehearsal import Rehearsal
from rlhive.envs.robohive import RoboHiveEnv
from rlhive.envs.tabletop import Pick, PickParameters, Topple, ToppleParameters, Trial
from rlhive.envs.tasks import LEVELS

#: What makes the expert noisy: standard deviation of the Gaussian on every action, with no episode given up.
NOISY = {"noise": 0.15}

#: Steps that a rehearsed plan must have to spare: an episode begins with the arm elsewhere, and ends a little later.
_SPARE = 3


def make_policy(env: RoboHiveEnv, level: str) -> "ScriptedPolicy":
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


def of_strategy(row: Mapping[str, Any]) -> "type[ExpertPolicy]":
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


class ScriptedPolicy(abc.ABC):
    """What the scripted policies share: they read the simulator, and the seed stands for all randomness.

    They remember nothing but the seed: the step's index comes from the simulator's clock.

    Attributes:
        name: "expert", "medium" or "random".
    """

    def __init__(self, env: RoboHiveEnv, name: str) -> None:
        self.name = name
        self._env = env
        self._seed = 0

    def begin_episode(self, seed: int) -> None:
        """Take the seed of the episode that begins."""
        self._seed = seed

    def parameters(self) -> dict[str, Any]:
        """Return what, beside the seed, decides the actions; JSON-able."""
        return {"level": self.name}

    @abc.abstractmethod
    def act(self) -> np.ndarray:
        """Return the action [n] in [-1, 1] for the simulator's current state."""

    def __call__(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write ``action``, float32 [n], for the simulator's current state."""
        action = torch.tensor(self.act(), dtype=torch.float32, device=tensordict.device)
        return tensordict.set(keys.ACTION, action)

    def _step(self) -> int:
        return round(self._env.unwrapped.sim.data.time / self._env.dt)

    def _generator(self, step: int) -> np.random.Generator:
        """Return the generator of one step of this episode; step -1 stands for the episode as a whole."""
        return np.random.default_rng((self._seed, step + 1))


class RandomPolicy(ScriptedPolicy):
    """Uniform actions."""

    def __init__(self, env: RoboHiveEnv) -> None:
        super().__init__(env, "random")

    def act(self) -> np.ndarray:
        """Return a uniform action, a function of the seed and the step."""
        space = self._env.unwrapped.action_space
        return self._generator(self._step()).uniform(space.low, space.high)


class ExpertPolicy(ScriptedPolicy):
    """What the experts share: a task's parameters, and how they are degraded.

    Args:
        env: The environment that it acts in.
        name: "expert", "medium" or "noisy".
        expert: See :class:`rlhive.envs.kinematics.Parameters`.
        noise: Standard deviation of the Gaussian added to the actions before they are clipped to [-1, 1].
        give_up: Chance that an episode is given up: from a step drawn from its seed on, the arm only holds still.
    """

    def __init__(
        self,
        env: RoboHiveEnv,
        name: str,
        expert: Mapping[str, Any],
        *,
        noise: float = 0.0,
        give_up: float = 0.0,
    ) -> None:
        super().__init__(env, name)
        self._parameters = {"level": name, "expert": dict(expert), "noise": noise, "give_up": give_up}
        self._noise, self._give_up = noise, give_up

    def parameters(self) -> dict[str, Any]:
        """Return what, beside the seed, decides the actions; JSON-able."""
        return copy.deepcopy(self._parameters)

    def act(self) -> np.ndarray:
        """Return the action [9] in [-1, 1] for the simulator's current state."""
        data, step = self._env.unwrapped.sim.data.ptr, self._step()
        given_up = self._gives_up_at(step)
        action = self._wanted(data, still=given_up)
        if self._noise and not given_up:
            action += self._noise * self._generator(step).normal(size=action.shape)
        return np.clip(action, -1.0, 1.0)

    def _gives_up_at(self, step: int) -> bool:
        if not self._give_up:
            return False
        chance, when = self.resolve()
        return chance < self._give_up and step >= when * self._env.horizon

    def resolve(self) -> np.ndarray:
        """Return what the episode's seed decides, both in [0, 1]: at what chance it is given up, and at what part."""
        return self._generator(-1).uniform(size=2)

    @abc.abstractmethod
    def _wanted(self, data: mujoco.MjData, *, still: bool) -> np.ndarray:
        """Return the unclipped action [9] for the goal, or to stand still."""


class KitchenPolicy(ExpertPolicy):
    """Pushes or pulls one joint of the kitchen (a knob, a door) from where it starts to its goal."""

    def __init__(self, env: RoboHiveEnv, name: str, expert: Mapping[str, Any], **degraded: float) -> None:
        super().__init__(env, name, expert, **degraded)
        self._p = Parameters(**expert)
        self.job = self._find_job(env.unwrapped)
        self._plans: dict[bytes, Any] = {}
        self._arm = Arm(env.unwrapped, self.job)
        self._servos = _Servos(env.unwrapped)

    def undisturbed(self, data: mujoco.MjData) -> np.ndarray:
        """Return the action [9] in [-1, 1] without noise for any state of the simulator's model."""
        return np.clip(self._wanted(data, still=False), -1.0, 1.0)

    def _find_job(self, kitchen: Any) -> Job:
        return Job.of(kitchen)

    def _wanted(self, data: mujoco.MjData, *, still: bool) -> np.ndarray:
        posture = data.qpos[ARM]
        value, width = float(data.qpos[self.job.address]), float(data.qpos[FINGERS].mean())
        change, grip = self._towards_goal(posture, value, width)
        target = np.append(posture, [grip, grip])
        if not still:
            target[ARM] += change
        return self._servos.action(data, target)

    def _towards_goal(self, posture: np.ndarray, value: float, width: float) -> tuple[np.ndarray, float]:
        """Return by how much the arm's joints are to change next, in rad, and the finger joints' target in m.

        The servos saturate at 0.1 rad.
        """
        path, p = self._path(), self._p
        if self._is_engaged(path, posture, value, width):
            closing = p.hold is not None and width > p.shut and not self._has_moved(value)
            goal = path.contact if closing else path.pushing(value + self.job.sign * p.lead)
            return np.clip(goal - posture, -1.5 * p.leash, 1.5 * p.leash), p.grip if p.hold is None else p.hold
        change = ahead_on(path.approach, posture, p.leash, p.strict) - posture
        return change * min(1.0, p.leash / max(np.abs(change).max(), 1e-9)), p.grip

    def _has_moved(self, value: float) -> bool:
        return self.job.sign * (value - self.job.start) > 0.03

    def _is_engaged(self, path: Path, posture: np.ndarray, value: float, width: float) -> bool:
        """Whether to push: the object has moved, or the arm is at the contact or between there and the goal."""
        if self._has_moved(value):
            return True
        off = np.abs(posture - path.contact).max()
        if off < self._p.arrival:
            return True
        if self._p.hold is not None:
            # Fingers that have begun to close go on, unless the arm has lost its place.
            return width < self._p.grip - 0.003 and off < self._p.leash
        along, off = project(posture, path.contact, path.postures[-1])
        return along > 0.02 and off < self._p.leash

    def _path(self) -> Path:
        return self._planned(self._arm.path)

    def _planned(self, plan: Callable[..., Any]) -> Any:
        """Return the plan for where everything stands; computing it takes a tenth of a second, so it is kept."""
        model = self._env.unwrapped.sim.model.ptr
        key = model.body_pos.tobytes() + model.body_quat.tobytes()
        if key not in self._plans:
            self._plans = {key: plan(model.body_pos, model.body_quat, self._p)}
        return self._plans[key]


class RehearsedPolicy(ExpertPolicy):
    """Has several plans for a task, and takes the first that solves it in a simulation of its own.

    What fails differs from plan to plan: beside a neighbour, at the end of the arm's reach, at the end of the knob.
    The rehearsal depends on nothing but where the robot and the furniture stand, and so does the choice.

    Args:
        env: The environment that it acts in.
        name: "expert", "medium" or "noisy".
        expert: The first plan's parameters; under "otherwise" what is different in each of the others.
        degraded: See :class:`ExpertPolicy`.
    """

    def __init__(self, env: RoboHiveEnv, name: str, expert: Mapping[str, Any], **degraded: float) -> None:
        super().__init__(env, name, expert, **degraded)
        first = {key: value for key, value in expert.items() if key != "otherwise"}
        self._plans = [KitchenPolicy(env, name, first | other) for other in ({}, *expert["otherwise"])]
        self.job = self._plans[0].job
        self._rehearsal = Rehearsal(env)
        self._choice: dict[bytes, KitchenPolicy] = {}

    def _wanted(self, data: mujoco.MjData, *, still: bool) -> np.ndarray:
        return self._chosen()._wanted(data, still=still)

    def _chosen(self) -> KitchenPolicy:
        """Return the plan for where everything stands; finding it takes some tenths of a second, so it is kept."""
        model = self._env.unwrapped.sim.model.ptr
        key = model.body_pos.tobytes() + model.body_quat.tobytes()
        if key not in self._choice:
            self._choice = {key: self._best()}
        return self._choice[key]

    def _best(self) -> KitchenPolicy:
        found = []
        for plan in self._plans:
            outcome = self._rehearsal.run(plan.undisturbed, self.job)
            if outcome.solved_at is not None and outcome.solved_at <= self._env.horizon - _SPARE:
                return plan
            found.append((outcome.progress, plan))
        return max(found, key=operator.itemgetter(0))[1]


class CarryPolicy(ExpertPolicy):
    """Takes an object by its handle and carries it to its goal, in the quickest way that a rehearsal finds to succeed.

    The ways and the choice depend on nothing but where the robot and the furniture stand.
    """

    def __init__(self, env: RoboHiveEnv, name: str, expert: Mapping[str, Any], **degraded: float) -> None:
        super().__init__(env, name, expert, **degraded)
        kitchen = env.unwrapped
        self._p = CarryParameters(**expert)
        self.job = Job.of(kitchen)
        self._carrier, self._servos = Carrier(kitchen, self.job), _Servos(kitchen)
        self._rehearsal = Rehearsal(env)
        self._choice: dict[bytes, CarryPlan | None] = {}

    def _wanted(self, data: mujoco.MjData, *, still: bool) -> np.ndarray:
        plan = self._chosen()
        if still or plan is None:
            return self._servos.action(data, data.qpos[:9])
        return self._along(plan, data)

    def _along(self, plan: CarryPlan, data: mujoco.MjData) -> np.ndarray:
        """Return the unclipped action [9] that follows a plan from wherever the arm and its fingers are."""
        p, posture, width = self._p, data.qpos[ARM], float(data.qpos[FINGERS].mean())
        grasp = plan.approach[-1]
        if np.abs(posture - grasp).max() < p.arrival or width < p.grip - 0.003:
            closing = width > p.shut
            goal = grasp if closing else ahead_on(plan.carry, posture, p.carry_leash, p.carry_strict)
            grip = p.hold
        else:
            goal, grip = ahead_on(plan.approach, posture, p.leash, p.strict), p.grip
        change = goal - posture
        change *= min(1.0, p.leash / max(np.abs(change).max(), 1e-9))
        return self._servos.action(data, np.append(posture + change, [grip, grip]))

    def _chosen(self) -> CarryPlan | None:
        """Return the plan for where everything stands; finding it takes a second, so it is kept."""
        model = self._env.unwrapped.sim.model.ptr
        key = model.body_pos.tobytes() + model.body_quat.tobytes()
        if key not in self._choice:
            self._choice = {key: self._best(self._carrier.plans(model.body_pos, model.body_quat, self._p))}
        return self._choice[key]

    def _best(self, plans: list[CarryPlan]) -> CarryPlan | None:
        found: list[tuple[float, CarryPlan]] = []
        for plan in plans[: self._p.rehearsals]:
            outcome = self._rehearsal.run(lambda data, plan=plan: np.clip(self._along(plan, data), -1.0, 1.0), self.job)
            if outcome.solved_at is not None and outcome.solved_at <= self._env.horizon - 2 * _SPARE:
                return plan
            found.append((outcome.progress, plan))
        return max(found, key=operator.itemgetter(0))[1] if found else None


class RailPolicy(KitchenPolicy):
    """Moves a joint that starts anywhere to a goal anywhere: takes its handle where it stands."""

    def _find_job(self, kitchen: Any) -> Job:
        return Job.anywhere(kitchen)

    def _towards_goal(self, posture: np.ndarray, value: float, width: float) -> tuple[np.ndarray, float]:
        rail, p = self._planned(self._arm.rail), self._p
        way = rail.at(value)
        off = np.abs(posture - way[1]).max()
        if off < p.arrival or (width < p.grip - 0.003 and off < p.leash):
            grip = p.grip if p.hold is None else p.hold
            closing = p.hold is not None and width > p.shut
            left = float(self._env.unwrapped.obj_goal[0]) - value
            aim = value if closing else value + float(np.clip(2.0 * left, -p.lead, p.lead))
            return np.clip(rail.at(aim)[1] - posture, -1.5 * p.leash, 1.5 * p.leash), grip
        change = ahead_on(way, posture, p.leash, p.strict) - posture
        return change * min(1.0, p.leash / max(np.abs(change).max(), 1e-9)), p.grip


class TabletopPolicy(ExpertPolicy):
    """What the policies of the tabletop share: their actions are absolute, the joints' targets scaled to [-1, 1]."""

    def __init__(self, env: RoboHiveEnv, name: str, expert: Mapping[str, Any], **degraded: float) -> None:
        super().__init__(env, name, expert, **degraded)
        table = env.unwrapped
        ranges = np.array([part["pos_range"] for part in table.robot.robot_config["franka"]["actuator"]])
        self._middle, self._half = ranges.mean(axis=1), np.ptp(ranges, axis=1) / 2
        self._stiffness = table.sim.model.ptr.actuator_gainprm[ARM, 0]

    def _commanding(self, data: mujoco.MjData, posture: np.ndarray, fingers: np.ndarray) -> np.ndarray:
        """Return the unclipped action [9] for a posture [7] in rad and finger joints [2] in m, gravity made up for."""
        target = np.append(posture + data.qfrc_bias[ARM] / self._stiffness, fingers)
        # Some configurations leave out the fingers: their action is the command in m.
        scaled = len(self._middle)
        return np.append((target[:scaled] - self._middle) / self._half, target[scaled:])


class ReachPolicy(TabletopPolicy):
    """Commands the posture that brings the gripper to the target."""

    def __init__(self, env: RoboHiveEnv, name: str, expert: Mapping[str, Any], **degraded: float) -> None:
        super().__init__(env, name, expert, **degraded)
        self._reach = Reach(env.unwrapped)
        self._plans: dict[bytes, np.ndarray] = {}

    def _wanted(self, data: mujoco.MjData, *, still: bool) -> np.ndarray:
        target = self._env.unwrapped.sim.model.ptr.site_pos[self._reach.target]
        key = target.tobytes()
        if key not in self._plans:
            self._plans = {key: self._reach.posture(target)}
        posture = data.qpos[ARM] if still else self._plans[key]
        return self._commanding(data, posture, data.qpos[FINGERS])


class TopplePolicy(TabletopPolicy):
    """Pulls a standing box over and carries it to the target."""

    def __init__(self, env: RoboHiveEnv, name: str, expert: Mapping[str, Any], **degraded: float) -> None:
        super().__init__(env, name, expert, **degraded)
        self._topple = Topple(env.unwrapped, ToppleParameters(**expert))

    def _wanted(self, data: mujoco.MjData, *, still: bool) -> np.ndarray:
        if still:
            return self._commanding(data, data.qpos[ARM], data.qpos[FINGERS])
        change, grip = self._topple.towards(data)
        return self._commanding(data, data.qpos[ARM] + change, np.array([grip, grip]))


class PickPolicy(TabletopPolicy):
    """Takes an object out of its bin, in a way that it has rehearsed, and carries it to the target."""

    def __init__(self, env: RoboHiveEnv, name: str, expert: Mapping[str, Any], **degraded: float) -> None:
        super().__init__(env, name, expert, **degraded)
        table = env.unwrapped
        self._pick = Pick(table, PickParameters(**expert))
        substeps = round(env.dt / table.sim.model.ptr.opt.timestep)
        self._trial = Trial(table, substeps=substeps, horizon=env.horizon)

    def _wanted(self, data: mujoco.MjData, *, still: bool) -> np.ndarray:
        if still:
            return self._commanding(data, data.qpos[ARM], data.qpos[FINGERS])
        self._pick.plan(self._trial, self._picking)
        return self._picking(data)

    def _picking(self, data: mujoco.MjData) -> np.ndarray:
        change, grip = self._pick.towards(data)
        return self._commanding(data, data.qpos[ARM] + change, np.array([grip, grip]))


class _Servos:
    """RoboHive's velocity mode, solved for the action: command = position + action × speed × dt."""

    def __init__(self, kitchen: Any) -> None:
        actuators = kitchen.robot.robot_config["franka"]["actuator"]
        self._reach = np.array([actuator["vel_range"][1] for actuator in actuators]) * kitchen.dt
        self._stiffness = kitchen.sim.model.ptr.actuator_gainprm[:7, 0]

    def action(self, data: mujoco.MjData, target: np.ndarray) -> np.ndarray:
        """Return the unclipped action [9] that commands the target [9], with gravity made up for."""
        driven = len(self._reach)
        change = target - data.qpos[:9]
        change[ARM] += data.qfrc_bias[ARM] / self._stiffness
        # The appliances' configuration leaves out the fingers: their action is the command in m.
        return np.append(change[:driven] / self._reach, target[driven:])
