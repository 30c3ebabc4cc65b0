"""Gathering ahead: a thread gathers several batches at once while others are used.

Which batches is decided before, by whoever draws the indices: the thread changes nothing but when they are gathered.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from itertools import islice

import torch
from tensordict import TensorDict

from rlhive.data.replay._storage import PackedStorage

#: So many batches are gathered at once, as long as they have no more bytes together than lie in a processor's caches.
_BATCHES = 16
_BYTES = 4 * 2**20


def num_ahead(storage: PackedStorage, batch_size: int) -> int:
    """Return how many batches of so many items are gathered at once."""
    return max(1, min(_BATCHES, _BYTES // max(1, batch_size * storage.item_bytes)))


def start(storage: PackedStorage, indices: Sequence[torch.Tensor]) -> "Future[list[TensorDict]]":
    """Begin to gather one batch per index, int64 of any shape."""
    return _thread().submit(_gather, storage, indices)


def gathered(storage: PackedStorage, indices: Iterable[torch.Tensor], batch_size: int) -> Iterator[TensorDict]:
    """Yield one batch per index, in order.

    Args:
        storage: What to read.
        indices: int64 tensors.
        batch_size: Elements of an index, the last one's excepted.
    """
    indices = iter(indices)
    coming: Future[list[TensorDict]] | None = None
    while True:
        chunk = list(islice(indices, num_ahead(storage, batch_size)))
        ready, coming = coming, start(storage, chunk) if chunk else None
        if ready is not None:
            yield from ready.result()
        if coming is None:
            return


def _gather(storage: PackedStorage, indices: Sequence[torch.Tensor]) -> list[TensorDict]:
    shape = indices[0].shape
    whole = [index for index in indices if index.shape == shape]
    batches = storage.get_many(torch.cat([index.reshape(-1) for index in whole]), shape.numel())
    if len(shape) != 1:
        batches = [batch.reshape(shape) for batch in batches]
    return batches + [storage.get(index) for index in indices[len(whole) :]]


@lru_cache(maxsize=1)
def _thread() -> ThreadPoolExecutor:
    """The one thread of this process that gathers ahead."""
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="rlhive-gather")


os.register_at_fork(after_in_child=_thread.cache_clear)  # a fork has no threads but its own
