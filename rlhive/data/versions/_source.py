"""The source of a version: a recording, a replay buffer, a dataset or a view of it, or any episode records.

:func:`to_source` turns each of them into a :class:`VersionSource`: an iterator over the episodes in rising order of
their ids, and metadata. Splits are assigned by a rule that depends on the ids and the seed only.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from rlhive.data._episodes import EpisodeInfo, EpisodeRecord
from rlhive.data._schema import Field, Schema
from rlhive.errors import SchemaMismatchError

#: Split names, or split → share of the episodes, or split → episode ids.
Splits = Sequence[str] | Mapping[str, float] | Mapping[str, Iterable[int]]


@dataclass(frozen=True)
class VersionSource:
    """Episodes and metadata for a new version.

    Attributes:
        schema: Schema of the transitions.
        records: Starts a pass over the episodes, in rising order of their ids.
        ids: Lists the episode ids without reading transitions; None where the source cannot.
        splits: Splits of the version, in order; a split may be empty.
        runs: Provenance of the recording runs.
        parents: Versions that the episodes come from.
        license: Licence of the parents; empty where they differ.
        description: Description of the parent.
        env_name: Environment of the episodes.
        task: Name of the task in the catalogue.
        may_link_videos: Whether a version may link video files that the episodes come from, where it needs all of
            their frames, instead of copying them.
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
    may_link_videos: bool = False


class SupportsAsSource(Protocol):
    """An object that can become a version: a dataset, a view of one, or a recording."""

    def as_source(self, schema: Schema | None = None) -> VersionSource:
        """Return the episodes with their metadata.

        Args:
            schema: Schema of the transitions where the object has no episode to derive it from. Otherwise it must
                equal the object's schema.

        Raises:
            SchemaMismatchError: There is no schema, or the object has another one.
        """


#: What :func:`rlhive.data.versions.export` takes; Any stands for a TorchRL replay buffer.
Exportable = VersionSource | SupportsAsSource | Iterable[EpisodeRecord] | Any


def to_source(episodes: Exportable, schema: Schema | None = None) -> VersionSource:
    """Return recordings, replay buffers, datasets and episode records as a :class:`VersionSource`.

    Args:
        episodes: What :func:`rlhive.data.versions.export` takes.
        schema: Schema of the transitions; by default the recording's, the dataset's, or that of the first record.

    Raises:
        SchemaMismatchError: There is no schema and no episode to derive it from, or the recording has another schema.
    """
    from rlhive.data._replay_reader import is_replay_buffer  # loads torch, which a view of a version does not need

    if isinstance(episodes, VersionSource):
        return episodes
    if hasattr(episodes, "as_source"):
        return episodes.as_source(schema)
    if is_replay_buffer(episodes):
        return _read_buffer_source(episodes, schema)
    if isinstance(episodes, Sequence):
        first = episodes[0] if episodes else None
        return VersionSource(
            schema or _infer_schema(first),
            lambda: iter(episodes),
            ids=lambda: [record.episode for record in episodes],
        )
    stream = iter(episodes)
    if schema is None:
        first = next(stream, None)
        schema = _infer_schema(first)
        stream = itertools.chain([first], stream)
    return VersionSource(schema, lambda: stream)


def _read_buffer_source(buffer: Any, schema: Schema | None) -> VersionSource:
    """Return the complete episodes of a TorchRL replay buffer in the split ``train``, numbered from 0.

    An episode whose beginning was overwritten is left out, with a warning; one without an end flag is "unfinished".
    """
    from rlhive.data._episode_builder import EpisodeBuilder
    from rlhive.data._replay_reader import read_replay_buffer

    def records() -> Iterator[EpisodeRecord]:
        builder = EpisodeBuilder(schema=schema, context="episode {} of the replay buffer".format)
        return read_replay_buffer(buffer, builder, lambda _: EpisodeInfo("train"))

    return VersionSource(
        schema or _infer_schema(next(records(), None)), records, ids=lambda: [record.episode for record in records()]
    )


def assign_splits(source: VersionSource, splits: Splits | None, *, seed: int = 0) -> VersionSource:
    """Return the source with its episodes in other splits.

    Args:
        source: The episodes.
        splits: Split names, in order: every episode keeps its split, and the named splits exist even if they are
            empty. Or split → episode ids. Or split → share of the episodes; the shares sum to 1.
        seed: Seed of the random assignment by share; the same seed and ids give the same splits on any machine.

    Raises:
        SchemaMismatchError: An episode is in no split or in two, the shares do not sum to 1, or the source cannot list
            its ids without reading the episodes.
    """
    if not splits:
        return source
    if not isinstance(splits, Mapping):
        return replace(source, splits=tuple(dict.fromkeys([*splits, *source.splits])))
    if source.ids is None:
        msg = "Splits by share or id: expected a source that can list its episode ids, got a stream. Pass a list."
        raise SchemaMismatchError(msg)
    episode_ids = sorted(source.ids())
    ids_by_split = partition_episodes(episode_ids, splits, seed=seed)
    split_of = {episode: split for split, members in ids_by_split.items() for episode in members}
    unassigned = [episode for episode in episode_ids if episode not in split_of]
    if unassigned:
        msg = f"Splits: expected every episode in a split, got {len(unassigned)} in none, {unassigned[0]} for example."
        raise SchemaMismatchError(msg)

    def records() -> Iterator[EpisodeRecord]:
        for record in source.records():
            yield replace(record, split=split_of[record.episode])

    return replace(source, records=records, splits=tuple(splits))


def partition_episodes(
    episode_ids: Sequence[int], splits: Mapping[str, float] | Mapping[str, Iterable[int]], *, seed: int
) -> dict[str, list[int]]:
    """Return the episode ids of each split, in rising order.

    For shares, the episodes are ordered by a hash of the seed and the id, and the order is cut. So the result does not
    depend on the release of a random generator.

    Args:
        episode_ids: Ids of all episodes.
        splits: Split → share of the episodes, or split → episode ids.
        seed: Seed of the random assignment by share.

    Raises:
        SchemaMismatchError: The shares do not sum to 1, an id does not exist, or an id is in two splits.
        TypeError: Some splits have a share and others have ids.
    """
    if not splits:
        msg = "Splits: expected at least one name with its share or its ids, got none."
        raise SchemaMismatchError(msg)
    shares: dict[str, float] = {}
    members: dict[str, Iterable[int]] = {}
    for split, value in splits.items():
        if isinstance(value, (int, float)):
            shares[split] = value
        else:
            members[split] = value
    if not members:
        return _assign_by_share(episode_ids, shares, seed)
    if shares:
        msg = f"Splits: expected shares only or ids only, got shares for {', '.join(shares)} and ids for others."
        raise TypeError(msg)
    return _assign_by_id(episode_ids, members)


def _assign_by_id(episode_ids: Sequence[int], splits: Mapping[str, Iterable[int]]) -> dict[str, list[int]]:
    """Return the given ids of each split in rising order, each known and in one split only."""
    known_ids = set(episode_ids)
    split_of: dict[int, str] = {}
    ids_by_split = {split: sorted(int(episode) for episode in members) for split, members in splits.items()}
    for split, members in ids_by_split.items():
        for episode in members:
            if episode not in known_ids:
                msg = f"Split {split!r}: there is no episode {episode}. dataset.episodes lists the ids."
                raise SchemaMismatchError(msg)
            if episode in split_of:
                msg = f"Episode {episode}: expected one split, got {split_of[episode]!r} and {split!r}."
                raise SchemaMismatchError(msg)
            split_of[episode] = split
    return ids_by_split


def _assign_by_share(episode_ids: Sequence[int], shares: Mapping[str, float], seed: int) -> dict[str, list[int]]:
    total = sum(shares.values())
    if min(shares.values()) < 0 or not abs(total - 1) <= 1e-9:  # a NaN compares as False
        msg = f"Splits: expected shares that are non-negative and sum to 1, got {dict(shares)} (sum {total:g})."
        raise SchemaMismatchError(msg)
    shuffled = sorted(episode_ids, key=lambda episode: hashlib.sha256(f"{seed}/{episode}".encode()).digest())
    stops = [round(share * len(episode_ids)) for share in itertools.accumulate(shares.values())]
    starts = [0, *stops[:-1]]
    return {split: sorted(shuffled[start:stop]) for split, start, stop in zip(shares, starts, stops, strict=True)}


def _infer_schema(record: EpisodeRecord | None) -> Schema:
    """Return the schema of an episode record."""
    if not isinstance(record, EpisodeRecord):
        actual = "no episode at all" if record is None else f"a {type(record).__name__}"
        msg = f"Export: expected a recording, a dataset or episode records, got {actual}. If it is empty, pass schema=."
        raise SchemaMismatchError(msg)
    fields = [
        Field.of_array(name, array, observed=name in record.final) for name, array in sorted(record.columns.items())
    ]
    return Schema(tuple(fields))
