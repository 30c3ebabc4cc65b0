"""Which episodes are most alike: those whose observations and actions are alike at the same moments.

::

    episode ─► rows at MOMENTS evenly spaced steps ─► divided by the standard deviation over episodes ─► one vector
    distance: root mean square of the difference of two vectors
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhive.data import to_numbers
from rlhive.errors import SchemaMismatchError

if TYPE_CHECKING:
    from rlhive.data import EpisodeRecord

MOMENTS = 8
NUM_NEAREST = 8
#: Dimensions of a column that are compared.
_MAX_WIDTH = 256


class Neighbours:
    """The vectors of many episodes.

    Args:
        records: The episodes.
        columns: Columns of numbers that are compared.

    Raises:
        SchemaMismatchError: There is no such column.
    """

    def __init__(self, records: Iterable["EpisodeRecord"], columns: list[str]) -> None:
        if not columns:
            msg = "expected a column of numbers to compare episodes by, got none"
            raise SchemaMismatchError(msg)
        self._columns = columns
        pairs = [(record.episode, self._vector(record)) for record in records]
        self._episodes = np.array([episode for episode, _ in pairs], np.int64)
        vectors = np.array([vector for _, vector in pairs], np.float32)
        self._spread = np.maximum(vectors.std(axis=0), 1e-9)
        varying = vectors.std(axis=0) > 0
        self._weights = np.where(varying, 1 / self._spread, 0) / np.sqrt(max(1, varying.sum()))
        self._vectors = vectors * self._weights

    def find(self, record: "EpisodeRecord") -> dict[str, Any]:
        """Return the episodes nearest to one, the nearest first, with their distances in standard deviations."""
        difference = self._vectors - self._vector(record) * self._weights
        distances = np.sqrt(np.einsum("nd,nd->n", difference, difference))
        order = [index for index in np.argsort(distances, kind="stable") if self._episodes[index] != record.episode]
        nearest = [
            {"episode": int(self._episodes[index]), "distance": float(f"{distances[index]:.4g}")}
            for index in order[:NUM_NEAREST]
        ]
        return {"nearest": nearest, "compared": len(self._episodes), "moments": MOMENTS}

    def _vector(self, record: "EpisodeRecord") -> np.ndarray:
        moments = np.linspace(0, record.length - 1, MOMENTS).round().astype(int)
        rows = [
            to_numbers(record.columns[name][moments]).reshape(MOMENTS, -1)[:, :_MAX_WIDTH] for name in self._columns
        ]
        return np.nan_to_num(np.concatenate([part.ravel() for part in rows]).astype(np.float32), posinf=0, neginf=0)
