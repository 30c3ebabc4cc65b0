"""Run a recipe: behaviour policies act in an environment, workers record, the episodes become a version.

    recipe ─► jobs of a few episodes ─► worker processes ─► recording (one stream per job) ─► export ─► version

Episode ``i`` is a function of the task and of seed ``i``, so the version has the same fingerprint whatever the
number of processes and whether or not the run was interrupted.
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
from tqdm import tqdm

from rlhive._provenance import describe_run
from rlhive.data import Schema, locked, recording_dir, version_dir
from rlhive.data.recording import Recording, StreamWriter
from rlhive.data.versions import export
from rlhive.envs import Task, get_task, make_policy
from rlhive.errors import DatasetNotFound
from rlhive.rollouts._replay import replay_sample
from rlhive.rollouts._rollout import (
    Episode,
    InvalidEpisode,
    default_num_workers,
    env_of,
    map_unordered,
    rollout_episode,
    try_episode,
)

logger = logging.getLogger(__name__)

EPISODES_PER_JOB = 5

#: So many episodes are stepped again before a version is written, for its card.
REPLAYED = 6


def collect(
    task: str | Task,
    *,
    num_workers: int | None = None,
    store: Path | None = None,
    progress: bool = True,
) -> Path:
    """Make the dataset of a task by running its recipe, and return the version's folder.

    An episode is safe on the disk as soon as it is over. An interrupted or killed collection goes on where it
    stopped when it is called again; a version that is there already is returned at once.

    An episode whose simulation diverged is in no split: a warning tells which ones, and so does the manifest, under
    "invalid" of the run.

    Args:
        task: Name in the catalogue, or a task of your own.
        num_workers: Worker processes; by default one per core.
        store: Folder of all datasets.
        progress: Whether to show a progress bar.

    Returns:
        The folder of the version that the recipe names.

    Raises:
        EnvNotFound: No such task.
        DatasetNotFound: The task has no recipe.
        RoboHiveMissing: RoboHive or its assets are not installed.
        StoreNotWritable, DiskFull: The store cannot take it; what was recorded is kept for the next call.

    Example:
        >>> collect("toy_point", progress=False).name  # doctest: +SKIP
        '1.0.0'
    """
    task = get_task(task) if isinstance(task, str) else task
    if task.recipe is None:
        msg = f"Task {task.name!r} has no recipe: expected one in its row. Record your own episodes with a Recorder."
        raise DatasetNotFound(msg)
    target = version_dir(task.name, task.recipe.version, store=store)
    if target.exists():
        return target
    workers = num_workers or default_num_workers()
    (schema, start_state, identity), *_ = map_unordered(_describe, [(task,)], num_workers=workers)
    run = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    folder = recording_dir(task.name, task.recipe.version, run, store=store)
    with locked(folder):
        if target.exists():
            return target
        provenance = describe_run(run, **identity, seeds="each episode's id")
        recording = Recording.create(folder, schema, start_state=start_state, provenance=provenance)
        with recording.shared():
            invalid = _record_missing(task, recording, num_workers=workers, progress=progress)
        episodes = list(dict(_plan(task)))
        sample = {episodes[place] for place in np.linspace(0, len(episodes) - 1, REPLAYED).astype(int)}
        chosen = [record for record in recording.sorted_records() if record.episode in sample]
        export(
            recording.sorted_records(),
            task.name,
            version=task.recipe.version,
            schema=schema,
            license=task.recipe.license,
            description=task.description,
            env_name=task.env_name,
            task=task.name,
            splits=list(task.recipe.episodes),
            runs=[{**own, "invalid": invalid} if invalid and own["run"] == run else own for own in recording.runs],
            certificate=replay_sample(chosen, task, num_workers=workers),
            store=store,
        )
        with recording.exclusive():
            recording.discard()
    return target


def _record_missing(task: Task, recording: Recording, *, num_workers: int, progress: bool) -> list[dict[str, Any]]:
    """Run every episode of the recipe that the recording lacks; return those that turned out invalid, JSON-able."""
    done = recording.episode_outcomes()
    plan = dict(_plan(task))
    missing = [episode for episode in plan if episode not in done]
    if done:
        logger.warning("%s: going on after %d of %d recorded episodes", task.name, len(done), len(plan))
    chunks = [missing[start : start + EPISODES_PER_JOB] for start in range(0, len(missing), EPISODES_PER_JOB)]
    jobs = [(task, str(recording.path), [(episode, plan[episode]) for episode in chunk]) for chunk in chunks]
    tally = _Tally(plan)
    tally.add(done)
    with tqdm(total=len(plan), initial=len(done), desc=task.name, unit="ep", disable=not progress) as bar:
        bar.set_postfix_str(tally.summary())
        invalid: dict[int, InvalidEpisode] = {}
        for results, diverged in map_unordered(_record, jobs, num_workers=num_workers):
            tally.add(results)
            invalid |= diverged
            bar.update(len(results) + len(diverged))
            bar.set_postfix_str(tally.summary())
    if invalid:
        said = ", ".join(f"{plan[episode]} {invalid[episode]}" for episode in sorted(invalid))
        logger.warning("%s: %d of %d episodes are invalid and left out: %s", task.name, len(invalid), len(plan), said)
    return [{"episode": episode, "split": plan[episode], **asdict(invalid[episode])} for episode in sorted(invalid)]


def _plan(task: Task) -> Iterator[tuple[int, str]]:
    """Yield every episode id of the recipe with its split, which is also the behaviour policy's level."""
    episode = 0
    for split, count in task.recipe.episodes.items():
        for _ in range(count):
            yield episode, split
            episode += 1


class _Tally:
    """What the progress bar says: success per split, and steps per second since the start."""

    def __init__(self, plan: Mapping[int, str]):
        self._plan = plan
        self._solved: dict[str, list[bool]] = {split: [] for split in plan.values()}
        self._steps = 0
        self._started: float | None = None

    def add(self, results: Mapping[int, tuple[int, bool]]) -> None:
        """Count episodes: id → (length, success). The first call holds what an earlier run recorded."""
        for episode, (_, success) in results.items():
            self._solved[self._plan[episode]].append(success)
        if self._started is None:
            self._started = time.monotonic()
        else:
            self._steps += sum(length for length, _ in results.values())

    def summary(self) -> str:
        parts = [f"{split} {np.mean(solved):.0%}" for split, solved in self._solved.items() if solved]
        if self._steps:
            parts.append(f"{self._steps / (time.monotonic() - self._started):.0f} steps/s")
        return ", ".join(["solved: " + parts[0], *parts[1:]]) if parts else "starting workers"


# --- in the worker processes; each keeps its environment for the next job ---


def _describe(task: Task) -> tuple[Schema, dict[str, np.ndarray], dict[str, Any]]:
    """Return the schema, a simulator state, and what decides the episodes' content."""
    env = env_of(task)
    policies = {level: make_policy(env, level, task=task) for level in task.recipe.episodes}
    # Any valid episode shows the schema; that all of them diverge is an error here.
    first = next(iter(policies.values()))
    tried = (try_episode(env, first, seed=seed) for seed in range(EPISODES_PER_JOB))
    episode = next((ran for ran in tried if isinstance(ran, Episode)), None) or rollout_episode(env, first, seed=0)
    identity = {
        "task": task.to_json(),
        "env": env.provenance(),
        "policies": {level: policy.parameters() for level, policy in policies.items()},
    }
    return Schema.from_tensordict(episode.transitions), episode.start_state, identity


def _record(
    task: Task, recording: str, episodes: list[tuple[int, str]]
) -> tuple[dict[int, tuple[int, bool]], dict[int, InvalidEpisode]]:
    """Run and record some episodes; return length and success of each, and those that were invalid."""
    env = env_of(task)
    results, invalid = {}, {}
    with StreamWriter(Recording(Path(recording)), f"{episodes[0][0]:08d}-{uuid.uuid4().hex[:8]}") as writer:
        for episode, level in episodes:
            ran = try_episode(env, make_policy(env, level, task=task), seed=episode)
            if isinstance(ran, InvalidEpisode):
                invalid[episode] = ran
                continue
            record = writer.add_episode(
                ran.transitions,
                episode=episode,
                split=level,
                seed=ran.seed,
                start_state=ran.start_state,
                policy=level,
            )
            results[episode] = (record.length, record.success)
    return results, invalid
