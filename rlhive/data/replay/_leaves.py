"""One copy of gathered rows → the leaves of a batch, and what finishes some of them."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch


class Leaf(NamedTuple):
    """One entry of a batch: its key, and where it lies in a gathered row, in elements of its dtype."""

    parents: tuple[str, ...]
    name: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    finish: Callable[[torch.Tensor], torch.Tensor] | None


class Cuts:
    """How one copy, as one dtype sees it, comes apart into leaves.

    One call that splits the rows all along costs half of a view per leaf. It is the "unsafe" split: its parts do not
    know of each other, so that autograd takes what is done to one leaf in place for no change of the others.

    Args:
        leaves: What lies in a row.
        width: Elements of a row.
    """

    def __init__(self, leaves: Sequence[Leaf], width: int):
        parts: list[tuple[int, Leaf | None]] = []
        strided, end = [], 0
        for leaf in sorted(leaves, key=lambda leaf: leaf.offset):
            if leaf.offset < end or leaf.strides != contiguous(leaf.shape):
                strided.append(leaf)
                continue
            parts += [(leaf.offset - end, None)] if leaf.offset > end else []
            parts.append((math.prod(leaf.shape), leaf))
            end = leaf.offset + math.prod(leaf.shape)
        if sum(leaf is not None for _, leaf in parts) < 2:
            parts, strided = [], list(leaves)
        elif width > end:
            parts.append((width - end, None))
        self._widths = [size for size, _ in parts]
        self._parts = [leaf for _, leaf in parts]
        self._strided = strided

    def apart(self, typed: torch.Tensor) -> list[tuple[Leaf, torch.Tensor]]:
        """Return every leaf with its values, ``[n, *shape]``, before what finishes it."""
        count, width = typed.shape
        found = []
        if self._widths:
            for leaf, value in zip(self._parts, torch.unsafe_split_with_sizes(typed, self._widths, 1), strict=True):
                if leaf is not None:
                    found.append((leaf, value if len(leaf.shape) == 1 else value.view(count, *leaf.shape)))
        for leaf in self._strided:
            found.append((leaf, typed.as_strided((count, *leaf.shape), (width, *leaf.strides), leaf.offset)))
        return found


class Normalize:
    """``(value - mean) / scale``, as TorchRL's ObservationNorm computes it."""

    def __init__(self, mean: torch.Tensor, scale: torch.Tensor):
        self._mean, self._scale = mean, scale

    def __call__(self, value: torch.Tensor) -> torch.Tensor:
        """Return the normalised values, in memory of their own."""
        mean, scale = (tensor.to(value) for tensor in (self._mean, self._scale))
        return value.sub(mean).div_(scale)


class Discount:
    """Rewards ``[n, n_step, …]`` → their discounted sum; rows below an episode's end hold zeros."""

    def __init__(self, n_step: int, gamma: float):
        self._gammas = torch.tensor([gamma**step for step in range(n_step)], dtype=torch.float64)

    def __call__(self, value: torch.Tensor) -> torch.Tensor:
        """Return the sums ``[n, …]``."""
        gammas = self._gammas.to(value).view(-1, *(1,) * (value.ndim - 2))
        return (value * gammas).sum(1)


class Chain:
    """One step after the other."""

    def __init__(self, steps: Sequence[Callable[[torch.Tensor], torch.Tensor]]):
        self._steps = steps

    def __call__(self, value: torch.Tensor) -> torch.Tensor:
        """Return what the last step gives."""
        for step in self._steps:
            value = step(value)
        return value


def stacked(value: torch.Tensor) -> torch.Tensor:
    """``[n, frames, …, d]`` → ``[n, …, frames * d]``, oldest first; a copy."""
    return value.movedim(1, -2).clone(memory_format=torch.contiguous_format).flatten(-2)


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of a row-major array, in elements."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))
