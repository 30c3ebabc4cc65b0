"""Batches of a dataset in TorchRL's ``OfflineToOnlineReplayBuffer``.

It joins a batch of the dataset and one of a plain buffer by ``torch.cat``, which wants the same keys in both. But a
batch of a ``TensorDictReplayBuffer`` has an ``index``, a dataset's has ``episode``, and what a collector returns has
``collector``. While TorchRL's class draws, a batch is therefore a :class:`MixedBatch`, which leaves such keys out when
it is joined. See docs/decisions/024-offline-to-online.md.
"""

import sys
from collections.abc import Sequence
from typing import Any

import torch
from tensordict import TensorDict
from torchrl.data import OfflineToOnlineReplayBuffer

from rlhive import keys
from rlhive.data._transition_batch import BOOKKEEPING
from rlhive.errors import SchemaMismatchError

_CALLER = OfflineToOnlineReplayBuffer.sample.__code__

#: Keys of which one part may have none.
_OPTIONAL = {*BOOKKEEPING, keys.EPISODE, keys.STEP_COUNT}


class MixedBatch(TensorDict):
    """A batch that is to be joined with one of another buffer; the result is a plain TensorDict."""

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.cat:
            batches, *rest = args
            return torch.cat(select_common_keys(batches), *rest, **(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs)


def is_mixed_by_torchrl(batch_size: int) -> bool:
    """Return whether the caller's caller is TorchRL's class, which joins this batch with another one."""
    frame = sys._getframe(2)
    return frame.f_code is _CALLER and frame.f_locals.get("batch_size") != batch_size


def to_mixed(batch: TensorDict) -> MixedBatch:
    """Return a batch as a :class:`MixedBatch`; the leaves are the same."""
    return MixedBatch(dict(batch.items()), batch.batch_size, device=batch.device)


def select_common_keys(batches: Sequence[TensorDict]) -> list[TensorDict]:
    """Return the batches with the keys that all of them have.

    Raises:
        SchemaMismatchError: A batch lacks a key that is more than bookkeeping.
    """
    key_sets = [set(batch.keys(True, True)) for batch in batches]
    common = set.intersection(*key_sets)
    for key in sorted(set.union(*key_sets) - common, key=str):
        parts = (key,) if isinstance(key, str) else key
        if not _OPTIONAL.intersection(parts):
            lacking = next(number for number, key_set in enumerate(key_sets) if key not in key_set)
            msg = (
                f"Key {'.'.join(parts)}: expected it in the dataset and in what is collected, got none in "
                f"{'the dataset' if lacking == 0 else 'what is collected'}. Leave it out or add it, "
                "or let rlhive.extend() bring what is collected to the dataset's keys."
            )
            raise SchemaMismatchError(msg)
    selected = [key for key in batches[0].keys(True, True) if key in common]
    return [
        TensorDict(dict(batch.items()), batch.batch_size, device=batch.device).select(*selected) for batch in batches
    ]
