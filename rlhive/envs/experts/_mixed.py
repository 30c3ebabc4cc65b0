"""A behaviour policy of mixed skill: an expert that is disturbed, pauses, and sets off in a wrong direction.

Datasets of such episodes hold better and worse actions in similar states, and recoveries from mistakes, which neither
an expert's nor a random policy's episodes hold.
"""

from typing import Any

import numpy as np
from scipy.signal import lfilter
from torchrl.envs import EnvBase

from rlhive.envs._robohive import RoboHiveEnv
from rlhive.envs.experts._experts import make_scripted_policy
from rlhive.envs.experts._scripted import ExpertPolicy, ScriptedPolicy

#: Correlation of the noise between successive steps: it pushes in one direction for some five steps.
CORRELATION = 0.8
#: Standard deviation of the noise of an episode without any skill, in units of an action.
LARGEST_NOISE = 0.15
#: Probability of a pause, and of a wrong direction at the start.
CHANCE = 0.3
#: Shortest and longest pause or wrong direction, as fractions of the horizon.
DURATION = (0.06, 0.2)

#: Distinguishes the random numbers of an episode's course from those of the expert.
_STREAM = 1 << 32


def correlated_noise(generator: np.random.Generator, horizon: int, size: int) -> np.ndarray:
    """Return noise [horizon, size] of variance 1 in every step, a first-order autoregression over the steps."""
    white = generator.normal(size=(horizon, size))
    white[1:] *= np.sqrt(1 - CORRELATION**2)
    noise: np.ndarray = lfilter([1.0], [1.0, -CORRELATION], white, axis=0)
    return noise


class MixedPolicy(ScriptedPolicy):
    """An expert whose skill is drawn for each episode.

    The skill is uniform in [0, 1]. Noise of standard deviation ``(1 - skill) * LARGEST_NOISE``, a first-order
    autoregression over the steps, is added to every action. With a probability of :data:`CHANCE` each, the arm holds
    still for a while, and sets off in a random direction. All of it is a function of the episode's seed.

    Args:
        env: The environment in which the policy acts.
        expert: The expert.
    """

    def __init__(self, env: RoboHiveEnv, expert: ExpertPolicy) -> None:
        super().__init__(env, "mixed")
        self._expert = expert
        self._noise = np.zeros((0, 0))
        self._pause = self._detour = range(0)
        self._direction = np.zeros(0)
        self.begin_episode(0)

    def parameters(self) -> dict[str, Any]:
        """Return the parameters that, with the seed, determine the actions; JSON-able."""
        course = {"correlation": CORRELATION, "largest_noise": LARGEST_NOISE, "chance": CHANCE}
        return {**self._expert.parameters(), "level": self.name, **course, "duration": list(DURATION)}

    def begin_episode(self, seed: int) -> None:
        """Draw the skill, the noise, the pause and the wrong direction of the episode that starts."""
        super().begin_episode(seed)
        self._expert.begin_episode(seed)
        generator = np.random.default_rng((seed, _STREAM))
        horizon, size = self._env.horizon, self._env.action_spec.shape[-1]
        skill = generator.uniform()
        self._noise = (1 - skill) * LARGEST_NOISE * correlated_noise(generator, horizon, size)
        self._pause = self._draw_steps(generator, latest=0.6)
        self._detour = self._draw_steps(generator, latest=0.0)
        self._direction = generator.uniform(-1.0, 1.0, size=size)

    def _draw_steps(self, generator: np.random.Generator, *, latest: float) -> range:
        """Return the steps of a pause or of a wrong direction, which begins at a fraction ``latest`` at the latest."""
        chance, start, duration = generator.uniform(size=3)
        horizon = self._env.horizon
        begin = round(start * latest * horizon)
        length = round((DURATION[0] + duration * (DURATION[1] - DURATION[0])) * horizon)
        return range(begin, begin + length) if chance < CHANCE else range(0)

    def act(self) -> np.ndarray:
        """Return the action [n] in [-1, 1] for the simulator's current state."""
        step = self._step()
        if step in self._pause:
            return self._expert.hold_still()
        if step in self._detour:
            return self._direction
        return np.clip(self._expert.act() + self._noise[min(step, len(self._noise) - 1)], -1.0, 1.0)


def make_mixed_policy(env: EnvBase) -> MixedPolicy:
    """Return the policy of mixed skill of an environment, as a :class:`rlhive.Task` takes it in ``policies=``."""
    expert = make_scripted_policy(env, "expert")
    assert isinstance(expert, ExpertPolicy)
    return MixedPolicy(env, expert)
