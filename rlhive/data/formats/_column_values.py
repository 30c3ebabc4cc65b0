r"""Arrays of any dtype that a file may hold, turned into arrays that a column can hold, without loss.

::

    in the file                            in the column
    float, bool, int, uint8 to uint32      the same, in the machine's byte order
    uint64                                 int64; beyond 2^63, decimal text (a list in JSON for several numbers)
    long double                            float64, if it is exact
    complex                                [real, imaginary]
    date and time                          int64 in the file's own unit
    bytes and text                         text; bytes that are no UTF-8 as \\x.. escapes
    opaque bytes of a fixed width          uint8 [width]
    compound of fields, several texts      one column each
    numbers with nulls                     float with NaN for null
    lists of different lengths             padded with zeros, with their lengths beside them

The last three are completed over all episodes, in :mod:`~rlhive.data.formats._column_forms`.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rlhive.errors import SchemaMismatchError

_EXACT_IN_FLOAT64 = 2**53


def split_values(name: str, values: Any, *, context: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the columns that an array becomes: one, or one for each field of a compound and each of several texts.

    Args:
        name: Name of the column.
        values: ``[T, *shape]`` of any dtype; objects may be texts, bytes, None, numbers and arrays.
        context: Address for messages.

    Returns:
        Arrays of native numbers; or of objects: texts and None, arrays of different lengths, or None alone.

    Raises:
        SchemaMismatchError: No column can hold the values; the message names column and type.
    """
    array = values if isinstance(values, np.ndarray) else _to_objects(values)
    if array.dtype.names:
        for field in array.dtype.names:
            yield from split_values(f"{name}.{field}", array[field], context=context)
        return
    array = _convert(array, f"{context}: column {name}")
    if array.dtype == object and array.ndim > 1:
        flat = array.reshape(len(array), -1)
        names = [name] if flat.shape[1] == 1 else [f"{name}.{index}" for index in range(flat.shape[1])]
        yield from zip(names, flat.T, strict=True)
        return
    yield name, array


def to_text(value: Any) -> str:
    """Return text of text or bytes; bytes that are no UTF-8, and lone surrogates, become escapes."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return str(value).encode("utf-8", "backslashreplace").decode("utf-8")


def refuse_values(context: str, kind: str) -> SchemaMismatchError:
    """Return the error for values that are whole but that no column can hold."""
    return SchemaMismatchError(f"{context}: not understood: {kind}. The option drop leaves the column out.")


def cast_exactly(values: np.ndarray, dtype: np.dtype, context: str) -> np.ndarray:
    """Return numbers in another dtype.

    Raises:
        SchemaMismatchError: A number would change.
    """
    cast = cast_if_exact(values, dtype)
    if cast.dtype != dtype:
        raise refuse_values(context, f"{values.dtype} numbers that {dtype} cannot hold")
    return cast


def cast_if_exact(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return numbers in another dtype if that changes none of them; otherwise as they are."""
    if values.dtype == dtype:
        return values
    with np.errstate(all="ignore"):
        cast = values.astype(dtype)
        # Back again, since a comparison rounds int64 to float64; and compared, since int8 to uint8 and back wraps.
        is_same = (cast.astype(values.dtype) == values) & (cast == values)
    is_nan = values != values
    return cast if np.all(is_same | is_nan) else values


def _convert(array: np.ndarray, context: str) -> np.ndarray:
    """Return an array of native numbers or of objects."""
    kind = array.dtype.kind
    if kind in "OSUT":
        return _convert_objects(array, context)
    if kind in "Mm":
        return (
            array.view("i8").astype(np.int64)
            if array.dtype.isnative
            else array.astype(array.dtype.newbyteorder("=")).view("i8")
        )
    if kind == "V" and array.dtype.itemsize:
        return np.frombuffer(array.tobytes(), np.uint8).reshape(*array.shape, array.dtype.itemsize)
    if kind not in "biufc":
        raise refuse_values(context, str(array.dtype))
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    if kind == "c":
        parts = np.stack([native.real, native.imag], axis=-1)
        return _convert(parts, context)
    if kind == "f" and native.dtype.itemsize > 8:
        return cast_exactly(native, np.dtype(np.float64), context)
    if native.dtype == np.uint64:
        return native if native.size and int(native.max()) >= 2**63 else native.astype(np.int64)
    return native


def _convert_objects(array: np.ndarray, context: str) -> np.ndarray:
    """Return texts as str or None, numbers as an array of numbers, lists as one array or as arrays of their own."""
    items = array.astype("O").ravel().tolist()
    present = [item for item in items if item is not None]
    if not present:
        return _fill_objects([None] * len(items), array.shape)
    if all(isinstance(item, (str, bytes)) for item in present):
        return _fill_objects([None if item is None else to_text(item) for item in items], array.shape)
    if all(isinstance(item, (bool, int, float, complex, np.generic)) for item in present):
        return _convert_scalars(items, context).reshape(array.shape)
    if array.ndim == 1 and all(isinstance(item, (np.ndarray, list, tuple)) for item in present):
        return _convert_lists(items, context)
    names = sorted({type(item).__name__ for item in present})
    raise refuse_values(context, f"values of type {', '.join(names)}")


def _convert_scalars(items: Sequence[Any], context: str) -> np.ndarray:
    """Return numbers, some of them None, as one array; None is NaN."""
    numbers = [item for item in items if item is not None]
    present = np.array(numbers)
    is_whole = all(isinstance(item, (int, np.integer)) for item in numbers)
    if present.dtype.kind not in "biufc" or (is_whole and present.dtype.kind == "f"):
        raise refuse_values(context, "integers of more than 64 bits")
    if len(present) == len(items):
        return _convert(present, context)
    return fill_nulls(present, np.array([item is None for item in items]), context)


def fill_nulls(present: np.ndarray, is_null: np.ndarray, context: str) -> np.ndarray:
    """Return numbers with NaN where they are null: floats in their dtype, others as float64.

    Args:
        present: The numbers that are not null, ``[N, …]``.
        is_null: Where the others stand, bool ``[T]``.
        context: Address for messages.

    Raises:
        SchemaMismatchError: An integer is beyond 2^53, so that no float is exact.
    """
    dtype = np.dtype(np.float64)
    if present.dtype.kind == "f":
        dtype = present.dtype
    elif (
        present.size
        and present.dtype.kind in "iu"
        and max(abs(int(present.max())), abs(int(present.min()))) > _EXACT_IN_FLOAT64
    ):
        raise refuse_values(context, f"nulls among {present.dtype} numbers beyond 2^53, which NaN cannot stand beside")
    rows = np.full((len(is_null), *present.shape[1:]), np.nan, dtype)
    rows[~is_null] = present
    return rows


def _convert_lists(items: Sequence[Any], context: str) -> np.ndarray:
    """Return lists of one shape as one array, ``[T, *shape]``; lists of different lengths as an object array."""
    is_null = np.array([item is None for item in items])
    arrays = [
        _convert(item if isinstance(item, np.ndarray) else _to_objects(item), context)
        for item in items
        if item is not None
    ]
    shapes = {array.shape for array in arrays}
    if any(array.dtype == object and array.size for array in arrays):
        if len(shapes) == 1 and not is_null.any() and all(array.dtype == object for array in arrays):
            return np.stack(arrays)
        raise refuse_values(context, "lists of texts or of other lists, of different lengths")
    arrays = [array if array.dtype != object else np.zeros(array.shape, np.float16) for array in arrays]
    dtype = np.result_type(*([array for array in arrays if array.size] or arrays))
    arrays = [cast_exactly(array, dtype, context) for array in arrays]  # empty lists count for nothing
    if len(shapes) == 1:
        stacked = np.stack(arrays)
        return fill_nulls(stacked, is_null, context) if is_null.any() else stacked
    trailing = {array.shape[1:] for array in arrays if array.size}
    if len(trailing) > 1 or any(array.ndim == 0 for array in arrays):
        raise refuse_values(context, f"arrays of the shapes {', '.join(map(str, sorted(shapes)[:4]))}")
    inner = trailing.pop() if trailing else ()
    present = iter(arrays)
    rows = [np.zeros((0, *inner), dtype) if null else next(present) for null in is_null]
    return _fill_objects([row.reshape(-1, *inner) for row in rows], (len(rows),))


def _to_objects(values: Any) -> np.ndarray:
    """Return a list as an array of objects."""
    return _fill_objects(list(values), (len(values),))


def _fill_objects(items: Sequence[Any], shape: tuple[int, ...]) -> np.ndarray:
    """Return an object array; NumPy would merge lists of one length into further dimensions."""
    array = np.empty(len(items), object)
    for index, item in enumerate(items):
        array[index] = item
    return array.reshape(shape)
