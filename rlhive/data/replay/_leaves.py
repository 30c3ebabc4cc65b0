"""From one copy of gathered rows to the leaves of a batch, and the computations on some of them."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.utils.data

from rlhive.data.replay._items import compute_in_blocks, map_blocks
from rlhive.normalization import normalize

LeafTransform = Callable[[torch.Tensor], torch.Tensor]


class Leaves(dict[str, Any]):
    """The entries of a batch, whose leaves are views of one block of memory; they are pickled without the block.

    ``torch.save`` refuses views of one memory with several dtypes, and would write the whole block, which may hold
    other batches. A pickle therefore has the leaves of each dtype in memory of their own. Worker processes of a
    DataLoader hand over the block as it is.
    """

    def nested(self, name: str) -> "Leaves":
        """Return the entries below a name; empty ones are added if there are none."""
        entries = self.get(name)
        if entries is None:
            entries = self[name] = Leaves()
        return entries

    def __reduce_ex__(self, protocol: Any) -> tuple[type, tuple[dict[str, Any]]]:
        if torch.utils.data.get_worker_info() is not None:
            return Leaves, (dict(self),)
        return dict, (join_leaves(self),)


def join_leaves(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Return the leaves with those of each dtype and device copied into one block that holds nothing else.

    A leaf that requires a gradient, or has its memory for itself, is returned as it is.
    """
    joined = dict(leaves)
    groups: dict[tuple[torch.dtype, torch.device], dict[str, torch.Tensor]] = {}
    for name, leaf in leaves.items():
        if isinstance(leaf, torch.Tensor) and not leaf.requires_grad and leaf.untyped_storage().nbytes() > leaf.nbytes:
            groups.setdefault((leaf.dtype, leaf.device), {})[name] = leaf
    for group in groups.values():
        block = torch.cat([leaf.reshape(-1) for leaf in group.values()])
        parts = torch.split(block, [leaf.numel() for leaf in group.values()])
        joined |= {name: part.view(group[name].shape) for name, part in zip(group, parts, strict=True)}
    return joined


class LeafLayout(NamedTuple):
    """One leaf of a batch: its key, and where it lies in a gathered row, in elements of its dtype."""

    parents: tuple[str, ...]
    name: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    transform: LeafTransform | None


class LeafSplitter:
    """Split a copy of gathered rows, viewed as one dtype, into leaves.

    One call that splits all contiguous leaves costs half as much as a view per leaf. It is PyTorch's "unsafe" split:
    autograd does not relate its parts to each other, so that an in-place operation on one leaf does not affect the
    others.

    Args:
        leaves: The leaves in a row.
        width: Elements of a row.
    """

    def __init__(self, leaves: Sequence[LeafLayout], width: int):
        parts: list[tuple[int, LeafLayout | None]] = []  # number of elements and the leaf there, None for a gap
        strided: list[LeafLayout] = []
        end = 0
        for leaf in sorted(leaves, key=lambda leaf: leaf.offset):
            if leaf.offset < end or leaf.strides != contiguous_strides(leaf.shape):
                strided.append(leaf)
                continue
            if leaf.offset > end:
                parts.append((leaf.offset - end, None))
            size = math.prod(leaf.shape)
            parts.append((size, leaf))
            end = leaf.offset + size
        if sum(leaf is not None for _, leaf in parts) < 2:
            parts, strided = [], list(leaves)
        elif width > end:
            parts.append((width - end, None))
        self._widths = [size for size, _ in parts]
        self._parts = [leaf for _, leaf in parts]
        self._strided = strided

    def split(self, rows: torch.Tensor) -> list[tuple[LeafLayout, torch.Tensor]]:
        """Return every leaf with its values before its transform, ``[n, *shape]``.

        Args:
            rows: The gathered rows viewed as the leaves' dtype, ``[n, width]``; the values share its memory.
        """
        count, width = rows.shape
        values: list[tuple[LeafLayout, torch.Tensor]] = []
        if self._widths:
            for leaf, value in zip(self._parts, torch.unsafe_split_with_sizes(rows, self._widths, 1), strict=True):
                if leaf is not None:
                    values.append((leaf, value if len(leaf.shape) == 1 else value.view(count, *leaf.shape)))
        for leaf in self._strided:
            values.append((leaf, rows.as_strided((count, *leaf.shape), (width, *leaf.strides), leaf.offset)))
        return values


class NormalizeStep:
    """The rule of :func:`rlhive.normalization.normalize`; the result keeps the dtype of the field.

    Args:
        mean: Mean of each element.
        scale: Divisor of each element.
    """

    def __init__(self, mean: torch.Tensor, scale: torch.Tensor):
        self._mean = mean
        self._scale = scale

    def __call__(self, value: torch.Tensor) -> torch.Tensor:
        """Return the normalised values as a new tensor."""
        mean, scale = self._mean.to(value.device), self._scale.to(value.device)
        return map_blocks(lambda rows: normalize(rows, mean, scale), value)


class DiscountedSum:
    """Discounted sum of ``n_step`` rewards; rows after an episode's end hold zeros and add nothing.

    Args:
        n_step: Number of rewards.
        gamma: Discount per step.
    """

    def __init__(self, n_step: int, gamma: float):
        discounts = [gamma**step for step in range(n_step)]
        self._discounts = torch.tensor(discounts, dtype=torch.float64, device="cpu")

    def __call__(self, rewards: torch.Tensor) -> torch.Tensor:
        """Return the sums ``[n, …]`` of rewards ``[n, n_step, …]``, in their dtype."""
        discounts = self._discounts.to(rewards).view(-1, *(1,) * (rewards.ndim - 2))
        width = max(1, rewards.numel() // max(1, len(rewards)))
        return compute_in_blocks(lambda rows: ((rows * discounts).sum(1),), rewards, width=width)[0]


class TransformChain:
    """Several transforms, applied one after the other."""

    def __init__(self, steps: Sequence[LeafTransform]):
        self._steps = steps

    def __call__(self, value: torch.Tensor) -> torch.Tensor:
        """Return the result of the last transform."""
        for step in self._steps:
            value = step(value)
        return value


def join_frames(frames: torch.Tensor) -> torch.Tensor:
    """Join frames ``[n, num_frames, …, d]`` to ``[n, …, num_frames * d]``, oldest first, in new memory."""
    return map_blocks(lambda rows: rows, frames.movedim(1, -2)).flatten(-2)


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides of a row-major array, in elements."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))
