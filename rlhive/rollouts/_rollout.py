"""One seeded episode, and a pool of worker processes that run many.

An episode is a pure function of (environment, policy, seed): the environment is seeded before its reset and
the policy, where it draws random numbers, at the episode's begin. Which process runs it does not matter.
"""

import math
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from loky import as_completed, get_reusable_executor
from tensordict import TensorDict, TensorDictBase
from torchrl.envs import EnvBase

from rlhive import keys
from rlhive.envs import Task, make_env
from rlhive.errors import SimulationDiverged

#: A worker that had nothing to do for so long ends; importing torch and RoboHive costs the next one seconds.
IDLE_S = 300

Policy = Callable[[TensorDictBase], TensorDictBase]


@dataclass(frozen=True)
class Episode:
    """What happened between a reset and its end.

    Attributes:
        transitions: TED TensorDict of batch size ``[length]``.
        start_state: The simulator's state after the reset, before the first action; named float64 arrays.
        seed: The seed that reproduces the episode.
    """

    transitions: TensorDict
    start_state: dict[str, np.ndarray]
    seed: int

    @property
    def episode_return(self) -> float:
        """Undiscounted sum of the rewards, rounded once."""
        return math.fsum(self.transitions[keys.NEXT_REWARD].flatten().tolist())

    @property
    def success(self) -> bool | None:
        """Whether the task was solved after any of the steps; None where the environment does not say."""
        success = self.transitions.get((keys.NEXT, keys.SUCCESS), None)
        return None if success is None else bool(success.any())


@dataclass(frozen=True)
class InvalidEpisode:
    """An episode whose simulation diverged: nobody knows what would have happened, so it has no return.

    Attributes:
        seed: The seed that reproduces it.
        step: In which step it diverged, from 1 on.
        reason: What the environment said.
    """

    seed: int
    step: int
    reason: str

    def __str__(self) -> str:
        return f"diverged at step {self.step} (seed {self.seed})"


# One per process: a kitchen takes a second to build and 100 MB to keep.
_ENVS: list[tuple[Task, EnvBase]] = []


def env_of(task: Task) -> EnvBase:
    """Return an environment of the task that this process keeps for the next call; do not close it."""
    if not _ENVS or _ENVS[0][0] != task:
        for _, env in _ENVS:
            env.close()
        _ENVS[:] = [(task, make_env(task))]
    return _ENVS[0][1]


@torch.no_grad()
def rollout_episode(env: EnvBase, policy: Policy, *, seed: int) -> Episode:
    """Run one episode to its end and return it.

    Args:
        env: An RLHive environment (``horizon``, ``get_state``); it is seeded and reset here.
        policy: Writes ``action`` into the TensorDict that it is given. If it has a method
            ``begin_episode(seed)``, that is called after the reset. What it draws from torch's own generator is a
            function of the seed, too; the caller's generator is left as it was.
        seed: Seeds the environment and the policy.

    Returns:
        The episode; its TensorDict owns its memory.

    Raises:
        SimulationDiverged: The physics blew up on the way.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        env.set_seed(seed)
        start = env.reset()
        state = env.get_state()
        begin = getattr(policy, "begin_episode", None)
        if begin is not None:
            begin(seed)
        transitions = env.rollout(env.horizon, policy, auto_reset=False, tensordict=start, break_when_any_done=True)
    return Episode(transitions=transitions, start_state=state, seed=seed)


def try_episode(env: EnvBase, policy: Policy, *, seed: int) -> Episode | InvalidEpisode:
    """Run one episode as :func:`rollout_episode` does; where the simulation diverges, return that it is invalid.

    The environment is fit for the next episode in either case.
    """
    try:
        return rollout_episode(env, policy, seed=seed)
    except SimulationDiverged as error:
        return InvalidEpisode(seed=seed, step=error.step, reason=str(error))


def default_num_workers() -> int:
    """One worker per core that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_unordered(function: Callable[..., Any], jobs: Iterable[tuple], *, num_workers: int) -> Iterator[Any]:
    """Yield ``function(*job)`` of every job as they finish, computed in worker processes.

    The workers stay alive for the next call, so that what ``function`` caches (an environment, a policy) is
    built once per process. An interrupt or an error kills them at once.

    Args:
        function: A module-level function; its arguments and results are pickled.
        jobs: Its argument tuples.
        num_workers: Number of processes.
    """
    executor = get_reusable_executor(max_workers=num_workers, timeout=IDLE_S, initializer=_quiet_worker)
    try:
        for future in as_completed([executor.submit(function, *job) for job in jobs]):
            yield future.result()
    except BaseException:
        executor.shutdown(wait=True, kill_workers=True)
        raise


def _quiet_worker() -> None:
    """Leave Ctrl-C to the parent, which ends the workers, and one core to each worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
