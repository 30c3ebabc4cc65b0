"""From rows of the packed cache to the leaves of a batch: which rows one item reads, and what becomes of them.

One gather per block, and every leaf is a strided window into its copy, on which no other leaf lies. A plain transition
reads its row and the row below; both lie next to each other, so the index selects from a view whose rows overlap::

    block      [num_rows, W] words  ── as_strided ──►  [num_rows - 1, W + observed], row stride W
    gathered   [n, W + observed]   │ row t: observation, episode, action, … │ row t+1: observation │
                                       └ root, next.reward, flags               └ next.observation

With ``frame_stack=F`` or ``n_step=K`` an item reads several rows of its episode ("slots"), clamped to its first row
and to the row of its final observation::

    slots      t-F+1 … t │ t+1 … t+K-1 │ t+K-F+1 … t+K        the middle ones for their rewards alone
    K = 1      t-F+1 … t, t+1                                 both stacks share their frames
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from rlhive import keys
from rlhive.data.replay._frames import Frames
from rlhive.data.replay._layout import Block, Packed, Place
from rlhive.data.replay._leaves import Chain, Cuts, Discount, Leaf, Normalize, contiguous, stacked
from rlhive.data.replay._validation import require_integer, require_key_list
from rlhive.errors import SchemaMismatch

_WORD = 8
_REWARD = keys.key_to_column(keys.NEXT_REWARD)

#: What MultiStepTransform adds at the root; the reward that it replaces goes below "next".
STEPS_TO_NEXT = "steps_to_next_obs"
NONTERMINAL = "nonterminal"
GAMMA = "gamma"
ORIGINAL_REWARD = "original_reward"

#: The observed keys that a frame stack joins, where they exist.
STACKED = (keys.OBSERVATION, keys.PIXELS, keys.DEPTH)


@dataclass(frozen=True)
class Window:
    """What one item of a batch is made of.

    Attributes:
        n_step: Steps to ``("next", observation)`` and of the reward summed, as TorchRL's ``MultiStepTransform``.
        gamma: Discount of that sum.
        frame_stack: Observations joined along the last dimension, oldest first, as TorchRL's ``CatFrames`` with
            ``padding="same"``: the first one is repeated at an episode's beginning.
        normalize: Mean and scale by key; ``(value - mean) / scale`` as TorchRL's ``ObservationNorm``.
    """

    n_step: int = 1
    gamma: float = 0.99
    frame_stack: int = 1
    normalize: Mapping[keys.NestedKey, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("n_step", "frame_stack"):
            require_integer(getattr(self, name), 1, name)
        if not 0 < self.gamma <= 1:
            msg = f"gamma={self.gamma!r}: expected a discount above 0 and at most 1. Leave it out for 0.99."
            raise ValueError(msg)

    @property
    def is_pair(self) -> bool:
        """Whether an item is a row and the row below."""
        return self.n_step == self.frame_stack == 1

    @property
    def num_slots(self) -> int:
        """How many rows an item reads."""
        return self.frame_stack + 1 if self.n_step == 1 else 2 * self.frame_stack + self.n_step - 1

    def slots(self, since: torch.Tensor, left: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return which rows items read, relative to their own.

        Args:
            since: Steps since the episode's beginning, ``[n]``.
            left: Steps to the row of its final observation, ``[n]``, at least 1.

        Returns:
            The offsets ``[n, num_slots]``, and the steps to the next observation ``[n]``, ``n_step`` or fewer.
        """
        steps = left.clamp_max(self.n_step)
        if self.frame_stack == 1:
            return torch.minimum(torch.arange(self.n_step + 1, device=left.device), left.unsqueeze(1)), steps
        if self.n_step == 1:  # the frames of both stacks, the shared ones once
            frames = torch.arange(1 - self.frame_stack, 2, device=since.device)
            return torch.maximum(frames, -since.unsqueeze(1)), steps
        frames = torch.arange(1 - self.frame_stack, 1, device=since.device)
        ahead = torch.arange(1, self.n_step, device=since.device)
        oldest = -since.unsqueeze(1)
        root = torch.maximum(frames, oldest)
        rewards = torch.minimum(ahead, left.unsqueeze(1))
        following = torch.maximum(steps.unsqueeze(1) + frames, oldest)
        return torch.cat([root, rewards, following], 1), steps


class Gather:
    """How some rows of one block become leaves.

    Args:
        block: Its layout.
        data: Its rows, int64 ``[num_rows, row_bytes // 8]``, or what decodes them.
        window: What an item is made of.
        columns: The fields to give, by column name.
    """

    def __init__(self, block: Block, data: torch.Tensor | Frames, window: Window, columns: set[str]):
        places = [place for place in block.places if place.field.column in columns]
        frames, ahead = window.frame_stack, window.n_step - 1
        self._data, self._width, self._window = data, block.row_bytes // _WORD, window
        self._kept: torch.Tensor | None = None
        if not any(place.field.observed for place in places):
            self._kept, self._num_slots = torch.tensor([frames - 1]), 1
        elif not ahead or any(place.field.column == _REWARD for place in places):
            self._num_slots = window.num_slots
        else:  # the rows that lie between are read for their rewards
            self._kept = torch.cat([torch.arange(frames), torch.arange(frames) + frames + ahead])
            self._num_slots = 2 * frames
        self._item_words = self._num_slots * self._width
        self._pair = torch.arange(2) if isinstance(data, Frames) and self._num_slots == 2 else None
        if window.is_pair and self._num_slots == 2 and self._pair is None:
            below = max(place.stop for place in places if place.field.observed)
            self._item_words = self._width + -(-below // _WORD)
            self._data = data.as_strided((max(0, len(data) - 1), self._item_words), (self._width, 1))
        here = 0 if self._num_slots == 1 else frames - 1
        self._leaves: dict[torch.dtype, list[Leaf]] = {}
        for place in places:
            self._add(place, place.field.key, here)
            if place.field.observed:
                self._add(place, (keys.NEXT, *_parts(place.field.key)), self._num_slots - 1)
        self._cuts = [
            Cuts(leaves, self._item_words * _WORD // dtype.itemsize) for dtype, leaves in self._leaves.items()
        ]

    def __bool__(self) -> bool:
        return bool(self._leaves)

    @property
    def item_bytes(self) -> int:
        """Bytes that are read for one item."""
        return self._item_words * _WORD

    def read(self, rows: torch.Tensor, slots: torch.Tensor | None, device: torch.device) -> list[torch.Tensor]:
        """Copy the rows of some items.

        Args:
            rows: Physical rows of the items, ``[n]``.
            slots: What :meth:`Window.slots` says of them; None where an item is a pair.
            device: Where the leaves shall be.

        Returns:
            The one copy, as each dtype sees it.
        """
        if slots is not None:
            slots = slots if self._kept is None else slots[:, self._kept]
        elif self._pair is not None:
            slots = self._pair
        if slots is not None:
            rows = (rows.unsqueeze(1) + slots).view(-1)
        block = self._data.take(rows) if isinstance(self._data, Frames) else self._data.index_select(0, rows)
        block = block if slots is None else block.view(-1, self._item_words)
        if block.device != device:
            block = (block.pin_memory() if device.type == "cuda" else block).to(device, non_blocking=True)
        return [block if dtype is torch.int64 else block.view(dtype) for dtype in self._leaves]

    def fill(self, roots: list[dict[str, Any]], copies: list[torch.Tensor]) -> None:
        """Put the leaves of what :meth:`read` gave into nested dicts.

        Args:
            roots: A dict per batch, which share the items evenly and in order; they get dicts for nested keys.
            copies: What :meth:`read` gave.
        """
        for typed, cuts in zip(copies, self._cuts, strict=True):
            for (parents, name, _, _, _, finish), value in cuts.apart(typed):
                if finish is not None:
                    value = finish(value)
                # One call for the parts of all batches costs less than a call for each.
                parts = (value,) if len(roots) == 1 else value.unsafe_chunk(len(roots))
                for number, part in enumerate(parts):
                    target = roots[number]
                    for parent in parents:
                        target = target.setdefault(parent, {})
                    target[name] = part

    def _add(self, place: Place, key: keys.NestedKey, slot: int) -> None:
        item, window, dtype = place.field, self._window, getattr(torch, place.field.dtype)
        words = self._width * _WORD // dtype.itemsize
        *parents, name = _parts(key)
        shape, strides, steps = item.shape, contiguous(item.shape), []
        if item.key in window.normalize:
            steps.append(Normalize(*(tensor.to(dtype) for tensor in window.normalize[item.key])))
        if window.frame_stack > 1 and item.key in STACKED and item.observed:
            slot -= window.frame_stack - 1
            shape, strides = (window.frame_stack, *shape), (words, *strides)
            steps.append(stacked)
        leaves = self._leaves.setdefault(dtype, [])
        offset = slot * words + place.start // dtype.itemsize
        if item.column == _REWARD and window.n_step > 1:
            leaves.append(Leaf(tuple(parents), ORIGINAL_REWARD, offset, shape, strides, None))
            shape, strides = (window.n_step, *shape), (words, *strides)
            steps.append(Discount(window.n_step, window.gamma))
        finish = Chain(steps) if len(steps) > 1 else steps[0] if steps else None
        leaves.append(Leaf(tuple(parents), name, offset, shape, strides, finish))


def plan(packed: Packed, wanted: Sequence[keys.NestedKey] | None, window: Window) -> list[Gather]:
    """Return one gather for every block that holds a wanted field.

    Args:
        packed: The cache.
        wanted: Keys of the root; ``episode`` and the flags always come. None for all.
        window: What an item is made of.

    Raises:
        SchemaMismatch: There is no field of a key, or it is not one that can be normalised or discounted.
    """
    columns = columns_of(packed, wanted)
    for key in window.normalize:
        _require_float(packed, keys.key_to_column(key), "normalize")
    if window.n_step > 1 and _REWARD in columns:
        _require_float(packed, _REWARD, "n_step")
    if window.frame_stack > 1 and not any(item.key in STACKED for item in packed.schema.observed):
        msg = f"frame_stack: expected one of the keys {', '.join(STACKED)}, got none. Leave frame_stack out."
        raise SchemaMismatch(msg)
    gathers = (Gather(*pair, window, columns) for pair in zip(packed.blocks, packed.data, strict=True))
    return [gather for gather in gathers if gather]


def put(root: dict[str, Any], key: keys.NestedKey, value: torch.Tensor) -> None:
    """Write a value at a nested key of nested dicts."""
    *parents, name = _parts(key)
    for part in parents:
        root = root.setdefault(part, {})
    root[name] = value


def columns_of(packed: Packed, wanted: Sequence[keys.NestedKey] | None) -> set[str]:
    """Return the columns of some keys and those that always come."""
    require_key_list(wanted, "keys")
    there = {item.column for item in packed.schema.fields}
    ends = {*keys.END_FLAGS, *(f"{keys.NEXT}.{flag}" for flag in keys.END_FLAGS)}
    always = {keys.EPISODE, *ends}
    chosen = there if wanted is None else {keys.key_to_column(key) for key in wanted}
    unknown = chosen - there - always
    if unknown:
        msg = f"No field {', '.join(sorted(unknown))}: expected some of {', '.join(sorted(there))}. Choose among them."
        raise SchemaMismatch(msg)
    return chosen | always


def _require_float(packed: Packed, column: str, why: str) -> None:
    found = [item for item in packed.schema.fields if item.column == column]
    if not found or not getattr(torch, found[0].dtype).is_floating_point:
        got = found[0].describe() if found else "no such field"
        msg = f"{why}: expected a floating-point field {column}, got {got}. Leave {why} out or name another key."
        raise SchemaMismatch(msg)


def _parts(key: keys.NestedKey) -> tuple[str, ...]:
    return (key,) if isinstance(key, str) else key
