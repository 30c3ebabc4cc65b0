"""Is a dataset what its environment did? Rewards computed anew, episodes stepped again.

    manifest ─► environment ─► start state of each episode ─► stored actions ─► observations, rewards ─► compared
                                                                                                            │
                                         <store>/.certificates/<fingerprint>.json ◄─ certificate ◄──────────┘

The environment is the one that :mod:`rlhive.rollouts` allows the manifest to name.
"""

import functools
import itertools
import logging
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDictBase
from torchrl.envs import EnvBase
from tqdm import tqdm

from rlhive import keys
from rlhive.data import REWARD, TERMINATED, EpisodeRecord
from rlhive.data.checks import CheckReport, run_checks
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
from rlhive.errors import RewardUnavailable, RLHiveError
from rlhive.rollouts._rebuild import build, differences, tasks_of
from rlhive.rollouts._rollout import default_num_workers, env_of, map_unordered

logger = logging.getLogger(__name__)

TOLERANCE = 1e-6
EPISODES_PER_JOB = 5


def check(folder: Path, *, threads: int | None = None) -> CheckReport:
    """Check a version as :func:`rlhive.data.checks.run_checks` does, and its rewards with its own environment.

    Where that environment is not installed, is another model than the recorded one, or has a reward that the stored
    observations do not decide, the checks ``reward`` and ``success`` are skipped, and the report says why.

    Args:
        folder: Of the version.
        threads: Number of threads; by default one per core.
    """
    try:
        judge, why_no_rewards = judge_of(Manifest.read(folder))
    except RLHiveError as error:
        judge, why_no_rewards = None, str(error)
    return run_checks(folder, reward_checker=judge, why_no_rewards=why_no_rewards, threads=threads)


def judge_of(manifest: Manifest) -> tuple[Callable[[EpisodeRecord], Mapping[str, str]] | None, str]:
    """Return what computes the rewards of a version's episodes anew, for :func:`rlhive.data.checks.check`.

    Returns:
        The judge, or None and the reason why there is none.
    """
    try:
        envs = {run: build(task) for run, task in tasks_of(manifest).items()}
    except RLHiveError as error:
        return None, str(error)
    for run in manifest.runs:
        env = envs[str(run.get("run", ""))]
        if any("model" in said for said in differences(run, env.provenance())):
            return None, f"{env.env_name} is another model here than the one that was recorded"
    return functools.partial(_judge, envs), ""


def _judge(envs: Mapping[str, EnvBase], record: EpisodeRecord) -> dict[str, str]:
    """Compare an episode's rewards and successes with those that its environment computes from the observations."""
    env = envs.get(record.run) or next(iter(envs.values()))
    if REWARD not in record.columns:
        return {"unavailable": "the version has no rewards"}
    try:
        terms = reward_terms(env, record.columns, record.final)
    except RewardUnavailable as error:
        return {"unavailable": str(error)}
    said = {}
    stored = record.columns[REWARD].reshape(record.length)
    exact = record.columns[keys.OBSERVATION].dtype == np.float64
    computed = terms[reward_name(env)].astype(stored.dtype)
    wrong = stored != computed if exact else ~np.isclose(stored, computed, rtol=1e-4, atol=1e-4)
    if wrong.any():
        row = int(wrong.argmax())
        said["reward"] = f"row {row}: expected {computed[row]!r}, as {env.env_name} computes it, got {stored[row]!r}"
    if exact and keys.SUCCESS in record.columns:
        following = np.concatenate([record.columns[keys.SUCCESS][1:], record.final[keys.SUCCESS][None]])
        differs = following.reshape(record.length) != terms[SOLVED]
        if differs.any():
            row = int(differs.argmax())
            said["success"] = f"row {row}: expected {terms[SOLVED][row]}, as {env.env_name} has it, got the opposite"
    return said


def replay(
    folder: Path,
    *,
    episodes: int | None = None,
    tolerance: float = TOLERANCE,
    num_workers: int | None = None,
    store: Path | None = None,
    progress: bool = True,
) -> Certificate:
    """Step the stored actions from the stored start states, compare, and keep the certificate in the store.

    Episodes that RLHive collected come out bit for bit on the machine and the versions that recorded them. Another
    processor may round the last bit of the physics otherwise, and a contact makes a difference grow.

    Args:
        folder: Of the version; its files are verified.
        episodes: How many to replay, evenly spread over the version; all by default.
        tolerance: Largest absolute difference of an observed number or a reward that counts as none.
        num_workers: Worker processes; by default one per core.
        store: Where the certificate is kept; the default is :func:`rlhive.data.store_dir`.
        progress: Whether to show a progress bar.

    Returns:
        The certificate; ``certificate.ok`` says whether every episode stayed within the tolerance.

    Raises:
        CorruptDataset: A file is not what the manifest recorded.
        EnvNotFound, RoboHiveMissing: The environment cannot be built here.
        ReplayRefused: The manifest asks for an environment that it may not ask for.

    Example:
        >>> replay(RoboHiveDataset("kitchen_knob1").path, episodes=10).verdict  # doctest: +SKIP
        'bit-exact'
    """
    folder, manifest = Path(folder), Manifest.read(folder)
    tasks, workers = tasks_of(manifest), num_workers or default_num_workers()
    ids = read_episodes(folder, manifest)[keys.EPISODE].to_pylist()
    wanted = set(ids) if episodes is None else {ids[i] for i in np.linspace(0, len(ids) - 1, episodes).astype(int)}
    records = (row for row in read_records(folder, manifest, list(manifest.splits)) if row.episode in wanted)
    results: list[EpisodeReplay] = []
    here: dict[str, Mapping[str, Any]] = {}
    with tqdm(total=len(wanted), desc=f"replay {manifest.name}", unit="ep", disable=not progress) as bar:
        jobs = _jobs(records, tasks, tolerance)
        while batch := list(itertools.islice(jobs, 8 * workers)):  # a bounded part of the version is in memory
            for run, found, environment in map_unordered(_replay_job, batch, num_workers=workers):
                results, here[run] = results + found, environment
                bar.update(len(found))
    certificate = _certificate(manifest, sorted(results, key=lambda row: row.episode), here, tolerance, len(ids))
    certificate.save(store=store)
    return certificate


def replay_sample(records: Iterable[EpisodeRecord], task: Task, *, num_workers: int) -> str:
    """Step some episodes again before they are committed, and say in a sentence what came out; no error is raised.

    Args:
        records: The episodes.
        task: Their task.
        num_workers: Worker processes.
    """
    jobs = [("", task, [record], TOLERANCE) for record in records]
    results = [row for _, found, _ in map_unordered(_replay_job, jobs, num_workers=num_workers) for row in found]
    counts = {verdict: sum(row.verdict == verdict for row in results) for verdict in VERDICTS}
    said = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    for row in results:
        if row.verdict != BIT_EXACT:
            logger.warning("%s: replayed before it was committed, %s", task.name, row)
    return f"{len(results)} episodes, evenly spread, were stepped again before the version was written: {said}."


def replay_episode(env: EnvBase, record: EpisodeRecord, *, tolerance: float = TOLERANCE) -> EpisodeReplay:
    """Step one episode's actions from its start state, and compare.

    Args:
        env: Of the same environment as the episode's; it is seeded, reset and stepped.
        record: The episode.
        tolerance: Largest absolute difference that counts as none.
    """
    if not record.start_state and record.seed is None:
        return EpisodeReplay(record.episode, IMPOSSIBLE, reason="neither start state nor seed was recorded")
    comparison = _Comparison(record, tolerance)
    step = -1
    try:
        # The seed restores what RoboHive draws besides the state that was recorded: sensor noise.
        env.set_seed(0 if record.seed is None else record.seed)
        td = env.reset()
        if record.start_state:
            # What the reset gave besides, such as a transform's count of steps, is needed by the first step.
            td = td.update(env.set_state(dict(record.start_state)))
        comparison.state(td, -1)
        for step in range(record.length):
            action = torch.from_numpy(np.array(record.columns[keys.ACTION][step]))
            td = env.step(td.set(keys.ACTION, action))[keys.NEXT]
            comparison.state(td, step)
            comparison.outcome(td, step)
    except (RLHiveError, ValueError) as error:
        comparison.diverged(max(step, 0), str(error))
    return comparison.result()


class _Comparison:
    """The differences of an episode and its replay, step by step."""

    def __init__(self, record: EpisodeRecord, tolerance: float):
        self._record, self._tolerance = record, tolerance
        self._errors = {"observation": 0.0, "reward": 0.0}
        self._same, self._step, self._reason = True, -1, ""

    def state(self, td: TensorDictBase, step: int) -> None:
        """Compare the state after a step, or before the first one where the step is -1."""
        record = self._record
        for column, final in record.final.items():
            if keys.column_to_key(column) in td.keys(True, True):
                stored = record.columns[column][step + 1] if step + 1 < record.length else final
                self._compare("observation", column, stored, td[keys.column_to_key(column)], max(step, 0))

    def outcome(self, td: TensorDictBase, step: int) -> None:
        """Compare the reward and the end that a step gave."""
        if REWARD in self._record.columns:
            self._compare("reward", REWARD, self._record.columns[REWARD][step], td[keys.REWARD], step)
        stored, got = bool(self._record.columns[TERMINATED][step].any()), bool(td[keys.TERMINATED].any())
        if stored != got:
            self.diverged(step, f"terminated is {stored} in the dataset, {got} in the replay")

    def diverged(self, step: int, reason: str) -> None:
        """Note that from a step on the replay is another one; only the first reason is kept."""
        self._same = False
        if self._step < 0:
            self._step, self._reason = step, reason

    def result(self) -> EpisodeReplay:
        verdict = DIVERGES if self._step >= 0 else BIT_EXACT if self._same else TOLERATED
        errors = self._errors["observation"], self._errors["reward"]
        return EpisodeReplay(self._record.episode, verdict, self._step, *errors, self._reason)

    def _compare(self, kind: str, column: str, stored: np.ndarray, replayed: torch.Tensor, step: int) -> None:
        got = replayed.numpy(force=True).reshape(stored.shape).astype(stored.dtype, copy=False)
        if got.tobytes() == np.ascontiguousarray(stored).tobytes():
            return
        self._same = False
        with np.errstate(invalid="ignore"):
            error = float(np.abs(got.astype(np.float64) - stored.astype(np.float64)).max())
        error = error if np.isfinite(error) else np.inf
        self._errors[kind] = max(self._errors[kind], error)
        if error > self._tolerance:
            self.diverged(step, f"{column} differs by {error:.3g}")


def _jobs(records: Iterator[EpisodeRecord], tasks: Mapping[str, Task], tolerance: float) -> Iterator[tuple]:
    """Yield a worker's arguments: some episodes of one run."""
    for run, own in itertools.groupby(records, key=lambda record: record.run):
        task = tasks.get(run) or next(iter(tasks.values()))
        while part := list(itertools.islice(own, EPISODES_PER_JOB)):
            yield run, task, part, tolerance


def _certificate(
    manifest: Manifest,
    results: list[EpisodeReplay],
    here: Mapping[str, Mapping[str, Any]],
    tolerance: float,
    of_episodes: int,
) -> Certificate:
    runs = {str(run.get("run", "")): run for run in manifest.runs}
    said = [text for run, environment in here.items() for text in differences(runs.get(run, {}), environment)]
    odd = sorted((row for row in results if row.verdict != BIT_EXACT), key=lambda row: -VERDICTS.index(row.verdict))
    environment = next(iter(here.values()), {})
    return Certificate(
        name=manifest.name,
        version=manifest.version,
        fingerprint=manifest.fingerprint,
        env_name=str(environment.get("env_name", manifest.env_name)),
        num_episodes=len(results),
        of_episodes=of_episodes,
        verdicts={verdict: sum(row.verdict == verdict for row in results) for verdict in VERDICTS},
        observation_error=max((row.observation_error for row in results), default=0.0),
        reward_error=max((row.reward_error for row in results), default=0.0),
        tolerance=tolerance,
        differences=tuple(dict.fromkeys(said)),
        notable=tuple(map(str, odd[:10])),
        environment=environment,
        host={"name": platform.node(), "platform": platform.platform(), "processor": platform.processor()},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


# --- in the worker processes; each keeps its environment for the next job ---


def _replay_job(
    run: str, task: Task, records: list[EpisodeRecord], tolerance: float
) -> tuple[str, list[EpisodeReplay], dict[str, Any]]:
    env = env_of(task)
    return run, [replay_episode(env, record, tolerance=tolerance) for record in records], env.provenance()
