"""Floating-point columns in another dtype, without a finite number that becomes infinite."""

import numpy as np

from rlhive.data._dtypes import cast_array, to_numbers, to_numpy_dtype
from rlhive.data._episodes import Columns
from rlhive.data._ragged import is_ragged, join_rows, split_rows
from rlhive.data._schema import Schema
from rlhive.errors import SchemaMismatchError


class ColumnCast:
    """Convert the floating-point columns to the dtypes of another schema; others stay as they are.

    Args:
        schema: Schema that the result has.
        context: Address for messages.
    """

    def __init__(self, schema: Schema, context: str):
        self._dtypes = {field.column: to_numpy_dtype(field.dtype) for field in schema.fields if field.is_float}
        self._context = context

    def __call__(self, columns: Columns) -> Columns:
        """Return the columns.

        Raises:
            SchemaMismatchError: A finite number has no finite counterpart in the other dtype.
        """
        return {
            name: self._convert(name, values, self._dtypes[name]) if name in self._dtypes else values
            for name, values in columns.items()
        }

    def _convert(self, name: str, values: np.ndarray, dtype: np.dtype) -> np.ndarray:
        if is_ragged(values):
            elements, lengths = join_rows(values)
            return split_rows(self._convert(name, elements, dtype), lengths).reshape(values.shape)
        if values.dtype == object:  # no row at all
            return values
        try:
            with np.errstate(over="raise"):
                return cast_array(values, dtype)
        except FloatingPointError:
            numbers = to_numbers(values)
            largest = np.abs(numbers[np.isfinite(numbers)]).max()
        msg = (
            f"{self._context}: column {name} holds {largest:.3g}, which {dtype} cannot represent "
            f"(at most {np.finfo(dtype).max:.3g}). dtype=None serves the stored values."
        )
        raise SchemaMismatchError(msg)
