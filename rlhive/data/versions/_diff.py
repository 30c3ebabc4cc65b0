"""What differs between two versions, from their manifests and episode tables alone: no transition is read, nor torch.

An episode is known by its id and its content by its hash::

    same id, same content                 same, or "moved" where its split, seed, policy or metadata differ
    same id, other content                changed
    same content under another id         renumbered
    anything else                         added, dropped
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlhive import keys
from rlhive.data import _parquet
from rlhive.data._schema import Schema
from rlhive.data._statistics import ColumnStatistics, merge_statistics
from rlhive.data.versions._manifest import EPISODES_PATH, Manifest, verify_files

_DESCRIPTION = ("name", "license", "description", "env_name", "task", "created")
_ABOUT = ("split", "seed", "policy", "run", "metadata")


@dataclass(frozen=True)
class Diff:
    """How version ``after`` differs from version ``before``.

    Attributes:
        before: Name, version, fingerprint, number of episodes and transitions.
        after: The same of the other one.
        columns: ``added``, ``dropped`` and ``changed`` columns, with dtype and shape.
        comparable: Whether the columns are the same, so that content hashes tell anything. Where they are not, episodes
            of the same id, length and seed are counted as same.
        num_same: Episodes that are the same.
        added: Ids only in ``after``.
        dropped: Ids only in ``before``.
        changed: Ids in both, with other content.
        moved: Ids in both with the same content; for each what else changed, as ``{"split": ["a", "b"]}``.
        renumbered: Pairs of ids under which the same content stands.
        splits: Number of episodes and transitions of each split, before and after; None where it is not.
        statistics: Of each column that moved: by how many standard deviations its mean did at most, by which factor
            its deviation did, and whether its extremes did.
        provenance: Manifest fields that differ, before and after; runs and parents by what identifies them.
    """

    before: Mapping[str, Any]
    after: Mapping[str, Any]
    columns: Mapping[str, Any]
    comparable: bool
    num_same: int
    added: list[int]
    dropped: list[int]
    changed: list[int]
    moved: dict[int, dict[str, list[Any]]]
    renumbered: list[tuple[int, int]]
    splits: dict[str, list[Any]]
    statistics: dict[str, dict[str, Any]]
    provenance: dict[str, list[Any]]

    def __bool__(self) -> bool:
        """Whether anything but the version number and the date differs."""
        episodes = self.added or self.dropped or self.changed or self.moved or self.renumbered
        columns = any(self.columns.values())
        return bool(episodes or columns or self.splits or self.statistics or self.provenance.keys() - {"created"})

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON-able values."""
        return asdict(self)


def diff(before: Path, after: Path) -> Diff:
    """Compare two versions on the disk.

    Args:
        before: Folder of one version.
        after: Folder of the other.

    Raises:
        DatasetNotFound, CorruptDataset, UnsupportedFormat: One of them is not a version, or is damaged.
    """
    old, new = Manifest.read(before), Manifest.read(after)
    columns = _columns(old.schema, new.schema)
    comparable = not any(columns.values())
    return Diff(
        before=_head(old),
        after=_head(new),
        columns=columns,
        comparable=comparable,
        **_episodes(_table(Path(before), old), _table(Path(after), new), comparable),
        splits=_pairs(dict(old.splits), dict(new.splits)),
        statistics=_statistics(old, new),
        provenance=_provenance(old, new),
    )


def _head(manifest: Manifest) -> dict[str, Any]:
    names = ("name", "version", "fingerprint", "num_episodes", "num_transitions")
    return {name: getattr(manifest, name) for name in names}


def _columns(old: Schema, new: Schema) -> dict[str, Any]:
    was, now = ({item.column: item for item in schema.fields} for schema in (old, new))

    def said(item: Any) -> str:
        return item.describe() + (", with next" if item.observed else "")

    both = sorted(was.keys() & now.keys())
    return {
        "added": {name: said(now[name]) for name in sorted(now.keys() - was.keys())},
        "dropped": {name: said(was[name]) for name in sorted(was.keys() - now.keys())},
        "changed": {name: [said(was[name]), said(now[name])] for name in both if said(was[name]) != said(now[name])},
    }


def _table(folder: Path, manifest: Manifest) -> dict[int, dict[str, Any]]:
    """Return what identifies each episode, by id. The columns of states are neither read nor decoded."""
    verify_files(folder, [entry for entry in manifest.files if entry.path == EPISODES_PATH])
    names = (keys.EPISODE, "length", "content_hash", *_ABOUT)
    table = _parquet.read_table(folder / EPISODES_PATH, names)
    columns = [table[name].to_pylist() for name in names]
    return {row[0]: dict(zip(names[1:], row[1:], strict=True)) for row in zip(*columns, strict=True)}


def _episodes(old: dict[int, dict], new: dict[int, dict], comparable: bool) -> dict[str, Any]:
    content = ("length", "content_hash") if comparable else ("length", "seed")
    both = [episode for episode in old if episode in new]
    changed = [e for e in both if any(old[e][name] != new[e][name] for name in content)]
    moved = {}
    for episode in set(both).difference(changed):
        about = {name: [old[episode][name], new[episode][name]] for name in _ABOUT}
        differs = {name: pair for name, pair in about.items() if pair[0] != pair[1]}
        if differs:
            moved[episode] = differs
    # Content that went elsewhere: an id of its own here, another one there.
    gone = {old[e]["content_hash"]: e for e in [*changed, *(e for e in old if e not in new)]}
    come = {new[e]["content_hash"]: e for e in [*changed, *(e for e in new if e not in old)]}
    renumbered = sorted((gone[content], come[content]) for content in gone.keys() & come.keys()) if comparable else []
    left, arrived = {pair[0] for pair in renumbered}, {pair[1] for pair in renumbered}
    return {
        "num_same": len(both) - len(changed) - len(moved),
        "added": [e for e in new if e not in old and e not in arrived],
        "dropped": [e for e in old if e not in new and e not in left],
        "changed": [e for e in changed if not (e in left and e in arrived)],
        "moved": dict(sorted(moved.items())),
        "renumbered": renumbered,
    }


def _pairs(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, list[Any]]:
    names = dict.fromkeys([*old, *new])
    return {name: [old.get(name), new.get(name)] for name in names if old.get(name) != new.get(name)}


def _statistics(old: Manifest, new: Manifest) -> dict[str, dict[str, Any]]:
    was, now = (
        merge_statistics(
            {name: ColumnStatistics.from_json(row) for name, row in part.items()}
            for part in manifest.statistics.values()
        )
        for manifest in (old, new)
    )
    found = {}
    for name in sorted(was.keys() & now.keys()):
        one, two = was[name], now[name]
        if one.mean.shape != two.mean.shape:
            continue
        with np.errstate(all="ignore"):
            scale = np.maximum(one.std, two.std)
            shift = np.where(scale > 0, np.abs(two.mean - one.mean) / scale, np.abs(two.mean - one.mean))
            factor = np.where(one.std > 0, two.std / one.std, np.where(two.std > 0, np.inf, 1.0))
        pairs = ((one.min, two.min), (one.max, two.max))
        extremes = not all(np.array_equal(was_, is_, equal_nan=True) for was_, is_ in pairs)
        # Merging in another order rounds otherwise; that is no difference.
        if extremes or np.nanmax(shift, initial=0) > 1e-9 or np.nanmax(np.abs(factor - 1), initial=0) > 1e-9:
            found[name] = {
                "mean_shift_in_std": _finite(np.nanmax(shift, initial=0)),
                "std_factor": [_finite(np.nanmin(factor)), _finite(np.nanmax(factor))],
                "extremes": extremes,
            }
    return found


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _provenance(old: Manifest, new: Manifest) -> dict[str, list[Any]]:
    was, now = ({name: getattr(manifest, name) for name in _DESCRIPTION} for manifest in (old, new))
    runs = [sorted(str(run.get("run", "")) for run in manifest.runs) for manifest in (old, new)]
    parents = [[f"{row.get('name')} {row.get('version')}" for row in manifest.parents] for manifest in (old, new)]
    return _pairs(was | {"runs": runs[0], "parents": parents[0]}, now | {"runs": runs[1], "parents": parents[1]})
