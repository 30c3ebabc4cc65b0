"""Rolling out one seeded episode, and a pool of worker processes that roll out many.

An episode is a pure function of environment, policy and seed: the environment is seeded before its reset, and a policy
that draws random numbers is seeded after it. It does not matter which process runs the episode.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from loky import as_completed, get_reusable_executor
from tensordict import TensorDict, TensorDictBase
from torchrl.envs import EnvBase
from torchrl.envs.utils import step_mdp

from rlhive import keys
from rlhive._threads import num_cores, torch_threads
from rlhive.data import sum_exactly
from rlhive.envs import Task, make_env
from rlhive.errors import InvalidOptionError, SimulationDivergedError
from rlhive.rollouts._worker import start_worker

#: Seconds after which an idle worker process ends. A new one takes seconds to import torch and RoboHive.
IDLE_S = 300

Policy = Callable[[TensorDictBase], TensorDictBase]

Result = TypeVar("Result")


@dataclass(frozen=True)
class Rollout:
    """The transitions of one episode, from the reset to its end.

    Attributes:
        transitions: TED TensorDict of batch size ``[length]``.
        start_state: Simulator state after the reset and before the first action; float64 arrays by name.
        seed: Seed that reproduces the episode.
    """

    transitions: TensorDict
    start_state: dict[str, np.ndarray]
    seed: int

    @property
    def episode_return(self) -> float:
        """Undiscounted sum of the rewards, rounded once."""
        return sum_exactly(self.transitions[keys.NEXT_REWARD].numpy())

    @property
    def success(self) -> bool | None:
        """Whether the task was solved after any step; None if the environment has no success signal."""
        success = self.transitions.get((keys.NEXT, keys.SUCCESS), None)
        return None if success is None else bool(success.any())


@dataclass(frozen=True)
class DivergedRollout:
    """An episode whose simulation diverged, so that its return is undefined.

    Attributes:
        seed: Seed that reproduces the episode.
        step: Step in which the simulation diverged, counted from 1.
        reason: Message of the environment's error.
    """

    seed: int
    step: int
    reason: str

    def __str__(self) -> str:
        return f"diverged at step {self.step} (seed {self.seed})"


# At most one entry per process: a kitchen environment takes a second to build and 100 MB of memory.
_CACHED_ENV: list[tuple[Task, EnvBase]] = []


def get_cached_env(task: Task) -> EnvBase:
    """Return the environment of a task, which this process caches for the next call; do not close it."""
    if not _CACHED_ENV or _CACHED_ENV[0][0] != task:
        for _, env in _CACHED_ENV:
            env.close()
        _CACHED_ENV[:] = [(task, make_env(task))]
    return _CACHED_ENV[0][1]


@contextlib.contextmanager
def seeded_reset(env: EnvBase, *, seed: int) -> Iterator[TensorDictBase]:
    """Seed and reset an environment for the episode in the block, whose random numbers depend on the seed only.

    Inside, torch computes on one thread, as in a worker, and without gradients. The state of the caller's generator is
    restored.

    Returns:
        Context manager with the TensorDict of the reset.
    """
    with torch.no_grad(), torch.random.fork_rng(devices=[]), torch_threads(1):
        torch.default_generator.manual_seed(seed)
        env.set_seed(seed)
        yield env.reset()


def reset_policy(policy: Policy, seed: int) -> None:
    """Call the policy's ``begin_episode``, if it has one, after the reset of the environment."""
    begin = getattr(policy, "begin_episode", None)
    if begin is not None:
        begin(seed)


def find_reward_observer(policy: Policy) -> Callable[[float], None] | None:
    """Return the policy's ``observe_reward``; None if it has none."""
    return getattr(policy, "observe_reward", None)


def rollout_episode(env: EnvBase, policy: Policy, *, seed: int, on_state: Callable[[], None] | None = None) -> Rollout:
    """Run one episode to its end.

    Args:
        env: RLHive environment (with ``horizon`` and ``get_state``); it is seeded and reset here.
        policy: Callable that writes ``action`` into a TensorDict. If it has a method ``begin_episode(seed)``, that is
            called after the reset: a policy with state, such as the rest of a chunk of actions, drops it there. If it
            has a method ``observe_reward(reward)``, that gets the reward of each action, a float, before the next
            action is asked for. If it has a method ``recording_phase()``, only a part of the episode is returned: that
            is asked in every state and returns "before" this part, "inside" or "after" it. Random numbers that the
            policy draws from torch's default generator depend on the seed only; the state of the caller's generator
            is restored.
        seed: Seed of the environment and of the policy.
        on_state: Called after the reset and after every step; it must not change the environment.

    Returns:
        The episode; its TensorDict owns its memory.

    Raises:
        SimulationDivergedError: The simulation diverged before the episode's end.
    """
    with seeded_reset(env, seed=seed) as start:
        state = env.get_state()
        reset_policy(policy, seed)
        notify = on_state or _ignore
        phase = getattr(policy, "recording_phase", None)
        if phase is not None:
            transitions, state = _run_part(env, policy, start, phase, notify)
            return Rollout(transitions=transitions, start_state=state, seed=seed)
        notify()
        acting = _RewardedPolicy(policy) if find_reward_observer(policy) else None

        def finish_step(*_: object) -> None:
            notify()
            if acting is not None:
                acting.observe_reward()

        transitions = env.rollout(
            env.horizon,
            acting or policy,
            callback=finish_step,  # after every step but the last one
            auto_reset=False,
            tensordict=start,
            break_when_any_done=True,
        )
        notify()
    return Rollout(transitions=transitions, start_state=state, seed=seed)


def _ignore() -> None:
    pass


def _run_part(
    env: EnvBase, policy: Policy, state: TensorDictBase, phase: Callable[[], str], notify: Callable[[], None]
) -> tuple[TensorDict, dict[str, np.ndarray]]:
    """Run an episode and return a part of it, which is truncated where the part ends before the episode does.

    Args:
        env: The environment, after its reset.
        policy: Behaviour policy.
        state: TensorDict of the reset.
        phase: The policy's ``recording_phase``.
        notify: Called in every state of the part.

    Returns:
        The transitions, and the simulator's state in which they begin.

    Raises:
        InvalidOptionError: No state is in the part.
    """
    steps: list[TensorDictBase] = []
    start_state: dict[str, np.ndarray] | None = None
    is_done = False
    while not is_done:
        current = phase()
        if current == "after" and steps:
            break
        if current != "before" and start_state is None:
            start_state = env.get_state()
            notify()
        state = env.step(policy(state))
        if start_state is not None:
            steps.append(state.copy())
            notify()
        is_done = bool(state[keys.NEXT_DONE].any())
        state = step_mdp(state)
    if start_state is None:
        msg = "recording_phase() of the policy was 'before' in every state: expected at least one that is 'inside'"
        raise InvalidOptionError(msg)
    for key in (keys.NEXT_TRUNCATED, keys.NEXT_DONE):
        steps[-1][key] = torch.ones_like(steps[-1][key])
    return torch.stack(steps), start_state


class _RewardedPolicy:
    """A policy that gets the rewards of its actions: TorchRL writes them into the TensorDict that it acted on."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._observe = find_reward_observer(policy)
        self._transition: TensorDictBase | None = None

    def __call__(self, tensordict: TensorDictBase) -> TensorDictBase:
        self._transition = tensordict
        return self._policy(tensordict)

    def observe_reward(self) -> None:
        """Pass on the reward of the last action."""
        if self._observe is not None and self._transition is not None:
            self._observe(float(self._transition[keys.NEXT_REWARD]))


def try_rollout(
    env: EnvBase, policy: Policy, *, seed: int, on_state: Callable[[], None] | None = None
) -> Rollout | DivergedRollout:
    """Run one episode as :func:`rollout_episode` does, and return a diverged simulation instead of raising.

    The environment can run the next episode in either case.
    """
    try:
        return rollout_episode(env, policy, seed=seed, on_state=on_state)
    except SimulationDivergedError as error:
        return DivergedRollout(seed=seed, step=error.step, reason=str(error))


def default_num_workers() -> int:
    """Return the number of cores that this process may use."""
    return num_cores()


def map_unordered(
    function: Callable[..., Result], jobs: Iterable[tuple[Any, ...]], *, num_workers: int
) -> Iterator[Result]:
    """Yield ``function(*job)`` of every job in the order of completion, computed in worker processes.

    The workers stay alive for the next call, so that an environment or policy that ``function`` caches is built once
    per process. An interrupt or an error kills them at once, and they end when this process does.

    Args:
        function: Module-level function; its arguments and results are pickled.
        jobs: Argument tuples, one per call.
        num_workers: Number of processes.
    """
    executor = get_reusable_executor(
        max_workers=num_workers, timeout=IDLE_S, initializer=start_worker, initargs=(os.getpid(),)
    )
    try:
        for future in as_completed([executor.submit(function, *job) for job in jobs]):
            yield future.result()
    except BaseException:
        executor.shutdown(wait=True, kill_workers=True)
        raise
