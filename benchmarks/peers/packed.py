"""The lower bound: one packed row-major array in memory, two gathers, and a TensorDict around them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict

from benchmarks.peers.source import ACTION, OBSERVATION, Source
from benchmarks.peers.ted import arrays_of
from benchmarks.peers.worker import Drawing, UnavailableError, batch_of, folder_bytes

WIDTH = OBSERVATION + ACTION + 3


class Peer:
    """Observation, action, reward and flags side by side as float32; ``next`` is the following row."""

    def __init__(self, source: Source, folder: Path):
        self._source, self._folder = source, Path(folder)

    def versions(self) -> dict[str, str]:
        """Return the versions of the measured libraries."""
        return {"torch": torch.__version__}

    def write(self) -> dict[str, Any]:
        """Write the packed array, and the row of each transition."""
        source, rows = self._source, self._source.rows()
        packed = np.zeros((len(source.observation), WIDTH), np.float32)
        packed[:, :OBSERVATION] = source.observation
        columns = [source.action, source.reward[:, None], source.terminated[:, None], source.truncated[:, None]]
        packed[rows, OBSERVATION:] = np.concatenate(columns, axis=1)
        np.save(self._folder / "packed.npy", packed)
        np.save(self._folder / "rows.npy", rows)
        return {"bytes": folder_bytes(self._folder)}

    def open(self, workload: str, variant: str) -> Drawing:
        """Gather uniformly drawn rows and the rows that follow them."""
        if workload not in ("random_256", "random_4096"):
            msg = "a yardstick for random batches only"
            raise UnavailableError(msg)
        packed, rows = (torch.from_numpy(np.load(self._folder / f"{name}.npy")) for name in ("packed", "rows"))
        size = batch_of(workload)

        def draw() -> TensorDict:
            index = rows[torch.randint(0, len(rows), (size,))]
            return _wrap(packed.index_select(0, index), packed.index_select(0, index + 1))

        return Drawing(draw, arrays_of)


def _wrap(rows: torch.Tensor, next_rows: torch.Tensor) -> TensorDict:
    batch_size = rows.shape[:1]
    terminated, truncated = rows[:, -2:-1] > 0, rows[:, -1:] > 0
    next_leaves = {
        "observation": next_rows[:, :OBSERVATION],
        "reward": rows[:, -3:-2],
        "terminated": terminated,
        "truncated": truncated,
        "done": terminated | truncated,
    }
    leaves = {"observation": rows[:, :OBSERVATION], "action": rows[:, OBSERVATION : OBSERVATION + ACTION]}
    leaves["next"] = TensorDict._new_unsafe(next_leaves, batch_size)
    return TensorDict._new_unsafe(leaves, batch_size)
