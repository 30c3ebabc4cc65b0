"""Offline to online: a replay buffer that starts with a dataset's transitions and keeps growing.

The dataset's transitions are copied into a ``LazyMemmapStorage``. What a collector returns is checked and brought to
the dataset's keys, dtypes and shapes first: TorchRL's storage would silently fill a missing key with zeros and cast
other dtypes.
"""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.data import LazyMemmapStorage, TensorDictReplayBuffer
from torchrl.data.replay_buffers.samplers import Sampler

from rlhive import keys
from rlhive.data.replay._samplers import MASK
from rlhive.data.replay._storage import PackedStorage
from rlhive.errors import SchemaMismatchError

#: Key of the trajectory ids of TorchRL's collectors.
_TRAJECTORY_IDS = ("collector", "traj_ids")

_CHUNK_ROWS = 16_384


class OnlineReplayBuffer(TensorDictReplayBuffer):
    """TorchRL's replay buffer whose transitions all have the keys, dtypes and shapes of a dataset.

    :meth:`extend` takes a collector's batches as they are: any leading shape, time last. Rows that the collector
    masks out and keys that the dataset does not have are left out. ``episode`` continues after the dataset's largest
    id, with one new id per trajectory: trajectories are told apart by ``("collector", "traj_ids")`` if present,
    otherwise by ``("next", "done")``.
    """

    def extend(self, tensordicts: TensorDictBase, *, update_priority: bool | None = None) -> torch.Tensor:
        """Add transitions; see ``TensorDictReplayBuffer.extend``.

        Raises:
            SchemaMismatchError: A key of the dataset is missing, or has another dtype or shape.
        """
        return super().extend(self._conform(tensordicts), update_priority=update_priority)

    def add(self, data: TensorDictBase) -> torch.Tensor:
        """Add one transition, batch size ``[]``; see :meth:`extend`."""
        return self.extend(data.unsqueeze(0))

    def _copy_from(self, storage: PackedStorage) -> None:
        """Copy a dataset in chunks, and remember the keys, dtypes and shapes of its rows."""
        self._template = storage.get(slice(0, 1))[0].clone()
        self._next_id = 0
        # Episode id of every trajectory that has not ended, by its trajectory id or environment.
        self._open_ids: dict[Hashable, int] = {}
        for start in range(0, len(storage), _CHUNK_ROWS):
            chunk = storage.get(slice(start, min(start + _CHUNK_ROWS, len(storage))))
            self._next_id = max(self._next_id, int(chunk[keys.EPISODE].max()) + 1)
            super().extend(chunk, update_priority=False)

    def _conform(self, data: TensorDictBase) -> TensorDict:
        """Return the rows of a batch ``[n]`` with exactly the dataset's keys."""
        if not data.ndim:
            return self._conform(data.unsqueeze(0))
        if keys.EPISODE not in data:
            data = data.copy().set(keys.EPISODE, self._assign_episodes(data))
        rows = data.reshape(-1)
        mask = rows.get(MASK, None)
        rows = rows if mask is None else rows[mask.reshape(-1)]
        conformed = TensorDict({}, rows.batch_size)
        for key, expected in self._template.items(True, True):
            value = rows.get(key, None)
            if value is None or value.dtype != expected.dtype or value.shape[1:] != expected.shape:
                got = "none" if value is None else f"{value.dtype} {tuple(value.shape[1:])}"
                msg = (
                    f"Key {keys.key_to_column(key)}: expected {expected.dtype} {tuple(expected.shape)} as in the "
                    f"dataset, got {got}. Add or convert it in the environment, or leave it out with keys=."
                )
                raise SchemaMismatchError(msg)
            conformed.set(key, value.to("cpu"))
        return conformed

    def _assign_episodes(self, data: TensorDictBase) -> torch.Tensor:
        """Return new episode ids ``[*, T]``; a trajectory that continues in the next call keeps its id."""
        trajectory_ids = data.get(_TRAJECTORY_IDS, None)
        if trajectory_ids is None:
            return self._assign_episodes_by_done(data)
        trajectory_ids = trajectory_ids.reshape(data.shape)
        episode_ids = torch.empty_like(trajectory_ids, dtype=torch.int64)
        for trajectory in trajectory_ids.unique().tolist():
            episode_ids[trajectory_ids == trajectory] = self._open_id(trajectory)
        return episode_ids

    def _assign_episodes_by_done(self, data: TensorDictBase) -> torch.Tensor:
        """Return new episode ids ``[*, T]``, one per environment until it is done."""
        done = data[keys.NEXT_DONE].reshape(*data.shape, -1).any(-1).reshape(-1, data.shape[-1])
        episode_ids = torch.empty(done.shape, dtype=torch.int64)
        for env, is_done_at in enumerate(done.tolist()):
            for step, is_done in enumerate(is_done_at):
                episode_ids[env, step] = self._open_id(("env", env))
                if is_done:
                    del self._open_ids["env", env]
        return episode_ids.reshape(data.shape)

    def _open_id(self, trajectory: Hashable) -> int:
        """Return the episode id of a trajectory that has not ended; a new one for an unknown trajectory."""
        if trajectory not in self._open_ids:
            self._open_ids[trajectory] = self._next_id
            self._next_id += 1
        return self._open_ids[trajectory]


def extend(
    source: PackedStorage | TensorDictReplayBuffer,
    capacity: int,
    *,
    batch_size: int = 256,
    folder: Path | str | None = None,
    sampler: Sampler | None = None,
    **options: Any,
) -> OnlineReplayBuffer:
    """Return a replay buffer that starts with a dataset's transitions, in order, and can be extended.

    Args:
        source: Replay buffer or storage of a dataset; it does not change.
        capacity: Number of transitions of the new buffer. When it is full, the oldest are overwritten, the dataset's
            first.
        batch_size: Number of transitions per ``sample()``.
        folder: Folder of the memmap files; by default a temporary one that is removed when the process ends.
        sampler: A TorchRL sampler; uniform with replacement by default.
        options: Other arguments of ``TensorDictReplayBuffer``: ``prefetch``, ``transform``, …

    Raises:
        ValueError: The dataset is empty or has more transitions than ``capacity``.

    Example:
        >>> online = extend(dataset.as_replay_buffer(), 1_000_000)  # doctest: +SKIP
        >>> for data in Collector(env, policy, frames_per_batch=200):
        ...     online.extend(data)
    """
    storage = source if isinstance(source, PackedStorage) else source.storage
    if not len(storage):
        msg = "The dataset has no transitions: expected at least one"
        raise ValueError(msg)
    if len(storage) > capacity:
        msg = f"capacity={capacity}: expected at least {len(storage)}, the number of transitions in the dataset"
        raise ValueError(msg)
    buffer = OnlineReplayBuffer(
        storage=LazyMemmapStorage(capacity, scratch_dir=folder), sampler=sampler, batch_size=batch_size, **options
    )
    buffer._copy_from(storage)
    return buffer
