"""Offline to online: a replay buffer that starts with a dataset's transitions and keeps growing.

The dataset's transitions are copied into a ``LazyMemmapStorage``. What a collector returns is checked and brought to
the dataset's keys, dtypes and shapes first: TorchRL's storage would silently fill a missing key with zeros and cast
other dtypes.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.data import LazyMemmapStorage, PrioritizedSampler, TensorDictReplayBuffer
from torchrl.data.replay_buffers.samplers import Sampler
from torchrl.data.replay_buffers.utils import _reduce

from rlhive import keys
from rlhive.data._transition_batch import MARKER_KEYS, TransitionBatch
from rlhive.data.replay._episode_ids import EpisodeIds
from rlhive.data.replay._samplers import MASK
from rlhive.data.replay._storage import PackedStorage
from rlhive.data.replay._unsigned import UnsignedMemmapStorage, has_unsigned
from rlhive.data.replay._validation import require_priorities
from rlhive.errors import SchemaMismatchError

#: Where a checkpoint has the episode ids.
_EPISODES = "episodes"

_CHUNK_ROWS = 16_384


class OnlineReplayBuffer(TensorDictReplayBuffer):
    """TorchRL's replay buffer whose transitions all have the keys, dtypes and shapes of a dataset.

    :meth:`extend` takes a collector's batches as they are: any leading shape, time last, also an empty one. Rows that
    the collector masks out and keys that the dataset does not have are left out.

    ``episode`` continues after the largest id so far, with one new id per trajectory. As in a Recorder, trajectories
    are told apart by ``("collector", "traj_ids")`` or environment, and by their observations: rows go on with an
    episode if they begin with the observation that it stopped at. An ``episode`` of the rows' own is kept where it is
    larger than every id so far; otherwise it counts as a trajectory id. No id is given twice, whatever collectors,
    restarts and checkpoints come.
    """

    def extend(self, tensordicts: TensorDictBase, *, update_priority: bool | None = None) -> torch.Tensor:
        """Add transitions; see ``TensorDictReplayBuffer.extend``.

        Raises:
            SchemaMismatchError: A key of the dataset is missing, or has another dtype or shape.
            InvalidArgumentError: A priority below ``priority_key`` is negative, infinite or NaN.
        """
        data = tensordicts if tensordicts.ndim else tensordicts.unsqueeze(0)
        priority = data.get(self.priority_key, None)
        if priority is not None and update_priority is not False:
            require_priorities(priority)
        rows, is_valid = self._conform(data)
        if not len(rows):
            return torch.empty(0, dtype=torch.int64, device="cpu")
        index = super().extend(rows, update_priority=False)
        if priority is not None and update_priority is not False and isinstance(self._sampler, PrioritizedSampler):
            flat = priority.reshape(data.batch_size.numel(), -1).to("cpu")[is_valid]
            self.update_priority(index, _reduce(flat, self._sampler.reduction, dim=1))
        return index

    def add(self, data: TensorDictBase) -> torch.Tensor:
        """Add one transition, batch size ``[]``; see :meth:`extend`."""
        return self.extend(data.unsqueeze(0))

    def update_priority(self, index: Any, priority: Any) -> None:
        """Set the priorities of some transitions; see ``TensorDictReplayBuffer.update_priority``.

        Raises:
            InvalidArgumentError: A priority is negative, infinite or NaN; no priority is set.
        """
        require_priorities(priority)
        super().update_priority(index, priority)

    def complete_episodes(self) -> set[int]:
        """Return the ids of the episodes whose beginning is still stored."""
        self._ids.forget_overwritten(max(0, self._writer._write_count - len(self._storage)))
        return self._ids.complete_ids()

    def state_dict(self) -> dict[str, Any]:
        """Return the state, with the next episode id."""
        return super().state_dict() | {_EPISODES: self._ids.to_json()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state of :meth:`state_dict`; later transitions begin new episodes."""
        super().load_state_dict(state_dict)
        self._ids = EpisodeIds.from_json(state_dict.get(_EPISODES), self._stored_ids())

    def dumps(self, path: Path | str) -> None:
        """Write the state into a folder, with the next episode id."""
        super().dumps(path)
        (Path(path) / f"{_EPISODES}.json").write_text(json.dumps(self._ids.to_json()), encoding="utf-8")

    def loads(self, path: Path | str) -> None:
        """Load a folder of :meth:`dumps`, or one of TorchRL's; later transitions begin new episodes."""
        super().loads(path)
        file = Path(path) / f"{_EPISODES}.json"
        state = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
        self._ids = EpisodeIds.from_json(state, self._stored_ids())

    def empty(self, empty_write_count: bool = True) -> None:
        """Remove all transitions; the ids of their episodes are not given again."""
        super().empty(empty_write_count)
        self._ids = EpisodeIds(self._ids.next_id)

    def _copy_from(self, storage: PackedStorage) -> None:
        """Copy a dataset in chunks, and remember the keys, dtypes and shapes of its rows."""
        self._template = storage.get(slice(0, 1))[0].clone()
        self._ids = EpisodeIds()
        for start in range(0, len(storage), _CHUNK_ROWS):
            chunk = storage.get(slice(start, min(start + _CHUNK_ROWS, len(storage))))
            self._ids.add_known(chunk[keys.EPISODE], start)
            super().extend(chunk, update_priority=False)

    def _stored_ids(self) -> torch.Tensor:
        return self._storage.get(slice(None))[keys.EPISODE] if len(self._storage) else torch.zeros(0, device="cpu")

    def _conform(self, data: TensorDictBase) -> tuple[TensorDict, torch.Tensor]:
        """Return the rows of a batch with exactly the dataset's keys, and which rows of the batch these are.

        Nothing changes if a key does not fit.
        """
        num_rows = data.batch_size.numel()  # TensorDict.numel() is at least 1
        if not num_rows:
            return TensorDict({}, [0]), torch.zeros(0, dtype=torch.bool, device="cpu")
        mask = data.get(MASK, None)
        is_valid = torch.ones(num_rows, dtype=torch.bool, device="cpu") if mask is None else mask.reshape(-1).to("cpu")
        flat = data.reshape(-1)
        rows = TensorDict({}, flat.batch_size)
        for key, expected in self._template.items(True, True):
            value = flat.get(key, None)
            if key == keys.EPISODE and value is None:
                continue
            if value is None or not _is_convertible(value, expected) or value.shape[1:] != expected.shape:
                got = "none" if value is None else f"{value.dtype} {tuple(value.shape[1:])}"
                msg = (
                    f"Key {keys.key_to_column(key)}: expected {expected.dtype} {tuple(expected.shape)} as in the "
                    f"dataset, got {got}. Add or convert it in the environment, or leave it out with keys=."
                )
                raise SchemaMismatchError(msg)
            rows.set(key, value.to("cpu", expected.dtype))
        episode_ids = self._assign_episodes(data, rows, is_valid)
        is_valid &= episode_ids >= 0
        return rows.set(keys.EPISODE, episode_ids)[is_valid], is_valid

    def _assign_episodes(self, data: TensorDictBase, rows: TensorDict, is_valid: torch.Tensor) -> torch.Tensor:
        """Return the episode id of each row; -1 for padding."""
        markers = data.select(*MARKER_KEYS, strict=False).to("cpu")
        batch = TransitionBatch.from_tensordict(markers.update(rows.reshape(data.shape)), context="Online buffer")
        shape = (batch.num_envs, batch.num_steps)
        own_ids = rows.get(keys.EPISODE, None)
        if own_ids is not None:
            batch = replace(batch, trajectory_ids=own_ids.reshape(shape).numpy())
        batch = replace(batch, valid=is_valid.reshape(shape).numpy() & (True if batch.valid is None else batch.valid))
        return self._ids.assign(batch, row=self._writer._write_count, are_episodes=own_ids is not None)


def _is_convertible(value: torch.Tensor, expected: torch.Tensor) -> bool:
    """Return whether a value has the dtype that is expected, or both are floating point."""
    return value.dtype == expected.dtype or (value.is_floating_point() and expected.is_floating_point())


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

    Floating-point values that are added are converted to the dtypes of ``source``: float32 by default, which is what
    networks compute in. Pass ``as_replay_buffer(dtype=None)`` to keep what environments return, for an export.

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
        SchemaMismatchError: The batches hold nested tensors.

    Example:
        >>> online = extend(dataset.as_replay_buffer(), 1_000_000)  # doctest: +SKIP
        >>> for data in Collector(env, policy, frames_per_batch=200):
        ...     online.extend(data)
    """
    storage = source if isinstance(source, PackedStorage) else source.storage
    storage.require_equal_lengths("a buffer that grows")
    if not len(storage):
        msg = "The dataset has no transitions: expected at least one"
        raise ValueError(msg)
    if len(storage) > capacity:
        msg = f"capacity={capacity}: expected at least {len(storage)}, the number of transitions in the dataset"
        raise ValueError(msg)
    make_rows = UnsignedMemmapStorage if has_unsigned(storage.get(slice(0, 1))) else LazyMemmapStorage
    buffer = OnlineReplayBuffer(
        storage=make_rows(capacity, scratch_dir=folder), sampler=sampler, batch_size=batch_size, **options
    )
    buffer._copy_from(storage)
    return buffer
