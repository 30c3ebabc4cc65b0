"""What a sampler adds to a batch: the indices of its transitions, priorities, marks of the ends of slices."""

from typing import Any

import torch
from tensordict import TensorDict
from tensordict.utils import expand_as_right

from rlhive.keys import NestedKey

INDEX = "index"

#: What a sampler adds to a batch, by key.
SampleInfo = dict[NestedKey, Any]


def add_info(batch: TensorDict, info: SampleInfo) -> None:
    """Set the sampler's entries in a batch, ``index`` included, as TorchRL's buffer does."""
    if batch.is_locked:
        with batch.unlock_():
            add_info(batch, info)
        return
    ndim = batch.ndim
    for key, value in info.items():
        if key == INDEX and isinstance(value, tuple):
            value = torch.stack(value, -1) if len(value) > 1 else value[0].unsqueeze(-1)
        elif not isinstance(value, torch.Tensor):
            value = torch.as_tensor(value, device=batch.device)
        if value.ndim < ndim:
            value = expand_as_right(value, batch)
        if isinstance(key, tuple):  # level by level: TensorDict.set of a nested key costs three times as much
            _set_entry(_get_or_add_nested(batch, key[:-1]), key[-1], value)
        else:
            _set_entry(batch, key, value)


def _set_entry(batch: TensorDict, name: str, value: torch.Tensor) -> None:
    """Set an entry, without TensorDict's checks if shape and device are right."""
    size = batch._batch_size if type(batch) is TensorDict else None
    if size is not None and value.shape[: len(size)] == size and value.device == batch._device:
        batch._tensordict[name] = value
    else:
        batch.set(name, value)


def _get_or_add_nested(batch: TensorDict, names: tuple[str, ...]) -> TensorDict:
    """Return the TensorDict at a nested key; an empty one is added if there is none."""
    for name in names:
        nested = batch._get_str(name, None)
        if nested is None:
            nested = batch.empty()
            batch.set(name, nested)
        batch = nested
    return batch
