"""Transforms: functions that write the episodes of a view as a new version and return its folder.

::

    save_view · save_merged · save_appended       episodes
    save_renamed · save_dropped · save_added      columns
    save_relabelled                               rewards, computed without stepping the simulator
    save_rendered                                 pictures of the states
    save_encoded                                  how columns are stored
    save_scrubbed                                 provenance and metadata

The old version stays as it is. Every new version names its parents and the operations that were applied to them.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rlhive.data import EpisodeRecord, Field
from rlhive.data.versions import (
    ColumnFunction,
    Manifest,
    VersionSource,
    add_column,
    add_operation,
    add_stored_columns,
    append_source,
    drop_columns,
    export,
    merge,
    next_patch,
    relabel,
    rename_column,
    scrub,
    to_source,
)
from rlhive.dataset._view import DatasetView
from rlhive.envs import DENSE, SPARSE, make_env, reward_terms, weighted_reward
from rlhive.errors import RewardUnavailableError
from rlhive.rollouts import tasks_by_run

#: Rewards for :func:`save_relabelled`: a reward mode, weights of RoboHive's reward terms, or a function of an episode.
Reward = str | Mapping[str, float] | ColumnFunction


@dataclass(frozen=True, kw_only=True)
class Target:
    """The version that a transform writes.

    Attributes:
        name: ``name`` or ``namespace/name``; a new dataset, or the next version of an existing one.
        version: MAJOR.MINOR.PATCH; the one that follows from the changes by default.
        license: Licence of the version; the parent's by default.
        description: Description of the version; the parent's by default.
    """

    name: str
    version: str | None = None
    license: str = ""
    description: str = ""


def save_view(view: DatasetView, target: Target) -> Path:
    """Write the episodes of a view with their ids."""
    return _write_version(view.to_source(), target, store=view.store)


def save_merged(view: DatasetView, others: Sequence[VersionSource], target: Target) -> Path:
    """Write the episodes of a view and of other sources, with new ids."""
    source = merge([view.to_source(), *others])
    return _write_version(source, target, operation="merge", store=view.store)


def save_appended(view: DatasetView, episodes: Any, target: Target) -> Path:
    """Write the episodes of a view with their ids, and further episodes with the ids that follow.

    Args:
        view: The view.
        episodes: A recording, a dataset or view, a replay buffer, or episode records.
        target: The version to write.
    """
    if view.is_whole:
        source, license, append = to_source(episodes), target.license, view.folder
    else:
        base_name = f"{view.manifest.name} {view.manifest.version}"
        source = append_source(view.to_source(), to_source(episodes), base_name=base_name)
        license, append = target.license or source.license, None
    return export(
        source,
        target.name,
        version=target.version,
        license=license,
        description=target.description,
        store=view.store,
        append=append or False,
    )


def save_renamed(view: DatasetView, old: str, new: str, target: Target) -> Path:
    """Write the episodes of a view with a column under another name."""
    source = rename_column(view.to_source(), old, new)
    return _write_version(source, target, operation=f"rename_column({old!r}, {new!r})", store=view.store)


def save_dropped(view: DatasetView, columns: tuple[str, ...], target: Target) -> Path:
    """Write the episodes of a view without some columns."""
    source = drop_columns(view.to_source(), columns)
    return _write_version(source, target, operation=f"drop_column{columns}", store=view.store)


def save_added(view: DatasetView, column: str, compute: ColumnFunction, target: Target, *, unit: str | None) -> Path:
    """Write the episodes of a view with an additional column, computed episode by episode."""
    source = add_column(view.to_source(), column, compute, unit=unit)
    return _write_version(source, target, operation=f"add_column({column!r})", store=view.store)


def save_rendered(
    view: DatasetView,
    fields: Sequence[Field],
    read: Callable[[EpisodeRecord], Mapping[str, np.ndarray]],
    target: Target,
    *,
    operation: str,
) -> Path:
    """Write the episodes of a view with columns that were computed before."""
    source = add_stored_columns(view.to_source(), fields, read)
    return _write_version(source, target, operation=operation, store=view.store)


def save_encoded(view: DatasetView, storage: Mapping[str, str], target: Target) -> Path:
    """Write the episodes of a view with some columns stored otherwise."""
    operation = f"encode({dict(storage)!r})"
    return _write_version(view.to_source(), target, operation=operation, store=view.store, storage=storage)


def save_scrubbed(view: DatasetView, target: Target) -> Path:
    """Write the episodes of a version without what identifies a machine and without secrets, as a PATCH version."""
    manifest = view.manifest
    version = target.version or next_patch(target.name, manifest.version, store=view.store)
    return _write_version(
        scrub(view.to_source()), replace(target, version=version), operation="scrub", store=view.store
    )


def save_relabelled(view: DatasetView, reward: Reward, target: Target) -> Path:
    """Write the episodes of a view with other rewards."""
    if isinstance(reward, str):
        description: object = reward
    else:
        description = dict(reward) if isinstance(reward, Mapping) else "a function"
    with contextlib.ExitStack() as open_envs:
        source = relabel(view.to_source(), _make_reward_function(view.manifest, reward, open_envs))
        return _write_version(source, target, operation=f"relabel({description!r})", store=view.store)


def _make_reward_function(
    manifest: Manifest, reward: Reward, open_envs: contextlib.ExitStack
) -> Callable[[EpisodeRecord], np.ndarray]:
    """Return a function that computes the rewards of an episode, shape ``[T]``.

    Args:
        manifest: Manifest of the version; its provenance says which environment computes the reward terms.
        reward: What the rewards are.
        open_envs: Closes the environments that the function builds.
    """
    if callable(reward):
        return lambda record: reward(dict(record.columns), dict(record.final))
    if isinstance(reward, str) and reward not in (DENSE, SPARSE):
        msg = f"Reward {reward!r}: expected 'dense', 'sparse', weights of reward terms, or a function."
        raise RewardUnavailableError(msg)
    tasks = tasks_by_run(manifest)
    envs: dict[tuple[str, str, str], Any] = {}

    def compute_rewards(record: EpisodeRecord) -> np.ndarray:
        task = tasks.get(record.run) or next(iter(tasks.values()))
        identity = (task.backend, task.env_name, repr(task.env_kwargs))
        if identity not in envs:
            envs[identity] = make_env(task)
            open_envs.callback(envs[identity].close)
        terms = reward_terms(envs[identity], record.columns, record.final)
        return terms[reward] if isinstance(reward, str) else weighted_reward(terms, reward)

    return compute_rewards


def _write_version(
    source: VersionSource,
    target: Target,
    *,
    operation: str = "",
    store: Path | None,
    storage: Mapping[str, str] | None = None,
) -> Path:
    """Export a source; its parents record the operation."""
    parents = [add_operation(parent, operation) if operation else parent for parent in source.parents]
    return export(
        source,
        target.name,
        version=target.version,
        license=target.license or source.license,
        description=target.description,
        parents=parents,
        storage=storage,
        store=store,
    )
