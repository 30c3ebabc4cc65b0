"""Which episodes of a version a dataset object stands for, and in which splits.

A :class:`DatasetView` is frozen: every selection (``where``, ``filter``, ``select``, ``split``, ``view["train"]``) is a
copy of the view with other fields. Selecting reads the episode table only; transitions are read by the loaders.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa

from rlhive import keys
from rlhive.data import EpisodeRecord, Schema, hub, merge_statistics, parse_splits, versions
from rlhive.data.scores import add_scores
from rlhive.data.versions import (
    EPISODE_COLUMNS,
    SCORE_COLUMNS,
    FileEntry,
    Manifest,
    Selection,
    VersionSource,
    apply_selection,
    build_selection,
    find_shards,
    intersect_selection,
    locate_episodes,
    partition_episodes,
    read_episodes,
    require_episodes,
    select_by,
)
from rlhive.dataset._scores import load_scores
from rlhive.errors import DatasetNotFoundError, SplitNotFoundError, StreamingOnlyError

if TYPE_CHECKING:  # slow to import, and only conditions need it
    import pyarrow.compute as pc

logger = logging.getLogger(__name__)

#: Condition on episodes: text, an Arrow expression, or a function of the episode table that returns a boolean mask.
Condition: TypeAlias = "str | pc.Expression | Callable[[pa.Table], Any]"


@dataclass(frozen=True, eq=False, kw_only=True)
class DatasetView:
    """Some episodes of a version.

    Attributes:
        folder: The version's folder.
        manifest: The version's manifest.
        available: The manifest, limited to the shards that were downloaded when the dataset was opened.
        store: Folder of all datasets; None for the default one.
        splits: Names of the view's splits, in order.
        stored_splits: Splits of the version whose shards hold the view's episodes.
        selection: Episode ids of each split; None where the splits are whole splits of the version.
        operations: The operations that made the view, as text, in order.
        streaming: Whether transitions are read from the Hub, so that nothing can be loaded from disk.
    """

    folder: Path
    manifest: Manifest
    available: Manifest
    store: Path | None
    splits: tuple[str, ...]
    stored_splits: tuple[str, ...]
    selection: Selection | None = None
    operations: tuple[str, ...] = ()
    streaming: bool = False

    def where(self, condition: Condition) -> "DatasetView":
        """Select the episodes that meet a condition; see :meth:`rlhive.RoboHiveDataset.where`."""
        description = getattr(condition, "__qualname__", repr(str(condition)))
        if isinstance(condition, str):
            table = self._read_columns(versions.find_referenced_columns(condition))
        else:
            table = read_episodes(self.folder, self.manifest)
        selection = self._find_selection(table)
        table = apply_selection(table, selection)
        if callable(condition):
            episode_ids = versions.select_by_mask(table, pa.array(condition(table), pa.bool_()), description)
        else:
            episode_ids = versions.select_where(table, condition)
        return self._select(intersect_selection(selection, episode_ids), f"where({description})")

    def filter(self, predicate: Callable[[dict[str, Any]], bool]) -> "DatasetView":
        """Select the episodes for which a function of their row in the episode table returns True."""
        _require_function(predicate)
        table = read_episodes(self.folder, self.manifest, list(EPISODE_COLUMNS))
        selection = self._find_selection(table)
        episode_ids = select_by(apply_selection(table, selection), predicate)
        description = getattr(predicate, "__qualname__", predicate)
        return self._select(intersect_selection(selection, episode_ids), f"filter({description})")

    def select(self, episodes: Iterable[int]) -> "DatasetView":
        """Select episodes by id."""
        selection = self.read_selection()
        episode_ids = require_episodes(selection, episodes)
        return self._select(intersect_selection(selection, episode_ids), f"select({len(episode_ids)} ids)")

    def split(self, parts: Mapping[str, float] | Mapping[str, Iterable[int]], *, seed: int) -> "DatasetView":
        """Put the episodes into other splits, by share or by id."""
        ids_by_split = partition_episodes(sorted(self.episode_ids()), parts, seed=seed)
        description = {
            name: part if isinstance(part, (int, float)) else f"{len(ids_by_split[name])} ids"
            for name, part in parts.items()
        }
        selection = {name: np.array(episode_ids, np.int64) for name, episode_ids in ids_by_split.items()}
        return self._select(selection, f"split({description}, seed={seed})")

    def select_splits(self, split: str) -> "DatasetView":
        """Select one split, or several joined by ``+``, in that order."""
        names = require_splits(split, self.splits, owner=f"{self.manifest.name} {self.manifest.version}")
        if self.selection is None:  # whole splits: nothing is read to know what they hold
            return replace(self, splits=names, stored_splits=names)
        return self._select({name: self.selection[name] for name in names}, f"[{split!r}]")

    def narrow(self, *, split: str | None, where: "Condition | None") -> "DatasetView":
        """Select splits, then the episodes that meet a condition; None selects all."""
        view = self if split is None else self.select_splits(split)
        return view if where is None else view.where(where)

    @property
    def is_whole(self) -> bool:
        """Whether the view is all of its version."""
        return self.selection is None and self.splits == tuple(self.manifest.splits) and not self.streaming

    def read_selection(self) -> Selection:
        """Return the episode ids of each split, read from the episode table where the splits are whole."""
        if self.selection is not None:
            return self.selection
        return self._find_selection(read_episodes(self.folder, self.manifest, [keys.EPISODE, "split"]))

    def _find_selection(self, table: pa.Table) -> Selection:
        """Return the episode ids of each split, from an episode table where the splits are whole."""
        return build_selection(table, self.splits) if self.selection is None else self.selection

    def episode_ids(self) -> list[int]:
        """Return the ids of the episodes, split by split."""
        return [int(episode) for episode_ids in self.read_selection().values() for episode in episode_ids]

    def read_episode_table(self) -> pa.Table:
        """Return the episode table of the view, in rising order of ids."""
        table = read_episodes(self.folder, self.manifest)
        if self.selection is not None:
            return apply_selection(table, self.selection)
        if set(self.splits) == set(self.manifest.splits):
            return table
        return table.filter(pa.array(split in self.splits for split in table["split"].to_pylist()))

    def read_scores(self, *, force: bool = False) -> pa.Table:
        """Return the scores of the view's episodes; see :meth:`rlhive.RoboHiveDataset.score`.

        Args:
            force: Whether to compute them again where the store has them.
        """
        table = read_episodes(self.folder, self.manifest, [keys.EPISODE, "split"])
        table = apply_selection(table, self._find_selection(table))
        return add_scores(table, self._load_scores(force=force))

    def _load_scores(self, *, force: bool = False) -> pa.Table:
        return load_scores(self.folder, self.manifest, store=self.store, streaming=self.streaming, force=force)

    def _read_columns(self, names: Sequence[str]) -> pa.Table:
        """Return columns and scores of all episodes of the version, with ``episode`` and ``split``."""
        columns = [name for name in names if name not in SCORE_COLUMNS]
        scores = [name for name in names if name in SCORE_COLUMNS]
        table = read_episodes(self.folder, self.manifest, list(dict.fromkeys([keys.EPISODE, "split", *columns])))
        return add_scores(table, self._load_scores(), scores) if scores else table

    def compute_outcome_fingerprint(self) -> str:
        """Return the hash of how the view's episodes came out."""
        return versions.compute_outcome_fingerprint(self.read_episode_table(), self.manifest.schema)

    def count(self) -> dict[str, dict[str, int]]:
        """Return the number of episodes and transitions of each split."""
        if self.selection is None:
            return {split: dict(self.manifest.splits[split]) for split in self.splits}
        table = read_episodes(self.folder, self.manifest, [keys.EPISODE, "length"])
        ids, lengths = table[keys.EPISODE].to_numpy(), table["length"].to_numpy()
        counts = {}
        for split, episode_ids in self.selection.items():
            num_transitions = int(lengths[locate_episodes(ids, {split: episode_ids})].sum())
            counts[split] = {"num_episodes": len(episode_ids), "num_transitions": num_transitions}
        return counts

    def compute_statistics(self) -> dict[str, dict[str, Any]]:
        """Return the statistics of every column: the stored ones of whole splits, otherwise computed in one pass."""
        if self.selection is not None:
            summaries = versions.compute_statistics(self.to_source())
        else:
            summaries = merge_statistics(versions.read_statistics(self.folder, self.manifest, self.splits))
        return {column: summary.to_json() for column, summary in summaries.items()}

    def require_shards(self) -> list[FileEntry]:
        """Return the shards on disk that hold the view's episodes.

        Raises:
            StreamingOnlyError: The dataset was opened with ``streaming=True``.
        """
        if self.streaming:
            msg = (
                f"{self.manifest.name} {self.manifest.version} was opened with streaming=True: expected "
                "iter_episodes() or iter_batches(). For buffers and tables, open it without streaming."
            )
            raise StreamingOnlyError(msg)
        return [entry for split in self.stored_splits for entry in self.available.shards(split)]

    def to_source(self, schema: Schema | None = None) -> VersionSource:
        """Return the episodes with their metadata, for :func:`rlhive.data.versions.export`.

        Raises:
            SchemaMismatchError: ``schema`` is given and is not the version's.
        """
        manifest, selection = self.manifest, self.read_selection()
        manifest.schema.require(schema or manifest.schema, context=str(self.folder))
        operations = list(self.operations)
        if self.selection is None and self.splits != tuple(manifest.splits):
            operations.insert(0, f"split={'+'.join(self.splits)!r}")
        return versions.stored_source(self.folder, manifest, selection, splits=self.splits, operations=operations)

    def iter_records(self) -> Iterator[EpisodeRecord]:
        """Yield the episodes, split by split, from disk or from the Hub."""
        episode_ids = None if self.selection is None else self.episode_ids()
        return hub.stream_records(self.folder, self.manifest, self.stored_splits, episode_ids)

    def _select(self, selection: Selection, operation: str) -> "DatasetView":
        operations = (*self.operations, operation)
        return replace(self, selection=selection, splits=tuple(selection), operations=operations)


def _require_function(predicate: object) -> None:
    if not callable(predicate):
        msg = f"filter({predicate!r}): expected a function of an episode's row. Conditions as text go to where()."
        raise TypeError(msg)


def _read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a folder; a pulled version has the name of its repository, whatever the manifest says."""
    manifest, pin = Manifest.read(folder), hub.HubPin.read(folder)
    if pin is None or pin.repo_id == manifest.name:
        return manifest
    logger.warning("%s: its manifest names another dataset, %s; it is opened as %s", pin, manifest.name, pin.repo_id)
    return replace(manifest, name=pin.repo_id)


def open_view(
    folder: Path,
    *,
    split: str | None = None,
    version: str | None = None,
    where: "Condition | None" = None,
    streaming: bool = False,
    store: Path | None = None,
) -> DatasetView:
    """Open a version's folder and fetch the files that the view needs and the folder lacks.

    The condition is evaluated before any shard is fetched, so that only shards with a selected episode are.

    Args:
        folder: The version's folder, with its manifest and episode table.
        split: One split, or several joined by ``+``; all by default.
        version: Version that the folder must hold.
        where: Condition on the episodes.
        streaming: Whether transitions stay on the Hub or in the object store; no shard is fetched then.
        store: Folder of all datasets.

    Raises:
        DatasetNotFoundError: The folder holds no version, or another one.
        SplitNotFoundError: The version has no such split.
        CorruptDatasetError: A file is not what the manifest recorded.
    """
    manifest = _read_manifest(folder)
    if version not in (None, manifest.version):
        msg = f"{folder}: expected version {version}, got {manifest.version}."
        raise DatasetNotFoundError(msg)
    splits = tuple(manifest.splits)
    if split is not None:
        splits = require_splits(split, splits, owner=f"{manifest.name} {manifest.version}")
    view = DatasetView(
        folder=folder,
        manifest=manifest,
        available=manifest,
        store=store,
        splits=splits,
        stored_splits=splits,
        streaming=streaming,
    )
    if where is not None:
        view = view.where(where)
        shards = find_shards(folder, manifest, np.array(view.episode_ids(), np.int64))
        view = replace(view, available=manifest.restrict_to_shards(shards))
    if not streaming:
        needed = [entry for entry in view.available.files if not entry.split or entry.split in splits]
        if not all((folder / entry.path).is_file() for entry in needed):
            hub.fetch_missing_files(folder, manifest, needed)
    return view


def require_splits(split: str, available: Sequence[str], *, owner: str) -> tuple[str, ...]:
    """Return the names in ``"expert+random"``, in order.

    Args:
        split: One name, or several joined by ``+``.
        available: Names of the splits that exist.
        owner: What has the splits, for the error message.

    Raises:
        SplitNotFoundError: A name is unknown or stands twice.
    """
    names = parse_splits(split)
    if not set(names) <= set(available) or len(set(names)) != len(names):
        msg = (
            f"{owner} has no split {split!r} here: expected one of {', '.join(available)}, or several different ones "
            "joined by '+'."
        )
        raise SplitNotFoundError(msg)
    return tuple(names)
