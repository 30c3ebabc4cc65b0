"""What a dataset's rows hold: keys, dtypes and shapes, and the check that data agree with them.

One episode of length T has, for each field::

    observed field (has a "next" twin)    s_0  s_1  …  s_T-1 | s_T     T rows, and the final value kept beside them
    any other field                       x_0  x_1  …  x_T-1           T rows

so that no observation is stored twice: ``("next", k)`` of row t is ``k`` of row t+1, or the final value.
The root's ``done``, ``terminated`` and ``truncated`` are False at every row of TED data and are not stored;
``("next", "done")`` is derived from the two others.
"""

import functools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhive import keys
from rlhive.errors import SchemaMismatch
from rlhive.keys import NestedKey, column_to_key, key_to_column

if TYPE_CHECKING:  # importing torch takes seconds, and reading a manifest needs none of it
    from tensordict import TensorDictBase

STRING = "string"
DTYPES = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool", STRING)

#: Elements of a row's field and its dimensions, at most: what Arrow's lists and NumPy's arrays hold.
MAX_WIDTH = 2**31 - 1
MAX_DIMS = 32

#: Columns that RLHive adds to every row; no field may have their names.
INDEX_COLUMNS = (keys.EPISODE, keys.STEP_COUNT)


@dataclass(frozen=True)
class Field:
    """One key of a transition.

    Attributes:
        column: Column name, the dotted form of the nested key.
        dtype: NumPy name of the element type, one of DTYPES; ``"string"`` is one Unicode text per row, whose arrays
            have NumPy's object dtype.
        shape: Shape of one row, ``(75,)`` or ``(1,)`` for example; ``()`` for strings.
        observed: Whether the key has a twin below ``"next"``.
        unit: Physical unit, where known.
    """

    column: str
    dtype: str
    shape: tuple[int, ...]
    observed: bool
    unit: str | None = None

    @property
    def key(self) -> NestedKey:
        """The nested key of the column."""
        return column_to_key(self.column)

    @property
    def width(self) -> int:
        """Number of elements of one row."""
        return int(np.prod(self.shape))

    @property
    def is_string(self) -> bool:
        """Whether it holds text, which no tensor can."""
        return self.dtype == STRING

    def describe(self) -> str:
        """Return dtype and shape as an error message names them."""
        return f"{self.dtype} {self.shape}"


@dataclass(frozen=True)
class Schema:
    """The fields of a dataset, sorted by column name.

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
        """Return the schema of TED transitions, batch size ``[T]``.

        Raises:
            SchemaMismatch: A key cannot be a column, is neither tensor nor text, or has a dtype that is not in DTYPES.
        """
        return cls.from_arrays(flatten_tensordict(transitions, context="Transitions"), units=units)

    @classmethod
    def from_arrays(
        cls, leaves: Mapping[str, np.ndarray], *, batch_dims: int = 1, units: Mapping[str, str] | None = None
    ) -> "Schema":
        """Return the schema of what :func:`flatten_tensordict` returned.

        Args:
            leaves: Arrays by column name.
            batch_dims: Number of leading dimensions that are not part of a row.
            units: Physical units by column name.
        """
        fields = []
        for column in sorted(leaves):
            if is_stored(column, leaves):
                value, observed = leaves[column], f"{keys.NEXT}.{column}" in leaves
                dtype = dtype_name(value.dtype)
                fields.append(Field(column, dtype, value.shape[batch_dims:], observed, (units or {}).get(column)))
        return cls(tuple(fields))

    @property
    def columns(self) -> tuple[str, ...]:
        """Column names, sorted."""
        return tuple(field.column for field in self.fields)

    @property
    def observed(self) -> tuple[Field, ...]:
        """The fields that have a twin below ``"next"``."""
        return tuple(field for field in self.fields if field.observed)

    @property
    def tensors(self) -> tuple[Field, ...]:
        """The fields that are not text."""
        return tuple(field for field in self.fields if not field.is_string)

    def __getitem__(self, column: str) -> Field:
        for field in self.fields:
            if field.column == column:
                return field
        raise KeyError(column)

    def require(self, other: "Schema", *, context: str) -> None:
        """Raise unless ``other`` has the same fields.

        Args:
            other: The schema that was found.
            context: Address for the message, for example ``"episode 7"``.

        Raises:
            SchemaMismatch: Names the first difference: a missing key, an extra key, a dtype or a shape.
        """
        mine = {field.column: field for field in self.fields}
        theirs = {field.column: field for field in other.fields}
        for column in sorted(mine.keys() | theirs.keys()):
            if column not in theirs:
                problem = f"key {column} is missing: expected {mine[column].describe()}"
            elif column not in mine:
                problem = f"key {column} is not in the schema: expected only {', '.join(self.columns)}"
            elif (mine[column].dtype, mine[column].shape) != (theirs[column].dtype, theirs[column].shape):
                problem = f"key {column}: expected {mine[column].describe()}, got {theirs[column].describe()}"
            elif mine[column].observed != theirs[column].observed:
                has, got = ("a", "none") if mine[column].observed else ("no", "one")
                problem = f"key {column}: expected {has} twin below 'next', got {got}"
            else:
                continue
            msg = f"{context}: {problem}. Record such data under another dataset name, or drop or convert the key."
            raise SchemaMismatch(msg)

    def to_json(self) -> list[dict[str, Any]]:
        """Return the schema as JSON-able rows, one per field."""
        return [asdict(field) | {"shape": list(field.shape)} for field in self.fields]

    @classmethod
    def from_json(cls, rows: list[dict[str, Any]]) -> "Schema":
        """Return the schema of rows that :meth:`to_json` made.

        Raises:
            SchemaMismatch: The rows are not such a list.
        """
        try:
            fields = [_field_from_json(row) for row in rows]
        except (TypeError, KeyError, ValueError) as error:
            msg = f"Schema {json.dumps(rows)[:200]}: expected rows of column, dtype, shape, observed; got {error!r}."
            raise SchemaMismatch(msg) from error
        if len({field.column for field in fields}) != len(fields):
            msg = f"Schema {json.dumps(rows)[:200]}: expected each column once, got one twice."
            raise SchemaMismatch(msg)
        return cls(tuple(sorted(fields, key=lambda field: field.column)))


@functools.lru_cache(maxsize=64)
def dtype_name(dtype: np.dtype) -> str:
    """Return how a field's dtype is called."""
    return STRING if dtype.hasobject else dtype.name


def flatten_tensordict(transitions: "TensorDictBase", *, context: str) -> dict[str, np.ndarray]:
    """Return every leaf of a TensorDict as an array.

    Args:
        transitions: Of any batch size.
        context: Address for messages, for example ``"episode 7"``.

    Returns:
        Arrays ``[*batch_size, *shape]`` by column name, strings as object arrays ``[*batch_size]``. They share
        their memory with tensors on the CPU.

    Raises:
        SchemaMismatch: A key cannot be a column, is neither tensor nor text, or has a dtype that is not in DTYPES.
    """
    try:
        return dict(_leaves(transitions, (), context))
    except RuntimeError as error:  # a lazy stack of tensors whose shapes differ
        msg = f"{context}: expected one shape per key, got: {error}. Pad or convert them."
        raise SchemaMismatch(msg) from error


def is_stored(column: str, leaves: Mapping[str, Any]) -> bool:
    """Whether a leaf is a column of its own: not derived, not a root flag, not the twin of another."""
    if column in keys.END_FLAGS or column in INDEX_COLUMNS:
        return False
    if not column.startswith(f"{keys.NEXT}."):
        return True
    bare = column.removeprefix(f"{keys.NEXT}.")
    if bare in (keys.TERMINATED, keys.TRUNCATED):
        return True
    return bare not in leaves and bare != keys.DONE and bare not in INDEX_COLUMNS


def _leaves(node: "TensorDictBase", above: tuple[str, ...], where: str) -> Iterator[tuple[str, np.ndarray]]:
    from tensordict import TensorDictBase, is_non_tensor

    for name, value in node.items():
        if isinstance(value, TensorDictBase) and not is_non_tensor(value):
            yield from _leaves(value, (*above, name), where)
        else:
            try:
                column = key_to_column((*above, name))
            except ValueError as error:
                msg = f"{where}: {error}"
                raise SchemaMismatch(msg) from error
            yield (
                column,
                _text_array(value, node, column, where) if is_non_tensor(value) else _array(value, column, where),
            )


def _array(value: Any, column: str, where: str) -> np.ndarray:
    import torch

    dtype = str(getattr(value, "dtype", type(value).__name__)).removeprefix("torch.")
    if dtype not in DTYPES or not isinstance(value, torch.Tensor):
        msg = (
            f"{where}: key {column}: expected a tensor of one of {', '.join(DTYPES)}, got {dtype}. Convert or drop it."
        )
        raise SchemaMismatch(msg)
    return value.detach().cpu().numpy()


def _text_array(value: Any, node: "TensorDictBase", column: str, where: str) -> np.ndarray:
    """Return non-tensor data as an object array of the node's batch size, if all of it is text."""
    content = value.tolist()
    array = np.empty(node.batch_size, dtype=object)
    flat = [content] if not array.ndim else np.array(content, dtype=object).ravel().tolist()
    wrong = next((item for item in flat if not isinstance(item, str)), None)
    if wrong is not None or len(flat) != array.size:
        msg = f"{where}: key {column}: expected a tensor or a string per row, got {wrong!r}. Convert or drop it."
        raise SchemaMismatch(msg)
    array.reshape(-1)[:] = flat
    return array


def _field_from_json(row: dict[str, Any]) -> Field:
    column, dtype, shape, observed = row["column"], row["dtype"], tuple(row["shape"]), row["observed"]
    if dtype not in DTYPES or not isinstance(observed, bool) or not isinstance(column, str):
        msg = f"bad field {row!r}"
        raise ValueError(msg)
    if any(not isinstance(size, int) or isinstance(size, bool) or size < 0 for size in shape):
        msg = f"bad shape {shape!r}"
        raise ValueError(msg)
    if math.prod(shape) > MAX_WIDTH or len(shape) > MAX_DIMS:
        msg = f"shape {shape!r} is larger than a row may be"
        raise ValueError(msg)
    if column in INDEX_COLUMNS or not isinstance(row.get("unit"), str | None):
        msg = f"bad field {row!r}"
        raise ValueError(msg)
    if dtype == STRING and shape:
        msg = f"bad shape {shape!r} of a string"
        raise ValueError(msg)
    key_to_column(column_to_key(column))
    return Field(column, dtype, shape, observed, row.get("unit"))
