"""NumPy alone, as a reference: five arrays, one gather each, no TensorDict."""

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.source import Source
from benchmarks.peers.worker import Drawing, UnavailableError, batch_of, folder_bytes


class Peer:
    """Observation, action, reward, next observation and terminated in memory, gathered by ``take``."""

    def __init__(self, source: Source, folder: Path):
        self._source, self._folder = source, Path(folder)

    def versions(self) -> dict[str, str]:
        """Return no versions; the worker adds that of NumPy."""
        return {}

    def write(self) -> dict[str, Any]:
        """Write the five arrays."""
        source, rows = self._source, self._source.rows()
        arrays = [
            source.observation[rows],
            source.action,
            source.reward,
            source.observation[rows + 1],
            source.terminated,
        ]
        for index, array in enumerate(arrays):
            np.save(self._folder / f"{index}.npy", array)
        return {"bytes": folder_bytes(self._folder)}

    def open(self, workload: str, variant: str) -> Drawing:
        """Gather uniformly drawn rows."""
        if workload not in ("random_256", "random_4096"):
            msg = "a yardstick for random batches only"
            raise UnavailableError(msg)
        arrays = [np.load(self._folder / f"{index}.npy") for index in range(5)]
        generator, size = np.random.default_rng(0), batch_of(workload)

        def draw() -> list[np.ndarray]:
            index = generator.integers(0, len(arrays[0]), size)
            return [array.take(index, axis=0) for array in arrays]

        names = ("observation", "action", "reward", "next_observation", "terminated")
        return Drawing(draw, lambda batch: dict(zip(names, batch, strict=True)))
