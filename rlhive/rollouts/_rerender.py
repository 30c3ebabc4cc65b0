"""Rendering recorded episodes: their actions are stepped again in an environment with cameras.

::

    start state ─► stored actions ─► observations, rewards ─► compared with the stored ones
                                  └► pictures ─► <folder>/<episode>-<content hash>.npz

An episode whose file exists is not stepped again, so that an interrupted rendering goes on where it was.
"""

import io
import itertools
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchrl.envs import EnvBase
from tqdm import tqdm

from rlhive import keys
from rlhive._text import printable
from rlhive.data import EpisodeRecord, write_atomically
from rlhive.data.versions import DIVERGES, Manifest
from rlhive.envs import Task
from rlhive.errors import DiskFullError, InvalidOptionError, ReplayRefusedError, RLHiveError
from rlhive.rollouts._rebuild import build_recorded_env, is_other_model, tasks_by_run
from rlhive.rollouts._replay import TOLERANCE, Comparison, step_recorded_actions
from rlhive.rollouts._rollout import default_num_workers, get_cached_env, map_unordered

#: Keys of an environment that renders, which become columns.
PICTURE_KEYS = (keys.PIXELS, keys.DEPTH, keys.SEGMENTATION)


@dataclass(frozen=True, kw_only=True)
class RenderRequest:
    """What to render.

    Attributes:
        cameras: Names of the cameras; None for the environment's own, or all of its model.
        image_size: Height and width in pixels.
        depth: Whether to render the distance in metres as well.
        quality: Render quality, as ``render_quality`` of :class:`rlhive.RoboHiveEnv`.
        segmentation: Whether to render number and type of the object that each pixel shows.
    """

    cameras: tuple[str, ...] | None = None
    image_size: tuple[int, int] = (84, 84)
    depth: bool = False
    quality: str = "fast"
    segmentation: bool = False

    def apply(self, task: Task) -> Task:
        """Return a task whose environment renders."""
        options: dict[str, Any] = {
            "from_pixels": True,
            "image_size": self.image_size,
            "depth": self.depth,
            "render_quality": self.quality,
            **({"segmentation": True} if self.segmentation else {}),
        }
        without = {name: value for name, value in task.env_kwargs.items() if name not in (*options, "cameras")}
        cameras = {} if self.cameras is None else {"cameras": self.cameras}
        return replace(task, env_kwargs=without | options | cameras)


@dataclass(frozen=True)
class RenderedKind:
    """What the environment of a version renders.

    Attributes:
        shapes: Dtype and shape of one state's values by key.
        provenance: ``provenance()`` of the environment.
    """

    shapes: Mapping[str, tuple[str, tuple[int, ...]]]
    provenance: Mapping[str, Any]


def probe_rendering(manifest: Manifest, request: RenderRequest, *, force: bool = False) -> RenderedKind:
    """Build the environment of a version with cameras, and return what it renders.

    Args:
        manifest: Manifest of the version.
        request: What to render.
        force: Whether to accept another compiled model than the recorded one.

    Raises:
        InvalidOptionError: The environment cannot render, or has no such camera.
        ReplayRefusedError: The installed model is another one than the recorded one, or the manifest names an
            environment that it may not.
        RoboHiveMissingError, RenderingUnavailableError: The simulator or OpenGL is not installed here.
    """
    tasks = tasks_by_run(manifest)
    other = sorted({task.backend for task in tasks.values()} - {"robohive"})
    if other:
        msg = f"{manifest.name} {manifest.version}: expected a RoboHive environment to render, got one of {other[0]}"
        raise InvalidOptionError(msg)
    shapes, provenance = None, {}
    for run in manifest.runs:
        env: Any = build_recorded_env(request.apply(tasks[str(run.get("run", ""))]))
        try:
            provenance = env.provenance()
            got = {name: env.observation_spec[name] for name in PICTURE_KEYS if name in env.observation_spec}
            run_shapes = {
                name: (str(spec.dtype).removeprefix("torch."), tuple(spec.shape)) for name, spec in got.items()
            }
        finally:
            env.close()
        if is_other_model(run, provenance) and not force:
            msg = (
                f"{manifest.name} {manifest.version}: the installed assets compile to another model than the recorded "
                "one, so that the pictures may show something else. rlhive render --force renders it all the same"
            )
            raise ReplayRefusedError(msg)
        if shapes not in (None, run_shapes):
            msg = f"{manifest.name} {manifest.version}: its runs render {shapes} and {run_shapes}. Name the cameras"
            raise InvalidOptionError(msg)
        shapes = run_shapes
    return RenderedKind(shapes or {}, provenance)


def render_episodes(
    records: Iterator[EpisodeRecord],
    manifest: Manifest,
    request: RenderRequest,
    kind: RenderedKind,
    folder: Path,
    *,
    num_episodes: int,
    num_transitions: int,
    num_workers: int | None = None,
    progress: bool = True,
) -> None:
    """Render episodes into a folder, those that are in it already excepted.

    Args:
        records: The episodes.
        manifest: Manifest of their version.
        request: What to render.
        kind: What :func:`probe_rendering` returned.
        folder: An existing folder.
        num_episodes: Number of the episodes.
        num_transitions: Number of their transitions, from which the size on disk follows.
        num_workers: Worker processes; one per core by default.
        progress: Whether to show a progress bar.

    Raises:
        ReplayRefusedError: An episode cannot be stepped again, or differs from what was recorded.
        DiskFullError: The pictures do not fit on the disk.
    """
    num_workers = num_workers or default_num_workers()
    _require_disk(folder, kind, num_episodes + num_transitions)
    tasks = {run: request.apply(task) for run, task in tasks_by_run(manifest).items()}
    with tqdm(total=num_episodes, desc=f"render {manifest.name}", unit="ep", disable=not progress) as bar:
        jobs = _make_render_jobs(records, tasks, folder, bar)
        while batch := list(itertools.islice(jobs, 4 * num_workers)):  # a bounded part of the version is in memory
            for _ in map_unordered(_render_job, batch, num_workers=num_workers):
                bar.update()


def find_rendered(folder: Path, record: EpisodeRecord) -> Path:
    """Return the file of an episode's pictures, which holds ``[T + 1, *shape]`` by key.

    Episodes of equal content can look different: an observation need not show all of the state.
    """
    return folder / f"{record.episode}-{record.content_hash()[:32]}.npz"


def _require_disk(folder: Path, kind: RenderedKind, num_states: int) -> None:
    row_bytes = sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for dtype, shape in kind.shapes.values())
    stored_bytes = sum(path.stat().st_size for path in folder.glob("*.npz"))
    missing_bytes, free_bytes = row_bytes * num_states - stored_bytes, shutil.disk_usage(folder).free
    if missing_bytes > free_bytes:
        msg = (
            f"{folder}: expected {missing_bytes / 1e9:.1f} GB for pictures of {num_states:,} states, got "
            f"{free_bytes / 1e9:.1f} GB on the disk. Smaller pictures, fewer cameras or fewer episodes take less"
        )
        raise DiskFullError(msg)


def _make_render_jobs(
    records: Iterator[EpisodeRecord], tasks: Mapping[str, Task], folder: Path, bar: Any
) -> Iterator[tuple[Task, EpisodeRecord, Path]]:
    for record in records:
        path = find_rendered(folder, record)
        if path.exists():
            bar.update()
            continue
        if record.run not in tasks or (not record.start_state and record.seed is None):
            missing = "a run of the manifest" if record.run not in tasks else "a start state or a seed"
            msg = f"Episode {record.episode}: expected {missing}, from which it is stepped again, got none"
            raise ReplayRefusedError(msg)
        yield tasks[record.run], record, path


# --- in the worker processes, each of which caches its environment for the next job ---


def _render_job(task: Task, record: EpisodeRecord, path: Path) -> None:
    """Step an episode again, compare it, and write its pictures."""
    try:
        pictures = _render_episode(get_cached_env(task), record)
    except RLHiveError:
        raise
    except Exception as error:  # a state of a stranger may lead RoboHive's code anywhere
        msg = f"Episode {record.episode} cannot be stepped again: {type(error).__name__}: {error}"
        raise ReplayRefusedError(printable(msg)) from error
    content = io.BytesIO()
    np.savez(content, **pictures)
    write_atomically(path, content.getvalue())


def _render_episode(env: EnvBase, record: EpisodeRecord) -> dict[str, np.ndarray]:
    """Return the pictures of the states of an episode, ``[T + 1, *shape]`` by key."""
    compared = {name: value for name, value in record.final.items() if name not in PICTURE_KEYS}
    comparison = Comparison(replace(record, final=compared), TOLERANCE, env)
    pictures: dict[str, list[np.ndarray]] = {}
    with torch.no_grad():
        options = {"draw": not record.start_state}  # the pictures of the start state are drawn when it is set
        for step, td in enumerate(step_recorded_actions(env, record, options)):
            comparison.compare_state(td, step - 1)
            if step:
                comparison.compare_outcome(td, step - 1)
            for name in PICTURE_KEYS:
                if name in td:
                    pictures.setdefault(name, []).append(td[name].numpy().copy())
    result = comparison.result()
    if result.verdict == DIVERGES:
        msg = f"The pictures would not show what was recorded: {result}. rlhive replay says more"
        raise ReplayRefusedError(msg)
    return {name: np.stack(frames) for name, frames in pictures.items()}
