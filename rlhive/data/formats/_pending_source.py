"""A source of episodes that are read one at a time, when they are needed."""

from collections.abc import Callable, Iterator
from typing import Any

from rlhive.data._episodes import EpisodeRecord
from rlhive.data._schema import Schema
from rlhive.data.formats._episode_source import EpisodeSource, PendingEpisode
from rlhive.data.formats._transitions import finish_episode
from rlhive.errors import RLHiveError


def build_source(
    pending: Callable[[], Iterator[PendingEpisode]], *, strict: bool = False, **fields: Any
) -> EpisodeSource:
    """Return a source of episodes that are read one at a time.

    Args:
        pending: Starts a pass over the episodes.
        strict: Whether to raise at once where no episode can be read. Otherwise an option of the import may leave out
            what cannot be read; a reader with an option of its own for that has no use for it.
        **fields: Further fields of the source: num_episodes, notes, runs, env_name, splits.

    Raises:
        RLHiveError: No episode can be read, and that is strict.
    """
    schema = _infer_from_first(pending, strict=strict)

    def records() -> Iterator[EpisodeRecord]:
        for item in pending():
            arrays = finish_episode(item.read(_keep_all))
            if arrays is not None:
                yield arrays.to_record(schema, episode=item.episode, **item.fields)

    return EpisodeSource(schema, records, pending=pending, **fields)


def _infer_from_first(pending: Callable[[], Iterator[PendingEpisode]], *, strict: bool) -> Schema:
    """Return the schema of the first episode that can be read; without one, ``records()`` raises what is wrong."""
    errors: list[Exception] = []
    try:
        for item in pending():
            try:
                arrays = finish_episode(item.read(_keep_all))
                if arrays is not None:
                    return arrays.infer_schema()
            except Exception as error:  # an option may leave the episode or the column out
                errors.append(error)
    except RLHiveError as error:
        errors.append(error)
    if errors and strict:
        raise errors[0]
    return Schema(())


def _keep_all(*names: str) -> bool:
    """Return True: every column is wanted."""
    return True
