"""Verifying a dataset against its environment: rewards are recomputed, and episodes are stepped again.

::

    manifest ─► environment ─► start state of each episode ─► stored actions ─► observations, rewards ─► compared
                                                                                                            │
                                         <store>/.certificates/<fingerprint>.json ◄─ certificate ◄──────────┘

"Replay" here means stepping recorded actions again. Replay buffers for training are in :mod:`rlhive.data.replay`.
The environment is one that :mod:`rlhive.rollouts._rebuild` lets a manifest name.
"""

import functools
import itertools
import logging
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDictBase
from torchrl.envs import EnvBase
from tqdm import tqdm

from rlhive import keys
from rlhive.data import REWARD, TERMINATED, EpisodeRecord, array_to_tensor, cast_array, tensor_to_array, to_numbers
from rlhive.data.checks import CheckReport, RewardChecker, run_checks
from rlhive.data.versions import (
    BIT_EXACT,
    DIVERGES,
    IMPOSSIBLE,
    TOLERATED,
    VERDICTS,
    Certificate,
    EpisodeReplay,
    Manifest,
    read_episodes,
    read_records,
)
from rlhive.envs import SOLVED, Task, reward_name, reward_terms
from rlhive.errors import RewardUnavailableError, RLHiveError
from rlhive.rollouts._backends import JobRunner
from rlhive.rollouts._rebuild import build_recorded_env, environment_differences, is_other_model, tasks_by_run
from rlhive.rollouts._rollout import default_num_workers, get_cached_env, map_unordered

logger = logging.getLogger(__name__)

#: Largest absolute difference that counts as equal.
TOLERANCE = 1e-6

EPISODES_PER_JOB = 5


def check(folder: Path, *, threads: int | None = None) -> CheckReport:
    """Check that a version is intact and consistent, and that its rewards are those of its environment.

    The checks are listed in docs/checks.md. The checks ``reward`` and ``success`` are skipped, with the reason in the
    report, if the environment is not installed, has another model than the recorded one, or has a reward that the
    stored observations do not determine.

    Args:
        folder: The version's folder.
        threads: Number of threads; one per core by default.
    """
    reward_checker: RewardChecker | None = None
    try:
        reward_checker, reason = make_reward_checker(Manifest.read(folder))
    except RLHiveError as error:
        reason = str(error)
    return run_checks(folder, reward_checker=reward_checker, skip_reason=reason, threads=threads)


def make_reward_checker(manifest: Manifest) -> tuple[RewardChecker | None, str]:
    """Return a function that compares an episode's rewards with those of its environment.

    Returns:
        The function, as :func:`rlhive.data.checks.run_checks` takes it, and an empty string. Or None and the reason
        why the environment cannot compute the rewards.
    """
    try:
        envs = {run: build_recorded_env(task) for run, task in tasks_by_run(manifest).items()}
    except RLHiveError as error:
        return None, str(error)
    for run in manifest.runs:
        env = envs[str(run.get("run", ""))]
        if is_other_model(run, env.provenance()):
            return None, f"the model of {env.env_name} is not the one that was recorded"
    return functools.partial(_find_reward_errors, envs), ""


def _find_reward_errors(envs: Mapping[str, EnvBase], record: EpisodeRecord) -> dict[str, str]:
    """Compare an episode's rewards and successes with those that its environment computes from the observations.

    Args:
        envs: Environment of each run.
        record: The episode.

    Returns:
        What differs, under ``"reward"`` and ``"success"``, or under ``"unavailable"`` why nothing can be computed.
    """
    env = envs.get(record.run) or next(iter(envs.values()))
    if REWARD not in record.columns:
        return {"unavailable": "the version has no rewards"}
    columns = {name: to_numbers(values) for name, values in record.columns.items()}
    final = {name: to_numbers(values) for name, values in record.final.items()}
    try:
        terms = reward_terms(env, columns, final)
    except RewardUnavailableError as error:
        return {"unavailable": str(error)}
    errors = {}
    stored = columns[REWARD].reshape(record.length)
    is_exact = record.columns[keys.OBSERVATION].dtype == np.float64
    computed = terms[reward_name(env)].astype(stored.dtype)
    differs = stored != computed if is_exact else ~np.isclose(stored, computed, rtol=1e-4, atol=1e-4)
    if differs.any():
        row = int(differs.argmax())
        errors["reward"] = f"row {row}: expected {computed[row]!r}, as computed by {env.env_name}, got {stored[row]!r}"
    if is_exact and keys.SUCCESS in record.final:
        success = np.concatenate([record.columns[keys.SUCCESS][1:], record.final[keys.SUCCESS][None]])
        differs = success.reshape(record.length) != terms[SOLVED]
        if differs.any():
            row = int(differs.argmax())
            errors["success"] = (
                f"row {row}: expected {terms[SOLVED][row]}, as computed by {env.env_name}, got the opposite"
            )
    return errors


def replay(
    folder: Path,
    *,
    episodes: int | None = None,
    tolerance: float = TOLERANCE,
    num_workers: int | None = None,
    store: Path | None = None,
    progress: bool = True,
) -> Certificate:
    """Verify a version by stepping its episodes again, and store the certificate.

    The stored actions are stepped from the stored start states, and the observations and rewards are compared with the
    stored ones. Episodes that RLHive collected are bit-exact on the machine and with the package versions that recorded
    them. Another processor may round the last bit of the physics differently, and contacts amplify the difference.

    Replay buffers for training come from :meth:`rlhive.RoboHiveDataset.as_replay_buffer`.

    Args:
        folder: The version's folder; its files are verified.
        episodes: Number of episodes to replay, evenly spread over the version; all by default.
        tolerance: Largest absolute difference of an observed number or a reward that counts as equal.
        num_workers: Worker processes; one per core by default.
        store: Folder of all datasets, which holds the certificate; the default is :func:`rlhive.data.store_dir`.
        progress: Whether to show a progress bar.

    Returns:
        The certificate; ``certificate.ok`` says whether every episode stayed within the tolerance.

    Raises:
        CorruptDatasetError: The hash of a file is not the one in the manifest.
        EnvNotFoundError, RoboHiveMissingError: The environment cannot be built here.
        ReplayRefusedError: The manifest names an environment or an argument that it may not name.

    Example:
        >>> replay(RoboHiveDataset("kitchen_knob1").path, episodes=10).verdict  # doctest: +SKIP
        'bit-exact'
    """
    folder, manifest = Path(folder), Manifest.read(folder)
    tasks, num_workers = tasks_by_run(manifest), num_workers or default_num_workers()
    episode_ids = read_episodes(folder, manifest)[keys.EPISODE].to_pylist()
    sample = set(episode_ids if episodes is None else sample_evenly(episode_ids, episodes))
    records = (record for record in read_records(folder, manifest, list(manifest.splits)) if record.episode in sample)
    results: list[EpisodeReplay] = []
    environments: dict[str, Mapping[str, Any]] = {}
    with tqdm(total=len(sample), desc=f"replay {manifest.name}", unit="ep", disable=not progress) as bar:
        jobs = _make_jobs(records, tasks, tolerance)
        while batch := list(itertools.islice(jobs, 8 * num_workers)):  # a bounded part of the version is in memory
            for run, replays, environment in map_unordered(_replay_job, batch, num_workers=num_workers):
                results += replays
                environments[run] = environment
                bar.update(len(replays))
    results.sort(key=lambda result: result.episode)
    certificate = _make_certificate(manifest, results, environments, tolerance, len(episode_ids))
    certificate.save(store=store)
    return certificate


def replay_sample(records: Iterable[EpisodeRecord], task: Task, run_jobs: JobRunner) -> str:
    """Step some episodes again before they are committed, and return the result as a sentence for the dataset card.

    Differences are logged and raise no error.

    Args:
        records: The episodes.
        task: Task of the episodes.
        run_jobs: Runs jobs on the workers.
    """
    jobs = [("", task, [record], TOLERANCE) for record in records]
    results = [result for _, replays, _ in run_jobs(_replay_job, jobs) for result in replays]
    counts = _count_verdicts(results)
    summary = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    for result in results:
        if result.verdict != BIT_EXACT:
            logger.warning("%s: replay before the commit: %s", task.name, result)
    return f"{len(results)} episodes, evenly spread, were stepped again before the version was written: {summary}."


def sample_evenly(episode_ids: Sequence[int], num_episodes: int) -> list[int]:
    """Return episode ids at evenly spread positions, the first and the last included."""
    return [episode_ids[position] for position in np.linspace(0, len(episode_ids) - 1, num_episodes).astype(int)]


def replay_episode(env: EnvBase, record: EpisodeRecord, *, tolerance: float = TOLERANCE) -> EpisodeReplay:
    """Step an episode's actions from its start state, and compare the result with what was stored.

    Args:
        env: Environment of the episode; it is seeded, reset and stepped.
        record: The episode.
        tolerance: Largest absolute difference that counts as equal.
    """
    if not record.start_state and record.seed is None:
        return EpisodeReplay(record.episode, IMPOSSIBLE, reason="neither start state nor seed was recorded")
    comparison = Comparison(record, tolerance, env)
    step = 0
    try:
        for step, td in enumerate(step_recorded_actions(env, record)):
            comparison.compare_state(td, step - 1)
            if step:
                comparison.compare_outcome(td, step - 1)
    except (RLHiveError, ValueError) as error:
        comparison.diverge(step, str(error))
    except Exception as error:  # a state of a stranger may lead RoboHive's code anywhere
        comparison.diverge(step, f"the environment failed: {type(error).__name__}: {error}")
    return comparison.result()


def step_recorded_actions(
    env: EnvBase, record: EpisodeRecord, reset_options: Mapping[str, Any] | None = None
) -> Iterator[TensorDictBase]:
    """Step the actions of a recorded episode again, and yield the TensorDict of each of its states.

    Args:
        env: Environment of the episode; it is in the yielded state until the next one is asked for.
        record: The episode, with a start state or a seed.
        reset_options: Keywords of the environment's reset.
    """
    # The seed restores what RoboHive draws besides the recorded state: sensor noise.
    env.set_seed(0 if record.seed is None else record.seed)
    td = env.reset(**(reset_options or {}))
    if record.start_state:
        # The first step needs the other entries of the reset, such as a transform's step count.
        td = td.update(env.set_state(dict(record.start_state)))
    yield td
    for action in record.columns[keys.ACTION]:
        td = env.step(td.set(keys.ACTION, array_to_tensor(np.array(action))))[keys.NEXT]
        yield td


class Comparison:
    """Differences between a recorded episode and its replay, collected step by step."""

    def __init__(self, record: EpisodeRecord, tolerance: float, env: EnvBase):
        self._record = record
        self._env = env
        self._tolerance = tolerance
        self._errors = {"observation": 0.0, "reward": 0.0}
        self._is_bit_exact = True
        self._first_diverged_step: int | None = None
        self._reason = ""

    def compare_state(self, td: TensorDictBase, step: int) -> None:
        """Compare the observations after a step; step -1 is the state before the first one."""
        record = self._record
        for column, final in record.final.items():
            if keys.column_to_key(column) in td.keys(True, True):
                stored = record.columns[column][step + 1] if step + 1 < record.length else final
                self._compare("observation", column, stored, td[keys.column_to_key(column)], max(step, 0))

    def compare_outcome(self, td: TensorDictBase, step: int) -> None:
        """Compare the reward and the termination of a step."""
        if REWARD in self._record.columns:
            self._compare("reward", REWARD, self._record.columns[REWARD][step], td[keys.REWARD], step)
        stored, replayed = bool(self._record.columns[TERMINATED][step].any()), bool(td[keys.TERMINATED].any())
        if stored != replayed:
            self.diverge(step, f"terminated is {stored} in the dataset, {replayed} in the replay")

    def diverge(self, step: int, reason: str) -> None:
        """Note that the replay diverges from a step on; the first call counts."""
        self._is_bit_exact = False
        if self._first_diverged_step is None:
            self._first_diverged_step = step
            self._reason = reason

    def result(self) -> EpisodeReplay:
        verdict = BIT_EXACT if self._is_bit_exact else TOLERATED
        if self._first_diverged_step is not None:
            verdict = DIVERGES
        return EpisodeReplay(
            self._record.episode,
            verdict,
            step=-1 if self._first_diverged_step is None else self._first_diverged_step,
            observation_error=self._errors["observation"],
            reward_error=self._errors["reward"],
            reason=self._reason,
        )

    def _compare(self, kind: str, column: str, stored: np.ndarray, value: torch.Tensor, step: int) -> None:
        replayed = cast_array(tensor_to_array(value).reshape(stored.shape), stored.dtype)
        if replayed.tobytes() == np.ascontiguousarray(stored).tobytes():
            return
        self._is_bit_exact = False
        float64 = np.dtype(np.float64)
        with np.errstate(invalid="ignore"):
            errors = np.abs(cast_array(replayed, float64) - cast_array(stored, float64))
        error = float(errors.max())
        error = error if np.isfinite(error) else np.inf
        self._errors[kind] = max(self._errors[kind], error)
        if error > self._tolerance:
            self.diverge(step, f"{column} differs by {error:.3g}{self._explain(column, errors)}")

    def _explain(self, column: str, errors: np.ndarray) -> str:
        """Return which parts of a RoboHive observation differ, and what the task keeps outside the simulator."""
        from rlhive.envs import RoboHiveEnv  # needed only here, and RoboHive takes seconds to import

        if column != keys.OBSERVATION or not isinstance(self._env, RoboHiveEnv):
            return ""
        parts = self._env.observation_parts().items()
        differing = [name for name, part in parts if not (errors.reshape(-1)[part] <= self._tolerance).all()]
        outside = self._env.task_state_names()
        note = f"; outside the simulator this task keeps {', '.join(outside)}" if outside else ""
        return f" in {', '.join(differing)}{note}"


#: Arguments of a worker: run id, task of the run, some of its episodes, tolerance.
_ReplayJob = tuple[str, Task, list[EpisodeRecord], float]


def _make_jobs(records: Iterator[EpisodeRecord], tasks: Mapping[str, Task], tolerance: float) -> Iterator[_ReplayJob]:
    """Yield jobs of some episodes of one run each."""
    for run, run_records in itertools.groupby(records, key=lambda record: record.run):
        task = tasks.get(run) or next(iter(tasks.values()))
        while chunk := list(itertools.islice(run_records, EPISODES_PER_JOB)):
            yield run, task, chunk, tolerance


def _make_certificate(
    manifest: Manifest,
    results: list[EpisodeReplay],
    environments: Mapping[str, Mapping[str, Any]],
    tolerance: float,
    of_episodes: int,
) -> Certificate:
    runs = {str(run.get("run", "")): run for run in manifest.runs}
    differences = [
        difference
        for run, environment in environments.items()
        for difference in environment_differences(runs.get(run, {}), environment)
    ]
    inexact = [result for result in results if result.verdict != BIT_EXACT]
    inexact.sort(key=lambda result: VERDICTS.index(result.verdict), reverse=True)
    environment = next(iter(environments.values()), {})
    return Certificate(
        name=manifest.name,
        version=manifest.version,
        fingerprint=manifest.fingerprint,
        env_name=str(environment.get("env_name", manifest.env_name)),
        num_episodes=len(results),
        of_episodes=of_episodes,
        verdicts=_count_verdicts(results),
        observation_error=max((result.observation_error for result in results), default=0.0),
        reward_error=max((result.reward_error for result in results), default=0.0),
        tolerance=tolerance,
        differences=tuple(dict.fromkeys(differences)),
        notable=tuple(map(str, inexact[:10])),
        environment=environment,
        host={"name": platform.node(), "platform": platform.platform(), "processor": platform.processor()},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _count_verdicts(results: Iterable[EpisodeReplay]) -> dict[str, int]:
    verdicts = [result.verdict for result in results]
    return {verdict: verdicts.count(verdict) for verdict in VERDICTS}


# --- in the worker processes, each of which caches its environment for the next job ---


def _replay_job(
    run: str, task: Task, records: list[EpisodeRecord], tolerance: float
) -> tuple[str, list[EpisodeReplay], dict[str, Any]]:
    """Replay some episodes of a run; return its id, the results, and the provenance of the environment."""
    env = get_cached_env(task)
    return run, [replay_episode(env, record, tolerance=tolerance) for record in records], env.provenance()
