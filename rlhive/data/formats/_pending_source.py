"""A source of episodes that are read one at a time, when they are needed."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from rlhive.data._episodes import EpisodeRecord
from rlhive.data._schema import Schema
from rlhive.data.formats._episode_source import EpisodeSource, PendingEpisode
from rlhive.data.formats._transitions import finish_episode
from rlhive.errors import RLHiveError


def build_source(pending: Callable[[], Iterator[PendingEpisode]], **fields: Any) -> EpisodeSource:
    """Return a source of episodes that are read one at a time.

    Args:
        pending: Starts a pass over the episodes.
        **fields: Further fields of the source: num_episodes, notes, runs, env_name, splits.
    """
    schema = _infer_from_first(pending)

    def records() -> Iterator[EpisodeRecord]:
        for item in pending():
            arrays = finish_episode(item.read(_keep_all))
            if arrays is not None:
                yield arrays.to_record(schema, episode=item.episode, **item.fields)

    return EpisodeSource(schema, records, pending=pending, **fields)


def _infer_from_first(pending: Callable[[], Iterator[PendingEpisode]]) -> Schema:
    """Return the schema of the first episode that can be read; without one, ``records()`` raises what is wrong."""
    try:
        for item in pending():
            with contextlib.suppress(Exception):  # an option may leave the episode or the column out
                arrays = finish_episode(item.read(_keep_all))
                if arrays is not None:
                    return arrays.infer_schema()
    except RLHiveError:
        pass
    return Schema(())


def _keep_all(*names: str) -> bool:
    """Return True: every column is wanted."""
    return True
