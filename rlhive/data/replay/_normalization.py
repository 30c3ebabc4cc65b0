"""Mean, scale and TorchRL transform that normalise a column, from its statistics."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from rlhive import keys
from rlhive.data._schema import Field, Schema
from rlhive.errors import SchemaMismatchError
from rlhive.keys import NestedKey
from rlhive.normalization import CastObservationNorm, ClippedObservationNorm, compute_scale

#: True for ``observation``, a list of keys, or mean and standard deviation by key.
Normalize = bool | Sequence[NestedKey] | Mapping[NestedKey, tuple[torch.Tensor, torch.Tensor]]

MEAN_STD = "mean_std"
MIN_MAX = "min_max"
QUANTILES = "quantiles"

_STATISTICS = {MEAN_STD: ("mean", "std"), MIN_MAX: ("min", "max"), QUANTILES: ("q01", "q99")}


def resolve_normalization(
    schema: Schema, normalize: Normalize, statistics: Mapping[str, Mapping[str, Any]]
) -> dict[NestedKey, tuple[torch.Tensor, torch.Tensor]]:
    """Return mean and scale of every key that ``normalize`` names.

    Args:
        schema: Fields of the dataset.
        normalize: What to normalise.
        statistics: Statistics by column name, as :meth:`rlhive.data.ColumnStatistics.to_json` returns them.

    Raises:
        SchemaMismatchError: A column has no statistics, or :func:`mean_and_scale` refuses it.
    """
    if normalize is False:
        return {}
    if isinstance(normalize, Mapping):
        pairs = {keys.column_to_key(keys.key_to_column(key)): pair for key, pair in normalize.items()}
        return {key: (mean, compute_scale(mean, std)) for key, (mean, std) in pairs.items()}
    columns = [keys.key_to_column(key) for key in ([keys.OBSERVATION] if normalize is True else normalize)]
    for column in columns:
        if column not in statistics:
            msg = (
                f"normalize: expected a field with statistics, got {column}. "
                f"Pass normalize={{{keys.column_to_key(column)!r}: (mean, std)}}."
            )
            raise SchemaMismatchError(msg)
    return {keys.column_to_key(column): mean_and_scale(schema[column], statistics[column]) for column in columns}


def mean_and_scale(item: Field, statistics: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and scale of a column for :func:`rlhive.normalization.normalize`.

    Args:
        item: The column's field.
        statistics: Statistics of the column, as :meth:`rlhive.data.ColumnStatistics.to_json` returns them.

    Returns:
        Two float64 tensors of the field's shape. Statistics per channel, as of a picture, give one number per channel;
        statistics of all elements together give the same number for each element of the last dimension.

    Raises:
        SchemaMismatchError: The field is not of a floating-point dtype, or its mean or standard deviation is not
            finite.
    """
    mean, std = _read_pair(item, statistics, MEAN_STD)
    return mean, compute_scale(mean, std)


def observation_norm(
    item: Field,
    statistics: Mapping[str, Any],
    *,
    how: str = MEAN_STD,
    dtype: torch.dtype | None = torch.float32,
) -> CastObservationNorm:
    """Return a transform that normalises a column, and its twin below ``"next"`` where there is one.

    Args:
        item: The column's field.
        statistics: Statistics of the column, as :meth:`rlhive.data.ColumnStatistics.to_json` returns them.
        how: ``"mean_std"`` is the rule of :mod:`rlhive.normalization`. ``"min_max"`` maps the extremes and
            ``"quantiles"`` the 1 % and 99 % quantiles to -1 and 1; elements that do not vary are shifted only.
        dtype: Dtype of the result; None for that of the input.

    Raises:
        SchemaMismatchError: The field is not of a floating-point dtype, or statistics that ``how`` needs are missing or
            not finite.
    """
    in_keys = [item.key]
    if item.observed:
        in_keys.append((keys.NEXT, item.key) if isinstance(item.key, str) else (keys.NEXT, *item.key))
    if how == MEAN_STD:
        mean, scale = mean_and_scale(item, statistics)
        return ClippedObservationNorm(loc=mean, scale=scale, in_keys=in_keys, dtype=dtype)
    low, high = _read_pair(item, statistics, how)
    half_range = (high - low) / 2
    scale = torch.where(half_range > 0, half_range, torch.ones_like(half_range))
    return CastObservationNorm(loc=(low + high) / 2, scale=scale, in_keys=in_keys, dtype=dtype)


def _read_pair(item: Field, statistics: Mapping[str, Any], how: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the two statistics that a normalisation needs, float64, in the shape of the field."""
    if how not in _STATISTICS or not item.is_float:
        msg = f"Normalising {item.column} ({item.dtype}) by {how!r}: expected floats and {', '.join(_STATISTICS)}."
        raise SchemaMismatchError(msg)
    first, second = (_to_tensor(item, statistics.get(name)) for name in _STATISTICS[how])
    if first is None or second is None:
        msg = (
            f"Normalising {item.column} by {how!r}: expected finite {' and '.join(_STATISTICS[how])} of {item.column}, "
            "got none. Leave out the episodes with infinite values."
        )
        raise SchemaMismatchError(msg)
    return first, second


def _to_tensor(item: Field, values: list[float | None] | None) -> torch.Tensor | None:
    """Return one statistic in the shape of the field, or None where it is missing or not finite."""
    if values is None or None in values:
        return None
    tensor = torch.tensor(values, dtype=torch.float64, device="cpu")
    if not tensor.isfinite().all():
        return None
    if tensor.numel() == item.width:
        return tensor.reshape(item.shape)
    return tensor.expand(item.shape[-1:]).clone()
