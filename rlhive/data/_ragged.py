"""Ragged columns: rows of different lengths, such as audio, points and detections.

::

    NumPy    object array [T] of arrays [n, *inner], one for each row           n differs from row to row
    Arrow    list of n * prod(inner) elements, the rows one after the other
    torch    nested tensor of layout jagged

Text is an object array too, of strings; the elements tell them apart.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from rlhive.data._dtypes import array_to_tensor, tensor_to_array, view_bits

if TYPE_CHECKING:  # importing torch takes seconds, and reading a manifest does not need it
    import torch

#: Size of the dimension whose length differs from row to row, in the shape of a field.
ANY_LENGTH = -1


def is_ragged(values: np.ndarray) -> bool:
    """Whether an array holds rows of different lengths; an empty one never does."""
    return values.dtype == object and values.size > 0 and isinstance(values.flat[0], np.ndarray)


def make_rows(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Return arrays as an object array ``[len(rows)]``, whatever their shapes."""
    values = np.empty(len(rows), object)
    for index, row in enumerate(rows):
        values[index] = row
    return values


def join_rows(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return all rows one after the other, ``[sum(lengths), *inner]``, and their lengths, int64 ``[T]``."""
    rows = values.reshape(-1).tolist()
    return np.concatenate(rows), np.array([len(row) for row in rows], np.int64)


def split_rows(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the rows that :func:`join_rows` joined, as views."""
    return make_rows(np.split(values, np.cumsum(lengths)[:-1]) if len(lengths) else [])


def have_equal_bits(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return which rows of two ragged arrays have the same length and the same bits, bool ``[T]``."""
    pairs = zip(left.reshape(-1), right.reshape(-1), strict=True)
    is_equal = [np.array_equal(view_bits(one), view_bits(other)) for one, other in pairs]
    return np.array(is_equal, bool).reshape(left.shape)


def count_bytes(values: np.ndarray) -> int:
    """Return the size of an array in memory, with that of its rows where it is ragged; texts count as pointers."""
    return values.nbytes + (sum(row.nbytes for row in values.flat) if is_ragged(values) else 0)


def copy_rows(values: np.ndarray) -> np.ndarray:
    """Return a copy of a ragged array that shares no memory with it."""
    return make_rows([row.copy() for row in values.reshape(-1)]).reshape(values.shape)


def to_nested(values: np.ndarray) -> "torch.Tensor":
    """Return a ragged array ``[T]`` as a nested tensor, which owns its memory."""
    import torch

    joined, lengths = join_rows(values)
    offsets = torch.from_numpy(np.concatenate([[0], lengths.cumsum()]))
    return torch.nested.nested_tensor_from_jagged(array_to_tensor(joined), offsets)


def from_nested(tensor: "torch.Tensor") -> np.ndarray:
    """Return a nested tensor of B rows as an object array ``[B]``."""
    return make_rows([tensor_to_array(row).copy() for row in tensor.unbind()])
