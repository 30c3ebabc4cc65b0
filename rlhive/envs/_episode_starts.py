"""Seeds and states of the latest resets, from which a recorder takes those of the episodes that it records."""

from collections import deque

import numpy as np

#: Number of resets that are remembered: more than a batch of a collector has episodes.
_CAPACITY = 256

NotedStart = tuple[int | None, dict[str, np.ndarray]]


class EpisodeStarts:
    """The latest resets of an environment, found by their observation."""

    def __init__(self) -> None:
        self._noted: deque[tuple[bytes, NotedStart]] = deque(maxlen=_CAPACITY)

    def note(self, observation: np.ndarray, seed: int | None, state: dict[str, np.ndarray]) -> None:
        """Remember a reset."""
        self._noted.append((observation.tobytes(), (seed, state)))

    def take(self, observation: np.ndarray) -> NotedStart | None:
        """Return seed and state of the oldest reset with this observation, and forget it; None if there is none."""
        content = observation.tobytes()
        for entry in self._noted:
            if entry[0] == content:
                self._noted.remove(entry)
                return entry[1]
        return None
