"""Does what lies on disk agree with what the manifest says of it? Each disagreement is one sentence.

A reader takes the first one as an error; ``rlhive check`` lists all of them.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from rlhive import keys
from rlhive.data import _arrow
from rlhive.data.versions._manifest import EPISODES_PATH, Manifest
from rlhive.errors import CorruptDataset

#: The columns of the episode table that :func:`find_count_mismatches` reads.
COUNTED = (keys.EPISODE, "length", "split")


def find_schema_mismatches(path: Path, found: pa.Schema, expected: pa.Schema) -> Iterator[str]:
    """Say where the columns of a file are others than the manifest's."""
    if found.equals(expected):
        return
    for name in dict.fromkeys([*expected.names, *found.names]):
        told, got = (_described(schema, name) for schema in (expected, found))
        if told != got:
            yield f"{path}: column {name}: expected {told}, got {got}."
    if set(found.names) == set(expected.names) and found.names != expected.names:
        yield f"{path}: expected the columns in the order {expected.names}, got {found.names}."


def find_table_mismatches(path: Path, found: pa.Schema, manifest: Manifest) -> Iterator[str]:
    """Say where the columns of an episode table are others than the manifest's; start states may be of any size."""
    starts = {
        item.name.removeprefix(_arrow.START_PREFIX): np.broadcast_to(0.0, getattr(item.type, "list_size", 1))
        for item in found
        if item.name.startswith(_arrow.START_PREFIX)
    }
    yield from find_schema_mismatches(path, found, _arrow.episode_schema(manifest.schema, starts))


def find_count_mismatches(manifest: Manifest, episodes: pa.Table) -> Iterator[str]:
    """Say where manifest, shards and episode table count differently."""
    ids, lengths = episodes[keys.EPISODE].to_numpy(), episodes["length"].to_numpy()
    for row in np.flatnonzero(np.diff(ids) <= 0):
        yield f"{EPISODES_PATH}: expected rising ids, got {ids[row + 1]} after {ids[row]}."
    for row in np.flatnonzero((lengths < 1) | (lengths > manifest.num_transitions)):
        yield f"{EPISODES_PATH}: episode {ids[row]}: expected a length, got {lengths[row]}."
    names = np.array(episodes["split"].to_pylist(), dtype=object)
    for split in dict.fromkeys([*manifest.splits, *names, *(entry.split for entry in manifest.shards())]):
        told = dict(manifest.splits.get(split, {"num_episodes": 0, "num_transitions": 0}))
        own = lengths[names == split]
        got = {"num_episodes": len(own), "num_transitions": int(own.sum())}
        held = {
            "num_episodes": sum(entry.num_episodes for entry in manifest.shards(split)),
            "num_transitions": sum(entry.num_transitions for entry in manifest.shards(split)),
        }
        if told != got or told != held:
            yield f"split {split}: the manifest says {told}, its shards {held}, the episode table {got}."


def require(problems: Iterator[str]) -> None:
    """Raise the first problem there is.

    Raises:
        CorruptDataset: Says it.
    """
    for problem in problems:
        msg = f"{problem} Fetch or make the version again."
        raise CorruptDataset(msg)


def _described(schema: pa.Schema, name: str) -> str:
    if schema.names.count(name) != 1:
        return "none" if name not in schema.names else "several"
    return str(schema.field(name).remove_metadata())
