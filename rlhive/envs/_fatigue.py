"""Fatigue of RoboHive's muscles: the loads since the episode's start, from which each step computes the strengths."""

from typing import Any

import numpy as np

from rlhive.envs._model_fields import require_numbers
from rlhive.envs._task_attributes import require_integers


class Fatigue:
    """The load history of a task with the muscle condition "fatigue".

    RoboHive appends one load per muscle and step, sums them up in every step, and goes on over resets.

    Args:
        env: RoboHive's environment, before its first episode.
        horizon: Maximum episode length in steps.
    """

    def __init__(self, env: Any, horizon: int) -> None:
        self._env = env
        self._built = {muscle: list(loads) for muscle, loads in env.f_load.items()}
        self._capacity = len(next(iter(self._built.values()))) + horizon

    @property
    def size(self) -> int:
        """Number of float64 numbers in a checkpoint."""
        return 1 + len(self._built) * self._capacity

    def restore(self) -> None:
        """Set the loads of construction."""
        self._env.f_load = {muscle: list(loads) for muscle, loads in self._built.items()}

    def read(self) -> np.ndarray:
        """Return the number of steps, then the loads of each muscle, padded with zeros.

        Raises:
            ValueError: More steps were made than the horizon has.
        """
        loads = np.array(list(self._env.f_load.values()), np.float64).reshape(len(self._built), -1)
        if loads.shape[1] > self._capacity:
            msg = f"expected {self._capacity} loads per muscle at most, got {loads.shape[1]}: the horizon is exceeded"
            raise ValueError(msg)
        padded = np.zeros((len(self._built), self._capacity))
        padded[:, : loads.shape[1]] = loads
        return np.concatenate([[loads.shape[1]], padded.reshape(-1)])

    def require(self, numbers: np.ndarray) -> None:
        """Raise ValueError if numbers are not those of :meth:`read`."""
        require_numbers("fatigue", numbers)
        require_integers("fatigue", numbers[:1], 1, self._capacity)

    def write(self, numbers: np.ndarray) -> None:
        """Set the loads that :meth:`read` returned."""
        count = int(numbers[0])
        shape = np.shape(next(iter(self._built.values()))[0])
        rows = numbers[1:].reshape(len(self._built), self._capacity)[:, :count].reshape(-1, count, *shape)
        # Rows of arrays or of NumPy's scalars, as RoboHive appends them: both sum up in the same order.
        self._env.f_load = {muscle: list(row.copy()) for muscle, row in zip(self._built, rows, strict=True)}
