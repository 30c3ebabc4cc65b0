"""Transitions as plain dicts of NumPy arrays and Python values, turned into the TensorDicts that a recorder takes.

::

    value in the dict                                       column
    NumPy array of n dimensions                             its dtype and shape
    Python float, int, bool; NumPy scalar, 0-d array        float64, int64, bool; its dtype; all of shape (1,)
    str                                                     text
    torch tensor                                            its dtype and shape
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from tensordict import NonTensorStack, TensorDict, TensorDictBase

from rlhive import keys
from rlhive.data._dtypes import DTYPES, adopt_array, array_to_tensor, dtype_name, suggest_conversion
from rlhive.data._ragged import make_rows, to_nested
from rlhive.errors import SchemaMismatchError

_EXPECTED = "a NumPy array, a number, a bool, a text or a dict of these"
#: What turns a value of a type that cannot be recorded into one that can, by the name of the type.
_ADVICE = {
    "list": "numpy.asarray(value, dtype) makes an array of it",
    "tuple": "numpy.asarray(value, dtype) makes an array of it",
    "NoneType": "leave the key out of every step",
    "bytes": "value.decode() makes text of it, numpy.frombuffer(value, numpy.uint8) numbers",
    "complex": "numpy.array([value.real, value.imag]) makes numbers of it",
}


def to_transition(step: Any, context: str) -> Any:
    """Return one transition as a TensorDict of batch size ``[]``; what is no dict as it is.

    Args:
        step: Values of one row by key; a dict below ``"next"`` and in any other group.
        context: Prefix of error messages.

    Raises:
        SchemaMismatchError: A key cannot name a column, or a value cannot be recorded; the message names key and type.
    """
    return _convert_dict(step, [], _convert_value, context, ()) if _is_dict(step) else step


def to_transitions(arrays: Any, context: str) -> Any:
    """Return T transitions as a TensorDict of batch size ``[T]``; what is no dict as it is.

    Args:
        arrays: Arrays ``[T, *shape]``, lists of T texts, and lists of T arrays of any length by key, nested as in
            :func:`to_transition`; ``[T]`` counts as ``[T, 1]``.
        context: Prefix of error messages.

    Raises:
        SchemaMismatchError: As for :func:`to_transition`, or the arrays have different numbers of rows.
    """
    if not _is_dict(arrays):
        return arrays
    lengths = dict(_list_lengths(arrays, ()))
    if not lengths:
        msg = (
            f"{context}: expected a TensorDict or a dict of arrays [T, ...], got a {type(arrays).__name__} without any."
        )
        raise SchemaMismatchError(msg)
    if len(set(lengths.values())) > 1:
        row_counts = ", ".join(f"{name!r} {length}" for name, length in lengths.items())
        msg = f"{context}: expected arrays of one length in every key, one row per transition, got {row_counts}."
        raise SchemaMismatchError(msg)
    return _convert_dict(arrays, [*set(lengths.values())], _convert_rows, context, ())


def _is_dict(data: Any) -> bool:
    return isinstance(data, Mapping) and not isinstance(data, TensorDictBase)  # a TensorDict is a Mapping too


def _convert_dict(
    values: Mapping[Any, Any],
    batch_size: list[int],
    convert: Callable[[Any, str], Any],
    context: str,
    parents: tuple[str, ...],
) -> TensorDict:
    converted: dict[str, Any] = {}
    for name, value in values.items():
        if not isinstance(name, str):
            msg = f"{context}: key {name!r}: expected a string, got {type(name).__name__}. Nest dicts for nested keys."
            raise SchemaMismatchError(msg)
        try:
            column = keys.key_to_column((*parents, name))
        except ValueError as error:
            msg = f"{context}: {error}"
            raise SchemaMismatchError(msg) from error
        if isinstance(value, Mapping):
            converted[name] = _convert_dict(value, batch_size, convert, context, (*parents, name))
        else:
            converted[name] = convert(value, f"{context}: key {column}")
    return TensorDict(converted, batch_size)


def _convert_value(value: Any, context: str) -> Any:
    """Return the value of one row as a tensor or text."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, (np.ndarray, np.generic)):
        tensor = _share_array(adopt_array(value), context)
        return tensor if tensor.ndim else tensor.reshape(1)
    if isinstance(value, (bool, int, float)):
        return _convert_number(value, context)
    raise _refuse_type(type(value).__name__, context)


def _convert_rows(value: Any, context: str) -> Any:
    """Return the values of T rows as a tensor or texts."""
    if isinstance(value, torch.Tensor):
        return value
    if _is_text_rows(value):
        return NonTensorStack(*(str(text) for text in value))
    if isinstance(value, (list, tuple)) and value and all(isinstance(row, np.ndarray) and row.ndim for row in value):
        return to_nested(make_rows([adopt_array(row) for row in value]))
    if not isinstance(value, np.ndarray) or not value.ndim:
        raise _refuse_type(type(value).__name__, context, expected="an array [T, ...] or a list of T texts or arrays")
    tensor = _share_array(adopt_array(value), context)
    return tensor if tensor.ndim > 1 else tensor.reshape(-1, 1)


def _convert_number(value: Any, context: str) -> torch.Tensor:
    if not isinstance(value, float) and not -(2**63) <= value < 2**63:
        msg = f"{context}: expected an int64, got {value}. Record it as text, or float(value)."
        raise SchemaMismatchError(msg)
    dtype = torch.bool if isinstance(value, bool) else torch.float64 if isinstance(value, float) else torch.int64
    return torch.tensor([value], dtype=dtype)


def _share_array(array: np.ndarray, context: str) -> torch.Tensor:
    """Return an array as a tensor; a copy where torch cannot take it as it is: read-only, reversed, byte-swapped."""
    dtype = dtype_name(array.dtype)
    if dtype not in DTYPES or array.dtype.hasobject:
        values = f"an array of {array.dtype.name}" if array.dtype.kind in "OSUMmV" else f"{array.dtype.name} numbers"
        msg = f"{context}: expected one of {', '.join(DTYPES)}, got {values}.{suggest_conversion(array.dtype.name)}"
        raise SchemaMismatchError(msg)
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    is_usable = native.flags.writeable and all(stride >= 0 for stride in native.strides)
    return array_to_tensor(native if is_usable else native.copy(order="C"))


def _list_lengths(values: Mapping[Any, Any], parents: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    """Yield key and number of rows of every array and list; other values are refused when they are converted."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _list_lengths(value, (*parents, str(name)))
        elif isinstance(value, (list, tuple)) or (isinstance(value, (np.ndarray, torch.Tensor)) and value.ndim):
            yield ".".join((*parents, str(name))), len(value)


def _is_text_rows(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.ndim == 1 and value.dtype.kind in "UO" and _is_text_rows(value.tolist())
    return isinstance(value, (list, tuple)) and len(value) > 0 and all(isinstance(text, str) for text in value)


def _refuse_type(type_name: str, context: str, expected: str = _EXPECTED) -> SchemaMismatchError:
    advice = _ADVICE.get(type_name, "")
    return SchemaMismatchError(f"{context}: expected {expected}, got {type_name}{f': {advice}' if advice else ''}.")
