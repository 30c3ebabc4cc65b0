"""Copies and computations on the rows of a batch that stay in the calling thread.

Torch splits an operation on many elements over its threads and waits for all of them. Beside a process that keeps a
core busy, that takes a hundred times as long as the operation (docs/decisions/048-batches-in-one-thread.md). On the
CPU, NumPy's indexing therefore copies the rows, without Python's lock, and torch computes on blocks that it does not
split.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

_WORD = 8

#: Torch keeps elementwise operations on fewer elements than this in the calling thread (``at::internal::GRAIN_SIZE``).
_GRAIN_SIZE = 32_768


def make_item_reader(data: torch.Tensor, num_words: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the function that copies items.

    Args:
        data: Rows of a block, int64 ``[num_rows, width]``, contiguous.
        num_words: Words of an item. Item ``i`` begins with row ``i``; one longer than a row ends in the row after it.

    Returns:
        Function from the positions of items, int64 ``[n]``, to a copy of them, int64 ``[n, num_words]``, on the device
        of the data.
    """
    num_rows, width = data.shape
    num_items = num_rows if num_words <= width else max(0, num_rows - 1)
    if data.device.type != "cpu":
        items = data.as_strided((num_items, num_words), (width, 1))
        return lambda index: items.index_select(0, index)
    dtype = np.dtype((np.void, num_words * _WORD))
    elements: np.ndarray = np.ndarray((num_items,), dtype, buffer=data.numpy().data, strides=(width * _WORD,))
    return lambda index: torch.from_numpy(elements[index.numpy()].view(np.int64).reshape(len(index), num_words))


def take_elements(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return ``values[index]``, a copy; torch would split the work from 3,000 elements on.

    Args:
        values: Shape ``[N, …]``, of a dtype that NumPy has.
        index: int64 of any shape, on the device of ``values``; negative ones count from the end.

    Raises:
        IndexError: A position is outside the values.
    """
    if values.device.type != "cpu":
        return values[index]
    return torch.from_numpy(values.numpy().take(index.numpy(), axis=0))


def map_blocks(function: Callable[..., torch.Tensor], values: torch.Tensor, *operands: torch.Tensor) -> torch.Tensor:
    """Return ``function(values, *operands)`` in the dtype of the values and in contiguous memory of its own.

    On the CPU it is computed on blocks that torch does not split.

    Args:
        function: Function from values ``[n, *shape]``, and rows of the operands, to values of the same shape, which
            treats each row alone.
        values: Shape ``[n, *shape]``.
        operands: Further tensors with n rows.
    """
    result = torch.empty(values.shape, dtype=values.dtype, device=values.device)
    if values.device.type != "cpu" or values.numel() < _GRAIN_SIZE or torch.get_num_threads() == 1:
        return result.copy_(function(values, *operands))
    num_rows = max(1, (_GRAIN_SIZE - 1) * len(values) // values.numel())
    for target, *blocks in zip(*(torch.split(rows, num_rows) for rows in (result, values, *operands)), strict=True):
        target.copy_(function(*blocks))
    return result


def join(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return ``torch.cat(parts)`` of tensors on the CPU, copied in the calling thread."""
    return parts[0] if len(parts) == 1 else torch.from_numpy(np.concatenate([part.numpy() for part in parts]))


def compute_in_blocks(
    function: Callable[..., tuple[torch.Tensor, ...]], *operands: torch.Tensor, width: int
) -> tuple[torch.Tensor, ...]:
    """Return ``function(*operands)``, on the CPU computed on blocks that torch does not split.

    Args:
        function: Function from rows of the operands to tensors with as many rows, which treats each row alone.
        operands: Tensors ``[n, …]``.
        width: Largest number of elements that the function computes for a row.
    """
    num_rows = max(1, (_GRAIN_SIZE - 1) // width)
    if operands[0].device.type != "cpu" or len(operands[0]) <= num_rows or torch.get_num_threads() == 1:
        return function(*operands)
    blocks = zip(*(torch.split(rows, num_rows) for rows in operands), strict=True)
    return tuple(join(parts) for parts in zip(*(function(*block) for block in blocks), strict=True))
