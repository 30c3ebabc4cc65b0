"""Collecting a dataset: behaviour policies act in an environment as a recipe says, and the episodes are recorded.

::

    recipe ─► jobs of a few episodes ─► workers ─► recording (one stream per job) ─► export ─► version

Episode ``i`` is a function of the task and of seed ``i``. The version therefore has the same fingerprint for any number
of workers, on one machine or on several, and after any interruption.
"""

import hashlib
import json
import logging
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torchrl.envs import EnvBase
from tqdm import tqdm

from rlhive._provenance import MINIMAL, describe_policy, describe_run
from rlhive.data import Schema, locked, recording_dir, version_dir
from rlhive.data.recording import Recording, StreamWriter
from rlhive.data.versions import export, find_stored_version
from rlhive.envs import Recipe, SubgoalTracker, Task, get_task, make_policy
from rlhive.errors import DatasetNotFoundError
from rlhive.rollouts._backends import JobRunner, open_workers, require_backend
from rlhive.rollouts._replay import replay_sample, sample_evenly
from rlhive.rollouts._rollout import (
    DivergedRollout,
    Policy,
    Rollout,
    get_cached_env,
    rollout_episode,
    try_rollout,
)

logger = logging.getLogger(__name__)

EPISODES_PER_JOB = 5

#: Number of episodes that are stepped again before a version is written; the dataset card reports the result.
NUM_REPLAYED = 6


def collect(
    task: str | Task,
    *,
    name: str | None = None,
    num_workers: int | None = None,
    backend: str = "processes",
    address: str | None = None,
    provenance: str = MINIMAL,
    storage: Mapping[str, str] | None = None,
    store: Path | None = None,
    progress: bool = True,
) -> Path:
    """Make the dataset of a task by running its recipe, and return the version's folder.

    Every episode is on disk as soon as it ends. An interrupted or killed collection resumes when it is called again.
    If the version exists already, its folder is returned at once.

    Episodes whose simulation diverged are in no split. A warning lists them, and so does the manifest, under "invalid"
    of the run.

    Args:
        task: Name in the catalogue, or a task.
        name: Name of the dataset; the task's by default. A task whose observations differ from the catalogue's, for
            example one with pictures, needs a name of its own.
        num_workers: Worker processes; by default one per core, of the machine or of the cluster.
        backend: ``"processes"`` of this machine, or ``"ray"`` for the workers of a Ray cluster. They record into the
            store, which must be at the same path on all of its machines. Ray replaces a worker that dies, and its
            episodes are collected again.
        address: Address of the Ray cluster, ``"host:6379"`` or ``"ray://host:10001"``; by default ``$RAY_ADDRESS``,
            then the cluster that runs on this machine; without any Ray starts here.
        provenance: ``"full"`` also records the command line, the machine and absolute paths.
        storage: How to store pictures, by column, as in :func:`rlhive.data.versions.export`.
        store: Folder of all datasets.
        progress: Whether to show a progress bar.

    Returns:
        The folder of the version that the recipe names.

    Raises:
        EnvNotFoundError: No such task.
        DatasetNotFoundError: The task has no recipe.
        RoboHiveMissingError: RoboHive or its assets are not installed.
        StoreNotWritableError, DiskFullError: The store cannot be written; recorded episodes are kept for the next call.
        InvalidOptionError: There is no such backend, or the address has another form.
        MissingExtraError, ClusterUnreachableError: Ray is not installed, or no cluster answers at the address.
        WorkerDiedError: The workers that ran a job on the cluster died again and again; recorded episodes are kept.

    Example:
        >>> collect("toy_point", progress=False).name  # doctest: +SKIP
        '1.0.0'
    """
    require_backend(backend, address)
    task = get_task(task) if isinstance(task, str) else task
    recipe = _require_recipe(task)
    name = name or task.name
    target = version_dir(name, recipe.version, store=store)
    if find_stored_version(name, recipe.version, store=store) is not None:
        return target
    with open_workers(backend, num_workers=num_workers, address=address) as run_jobs:
        (schema, start_state, identity), *_ = run_jobs(_describe_content, [(task,)])
        schema.with_storage(storage)  # raises before anything is recorded
        run = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
        folder = recording_dir(name, recipe.version, run, store=store).absolute()
        with locked(folder):
            if find_stored_version(name, recipe.version, store=store) is not None:
                return target
            described = describe_run(run, provenance=provenance, **identity, seeds="each episode's id")
            recording = Recording.create(folder, schema, start_state=start_state, provenance=described)
            with recording.shared():
                invalid = _record_missing(task, recording, run_jobs, progress=progress)
            _export_recording(task, name, recording, run, invalid, run_jobs, storage=storage, store=store)
            with recording.exclusive():
                recording.discard()
    return target


def _require_recipe(task: Task) -> Recipe:
    if task.recipe is None:
        msg = f"Task {task.name!r} has no recipe: expected one in the catalogue. Record episodes with a Recorder."
        raise DatasetNotFoundError(msg)
    return task.recipe


def _export_recording(
    task: Task,
    name: str,
    recording: Recording,
    run: str,
    invalid: list[dict[str, Any]],
    run_jobs: JobRunner,
    *,
    storage: Mapping[str, str] | None,
    store: Path | None,
) -> None:
    """Write the recorded episodes as the version of the recipe, after some of them were stepped again.

    Args:
        task: The task.
        name: Name of the dataset.
        recording: All valid episodes of the recipe.
        run: Id of this run.
        invalid: Episodes of this run whose simulation diverged, for the manifest.
        run_jobs: Runs jobs on the workers.
        storage: How to store pictures, by column.
        store: Folder of all datasets.
    """
    recipe = _require_recipe(task)
    sample = set(sample_evenly([episode for episode, _ in _plan_episodes(recipe)], NUM_REPLAYED))
    records = [record for record in recording.sorted_records() if record.episode in sample]
    runs = [{**row, "invalid": invalid} if invalid and row["run"] == run else row for row in recording.runs]
    export(
        recording.sorted_records(),
        name,
        version=recipe.version,
        schema=recording.schema,
        license=recipe.license,
        description=task.description,
        env_name=task.env_name,
        task=task.name,
        splits=list(recipe.episodes),
        runs=runs,
        certificate=replay_sample(records, task, run_jobs),
        storage=storage,
        store=store,
    )


def _record_missing(task: Task, recording: Recording, run_jobs: JobRunner, *, progress: bool) -> list[dict[str, Any]]:
    """Run and record the episodes of the recipe that the recording lacks.

    Returns:
        The episodes whose simulation diverged, JSON-able, in rising order of ids.
    """
    recorded = recording.episode_outcomes()
    split_by_episode = dict(_plan_episodes(_require_recipe(task)))
    num_episodes = len(split_by_episode)
    missing = [episode for episode in split_by_episode if episode not in recorded]
    if recorded:
        logger.warning("%s: resuming after %d of %d recorded episodes", task.name, len(recorded), num_episodes)
    chunks = [missing[start : start + EPISODES_PER_JOB] for start in range(0, len(missing), EPISODES_PER_JOB)]
    jobs = [
        (task, str(recording.path), [(episode, split_by_episode[episode]) for episode in chunk]) for chunk in chunks
    ]
    tally = _Tally(split_by_episode)
    tally.add_recorded(recorded)
    diverged: dict[int, DivergedRollout] = {}
    with tqdm(total=num_episodes, initial=len(recorded), desc=task.name, unit="ep", disable=not progress) as bar:
        bar.set_postfix_str(tally.summary())
        for results, job_diverged in run_jobs(_record_episodes, jobs):
            tally.add(results)
            diverged |= job_diverged
            bar.update(len(results) + len(job_diverged))
            bar.set_postfix_str(tally.summary(), refresh=False)
    if diverged:
        details = ", ".join(f"{split_by_episode[episode]} {diverged[episode]}" for episode in sorted(diverged))
        logger.warning(
            "%s: %d of %d episodes are invalid and left out: %s", task.name, len(diverged), num_episodes, details
        )
    return [
        {"episode": episode, "split": split_by_episode[episode], **asdict(diverged[episode])}
        for episode in sorted(diverged)
    ]


def _plan_episodes(recipe: Recipe) -> Iterator[tuple[int, str]]:
    """Yield every episode id of a recipe with its split, which is also the level of the behaviour policy."""
    episode = 0
    for split, count in recipe.episodes.items():
        for _ in range(count):
            yield episode, split
            episode += 1


class _Tally:
    """Success rate of each split and steps per second, for the progress bar."""

    def __init__(self, split_by_episode: Mapping[int, str]):
        self._split_by_episode = split_by_episode
        self._successes: dict[str, list[bool]] = {split: [] for split in split_by_episode.values()}
        self._steps = 0
        self._started = time.monotonic()

    def add_recorded(self, results: Mapping[int, tuple[int, bool | None]]) -> None:
        """Count episodes that an earlier run recorded: id → (length, success)."""
        for episode, (_, success) in results.items():
            if success is not None:
                self._successes[self._split_by_episode[episode]].append(success)

    def add(self, results: Mapping[int, tuple[int, bool | None]]) -> None:
        """Count episodes that this run recorded, with their steps: id → (length, success)."""
        self.add_recorded(results)
        self._steps += sum(length for length, _ in results.values())

    def summary(self) -> str:
        rates = [
            f"{split} {sum(successes) / len(successes):.0%}"
            for split, successes in self._successes.items()
            if successes
        ]
        if not rates and not self._steps:
            return "starting workers"
        speed = [f"{self._steps / (time.monotonic() - self._started):.0f} steps/s"] if self._steps else []
        return ("solved: " if rates else "") + ", ".join(rates + speed)


# --- in the workers, each of which caches its environment for the next job ---


def _describe_content(task: Task) -> tuple[Schema, dict[str, np.ndarray], dict[str, Any]]:
    """Return the schema, a simulator state, and everything that determines the content of the episodes."""
    env = get_cached_env(task)
    policies = {level: make_policy(env, level, task=task) for level in _require_recipe(task).episodes}
    rollout = _run_valid_episode(env, next(iter(policies.values())))
    identity = {
        "task": task.to_json(),
        "env": env.provenance(),
        "policies": {level: describe_policy(policy)["parameters"] for level, policy in policies.items()},
    }
    return Schema.from_tensordict(rollout.transitions), rollout.start_state, identity


def _run_valid_episode(env: EnvBase, policy: Policy) -> Rollout:
    """Return an episode that did not diverge; raise SimulationDivergedError if the first few all did."""
    for seed in range(EPISODES_PER_JOB):
        rollout = try_rollout(env, policy, seed=seed)
        if isinstance(rollout, Rollout):
            return rollout
    return rollout_episode(env, policy, seed=0)


def _record_episodes(
    task: Task, recording: str, episodes: list[tuple[int, str]]
) -> tuple[dict[int, tuple[int, bool | None]], dict[int, DivergedRollout]]:
    """Run and record some episodes.

    Args:
        task: The task.
        recording: Path of the recording.
        episodes: Id and split of each episode.

    Returns:
        Length and success of each valid episode, and the episodes whose simulation diverged, by id.
    """
    env = get_cached_env(task)
    results: dict[int, tuple[int, bool | None]] = {}
    diverged: dict[int, DivergedRollout] = {}
    with StreamWriter(Recording(Path(recording)), f"{episodes[0][0]:08d}-{uuid.uuid4().hex[:8]}") as writer:
        for episode, level in episodes:
            subgoals = SubgoalTracker(env)
            rollout = try_rollout(env, make_policy(env, level, task=task), seed=episode, on_state=subgoals.update)
            if isinstance(rollout, DivergedRollout):
                diverged[episode] = rollout
                continue
            record = writer.add_episode(
                rollout.transitions,
                episode=episode,
                split=level,
                seed=rollout.seed,
                start_state=rollout.start_state,
                policy=level,
                metadata=subgoals.metadata(),
            )
            results[episode] = (record.length, record.success)
    return results, diverged
