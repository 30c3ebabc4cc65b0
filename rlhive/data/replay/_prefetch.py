"""Prefetching: a thread gathers several batches at once while the caller uses earlier ones.

The indices are drawn before, by the caller, so that the thread decides only when a batch is gathered, not which.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from itertools import islice

import torch
from tensordict import TensorDict

from rlhive.data.replay._storage import PackedStorage

#: Number of batches that are gathered at once, if together they have at most this many bytes: a processor's caches.
_MAX_BATCHES = 16
_MAX_BYTES = 4 * 2**20


def num_batches_ahead(storage: PackedStorage, batch_size: int) -> int:
    """Return the number of batches to gather at once."""
    return max(1, min(_MAX_BATCHES, _MAX_BYTES // max(1, batch_size * storage.item_bytes)))


def submit_gather(storage: PackedStorage, indices: Sequence[torch.Tensor]) -> "Future[list[TensorDict]]":
    """Start to gather one batch per index in the thread and return the future of the batches.

    Args:
        storage: Storage to read.
        indices: int64 tensors of any shape, all of the same shape except perhaps the last ones.
    """
    return _gather_thread().submit(_gather_batches, storage, indices)


def iter_gathered(storage: PackedStorage, indices: Iterable[torch.Tensor], batch_size: int) -> Iterator[TensorDict]:
    """Yield one batch per index, in order.

    Args:
        storage: Storage to read.
        indices: int64 tensors, all of the same shape except perhaps the last one.
        batch_size: Number of transitions of an index.
    """
    indices = iter(indices)
    num_batches = num_batches_ahead(storage, batch_size)
    pending: Future[list[TensorDict]] | None = None
    while chunk := list(islice(indices, num_batches)):
        following = submit_gather(storage, chunk)
        if pending is not None:
            yield from pending.result()
        pending = following
    if pending is not None:
        yield from pending.result()


def _gather_batches(storage: PackedStorage, indices: Sequence[torch.Tensor]) -> list[TensorDict]:
    """Return one batch per index: those of the first one's shape from one gather, the others one by one."""
    shape = indices[0].shape
    uniform = [index for index in indices if index.shape == shape]
    batches = storage.get_many(torch.cat([index.reshape(-1) for index in uniform]), shape.numel())
    if len(shape) != 1:
        batches = [batch.reshape(shape) for batch in batches]
    return batches + [storage.get(index) for index in indices[len(uniform) :]]


@lru_cache(maxsize=1)
def _gather_thread() -> ThreadPoolExecutor:
    """Return the one thread of this process that gathers ahead."""
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="rlhive-gather")


def _leave_threads() -> None:
    """Forget the threads of the parent in a forked process, which has none of them.

    Torch's own threads are gone as well, and the first operation that wants them would wait for ever. A forked process
    therefore computes on one thread, as a worker of torch's DataLoader does.
    """
    _gather_thread.cache_clear()
    torch.set_num_threads(1)


os.register_at_fork(after_in_child=_leave_threads)
