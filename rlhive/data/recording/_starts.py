"""Starts of episodes: an environment notes seed and state at each reset, a recorder finds them by the observation."""

from typing import Any

import numpy as np

from rlhive import keys
from rlhive.data._episodes import EpisodeStart
from rlhive.data._transition_batch import Leaves


def watch_starts(env: Any) -> Any:
    """Ask an environment, which may be below transforms, to note the starts of its episodes from now on.

    Returns:
        The function that takes the first observation of an episode and returns ``(seed, state)`` or None; None for an
        environment that cannot note them.
    """
    base = getattr(env, "base_env", env)
    return base.note_starts() if hasattr(type(base), "note_starts") else None


def find_start(take: Any, chunk: Leaves) -> EpisodeStart | None:
    """Return the start of the episode whose first transitions are given, where the environment noted it.

    Args:
        take: What :func:`watch_starts` returned.
        chunk: The first transitions, ``[T, *shape]`` by column name.
    """
    if take is None or keys.OBSERVATION not in chunk:
        return None
    noted = take(np.ascontiguousarray(chunk[keys.OBSERVATION][0]))
    return None if noted is None else EpisodeStart(*noted)
