"""Worker processes end when their parent is killed."""

import os
import signal
import subprocess
import sys
import time

PARENT = """
import os, sys, time
from loky import get_reusable_executor
from rlhive.rollouts._worker import end_with

executor = get_reusable_executor(max_workers=2, timeout=60, initializer=end_with, initargs=(os.getpid(),))
futures = [executor.submit(time.sleep, 0.3) for _ in range(2)]
for future in futures:
    future.result()
print(*executor._processes, "torch" in sys.modules, flush=True)
executor.submit(time.sleep, 600)
time.sleep(600)
"""


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
        return file.read().rpartition(")")[2].split()[0] != "Z"


def test_workers_end_within_five_seconds_of_their_parents_kill():
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        *pids, has_torch = parent.stdout.readline().split()
        workers = [int(pid) for pid in pids]
        assert len(workers) == 2
        assert all(map(is_running, workers))
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    deadline = time.monotonic() + 5
    while any(map(is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)

    assert not any(map(is_running, workers))
    assert has_torch == "False", "a worker that imports torch first notices late"
