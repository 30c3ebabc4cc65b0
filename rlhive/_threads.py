"""The number of cores, and of threads that torch computes on."""

import contextlib
import os
from collections.abc import Iterator


def num_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def torch_threads(num_threads: int | None) -> Iterator[None]:
    """Set torch's number of threads inside the block; restore the caller's after it.

    Threads of OpenMP wait for each other by spinning. Where other processes keep the cores busy, most of their time is
    spent so, and small operations take many times as long as on one thread.

    Args:
        num_threads: Number of threads; None for the caller's.
    """
    import torch

    threads_before = torch.get_num_threads()
    torch.set_num_threads(num_threads or threads_before)
    try:
        yield
    finally:
        torch.set_num_threads(threads_before)
