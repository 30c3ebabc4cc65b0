"""From rows of the packed cache to the leaves of a batch: which rows an item reads, and which leaves they become.

There is one gather per block, and every leaf is a strided view of the copy that no other leaf overlaps. A plain
transition reads its own row and the next one. Both are adjacent, so that the index selects from a view whose items
overlap::

    block      [num_rows, W] words  ── strided view ──►  [num_rows - 1, W + observed], row stride W
    gathered   [n, W + observed]   │ row t: observation, episode, action, … │ row t+1: observation │
                                       └ root, next.reward, flags               └ next.observation

With ``frame_stack=F`` or ``n_step=K`` an item reads several rows of its episode ("slots"), clamped to the episode's
first row and to the row of its final observation::

    slots      t-F+1 … t │ t+1 … t+K-1 │ t+K-F+1 … t+K        those in the middle only for their rewards
    K = 1      t-F+1 … t, t+1                                 both stacks share their frames
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from rlhive import keys
from rlhive.data._schema import Schema
from rlhive.data.replay._frames import RowReader
from rlhive.data.replay._items import make_item_reader
from rlhive.data.replay._layout import Block, FieldLayout, PackedCache
from rlhive.data.replay._leaves import (
    DiscountedSum,
    LeafLayout,
    LeafSplitter,
    LeafTransform,
    Leaves,
    NormalizeStep,
    TransformChain,
    contiguous_strides,
    join_frames,
)
from rlhive.data.replay._validation import require_integer, require_key_list
from rlhive.errors import SchemaMismatchError

_WORD = 8
_REWARD = keys.key_to_column(keys.NEXT_REWARD)
_RAGGED_ADVICE = 'ragged="nested" gives them as nested tensors; ragged="drop", or keys=[…] of others, leaves them out.'

#: What becomes of ragged fields: an error that names them, nested tensors in the batches, or left out.
RaggedChoice = Literal["error", "nested", "drop"]

#: Keys that MultiStepTransform adds at the root, and the key below "next" of the reward that it replaces.
STEPS_TO_NEXT = "steps_to_next_obs"
NONTERMINAL = "nonterminal"
GAMMA = "gamma"
ORIGINAL_REWARD = "original_reward"

#: The observed keys that a frame stack joins, where they exist.
STACKED = (keys.OBSERVATION, keys.PIXELS, keys.DEPTH)


@dataclass(frozen=True)
class Window:
    """The rows that make one item of a batch, and the computations on them.

    Attributes:
        n_step: Number of steps to ``("next", observation)`` and of rewards in the sum, as TorchRL's
            ``MultiStepTransform``.
        gamma: Discount of that sum, above 0 and at most 1.
        frame_stack: Number of observations joined along the last dimension, oldest first, as TorchRL's ``CatFrames``
            with ``padding="same"``: the first one is repeated at an episode's start.
        normalize: Mean and scale by key, for :func:`rlhive.normalization.normalize`.

    Raises:
        ValueError: A number is out of range.
    """

    n_step: int = 1
    gamma: float = 0.99
    frame_stack: int = 1
    normalize: Mapping[keys.NestedKey, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_integer(self.n_step, 1, "n_step")
        require_integer(self.frame_stack, 1, "frame_stack")
        if not 0 < self.gamma <= 1:
            msg = f"gamma={self.gamma!r}: expected a discount above 0 and at most 1"
            raise ValueError(msg)

    @property
    def is_pair(self) -> bool:
        """Whether an item is a row and the following row."""
        return self.n_step == self.frame_stack == 1

    @property
    def num_slots(self) -> int:
        """Number of rows that an item reads."""
        return self.frame_stack + 1 if self.n_step == 1 else 2 * self.frame_stack + self.n_step - 1

    def slots(self, steps_since_start: torch.Tensor, steps_to_end: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the rows that items read, relative to their own row.

        Args:
            steps_since_start: Steps since the episode's first row, ``[n]``.
            steps_to_end: Steps to the row of the episode's final observation, ``[n]``, at least 1.

        Returns:
            The offsets ``[n, num_slots]``, and the number of steps to the next observation ``[n]``, at most
            ``n_step``.
        """
        device = steps_to_end.device
        num_steps = steps_to_end.clamp_max(self.n_step)
        if self.frame_stack == 1:
            return torch.minimum(torch.arange(self.n_step + 1, device=device), steps_to_end.unsqueeze(1)), num_steps
        oldest = -steps_since_start.unsqueeze(1)
        if self.n_step == 1:  # both stacks share all frames but one
            return torch.maximum(torch.arange(1 - self.frame_stack, 2, device=device), oldest), num_steps
        frames = torch.arange(1 - self.frame_stack, 1, device=device)
        root = torch.maximum(frames, oldest)
        rewards = torch.minimum(torch.arange(1, self.n_step, device=device), steps_to_end.unsqueeze(1))
        following = torch.maximum(num_steps.unsqueeze(1) + frames, oldest)
        return torch.cat([root, rewards, following], 1), num_steps

    def describe_steps(self, num_steps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return what ``MultiStepTransform`` adds: steps as int64, ``gamma ** steps``, and whether they are not 1."""
        num_steps = num_steps.to(torch.int64)
        return num_steps, self.gamma**num_steps, num_steps != 1


#: A transition reads its own row and the following one.
SINGLE_STEP = Window()


class GatherPlan:
    """How rows of one block are copied and become leaves of a batch.

    Args:
        block: Layout of the block.
        data: Rows of the block, int64 ``[num_rows, row_bytes // 8]``, or the reader of encoded pictures.
        window: The rows of an item.
        columns: Columns to gather.
    """

    def __init__(self, block: Block, data: torch.Tensor | RowReader, window: Window, columns: set[str]):
        fields = [layout for layout in block.fields if layout.field.column in columns]
        self._width = block.row_words
        self._window = window
        self._slot_indices = _select_slots(fields, window)
        self._num_slots = window.num_slots if self._slot_indices is None else len(self._slot_indices)
        self._item_words = self._num_slots * self._width
        self._next_offsets: torch.Tensor | None = None
        words_per_copy = self._width
        if window.is_pair and self._num_slots == 2:
            if isinstance(data, torch.Tensor):
                observed_bytes = max(layout.stop for layout in fields if layout.field.observed)
                self._item_words = words_per_copy = self._width + -(-observed_bytes // _WORD)
            else:
                self._next_offsets = torch.arange(2, device="cpu")
        self._copy = data.take if isinstance(data, RowReader) else make_item_reader(data, words_per_copy)
        self._leaves: dict[torch.dtype, list[LeafLayout]] = {}
        root_slot = 0 if self._num_slots == 1 else window.frame_stack - 1
        for layout in fields:
            self._add_leaf(layout, layout.field.key, root_slot)
            if layout.field.observed:
                self._add_leaf(layout, (keys.NEXT, *_key_parts(layout.field.key)), self._num_slots - 1)
        self._splitters = [
            LeafSplitter(leaves, self._item_words * _WORD // dtype.itemsize) for dtype, leaves in self._leaves.items()
        ]

    def __bool__(self) -> bool:
        return bool(self._leaves)

    @property
    def item_bytes(self) -> int:
        """Bytes that are read for one item."""
        return self._item_words * _WORD

    def gather(self, rows: torch.Tensor, slots: torch.Tensor | None, device: torch.device) -> list[torch.Tensor]:
        """Copy the rows of some items.

        Args:
            rows: Physical rows of the items, ``[n]``.
            slots: Offsets of :meth:`Window.slots`; None if an item is a pair of rows.
            device: Device of the copy.

        Returns:
            Views of one copy, one per dtype, ``[n, elements]``.
        """
        if slots is None:
            slots = self._next_offsets
        elif self._slot_indices is not None:
            slots = slots[:, self._slot_indices]
        if slots is not None:
            rows = _add_slots(rows, slots).view(-1)
        copied = self._copy(rows)
        if slots is not None:
            copied = copied.view(-1, self._item_words)
        if copied.device != device:
            copied = (copied.pin_memory() if device.type == "cuda" else copied).to(device, non_blocking=True)
        return [copied if dtype is torch.int64 else copied.view(dtype) for dtype in self._leaves]

    def fill(self, batches: list[Leaves], copies: list[torch.Tensor]) -> None:
        """Put the leaves of gathered rows into nested dictionaries.

        Args:
            batches: One dictionary per batch, filled in place; the items are split evenly and in order.
            copies: Result of :meth:`gather`.
        """
        for copied, splitter in zip(copies, self._splitters, strict=True):
            for (parents, name, _, _, _, transform), value in splitter.split(copied):
                if transform is not None:
                    value = transform(value)
                # One call that splits the values of all batches costs less than a call for each.
                chunks = (value,) if len(batches) == 1 else value.unsafe_chunk(len(batches))
                for number, chunk in enumerate(chunks):
                    target = batches[number]
                    for parent in parents:
                        target = target.nested(parent)
                    target[name] = chunk

    def _add_leaf(self, layout: FieldLayout, key: keys.NestedKey, slot: int) -> None:
        item, window, dtype = layout.field, self._window, getattr(torch, layout.field.dtype)
        row_stride = self._width * _WORD // dtype.itemsize
        *parents, name = _key_parts(key)
        shape, strides = tuple(item.shape), contiguous_strides(item.shape)
        steps: list[LeafTransform] = []
        if item.key in window.normalize:
            steps.append(NormalizeStep(*window.normalize[item.key]))
        if window.frame_stack > 1 and item.key in STACKED and item.observed:
            slot -= window.frame_stack - 1
            shape, strides = (window.frame_stack, *shape), (row_stride, *strides)
            steps.append(join_frames)
        leaves = self._leaves.setdefault(dtype, [])
        offset = slot * row_stride + layout.start // dtype.itemsize
        if item.column == _REWARD and window.n_step > 1:
            leaves.append(LeafLayout(tuple(parents), ORIGINAL_REWARD, offset, shape, strides, None))
            shape, strides = (window.n_step, *shape), (row_stride, *strides)
            steps.append(DiscountedSum(window.n_step, window.gamma))
        transform: LeafTransform | None = TransformChain(steps) if steps else None
        if len(steps) == 1:
            transform = steps[0]
        leaves.append(LeafLayout(tuple(parents), name, offset, shape, strides, transform))


def build_plans(cache: PackedCache, columns: set[str], window: Window) -> list[GatherPlan]:
    """Return a plan for every block that holds a selected field.

    Args:
        cache: The cache.
        columns: The columns that :func:`select_columns` returns.
        window: The rows of an item.

    Raises:
        SchemaMismatchError: A field cannot be normalised, summed or stacked.
    """
    for key in window.normalize:
        _require_float_field(cache, keys.key_to_column(key), "normalize")
    if window.n_step > 1:
        require_rewards_to_sum(cache, f"n_step={window.n_step}")
    if window.n_step > 1 and _REWARD in columns:
        _require_float_field(cache, _REWARD, "n_step")
    if window.frame_stack > 1 and not any(item.key in STACKED for item in cache.schema.observed):
        msg = f"frame_stack={window.frame_stack}: expected one of the keys {', '.join(STACKED)}, got none"
        raise SchemaMismatchError(msg)
    if window.frame_stack > 1:
        stacked = {item.column for item in cache.schema.ragged if item.key in STACKED} & columns
        cache.schema.require_equal_lengths(stacked, advice=f"frame_stack={window.frame_stack} joins rows.")
    plans = (GatherPlan(block, data, window, columns) for block, data in zip(cache.blocks, cache.data, strict=True))
    return [plan for plan in plans if plan]


def require_rewards_to_sum(cache: PackedCache, option: str) -> None:
    """Raise for an option that sums rewards, where none were recorded.

    Raises:
        SchemaMismatchError: The transitions have no reward.
    """
    if _REWARD not in cache.schema.columns:
        msg = f"{option}: expected rewards to sum, got transitions without {_REWARD}: no reward was recorded."
        raise SchemaMismatchError(msg)


def set_nested(entries: Leaves, key: keys.NestedKey, value: torch.Tensor) -> None:
    """Set the value of a nested key in nested dictionaries."""
    *parents, name = _key_parts(key)
    for parent in parents:
        entries = entries.nested(parent)
    entries[name] = value


def select_columns(
    cache: PackedCache, selected_keys: Sequence[keys.NestedKey] | None, ragged: RaggedChoice = "error"
) -> set[str]:
    """Return the columns of some keys, with those of ``episode`` and the flags; all columns for None.

    Raises:
        SchemaMismatchError: The schema has no field of a key, ``selected_keys`` is a string, or a field is ragged and
            ``ragged`` does not say what to do with it.
    """
    require_key_list(selected_keys, "keys")
    schema_columns = {item.column for item in cache.schema.fields}
    always = {keys.EPISODE, *keys.END_FLAGS, *(f"{keys.NEXT}.{flag}" for flag in keys.END_FLAGS)}
    if selected_keys is None:
        return select_ragged(cache.schema, ragged, schema_columns) | always
    columns = {keys.key_to_column(key) for key in selected_keys}
    unknown = columns - schema_columns - always
    if unknown:
        msg = f"No field {', '.join(sorted(unknown))}: expected some of {', '.join(sorted(schema_columns))}"
        raise SchemaMismatchError(msg)
    return select_ragged(cache.schema, "error" if ragged == "drop" else ragged, columns) | always


def select_ragged(schema: Schema, ragged: RaggedChoice, columns: set[str]) -> set[str]:
    """Return some columns without the ragged ones that are to be dropped.

    Raises:
        SchemaMismatchError: Names the ragged ones, for the choice "error".
    """
    if ragged == "error":
        schema.require_equal_lengths(columns, advice=_RAGGED_ADVICE)
    return columns - {item.column for item in schema.ragged} if ragged == "drop" else columns


def _add_slots(rows: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
    """Return the rows that items read, int64 ``[n, num_slots]``.

    Args:
        rows: Rows of the items, ``[n]``.
        slots: Offsets, ``[n, num_slots]``, or ``[num_slots]`` for all items.
    """
    if rows.device.type != "cpu":
        return rows.unsqueeze(1) + slots
    return torch.from_numpy(rows.numpy()[:, None] + slots.numpy())


def _select_slots(fields: Sequence[FieldLayout], window: Window) -> torch.Tensor | None:
    """Return the slots of a window that a block has to read; None for all of them."""
    frames = window.frame_stack
    if not any(layout.field.observed for layout in fields):
        return torch.tensor([frames - 1], device="cpu")
    if window.n_step == 1 or any(layout.field.column == _REWARD for layout in fields):
        return None
    # The slots in the middle are read only for their rewards.
    state_slots = torch.arange(frames, device="cpu")
    return torch.cat([state_slots, state_slots + frames + window.n_step - 1])


def _require_float_field(cache: PackedCache, column: str, option: str) -> None:
    item = next((item for item in cache.schema.fields if item.column == column), None)
    if item is None or not item.is_float or item.is_ragged:
        got = "no such field" if item is None else item.describe()
        msg = f"{option}: expected a floating-point field {column}, got {got}"
        raise SchemaMismatchError(msg)


def _key_parts(key: keys.NestedKey) -> tuple[str, ...]:
    return (key,) if isinstance(key, str) else key
