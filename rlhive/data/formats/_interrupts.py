"""Ctrl-C that Python receives and drops."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def detect_interrupts(*, deferred: bool = False) -> Iterator[Callable[[], None]]:
    """Yield a function that raises KeyboardInterrupt if a SIGINT arrived within the block.

    Python prints and forgets a KeyboardInterrupt that is raised inside the callback of a weak reference. h5py spends so
    much time in such callbacks that one Ctrl-C in five was lost. Outside the main thread, which alone receives signals,
    the function does nothing.

    Args:
        deferred: Whether nothing but the function, and the end of the block, raises the exception.
    """
    previous = signal.getsignal(signal.SIGINT)
    received: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if callable(previous) and not deferred:
            previous(number, frame)

    def raise_if_interrupted() -> None:
        if received:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread() or not callable(previous):
        yield raise_if_interrupted
        return
    signal.signal(signal.SIGINT, remember)
    try:
        yield raise_if_interrupted
    finally:
        signal.signal(signal.SIGINT, previous)
        if deferred and received:
            previous(signal.SIGINT, None)
