"""Comparison of two versions by their manifests and episode tables. Reads no transitions and imports no torch.

Episodes are compared by id and content hash::

    same id, same content                 same, or "moved" if its split, seed, policy or metadata differ
    same id, other content                changed
    same content under another id         renumbered
    anything else                         added, dropped

Two versions without an episode, a recording run or a parent in common are unrelated: equal ids mean nothing, and all
episodes are dropped and added.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rlhive.data import _parquet
from rlhive.data._schema import Field, Schema, find_unrecorded
from rlhive.data._statistics import ColumnStatistics, merge_statistics
from rlhive.data.versions._lineage import share_history
from rlhive.data.versions._manifest import EPISODES_PATH, Manifest, verify_files
from rlhive.data.versions._outcomes import OUTCOME_COLUMNS, compare_outcomes

#: Columns of the episode table by id.
EpisodeRows = Mapping[int, Mapping[str, Any]]

_DESCRIPTION_FIELDS = ("name", "license", "description", "env_name", "task", "created")
_METADATA_COLUMNS = ("split", "seed", "policy", "run", "metadata")
_ROUNDING = 1e-9  # merging the same statistics in another order rounds differently


@dataclass(frozen=True)
class Diff:
    """Difference between version ``before`` and version ``after``.

    Attributes:
        before: Name, version, fingerprint, number of episodes and transitions.
        after: The same of the other version.
        columns: ``added``, ``dropped`` and ``changed`` columns, with dtype and shape.
        comparable: Whether the columns are the same, so that content hashes can be compared. If not, episodes of the
            same id, length and seed are counted as same.
        related: Whether the versions have an episode, a recording run or a parent in common. If not, equal ids mean
            nothing: all episodes of ``before`` are dropped and all of ``after`` added.
        num_same: Number of episodes that are the same.
        added: Ids only in ``after``.
        dropped: Ids only in ``before``.
        changed: Ids in both, with other content.
        moved: Ids in both with the same content, and what else changed, as ``{"split": ["a", "b"]}``.
        renumbered: Pairs of ids, before and after, that have the same content.
        splits: Number of episodes and transitions of each split that differs, before and after; None where the split
            does not exist.
        statistics: Each column whose statistics differ: the largest shift of its mean in standard deviations, the
            range of the ratio of its standard deviations, and whether its minimum or maximum changed.
        provenance: Manifest fields that differ, before and after. Runs are named by id, parents by name and version.
        outcomes: How episodes of the same id came out, where their content differs: see
            :func:`rlhive.data.versions.compare_outcomes`. Of unrelated versions only where all came out the same.
    """

    before: Mapping[str, Any]
    after: Mapping[str, Any]
    columns: Mapping[str, Any]
    comparable: bool
    related: bool
    num_same: int
    added: list[int]
    dropped: list[int]
    changed: list[int]
    moved: dict[int, dict[str, list[Any]]]
    renumbered: list[tuple[int, int]]
    splits: dict[str, list[Any]]
    statistics: dict[str, dict[str, Any]]
    provenance: dict[str, list[Any]]
    outcomes: dict[str, Any] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether anything but the version number and the date differs."""
        episodes = self.added or self.dropped or self.changed or self.moved or self.renumbered
        columns = any(self.columns.values())
        return bool(episodes or columns or self.splits or self.statistics or self.provenance.keys() - {"created"})

    def to_json(self) -> dict[str, Any]:
        """Return the difference as JSON-able values."""
        return asdict(self)


def diff(before: Path, after: Path) -> Diff:
    """Compare two versions on disk.

    Args:
        before: Folder of one version.
        after: Folder of the other version.

    Raises:
        DatasetNotFoundError, CorruptDatasetError, UnsupportedFormatError: A folder is not a version, or is damaged.
    """
    old, new = Manifest.read(before), Manifest.read(after)
    columns = _compare_columns(old.schema, new.schema)
    comparable = not any(columns.values())
    old_rows, new_rows = _read_rows_by_id(Path(before), old), _read_rows_by_id(Path(after), new)
    episodes = _compare_episodes(old_rows, new_rows, comparable)
    are_in_common = bool(episodes["num_same"] or episodes["moved"] or episodes["renumbered"])
    outcomes = compare_outcomes(old_rows, new_rows) if episodes["changed"] else {}
    related = are_in_common or share_history(old, new)
    if not related:
        episodes |= {"added": list(new_rows), "dropped": list(old_rows), "changed": []}
    return Diff(
        before=_identify(old),
        after=_identify(new),
        columns=columns,
        comparable=comparable,
        related=related,
        **episodes,
        splits=_find_unequal(old.splits, new.splits),
        statistics=_find_statistics_changes(_merge_splits(old), _merge_splits(new)),
        outcomes=outcomes if related or _came_out_alike(outcomes) else {},
        provenance=_find_unequal(_summarize_provenance(old), _summarize_provenance(new)),
    )


def _came_out_alike(outcomes: Mapping[str, Any]) -> bool:
    """Whether all episodes came out the same, with returns that are equal within the tolerance."""
    if not outcomes or outcomes["return_error"] is None:
        return False
    before, after = outcomes["fingerprint"]
    return before == after and not outcomes["unequal_returns"]


def _identify(manifest: Manifest) -> dict[str, Any]:
    names = ("name", "version", "fingerprint", "num_episodes", "num_transitions")
    return {name: getattr(manifest, name) for name in names}


def _compare_columns(old: Schema, new: Schema) -> dict[str, Any]:
    """Return the added, dropped and changed columns."""
    before = {item.column: _describe_field(item) for item in old.fields}
    after = {item.column: _describe_field(item) for item in new.fields}
    common = sorted(before.keys() & after.keys())
    return {
        "added": {name: after[name] for name in sorted(after.keys() - before.keys())},
        "dropped": {name: before[name] for name in sorted(before.keys() - after.keys())},
        "changed": {name: [before[name], after[name]] for name in common if before[name] != after[name]},
    }


def _describe_field(item: Field) -> str:
    return item.describe() + (", with next" if item.observed else "")


def _read_rows_by_id(folder: Path, manifest: Manifest) -> EpisodeRows:
    """Return the columns of the episode table that are compared, by id. States are not read."""
    verify_files(folder, [entry for entry in manifest.files if entry.path == EPISODES_PATH])
    names = tuple(dict.fromkeys([*OUTCOME_COLUMNS, "return", "content_hash", *_METADATA_COLUMNS]))
    table = _parquet.read_table(folder / EPISODES_PATH, names, max_rows=manifest.num_episodes)
    unrecorded = find_unrecorded(manifest.schema)  # older versions hold 0.0 and False there
    columns = [[None] * len(table) if name in unrecorded else table[name].to_pylist() for name in names]
    return {row[0]: dict(zip(names[1:], row[1:], strict=True)) for row in zip(*columns, strict=True)}


def _compare_episodes(old: EpisodeRows, new: EpisodeRows, comparable: bool) -> dict[str, Any]:
    """Return the fields of a Diff that are about episodes."""
    content_columns = ("length", "content_hash") if comparable else ("length", "seed")
    common = [episode for episode in old if episode in new]
    changed = [
        episode for episode in common if any(old[episode][name] != new[episode][name] for name in content_columns)
    ]
    moved = _find_moved(old, new, sorted(set(common).difference(changed)))
    renumbered = _find_renumbered(old, new, changed) if comparable else []
    old_ids = {before for before, _ in renumbered}
    new_ids = {after for _, after in renumbered}
    return {
        "num_same": len(common) - len(changed) - len(moved),
        "added": [episode for episode in new if episode not in old and episode not in new_ids],
        "dropped": [episode for episode in old if episode not in new and episode not in old_ids],
        "changed": [episode for episode in changed if not (episode in old_ids and episode in new_ids)],
        "moved": moved,
        "renumbered": renumbered,
    }


def _find_moved(old: EpisodeRows, new: EpisodeRows, episodes: list[int]) -> dict[int, dict[str, list[Any]]]:
    """Return the episodes whose metadata differ, and the metadata before and after."""
    moved = {}
    for episode in episodes:
        pairs = {name: [old[episode][name], new[episode][name]] for name in _METADATA_COLUMNS}
        unequal = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
        if unequal:
            moved[episode] = unequal
    return moved


def _find_renumbered(old: EpisodeRows, new: EpisodeRows, changed: list[int]) -> list[tuple[int, int]]:
    """Return pairs of ids, before and after, of content that was under another id before."""
    before = [*changed, *(episode for episode in old if episode not in new)]
    after = [*changed, *(episode for episode in new if episode not in old)]
    old_ids = {old[episode]["content_hash"]: episode for episode in before}
    new_ids = {new[episode]["content_hash"]: episode for episode in after}
    return sorted((old_ids[content], new_ids[content]) for content in old_ids.keys() & new_ids.keys())


def _find_unequal(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the values before and after of every name whose values differ; None stands for no value."""
    names = dict.fromkeys([*old, *new])
    return {name: [old.get(name), new.get(name)] for name in names if old.get(name) != new.get(name)}


def _merge_splits(manifest: Manifest) -> dict[str, ColumnStatistics]:
    """Return the statistics of every column over all splits."""
    return merge_statistics(
        {column: ColumnStatistics.from_json(row) for column, row in columns.items()}
        for columns in manifest.statistics.values()
    )


def _find_statistics_changes(
    old: Mapping[str, ColumnStatistics], new: Mapping[str, ColumnStatistics]
) -> dict[str, dict[str, Any]]:
    """Return how the statistics of the common columns of the same width differ."""
    differences = {}
    for name in sorted(old.keys() & new.keys()):
        if old[name].mean.shape == new[name].mean.shape:
            difference = _compare_column_statistics(old[name], new[name])
            if difference is not None:
                differences[name] = difference
    return differences


def _compare_column_statistics(old: ColumnStatistics, new: ColumnStatistics) -> dict[str, Any] | None:
    """Return the difference of a column's statistics; None if they are equal up to rounding."""
    with np.errstate(all="ignore"):
        scale = np.maximum(old.std, new.std)
        shift = np.where(scale > 0, np.abs(new.mean - old.mean) / scale, np.abs(new.mean - old.mean))
        factor = np.where(old.std > 0, new.std / old.std, np.where(new.std > 0, np.inf, 1.0))
    same_min = np.array_equal(old.min, new.min, equal_nan=True)
    same_max = np.array_equal(old.max, new.max, equal_nan=True)
    extremes = not (same_min and same_max)
    max_shift = np.nanmax(shift, initial=0)
    if not extremes and max_shift <= _ROUNDING and np.nanmax(np.abs(factor - 1), initial=0) <= _ROUNDING:
        return None
    return {
        "mean_shift_in_std": _finite_or_none(max_shift),
        "std_factor": [_finite_or_none(np.nanmin(factor)), _finite_or_none(np.nanmax(factor))],
        "extremes": extremes,
    }


def _finite_or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _summarize_provenance(manifest: Manifest) -> dict[str, Any]:
    summary = {name: getattr(manifest, name) for name in _DESCRIPTION_FIELDS}
    summary["runs"] = sorted(str(run.get("run", "")) for run in manifest.runs)
    summary["parents"] = [f"{parent.get('name')} {parent.get('version')}" for parent in manifest.parents]
    return summary
