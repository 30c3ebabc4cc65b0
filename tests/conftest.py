"""Fixtures of all tests: each test has a separate store and no Hub; shared data are built once."""

import os
import shutil
from pathlib import Path

# Read by huggingface_hub when it is imported, so they are set before anything of ours is.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
# Tests that run side by side, and the processes that they start, share the cores.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    """An empty dataset store, which the environment variable names."""
    path = tmp_path / "store"
    monkeypatch.setenv("RLHIVE_DATASETS_PATH", str(path))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf"))
    return path


@pytest.fixture(scope="session")
def collected(tmp_path_factory):
    """A store that holds toy_point 1.0.0. Tests copy it and never write to it: a cache would reach other tests."""
    from rlhive.rollouts._collect import collect

    path = tmp_path_factory.mktemp("collected")
    collect("toy_point", store=path, progress=False)
    files = sorted(path.rglob("*"))
    yield path
    assert sorted(path.rglob("*")) == files, "a test wrote to the shared store: it should use the fixture filled"


@pytest.fixture
def filled(collected, store):
    """The test's store, with a copy of toy_point 1.0.0."""
    shutil.copytree(collected, store)
    return store


@pytest.fixture
def count_new_threads():
    """A function that calls another one and returns how many threads it starts, as an operation that torch splits does.

    Torch has more threads to use than it has started, so that the first such operation starts some.
    """
    import torch

    tasks = Path("/proc/self/task")
    if not tasks.is_dir():
        pytest.skip("counts the threads that Linux lists in /proc/self/task")

    def count(call):
        torch.set_num_threads(len(list(tasks.iterdir())) + 3)
        started = len(list(tasks.iterdir()))
        call()
        return len(list(tasks.iterdir())) - started

    before = torch.get_num_threads()
    yield count
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def _stop_workers():
    """End the worker processes that collect and evaluate keep for their next call."""
    yield
    from loky import get_reusable_executor

    get_reusable_executor().shutdown(wait=True, kill_workers=True)


@pytest.fixture(scope="session")
def opengl():
    """The room that owns OpenGL; skips where this machine has none."""
    # Before OpenGL: Mesa's LLVM and the one inside triton, which TorchRL imports, only get on in this order.
    import torchrl.envs  # noqa: F401

    from rlhive.envs import _opengl
    from rlhive.errors import RenderingUnavailableError

    try:
        _opengl.context_class()
    except RenderingUnavailableError as missing:
        pytest.skip(str(missing))
    return _opengl


@pytest.fixture(scope="session")
def hub_server():
    """A Hub on the loopback interface."""
    from tests.hub_server import serving

    with serving() as running:
        yield running


@pytest.fixture
def hub(hub_server):
    """The Hub, empty and well."""
    hub_server.reset()
    return hub_server


@pytest.fixture(scope="session")
def clients(tmp_path_factory):
    """The process that forks clients of the Hub."""
    from tests.hub_client import Clients

    with Clients(tmp_path_factory.mktemp("clients")) as forking:
        yield forking


@pytest.fixture(scope="session")
def online(clients, hub_server):
    """A client of the Hub."""
    return clients.start(hub_server.url)


@pytest.fixture
def two_versions(tmp_path):
    """The folders of two versions; the second holds an episode more. Content differs from test to test."""
    import zlib

    from rlhive.data.versions._export import export
    from tests.data.strategies import records

    folders = {}
    for version, lengths in (("1.0.0", [3, 2, 4]), ("2.0.0", [3, 2, 4, 5])):
        schema, episodes = records(lengths)
        for record in episodes:
            record.columns["next.reward"][:] += zlib.crc32(str(tmp_path).encode())
        origin = {"schema": schema, "license": "mit", "store": tmp_path / "origin", "shard_bytes": 1}
        folders[version] = export(episodes, "org/knob", version=version, **origin)
    return folders


@pytest.fixture
def published(hub, two_versions):
    """The two versions, which the Hub holds."""
    from tests.hub_client import read_files
    from tests.hub_server import Repository

    repository = hub.repositories["org/knob"] = Repository()
    for version, folder in two_versions.items():
        repository.commit(read_files(folder), tag=f"v{version}")
    return two_versions


@pytest.fixture(scope="session")
def object_server():
    """An S3 on the loopback interface."""
    from tests.object_server import serving

    with serving() as running:
        yield running


@pytest.fixture
def object_store(object_server, tmp_path, monkeypatch):
    """The S3, well, with an empty store that the environment variable names."""
    from tests.object_server import Bucket

    object_server.reset()
    bucket = Bucket(object_server)
    for name, value in bucket.environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    yield bucket
    object_server.reset()
