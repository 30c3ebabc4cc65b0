"""What every importer returns: a schema, and episodes that are read one at a time while they are exported."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rlhive.data.episodes import EpisodeRecord
from rlhive.data.schema import Schema


@dataclass(frozen=True)
class Source:
    """Episodes of another format, ready for :func:`rlhive.data.export.export`.

    Attributes:
        schema: Of the transitions.
        records: Yields the episodes in rising order of their ids; each call reads the files anew, one episode in
            memory at a time.
        num_episodes: How many it yields.
        env_name: Environment of the episodes; empty where the files do not say.
        runs: Provenance for the manifest, one entry per file, whose "run" the episodes name: its path, its SHA-256, and
            what was detected in it.
        notes: What was detected, converted or left out, a sentence each; for the log and for the user to read.
    """

    schema: Schema
    records: Callable[[], Iterator[EpisodeRecord]]
    num_episodes: int
    env_name: str = ""
    runs: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
