"""Offline to online: a buffer that starts from a dataset and goes on growing.

The dataset's transitions are copied into a ``LazyMemmapStorage``; what a collector gives is brought into the same form
on its way in. TorchRL's storage would fill a missing key with zeros and drop another dtype's meaning silently.
"""

from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.data import LazyMemmapStorage, TensorDictReplayBuffer
from torchrl.data.replay_buffers.samplers import Sampler

from rlhive import keys
from rlhive.data.replay._storage import PackedStorage
from rlhive.errors import SchemaMismatch

#: What TorchRL's collectors say of the rows that they give.
_TRAJECTORIES = ("collector", "traj_ids")
_MASK = ("collector", "mask")

_PIECE = 16_384


class OnlineReplayBuffer(TensorDictReplayBuffer):
    """TorchRL's replay buffer whose writes have the keys, dtypes and shapes of a dataset.

    :meth:`extend` takes what a collector gives as it is: any leading shape, time last; rows that the collector masks
    out are left out, and so are keys that the dataset does not have. ``episode`` goes on counting from the dataset's
    largest id: one new id for every trajectory, by ``("collector", "traj_ids")`` where it is there and by
    ``("next", "done")`` otherwise.
    """

    def extend(self, tensordicts: TensorDictBase, *, update_priority: bool | None = None) -> torch.Tensor:
        """Add transitions; see ``TensorDictReplayBuffer.extend``.

        Raises:
            SchemaMismatch: A key of the dataset is missing, or has another dtype or shape.
        """
        return super().extend(self._accept(tensordicts), update_priority=update_priority)

    def add(self, data: TensorDictBase) -> torch.Tensor:
        """Add one transition, batch size ``[]``; see :meth:`extend`."""
        return self.extend(data.unsqueeze(0))

    def _start_from(self, storage: PackedStorage) -> None:
        """Copy a dataset, a piece at a time, and take its form for the promise."""
        self._row = storage.get(slice(0, 1))[0].clone()
        self._next_id, self._open_ids = 0, {}
        for start in range(0, len(storage), _PIECE):
            piece = storage.get(slice(start, min(start + _PIECE, len(storage))))
            self._next_id = max(self._next_id, int(piece[keys.EPISODE].max()) + 1)
            super().extend(piece, update_priority=False)

    def _accept(self, data: TensorDictBase) -> TensorDict:
        if not data.ndim:
            return self._accept(data.unsqueeze(0))
        if keys.EPISODE not in data:
            data = data.copy().set(keys.EPISODE, self._episodes_of(data))
        rows = data.reshape(-1)
        mask = rows.get(_MASK, None)
        rows = rows if mask is None else rows[mask.reshape(-1)]
        accepted = TensorDict({}, rows.batch_size)
        for key, promised in self._row.items(True, True):
            value = rows.get(key, None)
            if value is None or value.dtype != promised.dtype or value.shape[1:] != promised.shape:
                got = "none" if value is None else f"{value.dtype} {tuple(value.shape[1:])}"
                msg = (
                    f"Key {keys.key_to_column(key)}: expected {promised.dtype} {tuple(promised.shape)} as in the "
                    f"dataset, got {got}. Add or convert it in the environment, or leave it out with keys=."
                )
                raise SchemaMismatch(msg)
            accepted.set(key, value.to("cpu"))
        return accepted

    def _episodes_of(self, data: TensorDictBase) -> torch.Tensor:
        """New episode ids ``[*, T]``; a trajectory that goes on in the next call keeps its id."""
        given = data.get(_TRAJECTORIES, None)
        if given is None:
            return self._by_ends(data)
        given = given.reshape(data.shape)
        ids = torch.empty_like(given, dtype=torch.int64)
        for trajectory in given.unique().tolist():
            if trajectory not in self._open_ids:
                self._open_ids[trajectory] = self._new_id()
            ids[given == trajectory] = self._open_ids[trajectory]
        return ids

    def _by_ends(self, data: TensorDictBase) -> torch.Tensor:
        done = data[keys.NEXT_DONE].reshape(*data.shape, -1).any(-1).reshape(-1, data.shape[-1])
        ids = torch.empty(done.shape, dtype=torch.int64)
        for row, ends in enumerate(done.tolist()):
            for step, end in enumerate(ends):
                if ("row", row) not in self._open_ids:
                    self._open_ids["row", row] = self._new_id()
                ids[row, step] = self._open_ids["row", row]
                if end:
                    del self._open_ids["row", row]
        return ids.reshape(data.shape)

    def _new_id(self) -> int:
        self._next_id += 1
        return self._next_id - 1


def extend(
    source: PackedStorage | TensorDictReplayBuffer,
    capacity: int,
    *,
    batch_size: int = 256,
    folder: Path | str | None = None,
    sampler: Sampler | None = None,
    **options: Any,
) -> OnlineReplayBuffer:
    """Return a buffer that holds a dataset's transitions, each once and in order, and takes more.

    Args:
        source: A dataset's buffer or storage; it stays as it is.
        capacity: Transitions that the new buffer holds; then the oldest, the dataset's first, are overwritten.
        batch_size: Transitions per ``sample()``.
        folder: Where the memmaps go; a temporary folder by default, removed at the end of the process.
        sampler: One of TorchRL's; uniform with replacement by default.
        options: More arguments of ``TensorDictReplayBuffer``: ``prefetch``, ``transform``, …

    Raises:
        ValueError: The dataset is empty, or the capacity is less than its transitions.

    Example:
        >>> online = extend(dataset.as_replay_buffer(), 1_000_000)  # doctest: +SKIP
        >>> for data in Collector(env, policy, frames_per_batch=200):
        ...     online.extend(data)
    """
    storage = source if isinstance(source, PackedStorage) else source.storage
    if not 0 < len(storage) <= capacity:
        msg = f"capacity={capacity}: expected room for the dataset's transitions, got {len(storage)}. Ask for more."
        raise ValueError(msg)
    buffer = OnlineReplayBuffer(
        storage=LazyMemmapStorage(capacity, scratch_dir=folder), sampler=sampler, batch_size=batch_size, **options
    )
    buffer._start_from(storage)
    return buffer
