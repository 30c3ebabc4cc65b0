"""The number of torch's threads, and the CPU time beside processes that keep the cores busy."""

import contextlib
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from rlhive._threads import torch_threads
from rlhive.rollouts._evaluate import evaluate


@pytest.fixture(autouse=True)
def _two_threads():
    """Give torch two threads, as on a machine with two cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def test_the_callers_threads_are_restored():
    for wanted, inside in ((1, 1), (3, 3), (None, 2)):
        with contextlib.suppress(RuntimeError), torch_threads(wanted):
            assert torch.get_num_threads() == inside
            raise RuntimeError
        assert torch.get_num_threads() == 2


class Looking:
    """A policy that looks at camera pictures: its convolutions use all threads that torch has."""

    def __init__(self):
        torch.manual_seed(0)
        convolutions = [nn.Conv2d(3, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3)]
        self.network = nn.Sequential(*convolutions, nn.Flatten(), nn.LazyLinear(256), nn.ReLU(), nn.Linear(256, 1))
        self.picture = torch.rand(1, 3, 96, 96)
        self.network(self.picture)
        self.threads = set()

    def __call__(self, tensordict):
        self.threads.add(torch.get_num_threads())
        value = torch.tanh(self.network(self.picture + tensordict["observation"].mean().float()))[0]
        return tensordict.set("action", value.to(tensordict["observation"].dtype))


def measure_evaluation(num_episodes):
    """Return the CPU time of an evaluation in this process, in s, and its returns."""
    start = time.process_time()
    result = evaluate(Looking(), "toy_point", num_episodes=num_episodes, num_workers=1, progress=False)
    return time.process_time() - start, result.returns


def test_an_evaluation_in_this_process_computes_on_one_thread_as_a_worker_does():
    policy = Looking()
    here = evaluate(policy, "toy_point", num_episodes=2, num_workers=1, progress=False)
    assert policy.threads == {1}
    assert torch.get_num_threads() == 2
    assert here.returns == evaluate(Looking(), "toy_point", num_episodes=2, num_workers=2, progress=False).returns


@pytest.mark.slow
def test_an_evaluation_beside_busy_processes_takes_less_than_twice_its_quiet_cpu_time():
    measure_evaluation(2)
    torch.set_num_threads(1)
    quiet, returns = measure_evaluation(40)
    torch.set_num_threads(2)
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        beside, again = measure_evaluation(40)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert again == returns
    assert beside < 2 * quiet, f"{beside:.1f} s beside busy processes, {quiet:.1f} s alone on one thread"
