"""What can become a version: a recording, a replay buffer, a dataset or a view of it, or any episode records.

All of them turn into a :class:`VersionSource`: the episodes, one at a time in rising order of their ids, with what is
known about them. Splits are assigned here, by a rule that depends on nothing but the ids and the seed.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from rlhive.data._episode_builder import EpisodeBuilder
from rlhive.data._episodes import EpisodeInfo, EpisodeRecord
from rlhive.data._replay_reader import is_replay_buffer, read_replay_buffer
from rlhive.data._schema import Field, Schema
from rlhive.errors import SchemaMismatch

#: Names, or split → share of the episodes, or split → ids of its episodes.
Splits = Sequence[str] | Mapping[str, float] | Mapping[str, Iterable[int]]


@dataclass(frozen=True)
class VersionSource:
    """Episodes on their way into a version.

    Attributes:
        schema: Of the transitions.
        records: Begins a pass over the episodes, in rising order of their ids.
        ids: Names the episodes without reading their transitions, where that is possible.
        splits: Splits that there are even if they are empty, in order.
        runs: Provenance of the recording runs.
        parents: Versions that the episodes come from.
        license: Of the parents, where all have the same.
        description: Of the parent.
        env_name: Environment of the episodes.
        task: Its name in the catalogue.
    """

    schema: Schema
    records: Callable[[], Iterator[EpisodeRecord]]
    ids: Callable[[], Iterable[int]] | None = None
    splits: tuple[str, ...] = ()
    runs: tuple[Mapping[str, Any], ...] = ()
    parents: tuple[Mapping[str, Any], ...] = ()
    license: str = ""
    description: str = ""
    env_name: str = ""
    task: str = ""


class SupportsAsSource(Protocol):
    """Anything that can become a version: a dataset, a view of one, or a recording."""

    def as_source(self, schema: Schema | None = None) -> VersionSource:
        """Return the episodes with their metadata.

        Args:
            schema: Schema of the transitions where the object holds no episode to derive it from; otherwise the
                object's own schema must equal it.

        Raises:
            SchemaMismatch: There is no schema at all, or the object's own is another one.
        """


#: What :func:`rlhive.data.versions.export` takes; Any stands for a TorchRL replay buffer.
Exportable = VersionSource | SupportsAsSource | Iterable[EpisodeRecord] | Any


def to_source(given: "Exportable", schema: Schema | None = None) -> VersionSource:
    """Return anything that can become a version as a source.

    Args:
        given: What :func:`rlhive.data.versions.export` takes.
        schema: Of the transitions; by default the recording's, the dataset's, or that of the first record.

    Raises:
        SchemaMismatch: Nothing says what the transitions hold, or the recording's schema is another one.
    """
    if isinstance(given, VersionSource):
        return given
    if hasattr(given, "as_source"):
        return given.as_source(schema)
    if is_replay_buffer(given):
        return _read_buffer_source(given, schema)
    if isinstance(given, Sequence):
        first = given[0] if given else None
        return VersionSource(
            schema or _schema_of(first), lambda: iter(given), ids=lambda: [item.episode for item in given]
        )
    stream = iter(given)
    first = None if schema is not None else next(stream, None)
    rest = stream if first is None else itertools.chain([first], stream)
    return VersionSource(schema or _schema_of(first), lambda: rest)


def _read_buffer_source(buffer: Any, schema: Schema | None) -> VersionSource:
    """Return the complete episodes of a TorchRL replay buffer in the split ``train``, numbered from 0.

    An episode whose beginning was overwritten is left out, with a warning; one without an end flag is "unfinished".
    """

    def records() -> Iterator[EpisodeRecord]:
        builder = EpisodeBuilder(schema=schema, context="episode {} of the replay buffer".format)
        return read_replay_buffer(buffer, builder, lambda _: EpisodeInfo("train"))

    return VersionSource(
        schema or _schema_of(next(records(), None)), records, ids=lambda: [record.episode for record in records()]
    )


def assign_splits(source: VersionSource, splits: Splits | None, *, seed: int = 0) -> VersionSource:
    """Return the source with its episodes in splits.

    Args:
        source: The episodes.
        splits: Names of splits that must be there, in order, and every episode keeps its own; or split → ids; or
            split → share, which together are 1.
        seed: Of the shares; the same seed and ids give the same splits, on any machine.

    Raises:
        SchemaMismatch: An episode is in no split or in two, the shares are not 1 together, or the source cannot name
            its episodes beforehand.
    """
    if not splits:
        return source
    if not isinstance(splits, Mapping):
        return replace(source, splits=tuple(dict.fromkeys([*splits, *source.splits])))
    if source.ids is None:
        msg = "Splits by share or id: expected episodes that can be counted first, got a stream. Pass a list of them."
        raise SchemaMismatch(msg)
    ids = sorted(source.ids())
    assigned = partition_episodes(ids, splits, seed=seed)
    split_of = {episode: split for split, members in assigned.items() for episode in members}
    left = [episode for episode in ids if episode not in split_of]
    if left:
        msg = f"Splits: expected every episode in one, got {len(left)} in none, {left[0]} for example. Name them too."
        raise SchemaMismatch(msg)

    def records() -> Iterator[EpisodeRecord]:
        for record in source.records():
            yield replace(record, split=split_of[record.episode])

    return replace(source, records=records, splits=tuple(splits))


def partition_episodes(
    ids: Sequence[int], splits: Mapping[str, float | Iterable[int]], *, seed: int
) -> dict[str, list[int]]:
    """Return which episodes each split gets, in rising order.

    Shares order the episodes by a hash of the seed and the id, and cut that order: the result does not depend on a
    random generator's release.

    Raises:
        SchemaMismatch: The shares are not 1 together, an id is not there, or is in two splits.
    """
    if not splits:
        msg = "Splits: expected at least one name with its share or its ids, got none. Name one."
        raise SchemaMismatch(msg)
    if all(isinstance(share, (int, float)) for share in splits.values()):
        return _by_share(ids, splits, seed)
    known, seen = set(ids), {}
    chosen = {split: sorted(int(episode) for episode in members) for split, members in splits.items()}
    for split, members in chosen.items():
        for episode in members:
            if episode not in known:
                msg = f"Split {split!r}: there is no episode {episode}. Look at dataset.episodes for those there are."
                raise SchemaMismatch(msg)
            if episode in seen:
                msg = f"Episode {episode}: expected one split, got {seen[episode]!r} and {split!r}. Name it once."
                raise SchemaMismatch(msg)
            seen[episode] = split
    return chosen


def _by_share(ids: Sequence[int], shares: Mapping[str, float], seed: int) -> dict[str, list[int]]:
    total = sum(shares.values())
    if min(shares.values()) < 0 or not abs(total - 1) <= 1e-9:  # a NaN compares as False
        msg = f"Splits {dict(shares)}: expected shares of 0 or more that are 1 together, got {total:g}. Change them."
        raise SchemaMismatch(msg)
    order = sorted(ids, key=lambda episode: hashlib.sha256(f"{seed}/{episode}".encode()).digest())
    cuts = [round(part * len(ids)) for part in itertools.accumulate(shares.values())]
    return {split: sorted(order[start:stop]) for split, start, stop in zip(shares, [0, *cuts[:-1]], cuts, strict=True)}


def _schema_of(record: EpisodeRecord | None) -> Schema:
    if not isinstance(record, EpisodeRecord):
        found = "no episode at all" if record is None else f"a {type(record).__name__}"
        msg = f"Export: expected a recording, a dataset or episode records, got {found}. Pass schema= if it is empty."
        raise SchemaMismatch(msg)
    fields = [
        Field(name, "string" if array.dtype == object else array.dtype.name, array.shape[1:], name in record.final)
        for name, array in sorted(record.columns.items())
    ]
    return Schema(tuple(fields))
