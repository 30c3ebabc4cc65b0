"""The dtype and shape of every column over all episodes of a source, and the arrays of an episode in that form."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from rlhive import keys
from rlhive.data._dtypes import DTYPES, STRING
from rlhive.data._episodes import REWARD, TERMINATED, TRUNCATED, Columns
from rlhive.data._schema import Field, Schema
from rlhive.data.formats._column_values import cast_exactly, refuse_values
from rlhive.errors import SchemaMismatchError

#: Columns that mean something else where a value is missing.
_NEVER_MISSING = (keys.SUCCESS, REWARD, TERMINATED, TRUNCATED, keys.PIXELS, keys.DEPTH, keys.OBSERVATION, keys.ACTION)
_NULL = "null"


@dataclass(frozen=True)
class ColumnForm:
    """What is known of a column after some episodes.

    Attributes:
        dtype: "string", "null" where nothing but nulls was seen, "uint64" for numbers beyond int64, or a NumPy name.
        shape: Shape of a row; its first size is the largest seen where the column is ragged.
        is_observed: Whether every episode has a value after the last row.
        is_ragged: Whether rows have different lengths.
        has_nulls: Whether rows, or the column of an episode, are missing.
    """

    dtype: str
    shape: tuple[int, ...]
    is_observed: bool
    is_ragged: bool = False
    has_nulls: bool = False

    @classmethod
    def of(cls, rows: np.ndarray, *, is_observed: bool) -> "ColumnForm":
        """Return the form of one episode's rows, as :mod:`~rlhive.data.formats._column_values` returns them."""
        if rows.dtype != object:
            return cls(rows.dtype.name, rows.shape[1:], is_observed)
        items = rows.tolist()
        present = [item for item in items if item is not None]
        has_nulls = len(present) < len(items)
        if not present:
            return cls(_NULL, (), is_observed, has_nulls=True)
        if isinstance(present[0], str):
            return cls(STRING, (), is_observed, has_nulls=has_nulls)
        longest = max(len(item) for item in present)
        shape = (longest, *present[0].shape[1:])
        return cls(np.result_type(*present).name, shape, is_observed, is_ragged=True, has_nulls=has_nulls)

    @property
    def column_dtype(self) -> str:
        """The dtype that holds all values: integers with nulls are floats, numbers beyond int64 are text."""
        if self.dtype == "uint64":
            return STRING
        is_number = self.dtype not in (STRING, _NULL)
        if self.has_nulls and not self.is_ragged and is_number and np.dtype(self.dtype).kind != "f":
            return "float64"
        return self.dtype

    @property
    def is_empty(self) -> bool:
        """Whether the column holds nothing: nulls alone, or lists without elements."""
        return self.dtype == _NULL or not math.prod(self.shape)

    def merge(self, other: "ColumnForm", context: str) -> "ColumnForm":
        """Return the form that holds the values of both.

        Raises:
            SchemaMismatchError: No form does.
        """
        first, second = (other, self) if self.dtype == _NULL else (self, other)
        if second.dtype == _NULL:
            return replace(first, has_nulls=True, is_observed=self.is_observed and other.is_observed)
        return ColumnForm(
            _merge_dtypes(first.dtype, second.dtype, context),
            _merge_shapes(first, second, context),
            self.is_observed and other.is_observed,
            self.is_ragged or other.is_ragged,
            self.has_nulls or other.has_nulls,
        )


class ColumnForms:
    """The forms of all columns; :meth:`add` widens them, :meth:`fit` gives an episode in them."""

    def __init__(self) -> None:
        self._forms: dict[str, ColumnForm] = {}

    def __bool__(self) -> bool:
        return bool(self._forms)

    def __getitem__(self, name: str) -> ColumnForm:
        return self._forms[name]

    def add(self, columns: Columns, observed: Columns, context: str) -> bool:
        """Widen the forms by one episode and return whether one changed.

        Args:
            columns: Rows ``[T, …]`` of the columns without a final value.
            observed: Rows ``[T + 1, …]`` of those with one.
            context: Address for messages.

        Raises:
            SchemaMismatchError: A column cannot hold the values of all episodes.
        """
        before, is_first = dict(self._forms), not self._forms
        for name, rows in (*columns.items(), *observed.items()):
            form = ColumnForm.of(rows, is_observed=name in observed)
            if name in before:
                form = before[name].merge(form, f"{context}: column {name}")
            elif not is_first:
                form = replace(form, has_nulls=_require_may_miss(name, context, "was missing in the episodes before"))
            self._forms[name] = form
        for name in before.keys() - columns.keys() - observed.keys():
            self._forms[name] = replace(before[name], has_nulls=_require_may_miss(name, context, "is missing"))
        if self._forms.keys() != before.keys():
            _require_no_prefix(self._forms, context)
        return self._forms != before

    @property
    def schema(self) -> Schema:
        """The schema of the episodes."""
        fields = [
            Field(name, form.column_dtype, () if form.column_dtype == STRING else form.shape, form.is_observed)
            for name, form in self._forms.items()
            if not form.is_empty
        ]
        lengths = [Field(_name_lengths(item.column), "int64", (), item.observed) for item in fields if self._pads(item)]
        return Schema(tuple(sorted([*fields, *lengths], key=lambda item: item.column)))

    def fit(self, columns: Columns, observed: Columns, length: int, context: str) -> tuple[Columns, Columns]:
        """Return the rows ``[T, *shape]`` and the final values ``[*shape]`` of an episode whose forms were added."""
        fitted: Columns = {}
        final: Columns = {}
        rows_by_name = {**columns, **observed}
        for name, form in self._forms.items():
            if form.is_empty:
                continue
            rows = rows_by_name.get(name)
            num_rows = length + form.is_observed
            rows = np.full(num_rows, None, object) if rows is None else rows[:num_rows]
            for part, values in _fit_rows(name, rows, form, f"{context}: column {name}"):
                fitted[part] = np.ascontiguousarray(values[:length])
                if form.is_observed:
                    final[part] = values[length:].reshape(values.shape[1:]).copy()
        return fitted, final

    def list_padded(self) -> list[str]:
        """Return the columns whose rows have different lengths."""
        return [name for name, form in self._forms.items() if form.is_ragged and not form.is_empty]

    def list_empty(self) -> list[str]:
        """Return the columns that hold nothing in any episode."""
        return [name for name, form in self._forms.items() if form.is_empty]

    def _pads(self, item: Field) -> bool:
        return self._forms[item.column].is_ragged


def _name_lengths(name: str) -> str:
    return f"{name}_length"


def _require_may_miss(name: str, context: str, problem: str) -> bool:
    """Return True; refuse a column that no value can stand in for where an episode lacks it."""
    if name in _NEVER_MISSING or name.split(".")[0] in _NEVER_MISSING:
        msg = f"{context}: column {name} {problem}. The option drop leaves the column out, skip_episode the episode."
        raise SchemaMismatchError(msg)
    return True


def _merge_dtypes(first: str, second: str, context: str) -> str:
    if first == second:
        return first
    if STRING not in (first, second):
        if "uint64" in (first, second):
            other = np.dtype(second if first == "uint64" else first)
            if other.kind in "iub":
                return "uint64"
        else:
            merged = np.result_type(np.dtype(first), np.dtype(second)).name
            if merged in DTYPES:
                return merged
    raise refuse_values(context, f"{second}, where the episodes before have {first}")


def _merge_shapes(first: ColumnForm, second: ColumnForm, context: str) -> tuple[int, ...]:
    if first.shape == second.shape or STRING in (first.dtype, second.dtype):
        return first.shape
    if math.prod(first.shape) == math.prod(second.shape) == 1:
        return first.shape
    if (first.is_ragged or second.is_ragged) and first.shape[1:] == second.shape[1:] and first.shape and second.shape:
        return (max(first.shape[0], second.shape[0]), *first.shape[1:])
    kind = f"rows of the shape {second.shape}, where the episodes before have {first.shape}"
    raise refuse_values(context, kind)


def _fit_rows(name: str, rows: np.ndarray, form: ColumnForm, context: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the rows of a column, and their lengths where it is padded."""
    if form.column_dtype == STRING:
        texts = np.empty(len(rows), object)
        items = rows.ravel().tolist() if math.prod(form.shape) == 1 else rows.tolist()
        texts[:] = ["" if item is None else str(item) for item in items]  # several numbers are a list in JSON
        yield name, texts
        return
    dtype = np.dtype(form.column_dtype)
    if not form.is_ragged:
        yield name, _fit_numbers(rows, form, dtype, context)
        return
    lengths = np.array([0 if row is None else len(row) for row in rows], np.int64)
    padded = np.zeros((len(rows), *form.shape), dtype)
    for index, row in enumerate(rows):
        if row is not None:
            padded[index, : len(row)] = cast_exactly(np.asarray(row), dtype, context)
    yield name, padded
    yield _name_lengths(name), lengths


def _fit_numbers(rows: np.ndarray, form: ColumnForm, dtype: np.dtype, context: str) -> np.ndarray:
    if rows.dtype == object:  # nulls alone
        return np.full((len(rows), *form.shape), np.nan, dtype)
    return cast_exactly(rows, dtype, context).reshape(len(rows), *form.shape)


def describe_dtypes(names: Mapping[str, set[str]], forms: ColumnForms) -> Iterator[str]:
    """Yield the columns that have another dtype than the files, with both."""
    for name, dtypes in sorted(names.items()):
        if dtypes - {forms[name].column_dtype, STRING, _NULL}:
            yield f"{name} ({', '.join(sorted(dtypes))} to {forms[name].column_dtype})"


def _require_no_prefix(names: Iterable[str], context: str) -> None:
    """Refuse a column that is also a group of columns: no nested dictionary holds both."""
    all_names = set(names)
    for name in all_names:
        parts = name.split(".")
        for size in range(1, len(parts)):
            group = ".".join(parts[:size])
            if group in all_names:
                msg = f"{context}: {group} is a column and the group of {name}. The options rename and drop part them."
                raise SchemaMismatchError(msg)
