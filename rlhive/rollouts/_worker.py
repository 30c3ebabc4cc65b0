"""What a worker process does first. Nothing heavy is imported here: a worker must notice soon that its parent died."""

import os
import signal
import threading
import time

#: Seconds between two looks at the parent.
_INTERVAL_S = 0.5


def start_worker(parent: int) -> None:
    """Prepare a worker process: it ends with its parent, ignores Ctrl-C, since the parent ends it, and has one thread.

    Args:
        parent: Id of the process that started the worker.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with(parent)
    import torch

    torch.set_num_threads(1)


def end_with(parent: int) -> None:
    """End this process within a second of its parent's end, however that comes: after ``kill -9`` nobody else would."""
    threading.Thread(target=_watch, args=(parent,), daemon=True, name="rlhive-parent").start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_INTERVAL_S)
    os._exit(1)
