"""What a dataset's rows hold: keys, dtypes and shapes, and the check that data agree with them.

One episode of length T has, for each field::

    observed field (has a "next" twin)    s_0  s_1  …  s_T-1 | s_T     T rows, and the final value kept beside them
    any other field                       x_0  x_1  …  x_T-1           T rows

so that no observation is stored twice: ``("next", k)`` of row t is ``k`` of row t+1, or the final value.
The root's ``done``, ``terminated`` and ``truncated`` are False at every row of TED data and are not stored;
``("next", "done")`` is derived from the two others.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from tensordict import TensorDictBase

from rlhive import keys
from rlhive.errors import SchemaMismatch
from rlhive.keys import NestedKey, column_of, key_of

DTYPES = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")

#: Columns that RLHive adds to every row; no field may have their names.
INDEX_COLUMNS = (keys.EPISODE, keys.STEP_COUNT)


@dataclass(frozen=True)
class Field:
    """One key of a transition.

    Attributes:
        column: Column name, the dotted form of the nested key.
        dtype: NumPy name of the element type, one of DTYPES.
        shape: Shape of one row, ``(75,)`` or ``(1,)`` for example.
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
        return key_of(self.column)

    @property
    def width(self) -> int:
        """Number of elements of one row."""
        return int(np.prod(self.shape))

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
        >>> Schema.of(td).columns
        ('observation',)
    """

    fields: tuple[Field, ...]

    @classmethod
    def of(cls, transitions: TensorDictBase, *, units: Mapping[str, str] | None = None) -> "Schema":
        """Return the schema of TED transitions, batch size ``[T]``.

        Raises:
            SchemaMismatch: A key cannot be a column, is not a tensor, or has a dtype that is not in DTYPES.
        """
        leaves = {column_of(key): value for key, value in transitions.items(True, True)}
        fields = []
        for column, value in sorted(leaves.items()):
            if not _stored(column, leaves):
                continue
            dtype = str(getattr(value, "dtype", type(value).__name__)).removeprefix("torch.")
            if dtype not in DTYPES:
                msg = f"Key {column}: expected a tensor of one of {', '.join(DTYPES)}, got {dtype}. Convert or drop it."
                raise SchemaMismatch(msg)
            observed = f"{keys.NEXT}.{column}" in leaves
            unit = (units or {}).get(column)
            fields.append(Field(column, dtype, tuple(value.shape[1:]), observed, unit))
        return cls(tuple(fields))

    @property
    def columns(self) -> tuple[str, ...]:
        """Column names, sorted."""
        return tuple(field.column for field in self.fields)

    @property
    def observed(self) -> tuple[Field, ...]:
        """The fields that have a twin below ``"next"``."""
        return tuple(field for field in self.fields if field.observed)

    def __getitem__(self, column: str) -> Field:
        for field in self.fields:
            if field.column == column:
                return field
        raise KeyError(column)

    def require(self, other: "Schema", *, where: str) -> None:
        """Raise unless ``other`` has the same fields.

        Args:
            other: The schema that was found.
            where: Address for the message, for example ``"episode 7"``.

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
            msg = f"{where}: {problem}. Record such data under another dataset name, or drop or convert the key."
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
        return cls(tuple(sorted(fields, key=lambda field: field.column)))


def _stored(column: str, leaves: Mapping[str, Any]) -> bool:
    """Whether a leaf is a column of its own: not derived, not a root flag, not the twin of another."""
    if column in keys.END_FLAGS or column in INDEX_COLUMNS:
        return False
    if not column.startswith(f"{keys.NEXT}."):
        return True
    bare = column.removeprefix(f"{keys.NEXT}.")
    if bare in (keys.TERMINATED, keys.TRUNCATED):
        return True
    return bare not in leaves and bare != keys.DONE and bare not in INDEX_COLUMNS


def _field_from_json(row: dict[str, Any]) -> Field:
    column, dtype, shape, observed = row["column"], row["dtype"], tuple(row["shape"]), row["observed"]
    if dtype not in DTYPES or not isinstance(observed, bool) or not isinstance(column, str):
        msg = f"bad field {row!r}"
        raise ValueError(msg)
    if any(not isinstance(size, int) or size < 0 for size in shape):
        msg = f"bad shape {shape!r}"
        raise ValueError(msg)
    column_of(key_of(column))
    return Field(column, dtype, shape, observed, row.get("unit"))
