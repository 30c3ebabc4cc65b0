"""Collections on a Ray cluster: two nodes' worth of processes on this machine, which may be killed."""

import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from rlhive.data.versions import Manifest
from rlhive.envs import Recipe, get_task
from rlhive.errors import DiskFullError, WorkerDiedError
from rlhive.rollouts import collect
from rlhive.rollouts._backends import MAX_RETRIES, map_on_cluster
from rlhive.rollouts._collect import _record_missing
from tests.rollouts.interrupts import check_that_ctrl_c_can_be_resumed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TOY = get_task("toy_point")
LONG = replace(TOY, recipe=Recipe("1.0.0", {"expert": 100, "medium": 100}, "mit"))


@pytest.fixture(scope="module")
def cluster():
    """A Ray cluster of two nodes with a core each; this process is not connected to it."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        cluster.add_node(num_cpus=1)
        yield cluster
        cluster.shutdown()


@pytest.fixture
def connected(cluster):
    """This process, connected to the cluster."""
    import ray

    ray.init(address=cluster.address, log_to_driver=False)
    yield ray
    ray.shutdown()


def find_workers(function):
    """Return the ids of the processes of this machine that run a function for Ray."""
    commands = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            commands[int(path.parent.name)] = path.read_bytes()
        except OSError:
            continue
    return [process for process, command in commands.items() if command.startswith(f"ray::{function}".encode())]


def test_a_killed_worker_is_replaced_and_the_fingerprint_is_that_of_one_process(cluster, tmp_path):
    import ray

    killed = []

    def kill_one():
        deadline = time.monotonic() + 240
        while not killed and time.monotonic() < deadline:
            streams = list(tmp_path.glob("ray/.recordings/*/*/*/*.arrows"))
            workers = find_workers("_record_episodes") if len(streams) >= 4 else []
            if workers:
                os.kill(workers[0], signal.SIGKILL)
                killed.append(workers[0])
            time.sleep(0.01)

    thread = threading.Thread(target=kill_one)
    thread.start()
    folder = collect(LONG, backend="ray", address=cluster.address, store=tmp_path / "ray", progress=False)
    thread.join()

    assert len(killed) == 1
    assert not ray.is_initialized()
    one = collect(LONG, num_workers=1, store=tmp_path / "one", progress=False)
    assert Manifest.read(folder).fingerprint == Manifest.read(one).fingerprint
    assert Manifest.read(folder).num_episodes == 200
    assert not list(tmp_path.glob("ray/.recordings/*/*/*/*.arrows")), "a committed recording is removed"


def touch_and_die(path):
    with Path(path).open("a") as file:
        file.write("x")
    os.kill(os.getpid(), signal.SIGKILL)


def add(first, second):
    return first + second


def fill_disk():
    msg = "the disk of this worker is full"
    raise DiskFullError(msg)


def test_a_job_whose_workers_always_die_ends_in_a_sentence(connected, tmp_path):
    log = tmp_path / "log"

    with pytest.raises(WorkerDiedError, match=f"died {MAX_RETRIES + 1} times: .*run the same command again"):
        list(map_on_cluster(touch_and_die, [(str(log),)]))
    assert log.read_text() == "x" * (MAX_RETRIES + 1)


def test_results_and_errors_are_those_of_the_jobs(connected):
    assert sorted(map_on_cluster(add, [(n, 10) for n in range(7)], num_workers=2)) == list(range(10, 17))
    assert list(map_on_cluster(add, [])) == []
    with pytest.raises(DiskFullError, match=r"^the disk of this worker is full$") as raised:
        list(map_on_cluster(fill_disk, [()]))
    assert type(raised.value) is DiskFullError


def test_ctrl_c_keeps_what_was_recorded_and_another_backend_resumes_it(cluster, tmp_path, caplog):
    check_that_ctrl_c_can_be_resumed(tmp_path, caplog, "--backend", "ray", "--address", cluster.address)


def test_two_hosts_record_into_one_recording_under_different_names(connected, tmp_path, monkeypatch):
    from rlhive.rollouts import _collect

    monkeypatch.setattr(_collect, "_export_recording", lambda *args, **kwargs: sys.exit())
    with pytest.raises(SystemExit):
        collect(TOY, backend="ray", store=tmp_path, progress=False)
    streams = list(tmp_path.glob(".recordings/*/*/*/*.arrows"))
    [folder] = {stream.parent for stream in streams}
    jobs = [stream.stem.split("-")[0] for stream in streams]
    assert sorted(jobs) == ["00000000", "00000005", "00000010", "00000015", "00000020"]

    recording = _collect.Recording(folder)
    monkeypatch.setattr(type(recording), "episode_outcomes", lambda self: {})
    _record_missing(TOY, recording, map_on_cluster, progress=False)  # as a host that has seen nothing of the others
    monkeypatch.undo()
    assert len(list(folder.glob("*.arrows"))) == 2 * len(streams)
    assert [record.episode for record in recording.sorted_records()] == list(range(24))
