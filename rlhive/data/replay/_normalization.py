"""Statistics → a TorchRL transform that normalises."""

from collections.abc import Mapping
from typing import Any

import torch
from torchrl.envs.transforms import ObservationNorm

from rlhive import keys
from rlhive.errors import SchemaMismatch

MEAN_STD, MIN_MAX, QUANTILES = "mean_std", "min_max", "quantiles"


def observation_norm(
    statistics: Mapping[str, Any], key: keys.NestedKey, *, dtype: str, observed: bool, how: str = MEAN_STD
) -> ObservationNorm:
    """Return the transform of one column.

    Args:
        statistics: Of the column, as :meth:`rlhive.data.ColumnStatistics.to_json` gives them.
        key: Its nested key.
        dtype: Its dtype, which the transform keeps.
        observed: Whether its twin below ``"next"`` is normalised as well.
        how: ``"mean_std"`` to mean 0 and standard deviation 1; ``"min_max"`` or ``"quantiles"`` to -1 … 1 between the
            extremes or between the 1 % and 99 % quantiles. An element that does not vary is only shifted.

    Raises:
        SchemaMismatch: The statistics are not finite, lack what ``how`` needs, or the column holds no floats.
    """
    names = {MEAN_STD: ("mean", "std"), MIN_MAX: ("min", "max"), QUANTILES: ("q01", "q99")}
    column = keys.key_to_column(key)
    if how not in names or not dtype.startswith("float"):
        msg = f"Normalising {column} ({dtype}) by {how!r}: expected floats and {', '.join(names)}. Convert it."
        raise SchemaMismatch(msg)
    found = [statistics.get(name) for name in names[how]]
    if None in found or any(value is None for row in found for value in row):
        msg = f"Normalising {column} by {how!r}: expected finite {' and '.join(names[how])}, got none. Choose another."
        raise SchemaMismatch(msg)
    first, second = (torch.tensor(row, dtype=torch.float64) for row in found)
    loc, scale = (first, second) if how == MEAN_STD else ((first + second) / 2, (second - first) / 2)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    parts = (key,) if isinstance(key, str) else tuple(key)
    kind = getattr(torch, dtype)
    return ObservationNorm(
        loc=loc.to(kind),
        scale=scale.to(kind),
        in_keys=[key, (keys.NEXT, *parts)] if observed else [key],
        standard_normal=True,
    )
