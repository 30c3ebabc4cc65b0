"""An expert of kitchens with several goals: the single-goal experts act one after another.

::

    at the last object ─► before it ─► before the next object ─► contact ─► carried along to its goal ─► …
    └── the approach, reversed ──┘                    └── approach ──┘     └── the single-goal expert ──┘

The goals are worked on in the order of the environment's ``obj_goal``. Which of them are open, and where the arm is on
its way, follows from the simulator's state: the action stays a pure function of it.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import mujoco
import numpy as np

from rlhive.envs._loading import registered_specs
from rlhive.envs._references import read_expert_rows
from rlhive.envs._robohive import RoboHiveEnv
from rlhive.envs._subgoals import OpenGoal, open_goals
from rlhive.envs.experts._kinematics import ARM, distance_to_polyline
from rlhive.envs.experts._kitchen import KitchenPolicy, RehearsedPolicy, ServoController
from rlhive.envs.experts._scripted import ExpertPolicy

#: Steps in which a single-goal expert is to move its object: the horizon of the single-goal kitchens.
_SKILL_STEPS = 50


@dataclass(frozen=True)
class Skill:
    """What a single-goal expert does: it moves one joint of the kitchen from a start to a goal.

    Attributes:
        env_name: Id of the single-goal environment, which is also the key of the expert in experts.json.
        joint: Name of the joint in RoboHive's kitchen.
        start: Value of the joint at the start, in m or rad.
        goal: Value of the joint at the goal, in m or rad.
        site: Name of the site at which the gripper acts on the object.
    """

    env_name: str
    joint: str
    start: float
    goal: float
    site: str

    @classmethod
    def from_registry(cls, env_name: str) -> "Skill":
        """Return the skill that solves a single-goal kitchen."""
        arguments = registered_specs()[env_name].kwargs
        ((joint, goal),) = arguments["obj_goal"].items()
        return cls(env_name, joint, float(arguments["obj_init"][joint]), float(goal), arguments["interact_site"])


class _SkillKitchen:
    """RoboHive's environment as a single-goal expert sees it: only the object of the skill is away from its goal.

    Args:
        env: The environment with several goals.
        skill: The skill.
    """

    def __init__(self, env: RoboHiveEnv, skill: Skill) -> None:
        self._env = env
        kitchen = env.unwrapped
        joints = kitchen.obj["dof_adrs"]
        self.interact_sid = kitchen.sim.model.site_name2id(skill.site)
        self.init_qpos = kitchen.init_qpos.copy()
        self.init_qpos[kitchen.obj[skill.joint]["dof_adr"]] = skill.start
        self.obj_goal = self.init_qpos[joints].copy()
        self.obj_goal[kitchen.obj[skill.joint]["goal_adr"]] = skill.goal

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env.unwrapped, name)


class _SkillEnv:
    """The part of :class:`RoboHiveEnv` that a single-goal expert reads, with the kitchen of one skill."""

    def __init__(self, env: RoboHiveEnv, skill: Skill) -> None:
        self._env = env
        self.env_name = skill.env_name
        self.horizon = _SKILL_STEPS
        self.unwrapped = _SkillKitchen(env, skill)

    @property
    def dt(self) -> float:
        """Simulated time of one step in seconds."""
        return self._env.dt


class SkillExpert:
    """The expert of one skill in a kitchen with several goals.

    Args:
        env: The environment with several goals.
        skill: The skill.
        row: The expert's row in experts.json.

    Attributes:
        skill: The skill.
    """

    def __init__(self, env: RoboHiveEnv, skill: Skill, row: Mapping[str, Any]) -> None:
        kitchen = env.unwrapped
        policy = RehearsedPolicy if row.get("strategy") == "rehearsed" else KitchenPolicy
        self.skill = skill
        self._policy = policy(cast(RoboHiveEnv, _SkillEnv(env, skill)), "expert", row["expert"])
        self._address = int(kitchen.obj[skill.joint]["dof_adr"])
        self._tolerance = float(kitchen.obj["dof_proximity"][kitchen.obj[skill.joint]["goal_adr"]])

    @property
    def plan(self) -> KitchenPolicy:
        """The plan for the current layout of the kitchen."""
        return self._policy.plan if isinstance(self._policy, RehearsedPolicy) else self._policy

    def is_done(self, data: mujoco.MjData) -> bool:
        """Whether the object is at its goal, by RoboHive's tolerance."""
        return bool(abs(data.qpos[self._address] - self.skill.goal) < self._tolerance)


class SequencePolicy(ExpertPolicy):
    """Chains single-goal experts in a kitchen with several goals.

    The first open goal, in the order of the environment's ``obj_goal``, is worked on; once all are reached, the arm
    stays at the last one. See the module.

    Args:
        env: The environment in which the policy acts, for example ``FK1_RelaxRandom-v4`` with an ``obj_goal``.
        name: Level of the policy: "expert", "medium" or "noisy".
        expert: "skills" lists the single-goal environments whose experts may be used.
        **degradation: ``noise`` and ``give_up`` of :class:`ExpertPolicy`.

    Raises:
        ValueError: The environment has no goal that differs from its start, or one that no skill reaches.
    """

    def __init__(self, env: RoboHiveEnv, name: str, expert: Mapping[str, Any], **degradation: float) -> None:
        super().__init__(env, name, expert, **degradation)
        rows = {env_name: read_expert_rows()[env_name] for env_name in expert["skills"]}
        skills = self._select_skills(env, [Skill.from_registry(env_name) for env_name in rows])
        self._experts = [SkillExpert(env, skill, rows[skill.env_name]) for skill in skills]
        # The actions depend on the skills' own parameters, which are therefore part of a recipe's identity.
        self._parameters["expert"] = {
            "skills": {skill.env_name: copy.deepcopy(rows[skill.env_name]["expert"]) for skill in skills}
        }
        self._servos = ServoController(env.unwrapped)

    def _select_skills(self, env: RoboHiveEnv, skills: Sequence[Skill]) -> list[Skill]:
        return select_skills(env, skills)

    def _compute_action(self, data: mujoco.MjData, *, still: bool) -> np.ndarray:
        if still:
            return self._servos.action(data, data.qpos[:9])
        return self._work_on(data, self._experts)

    def _work_on(self, data: mujoco.MjData, experts: Sequence[SkillExpert]) -> np.ndarray:
        """Return the unclipped action [9] of the first expert whose object is not at its goal, else of the last one."""
        active = next((expert for expert in experts if not expert.is_done(data)), experts[-1])
        if active.plan.is_at_object(data):
            return active.plan.act_at_object(data)
        return self._approach(data, active, [expert for expert in experts if expert is not active])

    def _approach(self, data: mujoco.MjData, active: SkillExpert, others: Sequence[SkillExpert]) -> np.ndarray:
        """Return the unclipped action [9] on the way to an object: from the start, or out of another object.

        Of the polylines that lead to the object, the one that is nearest to the arm is followed. They meet before the
        contact, so that the arm always gets ahead.
        """
        posture, contact = data.qpos[ARM], active.plan.contact_way(data)
        start = self._env.unwrapped.init_qpos[ARM]
        ways = [(active.plan, np.array([start, *contact]))]
        ways += [(other.plan, np.array([*other.plan.contact_way(data)[::-1], *contact])) for other in others]
        plan, way = min(ways, key=lambda item: distance_to_polyline(posture, item[1]))
        # The plan of an object that is left opens its fingers first.
        is_leaving = distance_to_polyline(posture, way[:2]) <= distance_to_polyline(posture, way[1:])
        return (plan if is_leaving else active.plan).follow(data, way)


def select_skills(env: RoboHiveEnv, skills: Sequence[Skill]) -> list[Skill]:
    """Return the skills that move every object from its start to its goal, in the order of ``obj_goal``.

    Args:
        env: An environment of the kitchen; its ``obj_goal`` is a dictionary.
        skills: The skills to select from.

    Raises:
        ValueError: No object is away from its goal, or no skill moves one to its goal.
    """
    goals = open_goals(env.unwrapped)
    if not goals:
        msg = f"No goal in {env.env_name}: every object starts where it should be. Pass obj_goal={{joint: value}}."
        raise ValueError(msg)
    return [_find_skill(env, skills, goal) for goal in goals]


def _find_skill(env: RoboHiveEnv, skills: Sequence[Skill], goal: OpenGoal) -> Skill:
    for skill in skills:
        if skill.joint == goal.joint and all(
            abs(value - wanted) < goal.tolerance
            for value, wanted in ((skill.start, goal.start), (skill.goal, goal.value))
        ):
            return replace(skill, start=goal.start, goal=goal.value)
    possible_goals = ", ".join(f"{skill.joint} {skill.start:g} to {skill.goal:g}" for skill in skills)
    msg = (
        f"No scripted expert in {env.env_name} moves {goal.joint} from {goal.start:g} to {goal.value:g}: "
        f"expected goals out of {possible_goals}."
    )
    raise ValueError(msg)
