"""A storage for uint16 and uint32, which torch cannot write by index: the same bits, as signed integers."""

from typing import Any

import torch
from tensordict import TensorDictBase
from torchrl.data import LazyMemmapStorage

from rlhive.keys import NestedKey

_SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32}


class UnsignedMemmapStorage(LazyMemmapStorage):
    """TorchRL's storage whose files hold uint16 and uint32 as signed integers of the same bits.

    What is written and read has the unsigned dtypes. The dtypes are those of the first rows that are written.
    """

    _unsigned: dict[NestedKey, torch.dtype] | None = None

    def set(self, cursor: Any, data: TensorDictBase, *, set_cursor: bool = True) -> None:
        """Write transitions; see ``LazyMemmapStorage.set``."""
        if self._unsigned is None:
            leaves = data.items(True, True)
            self._unsigned = {key: value.dtype for key, value in leaves if value.dtype in _SIGNED}
        super().set(cursor, _view_as(data, {key: _SIGNED[dtype] for key, dtype in self._unsigned.items()}))

    def get(self, index: Any) -> Any:
        """Return transitions; see ``LazyMemmapStorage.get``."""
        return _view_as(super().get(index), self._unsigned or {})


def has_unsigned(data: TensorDictBase) -> bool:
    """Return whether a leaf is one that :class:`UnsignedMemmapStorage` is for."""
    return any(value.dtype in _SIGNED for value in data.values(True, True))


def _view_as(data: TensorDictBase, dtypes: dict[NestedKey, torch.dtype]) -> TensorDictBase:
    """Return the TensorDict with other dtypes over the same bits; without a device, so that it can be cloned."""
    viewed = data.copy().clear_device_()
    for key, dtype in dtypes.items():
        viewed.set(key, viewed.get(key).view(dtype))
    return viewed
