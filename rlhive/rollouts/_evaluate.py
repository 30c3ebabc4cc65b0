"""Evaluating a policy on held-out seeds: success rate and return, each with a 95 % confidence interval.

Every episode is a pure function of its seed (see :mod:`rlhive.rollouts._rollout`), so that the numbers do not depend on
the number of processes.
"""

import logging
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torchrl.envs import EnvBase
from tqdm import tqdm

from rlhive._text import printable
from rlhive.data import sum_exactly
from rlhive.envs import EVALUATION_SEED, Task, get_task, make_env, make_policy
from rlhive.errors import CheckpointMismatchError, EnvNotFoundError, SimulationDivergedError
from rlhive.policies import CHECKPOINT_FILE, load_policy, read_checkpoint, read_env_kwargs
from rlhive.rollouts._rollout import (
    DivergedRollout,
    Policy,
    default_num_workers,
    get_cached_env,
    map_unordered,
)
from rlhive.rollouts._scoring import EpisodeResult, score_episode
from rlhive.rollouts._video import VideoOptions, film_episode, prepare_videos

logger = logging.getLogger(__name__)

_Result = EpisodeResult | DivergedRollout


@dataclass(frozen=True)
class Evaluation:
    """Success rate and returns of a policy.

    Attributes:
        policy: Level, checkpoint folder, or name of the callable.
        env_name: Environment id.
        num_episodes: Number of episodes; episode ``i`` has seed ``first_seed + i``.
        first_seed: Seed of the first episode.
        successes: Number of episodes in which the task was solved after any step. None, like ``success_rate`` and
            ``success_interval``, if the environment has no success signal.
        success_rate: ``successes / num_episodes``.
        success_interval: 95 % Wilson interval of the success rate.
        returns: Undiscounted return of each valid episode, in the order of the seeds.
        return_mean: Mean of ``returns``.
        return_interval: 95 % Student-t interval of the mean; unbounded for a single episode.
        score: Mean return on the scale of the task's reference returns: 0 is the random policy, 100 the expert. None,
            like ``score_interval``, if the task has no references.
        score_interval: 95 % interval of the score; the references count as exact.
        invalid: Episodes whose simulation diverged. They count as not solved and have no return.
        solved: Whether the task was solved in each valid episode, in the order of the seeds; None without a success
            signal.
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
    invalid: tuple[DivergedRollout, ...] = ()
    solved: tuple[bool, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-able values: tuples become lists, an unbounded interval ``[None, None]``."""
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
    video_dir: str | Path | None = None,
    num_videos: int = 3,
    video_camera: str | None = None,
    progress: bool = True,
) -> Evaluation:
    """Run a policy on seeds that no recipe uses, and compute success rate and return.

    Args:
        policy: One of the task's levels ("expert", "noisy", "medium", "random"), a checkpoint folder, or a callable
            that writes ``action`` into a TensorDict. A callable is pickled for each episode unless ``num_workers`` is
            1. A callable with state, such as one that plans several actions at once, needs a method
            ``begin_episode(seed)`` that resets it. Its method ``observe_reward(reward)``, if it has one, gets the
            reward of each action before the next action is asked for.
        env: Task name, environment id or task.
        num_episodes: Number of episodes, at least 1.
        seed: Seed of the first episode; the following episodes count up.
        num_workers: Worker processes; one per core by default. With 1 everything runs in this process.
        video_dir: Folder for videos, ``seed-<seed>.mp4``, of the first episodes; created if it does not exist. The
            numbers are the same with and without videos. Needs the extra ``formats`` and OpenGL.
        num_videos: Number of episodes that are filmed if ``video_dir`` is given.
        video_camera: Name of the camera; the environment's first one by default.
        progress: Whether to show a progress bar.

    Returns:
        The evaluation; bit-identical for every number of workers on one machine.

    Raises:
        CheckpointMismatchError: ``policy`` is neither a level nor a complete checkpoint, or the checkpoint belongs to
            another environment.
        EnvNotFoundError: No such environment.
        SimulationDivergedError: The simulation diverged in every episode.
        InvalidOptionError: The environment has no camera, or none of that name.
        RenderingUnavailableError, MissingExtraError: Videos need OpenGL or PyAV, which this machine lacks.
        StoreNotWritableError: ``video_dir`` cannot be created.
        ValueError: ``num_episodes`` is below 1.

    Example:
        >>> evaluate("expert", "toy_point", num_episodes=5, num_workers=1, progress=False).success_rate
        1.0
    """
    if num_episodes < 1:
        msg = f"num_episodes: expected at least 1, got {num_episodes}."
        raise ValueError(msg)
    task = resolve_task(env)
    policy = _resolve_policy(policy, task)
    task = _add_env_kwargs(task, policy)
    cache_key = _make_cache_key(policy)
    num_workers = min(num_workers or default_num_workers(), num_episodes)
    video = None if video_dir is None else prepare_videos(video_dir, num_videos, video_camera)
    jobs = [
        (policy, cache_key, task, seed + index, video if index < num_videos else None) for index in range(num_episodes)
    ]
    if num_workers == 1:
        results: Iterable[tuple[int, _Result]] = (_evaluate_episode(*job) for job in jobs)
    else:
        results = map_unordered(_evaluate_episode, jobs, num_workers=num_workers)
    name = _describe_name(policy)
    try:
        result_by_seed = _collect_results(results, num_episodes, name, progress=progress)
    finally:
        if video is not None:
            video.discard_partial()
    return _make_evaluation(name, task, seed, [result_by_seed[seed + index] for index in range(num_episodes)])


def _collect_results(
    results: Iterable[tuple[int, _Result]], num_episodes: int, name: str, *, progress: bool
) -> dict[int, _Result]:
    """Return the results by seed, after they were counted in the progress bar."""
    result_by_seed: dict[int, _Result] = {}
    with tqdm(total=num_episodes, desc=f"evaluate {printable(name)}", unit="episode", disable=not progress) as bar:
        for episode_seed, result in results:
            result_by_seed[episode_seed] = result
            successes = _count_successes(result_by_seed.values())
            if successes is not None:
                bar.set_postfix(success=f"{successes / len(result_by_seed):.0%}", refresh=False)
            bar.update()
    return result_by_seed


def compare(policies: Sequence[str | Path | Policy], env: str | Task, **kwargs: Any) -> list[Evaluation]:
    """Evaluate several policies on the same seeds, for example a trained one beside random and expert.

    Args:
        policies: Policies as :func:`evaluate` takes them, for example ``["random", "runs/bc", "expert"]``.
        env: Task name, environment id or task.
        **kwargs: Further arguments of :func:`evaluate`.

    Returns:
        One evaluation per policy, in the same order.
    """
    return [evaluate(policy, env, **kwargs) for policy in policies]


def wilson_interval(successes: int, num_episodes: int) -> tuple[float, float]:
    """Return the 95 % interval of a success rate (Wilson, 1927), which is valid for rates of 0 and 1 as well.

    Example:
        >>> [round(bound, 3) for bound in wilson_interval(8, 10)]
        [0.49, 0.943]
    """
    from scipy.stats import binomtest  # takes a second to import, and only the end of an evaluation needs it

    interval = binomtest(successes, num_episodes).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % Student-t interval of a mean; unbounded for a single value and where a value is not finite."""
    from scipy.stats import t

    if len(values) < 2 or not all(map(math.isfinite, values)):
        return -math.inf, math.inf
    half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    mean = sum_exactly(values) / len(values)
    return mean - half, mean + half


def _count_successes(results: Iterable[_Result]) -> int | None:
    """Return the number of solved episodes; None if the environment has no success signal."""
    count = 0
    for result in results:
        if isinstance(result, DivergedRollout):
            continue
        if result[1] is None:
            return None
        count += result[1]
    return count


def _make_evaluation(name: str, task: Task, seed: int, results: list[_Result]) -> Evaluation:
    """Return the evaluation of the results, which are in the order of the seeds."""
    invalid = tuple(result for result in results if isinstance(result, DivergedRollout))
    returns = tuple(result[0] for result in results if not isinstance(result, DivergedRollout))
    if invalid:
        details = ", ".join(map(str, invalid))
        logger.warning(
            "%s in %s: %d of %d episodes were invalid: %s", name, task.name, len(invalid), len(results), details
        )
    if not returns:
        msg = f"{name} in {task.name}: all {len(results)} episodes diverged; the first one: {invalid[0].reason}"
        raise SimulationDivergedError(msg, invalid[0].step)
    successes = _count_successes(results)
    solved = tuple(bool(result[1]) for result in results if not isinstance(result, DivergedRollout))
    return_mean, return_interval = sum_exactly(returns) / len(returns), mean_interval(returns)
    score, score_interval = _compute_score(task, return_mean, return_interval)
    return Evaluation(
        policy=name,
        env_name=task.env_name,
        num_episodes=len(results),
        first_seed=seed,
        successes=successes,
        success_rate=None if successes is None else successes / len(results),
        success_interval=None if successes is None else wilson_interval(successes, len(results)),
        returns=returns,
        return_mean=return_mean,
        return_interval=return_interval,
        score=score,
        score_interval=score_interval,
        invalid=invalid,
        solved=None if successes is None else solved,
    )


def _compute_score(
    task: Task, return_mean: float, return_interval: tuple[float, float]
) -> tuple[float | None, tuple[float, float] | None]:
    """Return the normalised mean return and its interval; None for both without references."""
    if task.reference is None:
        return None, None
    score, low, high = (task.reference.score(value) for value in (return_mean, *return_interval))
    if score is None or low is None or high is None:
        return None, None
    return score, (low, high)


def resolve_task(env: str | Task) -> Task:
    """Return the task of a task name or environment id; a task is returned as it is.

    Worker processes get the task and not its name, because they do not know the tasks that are registered here.

    Raises:
        EnvNotFoundError: No task or environment of that name; the message names similar ones.
    """
    if isinstance(env, Task):
        return env
    try:
        return get_task(env)
    except EnvNotFoundError:
        built = make_env(
            env
        )  # raises EnvNotFoundError, with similar names, unless RoboHive has an environment of that id
        task = Task(name=env, env_name=built.env_name, horizon=built.horizon, description="")
        built.close()
        return task


def _resolve_policy(policy: str | Path | Policy, task: Task) -> str | Path | Policy:
    """Return a level, the absolute path of an existing checkpoint folder, or a callable."""
    if not isinstance(policy, str | Path) or policy in task.levels:
        return policy
    folder = Path(policy)
    if not folder.exists():
        msg = f"No policy {str(policy)!r}: expected one of {', '.join(task.levels)} or a folder with {CHECKPOINT_FILE}."
        raise CheckpointMismatchError(msg)
    return folder.absolute()


def _add_env_kwargs(task: Task, policy: str | Path | Policy) -> Task:
    """Return the task whose environment returns what a policy reads, for example pictures."""
    if isinstance(policy, str):
        return task
    if isinstance(policy, Path):
        env_kwargs = read_env_kwargs(read_checkpoint(policy), context=policy)
    else:
        env_kwargs = getattr(policy, "env_kwargs", {})
    return replace(task, env_kwargs={**task.env_kwargs, **env_kwargs}) if env_kwargs else task


def _make_cache_key(policy: str | Path | Policy) -> str:
    """Return the key under which a worker caches a policy; empty for a callable, which comes with every job."""
    if isinstance(policy, Path):
        # With what it holds, because workers outlive a training that writes to the same folder again, and the section
        # network has options that need no other weights, such as the return that a transformer aims at.
        record = read_checkpoint(policy)
        return f"{policy} {record['sha256']} {record['network']}"
    return policy if isinstance(policy, str) else ""


def _describe_name(policy: str | Path | Policy) -> str:
    if isinstance(policy, str | Path):
        return str(policy)
    return str(getattr(policy, "name", None) or getattr(policy, "__name__", None) or type(policy).__name__)


def _evaluate_episode(
    policy: str | Path | Policy, cache_key: str, task: Task, seed: int, video: VideoOptions | None
) -> tuple[int, _Result]:
    """Run one episode, in a worker process or in this one; return its seed and the result."""
    env = get_cached_env(task)
    if isinstance(policy, str | Path):
        policy = _get_cached_policy(policy, cache_key, env, task)
    if video is not None:
        return seed, film_episode(env, policy, seed=seed, video=video)
    return seed, score_episode(env, policy, seed=seed)


# At most one entry per process, like the environment that the policy acts in.
_CACHED_POLICY: list[tuple[str, EnvBase, Policy]] = []


def _get_cached_policy(policy: str | Path, cache_key: str, env: EnvBase, task: Task) -> Policy:
    if not _CACHED_POLICY or _CACHED_POLICY[0][:2] != (cache_key, env):
        loaded = load_policy(policy, env=env) if isinstance(policy, Path) else make_policy(env, policy, task=task)
        _CACHED_POLICY[:] = [(cache_key, env, loaded)]
    return _CACHED_POLICY[0][2]
