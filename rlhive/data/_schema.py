"""Schema of a dataset: the key, dtype and shape of every field, and the comparison of data with it.

One episode of length T stores these values of each field::

    observed field (has a "next" twin)    s_0  s_1  …  s_T-1 | s_T     T rows, and the final value, stored separately
    any other field                       x_0  x_1  …  x_T-1           T rows

No observation is stored twice: ``("next", k)`` of row t is ``k`` of row t+1, or the final value in the last row.
The root flags ``done``, ``terminated`` and ``truncated`` are False in every row of TED data and are not stored;
``("next", "done")`` is derived from ``("next", "terminated")`` and ``("next", "truncated")``.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhive import keys
from rlhive.data._dtypes import (
    DTYPES,
    FLOAT_DTYPES,
    STRING,
    dtype_name,
    suggest_conversion,
    tensor_to_array,
    to_numpy_dtype,
)
from rlhive.data._picture_codecs import RAW, parse_storage, require_storage
from rlhive.data._pictures import choose_storage
from rlhive.data._ragged import ANY_LENGTH, from_nested, is_ragged
from rlhive.errors import InvalidOptionError, SchemaMismatchError
from rlhive.keys import NestedKey, column_to_key, key_to_column

if TYPE_CHECKING:  # importing torch takes seconds, and reading a manifest does not need it
    from tensordict import TensorDictBase

#: Largest number of elements in one row of a field: the limit of Arrow's fixed-size lists.
MAX_WIDTH = 2**31 - 1
#: Largest number of dimensions of a field: the limit of NumPy 1 arrays.
MAX_DIMS = 32

#: Columns that RLHive adds to every row. No field can have these names.
INDEX_COLUMNS = (keys.EPISODE, keys.STEP_COUNT)


@dataclass(frozen=True)
class Field:
    """One key of a transition.

    Attributes:
        column: Column name, the dotted form of the nested key.
        dtype: Name of the element type, one of DTYPES, which is NumPy's and torch's. ``"string"`` is one Unicode string
            per row, in arrays of NumPy's object dtype; ``"bfloat16"`` is in arrays of :mod:`rlhive.data._dtypes`.
        shape: Shape of one row, ``(75,)`` or ``(1,)`` for example; ``()`` for strings. ``(-1,)`` and ``(-1, 3)`` are
            ragged: the first dimension has another length in every row, see :mod:`rlhive.data._ragged`.
        observed: Whether the key has a twin below ``"next"``.
        unit: Physical unit, if known.
        storage: How the files of a version hold the values, as :mod:`rlhive.data._picture_codecs` names it; None where
            that is not decided, as in a recording.
    """

    column: str
    dtype: str
    shape: tuple[int, ...]
    observed: bool
    unit: str | None = None
    storage: str | None = None

    @property
    def key(self) -> NestedKey:
        """Nested key of the column."""
        return column_to_key(self.column)

    @property
    def width(self) -> int:
        """Number of elements in one row."""
        return int(np.prod(self.shape))

    @property
    def is_string(self) -> bool:
        """Whether the field holds strings, which no tensor can hold."""
        return self.dtype == STRING

    @property
    def is_ragged(self) -> bool:
        """Whether the rows have different lengths."""
        return self.shape[:1] == (ANY_LENGTH,)

    @property
    def kind(self) -> tuple[np.dtype, tuple[int, ...]]:
        """NumPy dtype of the field's arrays, and the shape of one row in them: ``()`` of objects for ragged rows."""
        return (np.dtype(object), ()) if self.is_ragged else (to_numpy_dtype(self.dtype), self.shape)

    @classmethod
    def of_array(
        cls, column: str, values: np.ndarray, *, batch_dims: int = 1, observed: bool = False, unit: str | None = None
    ) -> "Field":
        """Return the field of an array whose first dimensions are rows; a ragged one has the kind of its first row."""
        if is_ragged(values):
            row = values.flat[0]
            return cls(column, dtype_name(row.dtype), (ANY_LENGTH, *row.shape[1:]), observed, unit)
        return cls(column, dtype_name(values.dtype), values.shape[batch_dims:], observed, unit)

    @property
    def is_encoded(self) -> bool:
        """Whether the files of a version hold encoded pictures."""
        return self.storage not in (None, RAW)

    @property
    def is_video(self) -> bool:
        """Whether the files of a version hold the pictures as videos."""
        return parse_storage(self.storage or RAW).is_video

    @property
    def is_lossy(self) -> bool:
        """Whether the pictures of a version may differ from the recorded ones."""
        return parse_storage(self.storage or RAW).is_lossy

    @property
    def is_float(self) -> bool:
        """Whether the field holds floating-point numbers."""
        return self.dtype in FLOAT_DTYPES

    def describe(self) -> str:
        """Return dtype and shape for an error message."""
        return f"{self.dtype} {self.shape}"


@dataclass(frozen=True)
class Schema:
    """Fields of a dataset, sorted by column name.

    Example:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> td = TensorDict({"observation": torch.zeros(2, 3, dtype=torch.float64)}, [2])
        >>> Schema.from_tensordict(td).columns
        ('observation',)
    """

    fields: tuple[Field, ...]

    @classmethod
    def from_tensordict(cls, transitions: "TensorDictBase", *, units: Mapping[str, str] | None = None) -> "Schema":
        """Return the schema of TED transitions.

        Args:
            transitions: Batch size ``[T]``.
            units: Physical units by column name.

        Raises:
            SchemaMismatchError: A key cannot be a column, or a value is neither a string nor a tensor of one of DTYPES.
        """
        return cls.from_arrays(flatten_tensordict(transitions, context="Transitions"), units=units)

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, np.ndarray], *, batch_dims: int = 1, units: Mapping[str, str] | None = None
    ) -> "Schema":
        """Return the schema of arrays as :func:`flatten_tensordict` returns them.

        Args:
            arrays: Arrays by column name, ``next.*`` columns included.
            batch_dims: Number of leading dimensions that are not part of a row.
            units: Physical units by column name.
        """
        units = units or {}
        fields = []
        for column in sorted(arrays):
            if is_stored(column, arrays):
                observed = f"{keys.NEXT}.{column}" in arrays
                field = Field.of_array(
                    column, arrays[column], batch_dims=batch_dims, observed=observed, unit=units.get(column)
                )
                fields.append(field)
        return cls(tuple(fields))

    @property
    def columns(self) -> tuple[str, ...]:
        """Column names, sorted."""
        return tuple(field.column for field in self.fields)

    @property
    def observed(self) -> tuple[Field, ...]:
        """Fields that have a twin below ``"next"``."""
        return tuple(field for field in self.fields if field.observed)

    def require_equal_lengths(self, columns: Iterable[str], *, advice: str) -> None:
        """Raise if one of some columns is ragged, for what holds rows of one shape only.

        Raises:
            SchemaMismatchError: Names the ragged columns; ``advice`` ends the message.
        """
        names = sorted({field.column for field in self.ragged} & set(columns))
        if names:
            msg = f"{', '.join(names)}: expected rows of one length, got different ones. {advice}"
            raise SchemaMismatchError(msg)

    def cast(self, dtype: str | None) -> "Schema":
        """Return the schema with every floating-point field in a dtype of DTYPES; itself for None."""
        if dtype is None:
            return self
        changed = {field.column for field in self.fields if field.is_float}
        return Schema(tuple(replace(field, dtype=dtype) if field.column in changed else field for field in self.fields))

    @property
    def tensors(self) -> tuple[Field, ...]:
        """Fields that one tensor can hold: neither strings nor ragged ones."""
        return tuple(field for field in self.fields if not field.is_string and not field.is_ragged)

    @property
    def ragged(self) -> tuple[Field, ...]:
        """Fields whose rows have different lengths."""
        return tuple(field for field in self.fields if field.is_ragged)

    def __getitem__(self, column: str) -> Field:
        for field in self.fields:
            if field.column == column:
                return field
        raise KeyError(column)

    def require(self, other: "Schema", *, context: str) -> None:
        """Raise unless ``other`` has the same fields; units may differ.

        Args:
            other: Schema of the data that is compared with this one.
            context: Address for the error message, ``"episode 7"`` for example.

        Raises:
            SchemaMismatchError: A key is missing or unexpected, or a dtype or shape differs. The message names the
                first difference.
        """
        expected_fields = {field.column: field for field in self.fields}
        got_fields = {field.column: field for field in other.fields}
        for column in sorted(expected_fields.keys() | got_fields.keys()):
            expected, got = expected_fields.get(column), got_fields.get(column)
            if expected is None:
                problem = f"key {column} is not in the schema: expected only {', '.join(self.columns)}"
            elif got is None:
                problem = f"key {column} is missing: expected {expected.describe()}"
            else:
                problem = _compare_fields(expected, got)
            if problem:
                msg = f"{context}: {problem}. Drop or convert the key, or record the data under another dataset name."
                raise SchemaMismatchError(msg)

    def find_changes(self, other: "Schema") -> list[str]:
        """Return how the columns that both schemas have differ, one text per column that does; units may differ."""
        fields = {field.column: field for field in self.fields}
        changes = [_compare_fields(fields[field.column], field) for field in other.fields if field.column in fields]
        return [change for change in changes if change]

    def require_values(self, *, context: str) -> None:
        """Raise for a field without elements, which Parquet cannot hold.

        Raises:
            SchemaMismatchError: Names the first such field.
        """
        for field in self.fields:
            if not field.width:
                expected = "expected at least one value in a row"
                msg = f"{context}: key {field.column}: {expected}, got {field.describe()}. Leave the key out."
                raise SchemaMismatchError(msg)

    @property
    def encoded(self) -> tuple[Field, ...]:
        """Fields that the files of a version hold as encoded pictures."""
        return tuple(field for field in self.fields if field.is_encoded)

    @property
    def carried(self) -> tuple[Field, ...]:
        """Fields whose encoded pictures a record carries: those of a lossy storage, and videos."""
        return tuple(field for field in self.fields if field.is_video or field.is_lossy)

    def with_storage(self, storage: Mapping[str, str] | None = None) -> "Schema":
        """Return the schema with the storage of every field decided.

        Args:
            storage: Storage by column, for the columns that are to have another one than they have or get by default.

        Raises:
            InvalidOptionError: There is no such column or storage, or a column cannot have its storage.
        """
        requested = storage or {}
        unknown = sorted({*requested} - {*self.columns})
        if unknown:
            msg = f"storage: expected columns of {', '.join(self.columns)}, got {', '.join(unknown)}"
            raise InvalidOptionError(msg)
        return Schema(tuple(replace(field, storage=_choose_storage(field, requested)) for field in self.fields))

    def without_storage(self) -> "Schema":
        """Return the schema of a recording, whose pictures are encoded when a version is written."""
        return Schema(tuple(replace(field, storage=None) for field in self.fields))

    def to_json(self) -> list[dict[str, Any]]:
        """Return the schema as a list of JSON-able rows, one per field."""
        return [_field_to_json(field) for field in self.fields]

    def identity_json(self) -> str:
        """Return what a fingerprint says of the schema: all but the storage, which changes no value."""
        return json.dumps(self.without_storage().to_json(), sort_keys=True)

    @classmethod
    def from_json(cls, rows: Sequence[Mapping[str, Any]]) -> "Schema":
        """Return the schema of rows that :meth:`to_json` wrote.

        Raises:
            SchemaMismatchError: The rows are malformed, or name a column twice.
        """
        try:
            fields = [_field_from_json(row) for row in rows]
        except (TypeError, KeyError, ValueError) as error:
            msg = f"Schema {json.dumps(rows)[:200]}: expected rows of column, dtype, shape, observed; got {error!r}."
            raise SchemaMismatchError(msg) from error
        if len({field.column for field in fields}) != len(fields):
            msg = f"Schema {json.dumps(rows)[:200]}: expected each column once, got one twice."
            raise SchemaMismatchError(msg)
        return cls(tuple(sorted(fields, key=lambda field: field.column)))


#: Columns of the episode table that summarise a column of the transitions, which a recording may lack: null for all
#: episodes without it, and never null with it.
SUMMARIZED = {"return": key_to_column(keys.NEXT_REWARD), keys.SUCCESS: keys.SUCCESS}


def find_unrecorded(schema: Schema) -> list[str]:
    """Return the columns of the episode table that are unknown, since no column of the transitions gives them."""
    return [name for name, column in SUMMARIZED.items() if column not in schema.columns]


def _compare_fields(expected: Field, got: Field) -> str:
    """Return how two fields of the same column differ; empty if they do not."""
    if (expected.dtype, expected.shape) != (got.dtype, got.shape):
        return f"key {got.column}: expected {expected.describe()}, got {got.describe()}"
    if expected.observed and not got.observed:
        return f"key {got.column}: expected a twin below 'next', got none"
    if got.observed and not expected.observed:
        return f"key {got.column}: expected no twin below 'next', got one"
    return ""


def flatten_tensordict(transitions: "TensorDictBase", *, context: str) -> dict[str, np.ndarray]:
    """Return every leaf of a TensorDict as an array.

    Args:
        transitions: TensorDict of any batch size.
        context: Address for error messages, ``"episode 7"`` for example.

    Returns:
        Arrays ``[*batch_size, *shape]`` by column name, strings as object arrays ``[*batch_size]``. They share
        memory with tensors on the CPU.

    Raises:
        SchemaMismatchError: A key cannot be a column, or a value is neither a string nor a tensor of one of DTYPES.
    """
    try:
        return dict(_iterate_arrays(transitions, (), context))
    except RuntimeError as error:  # a lazy stack whose tensors have different shapes
        msg = f"{context}: expected one shape per key, got: {error}"
        raise SchemaMismatchError(msg) from error


def is_stored(column: str, columns: Mapping[str, Any]) -> bool:
    """Whether a column is written to disk: it is no root flag, no index column, not derived, and no ``next`` twin.

    Args:
        column: Name of the column.
        columns: All columns of the data, by name.
    """
    if column in keys.END_FLAGS or column in INDEX_COLUMNS:
        return False
    if not column.startswith(f"{keys.NEXT}."):
        return True
    root_column = column.removeprefix(f"{keys.NEXT}.")
    if root_column in (keys.TERMINATED, keys.TRUNCATED):
        return True
    return root_column not in columns and root_column != keys.DONE and root_column not in INDEX_COLUMNS


def _iterate_arrays(node: "TensorDictBase", parents: tuple[str, ...], context: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yield column name and array of every leaf below a node whose key is ``parents``."""
    from tensordict import TensorDictBase, is_non_tensor

    for name, value in node.items():
        if isinstance(value, TensorDictBase) and not is_non_tensor(value):
            yield from _iterate_arrays(value, (*parents, name), context)
            continue
        try:
            column = key_to_column((*parents, name))
        except ValueError as error:
            msg = f"{context}: {error}"
            raise SchemaMismatchError(msg) from error
        if is_non_tensor(value):
            yield column, _strings_to_array(value, node, column, context)
        else:
            yield column, _tensor_to_array(value, column, context)


def _tensor_to_array(value: Any, column: str, context: str) -> np.ndarray:
    import torch

    dtype = str(getattr(value, "dtype", type(value).__name__)).removeprefix("torch.")
    if dtype not in DTYPES or not isinstance(value, torch.Tensor):
        expected = f"expected a tensor of one of {', '.join(DTYPES)}"
        msg = f"{context}: key {column}: {expected}, got {dtype}.{suggest_conversion(dtype)}"
        raise SchemaMismatchError(msg)
    return from_nested(value) if value.is_nested else tensor_to_array(value)


def _strings_to_array(value: Any, node: "TensorDictBase", column: str, context: str) -> np.ndarray:
    """Return non-tensor data as an object array of the node's batch size; every element must be a string."""
    content = value.tolist()
    array = np.empty(node.batch_size, dtype=object)
    items = [content] if not array.ndim else np.array(content, dtype=object).ravel().tolist()
    invalid = next((item for item in items if not isinstance(item, str)), None)
    if invalid is not None or len(items) != array.size:
        msg = f"{context}: key {column}: expected a tensor or a string per row, got {invalid!r}."
        raise SchemaMismatchError(msg)
    array.reshape(-1)[:] = items
    return array


def _choose_storage(field: Field, requested: Mapping[str, str]) -> str:
    if field.column in requested:
        return require_storage(requested[field.column], field.dtype, field.shape, column=field.column)
    return field.storage or choose_storage(field.dtype, field.shape)


def _field_to_json(field: Field) -> dict[str, Any]:
    row = asdict(field) | {"shape": list(field.shape)}
    if not field.is_encoded:  # as all rows were before there were encoded pictures
        del row["storage"]
    return row


def _field_from_json(row: Mapping[str, Any]) -> Field:
    column, dtype, shape, observed = row["column"], row["dtype"], tuple(row["shape"]), row["observed"]
    if dtype not in DTYPES or not isinstance(observed, bool) or not isinstance(column, str):
        msg = f"bad field {row!r}"
        raise ValueError(msg)
    fixed = shape[1:] if shape[:1] == (ANY_LENGTH,) and dtype != STRING else shape
    if any(not isinstance(size, int) or isinstance(size, bool) or size < 0 for size in fixed):
        msg = f"bad shape {shape!r}"
        raise ValueError(msg)
    if math.prod(fixed) > MAX_WIDTH or len(shape) > MAX_DIMS:
        msg = f"shape {shape!r} is larger than a row may be"
        raise ValueError(msg)
    if column in INDEX_COLUMNS or not isinstance(row.get("unit"), str | None):
        msg = f"bad field {row!r}"
        raise ValueError(msg)
    if dtype == STRING and shape:
        msg = f"bad shape {shape!r} of a string"
        raise ValueError(msg)
    key_to_column(column_to_key(column))  # raises ValueError for a name that no key has
    storage = row.get("storage")
    if storage is not None:
        storage = require_storage(storage, dtype, shape, column=column)
    return Field(column, dtype, shape, observed, row.get("unit"), storage)
