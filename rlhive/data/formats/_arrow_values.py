"""Arrow arrays as other programs write them, turned into NumPy arrays: the types, nulls and shapes of the file."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from rlhive.data.formats._column_values import fill_nulls, refuse_values


def read_arrow_columns(
    name: str, array: pa.Array | pa.ChunkedArray, *, context: str
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield an Arrow column as NumPy arrays by name: one, or one for each field of a struct.

    Args:
        name: Name of the column.
        array: Its values, T rows.
        context: Address for messages.

    Returns:
        ``[T, *shape]``: numbers, with NaN for null; or objects: texts and None, or arrays of different lengths.

    Raises:
        SchemaMismatchError: No column can hold the values; the message names column and type.
    """
    array = _simplify(array)
    if pa.types.is_struct(array.type):
        for field, part in zip(array.type, array.flatten(), strict=True):
            yield from read_arrow_columns(f"{name}.{field.name}", part, context=context)
        return
    yield name, arrow_to_numpy(array, context=f"{context}: column {name}")


def arrow_to_numpy(array: pa.Array | pa.ChunkedArray, *, context: str) -> np.ndarray:
    """Return an Arrow array that is no struct as :func:`read_arrow_columns` does."""
    array = _simplify(array)
    if pa.types.is_null(array.type):
        return np.full(len(array), None, object)
    if _is_arrow_text(array.type):
        return _to_object_array(array.to_pylist())
    if pa.types.is_fixed_size_binary(array.type) and not array.null_count:
        return np.array(array.to_pylist(), f"V{array.type.byte_width}")
    if array.null_count:
        return _read_with_nulls(array, context)
    if pa.types.is_fixed_size_list(array.type):
        return _split_rows(array.flatten(), np.full(len(array), array.type.list_size), context)
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        return _split_rows(array.flatten(), array.value_lengths().to_numpy(zero_copy_only=False), context)
    if not (_is_number(array.type) or pa.types.is_temporal(array.type)):
        raise refuse_values(context, str(array.type))
    return _to_integers_of_time(array).to_numpy(zero_copy_only=False)


def _simplify(array: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return one chunk of a type without extensions and dictionaries."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks() if array.num_chunks != 1 else array.chunk(0)
        if isinstance(array, pa.ChunkedArray):  # what combine_chunks returns for a column without chunks
            array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    if isinstance(array, pa.ExtensionArray):
        return _simplify(array.storage)
    return _simplify(array.dictionary_decode()) if pa.types.is_dictionary(array.type) else array


def _read_with_nulls(array: pa.Array, context: str) -> np.ndarray:
    """Return numbers or lists with nulls: NaN for a null number and for all numbers of a null list of one shape."""
    is_null = array.is_null().to_numpy(zero_copy_only=False)
    if is_null.all():
        return np.full(len(array), None, object)
    present = arrow_to_numpy(array.drop_null(), context=context)
    if present.dtype != object:
        return fill_nulls(present, is_null, context)
    rows, values = np.empty(len(array), object), iter(present)
    for index in range(len(array)):
        rows[index] = None if is_null[index] else next(values)
    return rows


def _split_rows(elements: pa.Array, lengths: np.ndarray, context: str) -> np.ndarray:
    """Return the elements of lists as rows: one array where all have one length, else an array for each."""
    if pa.types.is_struct(elements.type):
        raise refuse_values(context, f"lists of {elements.type}")
    values = arrow_to_numpy(elements, context=context)
    if not len(lengths):
        return np.zeros((0, 0), values.dtype)
    if len(set(lengths.tolist())) == 1:
        return values.reshape(len(lengths), int(lengths[0]), *values.shape[1:])
    if values.dtype == object:
        raise refuse_values(context, f"lists of different lengths of {elements.type}")
    return _to_object_array(np.split(values, np.cumsum(lengths)[:-1]))


def _to_integers_of_time(array: pa.Array) -> pa.Array:
    """Return dates and times as the integers that are stored; others as they are."""
    if not pa.types.is_temporal(array.type):
        return array
    return array.view(pa.int32() if array.type.bit_width == 32 else pa.int64())


def _is_arrow_text(dtype: pa.DataType) -> bool:
    tests = ("string", "large_string", "binary", "large_binary", "string_view", "binary_view")
    return any(getattr(pa.types, f"is_{name}")(dtype) for name in tests)


def _is_number(dtype: pa.DataType) -> bool:
    return pa.types.is_integer(dtype) or pa.types.is_floating(dtype) or pa.types.is_boolean(dtype)


def _to_object_array(items: Sequence[Any]) -> np.ndarray:
    rows = np.empty(len(items), object)
    for index, item in enumerate(items):
        rows[index] = item
    return rows
