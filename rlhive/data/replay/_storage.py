"""The read-only TorchRL storage over the packed cache: from indices of transitions to their values."""

import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from torchrl.data.replay_buffers.storages import Storage

from rlhive import keys
from rlhive.data._dtypes import UNSIGNED_DTYPES
from rlhive.data.replay._action_chunks import ActionChunks
from rlhive.data.replay._gather import (
    GAMMA,
    NONTERMINAL,
    SINGLE_STEP,
    STEPS_TO_NEXT,
    RaggedChoice,
    Window,
    build_plans,
    select_columns,
    set_nested,
)
from rlhive.data.replay._items import compute_in_blocks, take_elements
from rlhive.data.replay._layout import PackedCache
from rlhive.data.replay._leaves import Leaves
from rlhive.data.replay._returns import compute_returns_to_go, count_steps
from rlhive.errors import CheckpointMismatchError, SchemaMismatchError

#: All transitions are read in chunks of this many rows.
_CHUNK_ROWS = 65_536


class PackedStorage(Storage):
    """Transitions of a packed cache, or of some of its episodes; read-only.

    Every batch is a copy: a write into it changes neither the cache nor a later batch. Its leaves are views of one
    block, so that one leaf keeps the memory of the whole batch alive; ``.contiguous()`` copies a leaf out. A pickle
    holds the path of the cache folder and no data, so that worker processes share the page cache.

    Args:
        packed: The open cache.
        episodes: Positions of the selected episodes, int64; None for all.
        keys: Nested keys of the root to read; an observed key comes with its twin below ``"next"``, and ``episode``
            and the flags always come. None for all.
        window: The rows that make one item, and the normalisation.
        return_to_go: Discount of the sum of the rewards from a transition to its episode's end, as TorchRL's
            ``Reward2GoTransform``; None for no such key. Every reward is read once, when the storage is made.
        return_to_go_key: Key of that sum.
        action_chunk: Number of actions in ``action_chunk``; None for no such key.
        ragged: What becomes of ragged fields; nested tensors have one dimension of rows, so that items are read by
            flat indices only.
        device: Device of the batches.
        resident: Whether the rows are copied into the device's memory and sampled there. Otherwise they stay mapped,
            and every batch is copied to the device, to a GPU from pinned memory.

    Raises:
        SchemaMismatchError: The schema has no field of a key, or a field does not have the dtype that an option needs.

    Example:
        >>> storage.get(torch.tensor([0, 7]))["next", "reward"].shape  # doctest: +SKIP
        torch.Size([2, 1])
    """

    def __init__(
        self,
        packed: PackedCache,
        episodes: torch.Tensor | None = None,
        *,
        keys: Sequence[keys.NestedKey] | None = None,
        window: Window = SINGLE_STEP,
        return_to_go: float | None = None,
        return_to_go_key: keys.NestedKey = keys.RETURN_TO_GO,
        action_chunk: int | None = None,
        ragged: RaggedChoice = "error",
        device: torch.device | str = "cpu",
        resident: bool = False,
    ):
        self._episodes = torch.arange(len(packed.episodes), device="cpu") if episodes is None else episodes
        self._keys = keys
        self._window = window
        self._return_to_go_gamma = return_to_go
        self._return_to_go_key = return_to_go_key
        self._action_chunk = action_chunk
        self._ragged = ragged
        self._batch_device = torch.device(device)
        self._resident = resident
        self._open(packed)
        super().__init__(self._num_transitions)

    def _open(self, packed: PackedCache) -> None:
        """Set everything that is derived from the cache, which a pickle does not hold."""
        self._packed = packed
        table = packed.episodes[self._episodes]
        self._episode_ids, self._lengths = table[:, 0], table[:, 3]
        columns = select_columns(packed, self._keys, self._ragged)
        if self._resident:
            packed = packed.load(self._episodes, columns, self._batch_device)
            self._rows = packed.rows
        else:
            self._rows = packed.transition_rows(self._episodes)
        self._files = packed.files
        self._data_device = self._rows.device
        self._num_transitions = len(self._rows)
        self._plans = build_plans(packed, columns, self._window)
        self._ragged_rows = [part for part in packed.ragged if part.item.column in columns]
        # TensorDict.clone() adds 0 to the leaves of a TensorDict with a device, which torch cannot do with uint16 and
        # uint32 (tensordict 0.14). Batches of such leaves on the CPU therefore have tensors of a device, and none.
        has_unsigned = any(item.dtype in UNSIGNED_DTYPES for item in packed.schema.fields if item.column in columns)
        self._marked_device = None if has_unsigned and self._batch_device.type == "cpu" else self._batch_device
        # Steps since the episode's start and to its final row, for a window of several rows.
        self._steps: tuple[torch.Tensor, torch.Tensor] | None = None
        if not self._window.is_pair or self._action_chunk is not None:
            self._steps = count_steps(self._lengths, self._data_device)
        self._returns_to_go: torch.Tensor | None = None
        if self._return_to_go_gamma is not None:
            returns = compute_returns_to_go(packed, self._rows, self._lengths, self._return_to_go_gamma)
            self._returns_to_go = returns.to(self._batch_device)
        self._chunks: ActionChunks | None = None
        if self._action_chunk is not None:
            self._chunks = ActionChunks(packed, self._action_chunk, self._window)

    def variant(self, **changes: Any) -> "PackedStorage":
        """Return a storage of the same episodes with some keyword arguments changed."""
        arguments = {
            "keys": self._keys,
            "window": self._window,
            "return_to_go": self._return_to_go_gamma,
            "return_to_go_key": self._return_to_go_key,
            "action_chunk": self._action_chunk,
            "ragged": self._ragged,
            "device": self._batch_device,
            "resident": self._resident,
        }
        return PackedStorage(self._packed, self._episodes, **arguments | changes)

    @property
    def window(self) -> Window:
        """The rows that make one item."""
        return self._window

    def get(self, index: Any) -> TensorDict:
        """Return transitions as TED.

        Args:
            index: An int, a slice, or anything that indexes a one-dimensional tensor.

        Returns:
            TensorDict of the index's shape, owning its memory: the fields of the dataset, ``episode`` (int64), the
            root flags (False), and below ``"next"`` the observed fields of the following state, the true final one
            at an episode's end, with ``done`` derived. With ``n_step``, what ``MultiStepTransform`` adds.

        Raises:
            SchemaMismatchError: The index has two or more dimensions, and a field is ragged.
        """
        if type(index) is tuple and len(index) == 1:  # the form of TorchRL's slice samplers
            index = index[0]
        if not isinstance(index, torch.Tensor) or index.dtype is not torch.int64:
            index = torch.arange(self._num_transitions, device=self._data_device)[index]
        if index.device != self._data_device:
            index = index.to(self._data_device)
        flat = index if index.ndim == 1 else index.reshape(-1)
        if index.ndim > 1:
            self.require_equal_lengths(f"batches of the shape {tuple(index.shape)}")
        [batch] = self.get_many(flat, flat.shape[0])
        if index.ndim == 0:
            return batch[0]
        return batch if index.ndim == 1 else batch.reshape(index.shape)

    def get_many(self, index: torch.Tensor, batch_size: int) -> list[TensorDict]:
        """Return several batches from one gather, which costs less than one gather per batch.

        Args:
            index: int64 ``[num_batches * batch_size]``; negative ones count from the end.
            batch_size: Transitions per batch.

        Returns:
            The batches in order. They share one block of memory and do not overlap.
        """
        self._files.require_whole()
        rows, device = take_elements(self._rows, index), self._batch_device
        extra: dict[keys.NestedKey, torch.Tensor] = {}
        slots = None
        if self._steps is not None and not self._window.is_pair:
            since_start, to_end = self._steps
            steps = take_elements(since_start, index), take_elements(to_end, index)
            slots, num_steps = compute_in_blocks(self._window.slots, *steps, width=self._window.num_slots)
            if self._window.n_step > 1:
                added = compute_in_blocks(self._window.describe_steps, num_steps, width=1)
                extra = dict(
                    zip((STEPS_TO_NEXT, GAMMA, NONTERMINAL), (value.to(device) for value in added), strict=True)
                )
        batches = [Leaves() for _ in range(rows.shape[0] // batch_size)] if batch_size else [Leaves()]
        for plan in self._plans:
            plan.fill(batches, plan.gather(rows, slots, device))
        if self._ragged_rows:
            self._fill_ragged(batches, rows, slots)
        if self._returns_to_go is not None:
            extra[self._return_to_go_key] = take_elements(self._returns_to_go, index.to(device))
        if self._chunks is not None and self._steps is not None:
            chunks, mask = self._chunks.gather(rows, take_elements(self._steps[1], index), device)
            extra |= {keys.ACTION_CHUNK: chunks, keys.ACTION_CHUNK_MASK: mask}
        for key, value in extra.items():
            parts = (value,) if len(batches) == 1 else value.chunk(len(batches))
            for entries, chunk in zip(batches, parts, strict=True):
                set_nested(entries, key, chunk)
        size = torch.Size([batch_size])
        return [_build_tensordict(entries, size, self._marked_device) for entries in batches]

    def _fill_ragged(self, batches: list[Leaves], rows: torch.Tensor, slots: torch.Tensor | None) -> None:
        """Put nested tensors into the nested dictionaries of :meth:`get_many`; the last slot is the next state."""
        next_rows = rows + (1 if slots is None else slots[:, -1])
        for part in self._ragged_rows:
            key = (part.item.key,) if isinstance(part.item.key, str) else part.item.key
            sources = {key: rows} | ({(keys.NEXT, *key): next_rows} if part.item.observed else {})
            for leaf_key, source in sources.items():
                for entries, chunk in zip(batches, source.chunk(len(batches)), strict=True):
                    set_nested(entries, leaf_key, part.gather(chunk, self._batch_device))

    def require_equal_lengths(self, purpose: str) -> None:
        """Raise for what a nested tensor cannot do, if the batches hold one.

        Raises:
            SchemaMismatchError: Names the ragged fields.
        """
        if self._ragged_rows:
            names = ", ".join(part.item.column for part in self._ragged_rows)
            msg = (
                f'{names}: expected rows of one length for {purpose}, got different ones. Leave them out: ragged="drop"'
            )
            raise SchemaMismatchError(msg)

    def read_all(self) -> TensorDict:
        """Return all transitions as :meth:`get` does, each leaf in memory of its own."""
        if self._ragged_rows:  # one gather, since nested tensors cannot be filled piece by piece
            return self.get(slice(None))
        count = len(self)
        loaded = self.get(slice(0, 1)).apply(lambda leaf: leaf.new_empty((count, *leaf.shape[1:])), batch_size=[count])
        for start in range(0, count, _CHUNK_ROWS):
            rows = slice(start, min(start + _CHUNK_ROWS, count))
            loaded[rows].update_(self.get(rows))
        return loaded

    def read_key(self, key: keys.NestedKey) -> torch.Tensor:
        """Return a key of the dataset for all transitions, ``[N, *shape]``, whatever this storage reads and computes.

        Raises:
            SchemaMismatchError: The schema has no field of that key.
        """
        column = keys.key_to_column(key)
        observed = [item.column for item in self._packed.schema.observed]
        if column.removeprefix(f"{keys.NEXT}.") in observed:
            column = column.removeprefix(f"{keys.NEXT}.")
        plain = PackedStorage(self._packed, self._episodes, keys=[keys.column_to_key(column)])
        return plain.read_all()[key].to(self._data_device)

    @property
    def item_bytes(self) -> int:
        """Bytes that are read for one item of a batch."""
        ragged_bytes = sum(part.mean_bytes * (1 + part.item.observed) for part in self._ragged_rows)
        return sum(plan.item_bytes for plan in self._plans) + ragged_bytes

    def set(self, cursor: Any, data: Any, *, set_cursor: bool = True) -> None:
        """Refuse to write: a dataset version never changes.

        Raises:
            TypeError: Always.
        """
        msg = "A dataset's replay buffer is read-only. rlhive.extend() makes a buffer of its transitions that grows."
        raise TypeError(msg)

    def __len__(self) -> int:
        return self._num_transitions

    def contains(self, item: int) -> bool:
        """Return whether there is a transition of that index."""
        return -len(self) <= item < len(self)

    def _rand_given_ndim(self, batch_size: int) -> torch.Tensor:
        """Draw uniform indices as TorchRL does, without its code path for ``torch.compile``."""
        return torch.randint(0, self._num_transitions, (batch_size,), generator=self._rng, device=self.device)

    @property
    def _total_shape(self) -> torch.Size:
        """Shape of the storage, which TorchRL's prioritized slice sampler reads."""
        return torch.Size([len(self)])

    @property
    def _len_along_dim0(self) -> int:
        """Number of transitions, which TorchRL's prioritized slice sampler reads."""
        return len(self)

    @property
    def _is_full(self) -> bool:
        """Whether the transitions are a ring, whose last one may continue at the first: never."""
        return False

    @property
    def device(self) -> torch.device:
        """Device on which indices are drawn and rows are gathered: the CPU for mapped files."""
        return self._data_device

    def trajectories(self) -> torch.Tensor:
        """Return the episode's position for every transition, int64, for ``trajectories=`` of slice samplers."""
        lengths = self.lengths()
        return torch.repeat_interleave(torch.arange(len(lengths), device=self._data_device), lengths)

    @property
    def copies_to_gpu(self) -> bool:
        """Whether every batch is copied to a GPU."""
        return self._batch_device.type == "cuda" and self._data_device != self._batch_device

    def lengths(self) -> torch.Tensor:
        """Return the number of transitions of every selected episode, int64 ``[num_episodes]``, in storage order."""
        return self._lengths.to(self._data_device)

    def endings(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return whether every selected episode terminated, and whether it is done, bool ``[num_episodes]`` each."""
        last = self.get(self.lengths().cumsum(0) - 1)[keys.NEXT]
        terminated, done = (last[key].flatten(1).any(1).to(self._data_device) for key in (keys.TERMINATED, keys.DONE))
        return terminated, done

    @functools.cached_property
    def identity(self) -> dict[str, str]:
        """What determines the transitions and their order: the content's key, and a hash of the selected episodes."""
        episodes = hashlib.sha256(self._episode_ids.cpu().numpy().tobytes()).hexdigest()[:16]
        return {"data": str(self.state_dict()["folder"]), "episodes": episodes}

    def state_dict(self) -> dict[str, Any]:
        """Return what identifies the content; the content itself stays in the cache."""
        return {"folder": self._packed.content_key, "num_transitions": len(self)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that a checkpoint was made with this content.

        Raises:
            CheckpointMismatchError: The checkpoint was made with another content.
        """
        if dict(state_dict) != self.state_dict():
            msg = (
                f"Buffer checkpoint: expected {self.state_dict()}, got {dict(state_dict)}. "
                "Open the version that the checkpoint was made with."
            )
            raise CheckpointMismatchError(msg)

    def dumps(self, path: Path) -> None:
        """Write what identifies the content into a folder."""
        Path(path).mkdir(parents=True, exist_ok=True)
        (Path(path) / "storage.json").write_text(json.dumps(self.state_dict()), encoding="utf-8")

    def loads(self, path: Path) -> None:
        """Check a folder that :meth:`dumps` wrote.

        Raises:
            CheckpointMismatchError: The folder was written with another content.
        """
        self.load_state_dict(json.loads((Path(path) / "storage.json").read_text(encoding="utf-8")))

    def _empty(self) -> None:
        self.set(None, None)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        derived = (
            "_chunks",
            "_rows",
            "_plans",
            "_ragged_rows",
            "_files",
            "_steps",
            "_returns_to_go",
            "_episode_ids",
            "_lengths",
        )
        for name in (*derived, "_data_device", "_marked_device", "_num_transitions"):
            del state[name]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._open(self._packed)


def identity_collate(batch: TensorDict) -> TensorDict:
    """Return a batch as it is: the collate function for a storage that returns whole batches."""
    return batch


def _build_tensordict(entries: Leaves, size: torch.Size, device: torch.device | None) -> TensorDict:
    """Return nested entries as a TensorDict without checks: every leaf has the batch's size and device by construction.

    The dictionaries become the TensorDict's own.
    """
    for name, value in entries.items():
        if type(value) is Leaves:
            entries[name] = _build_tensordict(value, size, device)
    batch = TensorDict._new_unsafe(None, size)
    # As arguments of _new_unsafe, which copies them one by one, the entries would cost a quarter of the gather.
    batch._tensordict = entries
    batch._device = device
    return batch
