"""Roll a policy out on held-out seeds: success rate and return, each with a 95 % interval.

Every episode is a pure function of its seed (see :mod:`rlhive.rollouts`), so the numbers do not depend on how many
processes computed them.
"""

import logging
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torchrl.envs import EnvBase
from tqdm import tqdm

from rlhive.envs import EVALUATION_SEED, Task, get_task, make_env, make_policy
from rlhive.errors import CheckpointMismatch, EnvNotFound, SimulationDiverged
from rlhive.policies import CHECKPOINT_FILE, load_policy, read_checkpoint
from rlhive.rollouts._rollout import InvalidEpisode, Policy, default_num_workers, env_of, map_unordered, try_episode

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """What a policy achieved.

    Attributes:
        policy: Level, checkpoint folder, or name of the callable.
        env_name: Environment id.
        num_episodes: Number of episodes; episode ``i`` had seed ``first_seed + i``.
        first_seed: Seed of the first episode.
        successes: Number of episodes in which the task was solved after any step; None, as the two following, where
            the environment does not say.
        success_rate: ``successes / num_episodes``.
        success_interval: 95 % Wilson interval of the success rate.
        returns: Undiscounted return of each valid episode, in the order of the seeds.
        return_mean: Their mean.
        return_interval: 95 % Student-t interval of the mean; unbounded for a single episode.
        score: The mean return on the scale of the task's references, 0 as random and 100 as the expert; None, as the
            interval, where the task has none.
        score_interval: 95 % interval of the score; the references count as exact.
        invalid: The episodes whose simulation diverged. They count as not solved and have no return.
    """

    policy: str
    env_name: str
    num_episodes: int
    first_seed: int
    successes: int | None
    success_rate: float | None
    success_interval: tuple[float, float] | None
    returns: tuple[float, ...]
    return_mean: float
    return_interval: tuple[float, float]
    score: float | None = None
    score_interval: tuple[float, float] | None = None
    invalid: tuple[InvalidEpisode, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, JSON-able: tuples become lists, an unbounded interval ``[None, None]``."""
        fields = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        for name in ("return_interval", "score_interval"):
            if fields[name] is not None:
                fields[name] = [value if math.isfinite(value) else None for value in fields[name]]
        return fields


def evaluate(
    policy: str | Path | Policy,
    env: str | Task,
    *,
    num_episodes: int = 50,
    seed: int = EVALUATION_SEED,
    num_workers: int | None = None,
    progress: bool = True,
) -> Evaluation:
    """Run a policy on seeds that no recipe uses and count.

    Args:
        policy: One of the task's levels ("expert", "noisy", "medium", "random"); or a checkpoint folder; or a callable
            that writes ``action`` into a TensorDict. A callable is pickled for each episode unless ``num_workers`` is
            1; if it keeps state, give it ``begin_episode(seed)``.
        env: Task name, environment id or task.
        num_episodes: Number of episodes, at least 1.
        seed: Of the first episode; the following ones count up.
        num_workers: Processes; default one per core. With 1 everything runs in this process.
        progress: Show a bar.

    Returns:
        The same, bit for bit, for every number of workers on one machine.

    Raises:
        CheckpointMismatch: ``policy`` is no level and no whole checkpoint, or one of another environment.
        EnvNotFound: No such environment.
        SimulationDiverged: The simulation diverged in every episode.
        ValueError: ``num_episodes`` is below 1.

    Example:
        >>> evaluate("expert", "toy_point", num_episodes=5, num_workers=1, progress=False).success_rate
        1.0
    """
    if num_episodes < 1:
        msg = f"num_episodes: expected at least 1, got {num_episodes}."
        raise ValueError(msg)
    task = task_of(env)
    policy = _resolve_policy(policy, task)
    identity = _identity(policy)
    num_workers = min(num_workers or default_num_workers(), num_episodes)
    jobs = [(policy, identity, task, seed + index) for index in range(num_episodes)]
    outcomes = (
        (_run_episode(*job) for job in jobs)
        if num_workers == 1
        else map_unordered(_run_episode, jobs, num_workers=num_workers)
    )
    by_seed: dict[int, _Outcome] = {}
    name = _name_of(policy)
    with tqdm(total=num_episodes, desc=f"evaluate {name}", unit="episode", disable=not progress) as bar:
        for episode_seed, outcome in outcomes:
            by_seed[episode_seed] = outcome
            solved = _solved(by_seed.values())
            if solved is not None:
                bar.set_postfix(success=f"{solved / len(by_seed):.0%}", refresh=False)
            bar.update()
    return _summarise(name, task, seed, [by_seed[seed + index] for index in range(num_episodes)])


def compare(policies: Sequence[str | Path | Policy], env: str | Task, **kwargs: Any) -> list[Evaluation]:
    """Evaluate several policies on the same seeds: a number means little without random and expert beside it.

    Args:
        policies: As for :func:`evaluate`, for example ``["random", "runs/bc", "expert"]``.
        env: Task name, environment id or task.
        **kwargs: Further arguments of :func:`evaluate`.

    Returns:
        One evaluation per policy, in their order.
    """
    return [evaluate(policy, env, **kwargs) for policy in policies]


def wilson_interval(successes: int, num_episodes: int) -> tuple[float, float]:
    """Return the 95 % interval of a success rate (Wilson, 1927), which stays honest at 0 and 1.

    Example:
        >>> [round(bound, 3) for bound in wilson_interval(8, 10)]
        [0.49, 0.943]
    """
    from scipy.stats import binomtest  # a second to import, and only the end of an evaluation needs it

    interval = binomtest(successes, num_episodes).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % Student-t interval of a mean; unbounded for a single value."""
    from scipy.stats import t

    if len(values) < 2:
        return -math.inf, math.inf
    half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.fmean(values)
    return mean - half, mean + half


#: Return and success of an episode, or that it was invalid.
_Outcome = tuple[float, bool | None] | InvalidEpisode


def _solved(outcomes: Iterable[_Outcome]) -> int | None:
    """Count the solved episodes; None where the environment does not say."""
    said = [outcome[1] for outcome in outcomes if not isinstance(outcome, InvalidEpisode)]
    return None if None in said else sum(said)


def _summarise(name: str, task: Task, seed: int, outcomes: list[_Outcome]) -> Evaluation:
    invalid = tuple(outcome for outcome in outcomes if isinstance(outcome, InvalidEpisode))
    returns = tuple(outcome[0] for outcome in outcomes if not isinstance(outcome, InvalidEpisode))
    if invalid:
        said = ", ".join(map(str, invalid))
        count = len(invalid), len(outcomes)
        logger.warning("%s in %s: %d of %d episodes were invalid: %s", name, task.name, *count, said)
    if not returns:
        msg = f"{name} in {task.name}: {invalid[0].reason} So did every other episode."
        raise SimulationDiverged(msg, invalid[0].step)
    successes = _solved(outcomes)
    mean, interval = statistics.fmean(returns), mean_interval(returns)
    score, score_interval = _scores(task, mean, interval)
    return Evaluation(
        policy=name,
        env_name=task.env_name,
        num_episodes=len(outcomes),
        first_seed=seed,
        successes=successes,
        success_rate=None if successes is None else successes / len(outcomes),
        success_interval=None if successes is None else wilson_interval(successes, len(outcomes)),
        returns=returns,
        return_mean=mean,
        return_interval=interval,
        score=score,
        score_interval=score_interval,
        invalid=invalid,
    )


def _scores(task: Task, mean: float, interval: tuple[float, float]) -> tuple[float | None, tuple[float, float] | None]:
    """Return the normalised mean return and its interval, None without references."""
    score = task.reference.score(mean) if task.reference else None
    if score is None:
        return None, None
    low, high = (task.reference.score(bound) for bound in interval)
    return score, (low, high)


def task_of(env: str | Task) -> Task:
    """Return the task of a name, an environment id or itself; a worker process does not know what is registered here.

    Raises:
        EnvNotFound: No task or environment of that name; the message names the nearest ones.
    """
    if isinstance(env, Task):
        return env
    try:
        return get_task(env)
    except EnvNotFound:
        built = make_env(env)  # raises, with the nearest names, unless it is an environment id of RoboHive
        task = Task(name=env, env_name=built.env_name, horizon=built.horizon, description="")
        built.close()
        return task


def _resolve_policy(policy: str | Path | Policy, task: Task) -> str | Path | Policy:
    if not isinstance(policy, str | Path) or policy in task.levels:
        return policy
    folder = Path(policy)
    if not folder.exists():
        msg = f"No policy {str(policy)!r}: expected one of {', '.join(task.levels)} or a folder with {CHECKPOINT_FILE}."
        raise CheckpointMismatch(msg)
    return folder.absolute()


def _identity(policy: str | Path | Policy) -> str | None:
    """Name what a worker may keep for the next episode; None for a callable, which arrives anew each time."""
    if isinstance(policy, Path):
        # The hash is part of it because workers outlive a training that writes to the same folder.
        return f"{policy} {read_checkpoint(policy)['sha256']}"
    return policy if isinstance(policy, str) else None


def _name_of(policy: str | Path | Policy) -> str:
    if isinstance(policy, str | Path):
        return str(policy)
    return str(getattr(policy, "name", None) or getattr(policy, "__name__", None) or type(policy).__name__)


def _run_episode(policy: str | Path | Policy, identity: str | None, task: Task, seed: int) -> tuple[int, _Outcome]:
    """Run in a worker process, or in this one."""
    env = env_of(task)
    if identity is not None:
        policy = _cached_policy(policy, identity, env, task)
    episode = try_episode(env, policy, seed=seed)
    return seed, episode if isinstance(episode, InvalidEpisode) else (episode.episode_return, episode.success)


# One per process, as the environment that it acts in.
_POLICIES: list[tuple[str, EnvBase, Policy]] = []


def _cached_policy(policy: str | Path, identity: str, env: EnvBase, task: Task) -> Policy:
    if not _POLICIES or _POLICIES[0][:2] != (identity, env):
        made = load_policy(policy, env=env) if isinstance(policy, Path) else make_policy(env, policy, task=task)
        _POLICIES[:] = [(identity, env, made)]
    return _POLICIES[0][2]
