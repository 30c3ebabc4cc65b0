"""The read-only TorchRL storage over the packed cache: which values do these transitions have?

One gather per block answers: an index selects rows of a view in which every row overlaps its successor, so that one
copy brings a transition and the row below it. Every leaf of the batch is a strided window into that copy::

    block      [num_rows, W] words  ── as_strided ──►  [num_rows - 1, 2 W], row stride W
    gathered   [n, 2 W]   │ row t: episode, observation, action, … │ row t+1: observation, … │
                              └ root, next.reward, flags               └ next.observation
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from torchrl.data.replay_buffers.storages import Storage

from rlhive import keys
from rlhive.data.packed import Packed, Place
from rlhive.errors import CheckpointMismatch, SchemaMismatch

_WORD = 8
_CPU = torch.device("cpu")


class PackedStorage(Storage):
    """Transitions of a packed cache, or of some of its episodes; read-only.

    Every batch is a copy: writing into it changes neither the cache nor a later batch. Its leaves are windows into
    one block, so that keeping one leaf keeps the batch in memory; ``.contiguous()`` cuts one out. Pickling sends the
    folder's path, not the data, so that worker processes share the page cache.

    Args:
        packed: The open cache.
        episodes: Positions of the episodes to serve, int64; None for all.
        keys: The fields to serve, as nested keys of the root: an observed field comes with its twin below ``"next"``.
            ``episode`` and the flags always come. None for all.

    Raises:
        SchemaMismatch: There is no field of a key.

    Example:
        >>> storage.get(torch.tensor([0, 7]))["next", "reward"].shape  # doctest: +SKIP
        torch.Size([2, 1])
    """

    def __init__(
        self,
        packed: Packed,
        episodes: torch.Tensor | None = None,
        *,
        keys: Sequence[keys.NestedKey] | None = None,
    ):
        self._episodes = torch.arange(len(packed.episodes)) if episodes is None else episodes
        self._keys = keys
        self._open(packed)
        super().__init__(self._length)

    def _open(self, packed: Packed) -> None:
        self._packed = packed
        self._rows = _rows_of(packed, self._episodes)
        self._length = len(self._rows)
        self._gathers = _plan(packed, self._keys)

    def get(self, index: Any) -> TensorDict:
        """Return transitions as TED.

        Args:
            index: An int, a slice, or anything that indexes a one-dimensional tensor.

        Returns:
            TensorDict of the index's shape, owning its memory: the fields of the dataset, ``episode`` (int64), the
            root flags (False), and below ``"next"`` the observed fields of the following state, the true final one
            at an episode's end, with ``done`` derived.
        """
        if type(index) is tuple and len(index) == 1:  # as TorchRL's slice samplers give it
            index = index[0]
        if isinstance(index, torch.Tensor) and index.dtype is torch.int64:
            rows = self._rows.take(index)
        else:
            rows = self._rows[index]
        return self._at(rows)

    def _at(self, rows: torch.Tensor) -> TensorDict:
        """Return the transitions that lie in some physical rows, int64 of any shape."""
        flat = rows if rows.ndim == 1 else rows.reshape(-1)
        root: dict[str, Any] = {}
        shape = rows.shape
        for gather in self._gathers:
            gather.fill(root, flat, shape)
        return _tensordict(root, shape)

    def set(self, cursor: Any, data: Any, *, set_cursor: bool = True) -> None:
        """Refuse: a dataset version never changes.

        Raises:
            TypeError: Always.
        """
        msg = "A dataset's buffer is read-only. To go on collecting, extend another TensorDictReplayBuffer with it."
        raise TypeError(msg)

    def __len__(self) -> int:
        return self._length

    def contains(self, item: int) -> bool:
        """Whether there is a transition of that index."""
        return -len(self) <= item < len(self)

    def _rand_given_ndim(self, batch_size: int) -> torch.Tensor:
        """Uniform indices: TorchRL's own draw, without its detour around ``torch.compile``."""
        return torch.randint(0, self._length, (batch_size,), generator=self._rng, device=self.device)

    @property
    def _total_shape(self) -> torch.Size:
        """What TorchRL's prioritized slice sampler asks a storage for."""
        return torch.Size([len(self)])

    @property
    def device(self) -> torch.device:
        """The CPU: batches are gathered from mapped files."""
        return _CPU

    def trajectories(self) -> torch.Tensor:
        """Return the episode's position for every transition, int64: what TorchRL's slice samplers take."""
        return torch.repeat_interleave(torch.arange(len(self._episodes)), self.lengths())

    def lengths(self) -> torch.Tensor:
        """Return the number of transitions of every episode served, int64 ``[num_episodes]``, in storage order."""
        return self._packed.episodes[self._episodes, 3]

    def endings(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return whether every episode served terminated, and whether it is done, bool ``[num_episodes]`` each."""
        last = self.get(self.lengths().cumsum(0) - 1)[keys.NEXT]
        return last[keys.TERMINATED].flatten(1).any(1), last[keys.DONE].flatten(1).any(1)

    def state_dict(self) -> dict[str, Any]:
        """Return what identifies the content; the content itself stays in the cache."""
        return {"folder": self._packed.folder.name, "num_transitions": len(self)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that a checkpoint was made with this content.

        Raises:
            CheckpointMismatch: It was made with another.
        """
        if dict(state_dict) != self.state_dict():
            msg = (
                f"Buffer checkpoint: expected {self.state_dict()}, got {dict(state_dict)}. Open that version's buffer."
            )
            raise CheckpointMismatch(msg)

    def dumps(self, path: Path) -> None:
        """Write what identifies the content into a folder."""
        Path(path).mkdir(parents=True, exist_ok=True)
        (Path(path) / "storage.json").write_text(json.dumps(self.state_dict()), encoding="utf-8")

    def loads(self, path: Path) -> None:
        """Check a folder that :meth:`dumps` wrote."""
        self.load_state_dict(json.loads((Path(path) / "storage.json").read_text(encoding="utf-8")))

    def _empty(self) -> None:
        self.set(None, None)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        state["_packed"] = self._packed.folder
        del state["_rows"], state["_gathers"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._open(Packed(state["_packed"]))


@dataclass(frozen=True)
class _Leaf:
    """One entry of a batch: its key, and where it lies in a gathered row, in elements."""

    parents: tuple[str, ...]
    name: str
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Gather:
    """How one block's rows become leaves."""

    def __init__(self, data: torch.Tensor, leaves: list[_Leaf], *, pair: bool):
        width = data.shape[1]
        self._words = 2 * width if pair else width
        self._data = data.as_strided((max(0, len(data) - pair), self._words), (width, 1))
        self._by_dtype: dict[torch.dtype, list[_Leaf]] = {}
        for leaf in leaves:
            self._by_dtype.setdefault(leaf.dtype, []).append(leaf)

    def fill(self, root: dict[str, Any], rows: torch.Tensor, shape: torch.Size) -> None:
        """Put the leaves of some rows into nested dicts."""
        block = self._data.index_select(0, rows)
        steps = (1,) if len(shape) == 1 else _contiguous(shape)
        for dtype, leaves in self._by_dtype.items():
            typed = block.view(dtype)
            width = self._words * _WORD // dtype.itemsize
            batch = (width,) if len(steps) == 1 else tuple(step * width for step in steps)
            for leaf in leaves:
                target = root
                for part in leaf.parents:
                    target = target.setdefault(part, {})
                target[leaf.name] = typed.as_strided(shape + leaf.shape, batch + leaf.strides, leaf.offset)


def _plan(packed: Packed, wanted: Sequence[keys.NestedKey] | None) -> list[_Gather]:
    """Return one gather for every block that holds a wanted field."""
    columns = None if wanted is None else _columns(packed, wanted)
    gathers = []
    for block, data in zip(packed.blocks, packed.data, strict=True):
        places = [place for place in block.places if columns is None or place.field.column in columns]
        leaves = [_leaf(place, 0, place.field.key) for place in places]
        twins = [place for place in places if place.field.observed]
        leaves += [_leaf(place, block.row_bytes, (keys.NEXT, *_parts(place.field.key))) for place in twins]
        if leaves:
            gathers.append(_Gather(data, leaves, pair=bool(twins)))
    return gathers


def _columns(packed: Packed, wanted: Sequence[keys.NestedKey]) -> set[str]:
    """Return the columns of some keys and those that always come."""
    there = {item.column for item in packed.schema.fields}
    chosen = {keys.column_of(key) for key in wanted}
    ends = {*keys.END_FLAGS, *(f"{keys.NEXT}.{flag}" for flag in keys.END_FLAGS)}
    always = {keys.EPISODE, *ends}
    unknown = chosen - there - always
    if unknown:
        msg = f"No field {', '.join(sorted(unknown))}: expected some of {', '.join(sorted(there))}. Choose among them."
        raise SchemaMismatch(msg)
    return chosen | always


def _leaf(place: Place, row: int, key: keys.NestedKey) -> _Leaf:
    dtype = getattr(torch, place.field.dtype)
    shape = place.field.shape
    *parents, name = _parts(key)
    return _Leaf(tuple(parents), name, dtype, (row + place.start) // dtype.itemsize, shape, _contiguous(shape))


def _parts(key: keys.NestedKey) -> tuple[str, ...]:
    return (key,) if isinstance(key, str) else key


def _contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of a row-major array, in elements."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def _rows_of(packed: Packed, episodes: torch.Tensor) -> torch.Tensor:
    """Physical rows of all transitions of some episodes; a view where the episodes lie one after the other."""
    if not len(episodes):
        return packed.rows[:0]
    if (episodes[1:] == episodes[:-1] + 1).all():
        first, last = packed.episodes[episodes[0]], packed.episodes[episodes[-1]]
        return packed.rows[int(first[2]) : int(last[2] + last[3])]
    return packed.rows[packed.transitions_of(episodes)]


def _tensordict(entries: dict[str, Any], shape: torch.Size) -> TensorDict:
    """Nested dicts as a TensorDict, unchecked: every leaf has the batch's shape by construction."""
    for name, value in entries.items():
        if isinstance(value, dict):
            entries[name] = _tensordict(value, shape)
    return TensorDict._new_unsafe(entries, batch_size=shape, device=_CPU)
