"""What a dataset serves and how: from the choices of ``as_replay_buffer()`` to a storage."""

import math
from collections.abc import Mapping, Sequence

import torch

from rlhive import keys
from rlhive.data._schema import Schema
from rlhive.data.replay._gather import Window, columns_of, require_list
from rlhive.data.replay._layout import Packed
from rlhive.data.replay._storage import PackedStorage
from rlhive.errors import InvalidSetting, SchemaMismatch

Normalize = bool | Sequence[keys.NestedKey] | Mapping[keys.NestedKey, tuple[torch.Tensor, torch.Tensor]]

#: Share of a device's free memory that a dataset may take to be kept there unasked.
_SHARE = 0.8

#: Statistics are read in pieces of this many transitions.
_PIECE = 16_384

_DISCOUNT = 0.99


def serve(
    packed: Packed,
    episodes: torch.Tensor | None,
    *,
    fields: Sequence[keys.NestedKey] | None = None,
    n_step: int = 1,
    gamma: float | None = None,
    frame_stack: int = 1,
    return_to_go: bool = False,
    normalize: Normalize = False,
    statistics: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
    device: torch.device | str = "cpu",
    in_memory: bool | None = None,
) -> PackedStorage:
    """Return the storage that does what was asked for.

    Args:
        packed: The open cache.
        episodes: Positions of the episodes to serve; None for all.
        fields: The keys to serve; None for all.
        n_step: Steps to ``("next", observation)``, and of the reward summed.
        gamma: Discount of ``n_step`` (0.99 by default) and of ``return_to_go`` (1.0, no discount, by default).
        frame_stack: Observations joined in one.
        return_to_go: Whether to give the rewards still to come.
        normalize: True for ``observation``, or keys, or keys with mean and scale.
        statistics: Mean and standard deviation by column, where they are known; otherwise the rows are read once.
        device: Where batches shall be.
        in_memory: Whether to copy the rows into that device's memory; by default on a GPU that has room for them.

    Raises:
        SchemaMismatch: There is no field of a key, or not one of the kind that an option needs.
        InvalidSetting: The device is a GPU, and there is none.
    """
    device = torch.device(device)
    if device.type == "cuda" and not torch.cuda.is_available():
        msg = f"device={str(device)!r}: expected a GPU that torch can use, got none. Leave device out for the CPU."
        raise InvalidSetting(msg)
    require_list(normalize, "normalize")
    window = Window(n_step=n_step, gamma=_DISCOUNT if gamma is None else gamma, frame_stack=frame_stack)
    if normalize is not False:
        if not isinstance(normalize, Mapping):
            wanted = [keys.OBSERVATION] if normalize is True else list(normalize)
            if statistics is None:
                statistics = statistics_of(PackedStorage(packed, episodes, keys=wanted), wanted)
            normalize = {key: _mean_and_scale(packed.schema, key, statistics) for key in wanted}
        window = Window(window.n_step, window.gamma, window.frame_stack, dict(normalize))
    if in_memory is None:
        in_memory = device.type == "cuda" and _fits(packed, episodes, columns_of(packed, fields), device)
    return PackedStorage(
        packed,
        episodes,
        keys=fields,
        window=window,
        return_to_go=(1.0 if gamma is None else gamma) if return_to_go else None,
        device=device,
        resident=in_memory,
    )


def statistics_of(storage: PackedStorage, wanted: Sequence[keys.NestedKey]) -> dict[str, dict[str, list[float]]]:
    """Return mean and standard deviation of some fields over all transitions of a storage, by column name.

    Pieces are combined as in Chan, Golub and LeVeque (1979), in float64.
    """
    total: dict[str, tuple[int, torch.Tensor, torch.Tensor]] = {}
    for start in range(0, len(storage), _PIECE):
        batch = storage.get(slice(start, min(start + _PIECE, len(storage))))
        for key in wanted:
            rows = batch[key].to("cpu", torch.float64).flatten(1)
            mean = rows.mean(0)
            part = len(rows), mean, (rows - mean).square_().sum(0)
            column = keys.column_of(key)
            total[column] = _combine(total[column], part) if column in total else part
    return {
        column: {"mean": mean.tolist(), "std": (squares / count).sqrt().tolist()}
        for column, (count, mean, squares) in total.items()
    }


def _combine(one: tuple, other: tuple) -> tuple[int, torch.Tensor, torch.Tensor]:
    """Count, mean and sum of squared deviations of both sets of rows together."""
    count = one[0] + other[0]
    delta = other[1] - one[1]
    mean = one[1] + delta * (other[0] / count)
    return count, mean, one[2] + other[2] + delta.square() * (one[0] * other[0] / count)


def _mean_and_scale(
    schema: Schema, key: keys.NestedKey, statistics: Mapping[str, Mapping[str, Sequence[float]]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of a field in its own shape; an element that never changes is not scaled."""
    column = keys.column_of(key)
    if column not in statistics:
        msg = f"normalize: expected a field with statistics, got {column}. Pass normalize={{{key!r}: (mean, scale)}}."
        raise SchemaMismatch(msg)
    told = [statistics[column][name] for name in ("mean", "std")]
    if any(value is None or not math.isfinite(value) for values in told for value in values):
        msg = f"normalize: expected finite moments of {column}, got others. Drop the episodes with infinite values."
        raise SchemaMismatch(msg)
    shape = schema[column].shape
    # A picture's statistics are per channel, the last dimension.
    shape = shape if len(told[0]) == schema[column].width else shape[-1:]
    mean, std = (torch.tensor(values, dtype=torch.float64).reshape(shape) for values in told)
    return mean, torch.where(std > 0, std, 1.0)


def _fits(packed: Packed, episodes: torch.Tensor | None, columns: set[str], device: torch.device) -> bool:
    """Whether the blocks of some fields have room in a GPU's free memory."""
    table = packed.episodes if episodes is None else packed.episodes[episodes]
    rows = int(table[:, 3].sum()) + len(table)
    row_bytes = sum(
        block.row_bytes for block in packed.blocks if any(place.field.column in columns for place in block.places)
    )
    return rows * row_bytes <= _SHARE * torch.cuda.mem_get_info(device)[0]
