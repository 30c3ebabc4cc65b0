"""Behaviour policies for data that no single expert makes, in kitchens with several goals: play and stitch.

::

    play    a drawn order of drawn objects      ─► light ─► knob 4 ─► knob 1 ─┤
    stitch  a part of the target order only     (knob 1 ─►) knob 3 ─► light ─┤          (…): before the recording

Both have correlated noise of a drawn strength. The rewards are those of the environment, whose goals most episodes of
play ignore, and all of which no episode of stitch reaches from the start.
"""

import abc
from collections.abc import Mapping, Sequence
from typing import Any

import mujoco
import numpy as np
from torchrl.envs import EnvBase

from rlhive.envs._references import read_expert_rows
from rlhive.envs._robohive import RoboHiveEnv
from rlhive.envs.experts._mixed import CORRELATION, correlated_noise
from rlhive.envs.experts._sequence import SequencePolicy, Skill, SkillExpert

#: Standard deviation of the noise of an episode without any skill, in units of an action.
LARGEST_NOISE = 0.06
#: Number of objects that an episode of play moves: smallest, and largest.
PLAYED = (2, 4)
#: Steps after which an episode of play goes on to the next object, whether the object was moved or not.
STEPS_PER_OBJECT = 60
#: Probability that an episode of stitch goes on with a pause after its last goal, and its shortest and longest steps.
PAUSE = (0.5, 10, 30)
#: Fraction of the horizon after which an episode of stitch is recorded, even if its first goals are not reached.
LATEST_START = 0.75

#: Distinguishes the random numbers of an episode's course from those of the expert.
_STREAM = 1 << 33


class _DisturbedSequence(SequencePolicy):
    """A sequence with correlated noise of a drawn strength.

    Args:
        env: The environment in which the policy acts.
        name: Level of the policy.
    """

    def __init__(self, env: RoboHiveEnv, name: str) -> None:
        super().__init__(env, name, read_expert_rows()[env.robohive_id]["expert"])
        self._disturbance = np.zeros((0, 0))
        self._parameters |= {"correlation": CORRELATION, "largest_noise": LARGEST_NOISE}
        self.begin_episode(0)

    def begin_episode(self, seed: int) -> None:
        """Draw the course and the noise of the episode that starts."""
        super().begin_episode(seed)
        generator = np.random.default_rng((seed, _STREAM))
        self._draw_course(generator)
        strength = LARGEST_NOISE * generator.uniform()
        horizon, size = self._env.horizon, self._env.action_spec.shape[-1]
        self._disturbance = strength * correlated_noise(generator, horizon, size)

    @abc.abstractmethod
    def _draw_course(self, generator: np.random.Generator) -> None:
        """Draw what the episode moves."""

    def _are_done(self, experts: Sequence[SkillExpert]) -> bool:
        data = self._env.unwrapped.sim.data.ptr
        return all(expert.is_done(data) for expert in experts)


class PlayPolicy(_DisturbedSequence):
    """Moves drawn objects of the kitchen in a drawn order, whatever the goals of the environment are.

    The episode ends when the last of them is where its expert takes it.
    """

    def __init__(self, env: RoboHiveEnv) -> None:
        self._played: list[SkillExpert] = []
        super().__init__(env, "play")
        self._parameters |= {"played": list(PLAYED), "steps_per_object": STEPS_PER_OBJECT}

    def _select_skills(self, env: RoboHiveEnv, skills: Sequence[Skill]) -> list[Skill]:
        kitchen = env.unwrapped
        objects = kitchen.obj
        return [
            skill
            for skill in skills
            if abs(kitchen.init_qpos[objects[skill.joint]["dof_adr"]] - skill.start)
            < objects["dof_proximity"][objects[skill.joint]["goal_adr"]]
        ]

    def _draw_course(self, generator: np.random.Generator) -> None:
        smallest, largest = PLAYED
        count = int(generator.integers(smallest, largest + 1))
        order = generator.permutation(len(self._experts))[:count]
        self._played = [self._experts[index] for index in order]

    def recording_phase(self) -> str:
        """Return "after" once every drawn object was moved, else "inside"; see ``rollout_episode``."""
        return "after" if self._are_done(self._remaining()) else "inside"

    def _remaining(self) -> list[SkillExpert]:
        """Return the drawn objects whose time has not run out; the last one's never does."""
        return self._played[min(self._step() // STEPS_PER_OBJECT, len(self._played) - 1) :]

    def _compute_action(self, data: mujoco.MjData, *, still: bool) -> np.ndarray:
        return self._work_on(data, self._remaining()) + self._disturbance[self._step()]


class StitchPolicy(_DisturbedSequence):
    """Reaches one or two of the goals, after those before them were reached without being recorded.

    All goals of an environment are reached only by what several episodes show: each begins where another one ended. In
    half of the episodes the arm then stays for a while.
    """

    def __init__(self, env: RoboHiveEnv) -> None:
        self._first = self._last = self._pause = 0
        self._is_recorded = False
        self._reached_at: int | None = None
        super().__init__(env, "stitch")
        if len(self._experts) < 2:
            msg = f"{env.env_name} has one goal: expected two or more, of which an episode of stitch reaches a part."
            raise ValueError(msg)
        self._parameters |= {"pause": list(PAUSE), "latest_start": LATEST_START}

    def _draw_course(self, generator: np.random.Generator) -> None:
        count = len(self._experts)
        self._first = int(generator.integers(count))
        wanted = int(generator.integers(1, min(2, count - 1) + 1))
        self._last = min(self._first + wanted, count)
        chance, shortest, longest = PAUSE
        self._pause = int(generator.integers(shortest, longest + 1)) if generator.uniform() < chance else 0
        self._is_recorded, self._reached_at = False, None

    def recording_phase(self) -> str:
        """Return whether the state is "before", "inside" or "after" the recorded part; see ``rollout_episode``."""
        step = self._step()
        self._is_recorded |= self._is_at_start(step)
        if not self._is_recorded:
            return "before"
        if self._reached_at is None and self._are_done(self._experts[: self._last]):
            self._reached_at = step
        is_over = self._reached_at is not None and step >= self._reached_at + self._pause
        return "after" if is_over else "inside"

    def _is_at_start(self, step: int) -> bool:
        return step >= LATEST_START * self._env.horizon or self._are_done(self._experts[: self._first])

    def _compute_action(self, data: mujoco.MjData, *, still: bool) -> np.ndarray:
        step, experts = self._step(), self._experts[: self._last]
        if self._are_done(experts):
            return self._servos.action(data, data.qpos[:9])
        action = self._work_on(data, experts)
        return action + self._disturbance[step] if self._is_at_start(step) else action


def make_play_policy(env: EnvBase) -> PlayPolicy:
    """Return the policy of play of a kitchen, as a :class:`rlhive.Task` takes it in ``policies=``."""
    return PlayPolicy(_require_kitchen(env))


def make_stitch_policy(env: EnvBase) -> StitchPolicy:
    """Return the policy of parts of a sequence, as a :class:`rlhive.Task` takes it in ``policies=``."""
    return StitchPolicy(_require_kitchen(env))


def _require_kitchen(env: EnvBase) -> RoboHiveEnv:
    rows: Mapping[str, Any] = read_expert_rows()
    if isinstance(env, RoboHiveEnv) and rows.get(env.robohive_id, {}).get("strategy") == "sequence":
        return env
    names = ", ".join(name for name, row in rows.items() if row.get("strategy") == "sequence")
    msg = f"No play in {getattr(env, 'env_name', type(env).__name__)}: expected a kitchen with several goals, {names}."
    raise ValueError(msg)
