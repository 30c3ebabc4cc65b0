"""Imports in a pseudo-terminal: progress is shown, memory is bounded, and Ctrl-C or kill -9 leaves no version.

One process imports the slow packages and forks the runs. `make bench-import` does the same with 1 GB of every kind.
"""

import json
import os
import signal
import subprocess
import sys
import weakref
from pathlib import Path

import pytest

from benchmarks.import_sources import EPISODE_BYTES, SOURCES
from rlhive.data.formats import _minari_writer, _roboset
from rlhive.data.formats._convert import export_to, import_dataset
from rlhive.data.versions._export import export
from tests.data.strategies import records

#: What pytest makes of "Exception ignored in …".
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

SCRIPT = """
import fcntl, json, os, pty, shutil, signal, struct, sys, termios, threading, time
from pathlib import Path
import rlhive.cli._app, rlhive.data.formats._convert, rlhive.dataset._dataset, tqdm
from benchmarks.bench_import import NAME, left, percentages
from benchmarks.import_sources import SOURCES
from rlhive.data import _parquet

_parquet.ROW_GROUP_BYTES = 2**20
folder, small, large = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])

def run(kind, source, store, stop=None):
    '''Type the command; with a signal, stop it as soon as something was written.'''
    pid, terminal = pty.fork()
    if not pid:
        os.environ["RLHIVE_DATASETS_PATH"] = str(store)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        tqdm.tqdm.set_lock(threading.RLock())  # tqdm's is one for all forks: who is killed with it would stop the next
        time.sleep(0.05)  # until the terminal has its size
        sys.argv = ["rlhive", "import", kind, str(source), NAME, "--license", "mit"]
        try:
            rlhive.cli.main()
        except SystemExit as end:
            os._exit(end.code if isinstance(end.code, int) else 0)
        finally:
            os._exit(77)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    output = []
    def read():
        try:
            while part := os.read(terminal, 65536):
                output.append(part.decode(errors="replace"))
        except OSError:
            pass
    reader = threading.Thread(target=read)
    reader.start()
    while stop and sum(path.stat().st_size for path in (store / NAME).glob("*/data/*")) < 2**20:
        time.sleep(0.001)
    if stop:
        os.kill(pid, stop)
    _, status, usage = os.wait4(pid, 0)
    reader.join()
    os.close(terminal)
    text = "".join(output)
    return {"status": os.waitstatus_to_exitcode(status), "peak": usage.ru_maxrss * 1024, "output": text,
            "percent": percentages(text), **left(store)}

results = {}
for name, (kind, make) in SOURCES.items():
    result = results[name] = {}
    for size, count in (("small", small), ("large", large)):
        source, store = folder / "source", folder / "store"
        make(source, count)
        if size == "large":
            result["interrupted"] = run(kind, source, store, signal.SIGINT)
            result["killed"] = run(kind, source, store, signal.SIGKILL)
        result[size] = run(kind, source, store)
        for path in (source, store):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
print(json.dumps(results))
"""
SMALL, LARGE = 24, 480  # enough that what would be kept stands out from what an allocator does


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What happened to each kind of source."""
    quiet = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "524288", "ARROW_DEFAULT_MEMORY_POOL": "system"}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path_factory.mktemp("imports")), str(SMALL), str(LARGE)]
    ran = subprocess.run(command, capture_output=True, text=True, env=os.environ | quiet, cwd=Path(__file__).parents[3])
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads(ran.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("name", SOURCES)
def test_progress_is_shown_and_memory_is_bounded(results, name):
    small, large = results[name]["small"], results[name]["large"]
    assert (small["status"], large["status"]) == (0, 0), large["output"]
    assert large["percent"] == sorted(large["percent"])
    assert large["percent"][0] == 0
    assert large["percent"][-1] == 100
    assert len(set(large["percent"])) > 3
    more = (LARGE - SMALL) * EPISODE_BYTES
    assert large["peak"] - small["peak"] < more / 3, (small["peak"], large["peak"], more)


@pytest.mark.slow
@pytest.mark.parametrize("name", SOURCES)
def test_an_interrupt_leaves_nothing_and_a_kill_leaves_no_version(results, name):
    interrupted, killed, after = (results[name][what] for what in ("interrupted", "killed", "large"))
    assert interrupted["status"] == 130, interrupted["output"]
    assert "no partial version was written" in interrupted["output"]
    assert (interrupted["versions"], interrupted["bytes"]) == (0, 0)
    assert killed["status"] == -9
    assert killed["versions"] == 0
    assert killed["bytes"] > 0  # what the next run, of the same command, removed
    assert after["versions"] == 1
    assert f"train: {LARGE} episodes" in after["output"]
    small = results[name]["small"]
    assert after["bytes"] < 1.2 * LARGE / SMALL * small["bytes"]


@pytest.fixture
def interruptible():
    """Ctrl-C as in a terminal: a shell starts its background jobs with the signal ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_import_ends_after_an_interrupt_that_python_drops(tmp_path, monkeypatch):
    """As h5py's registry of open objects does: what a callback of a weak reference raises is printed, no more."""
    source, read_trial, calls = tmp_path / "log.h5", _roboset._read_trial, []
    SOURCES["roboset"][1](source, 6)

    def read_and_be_interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            drop_an_interrupt()
        return read_trial(*arguments)

    monkeypatch.setattr(_roboset, "_read_trial", read_and_be_interrupted)
    with pytest.raises(KeyboardInterrupt):
        import_dataset("roboset", source, "lab/walk", license="mit", store=tmp_path / "store", progress=False)
    assert len(calls) == 3
    assert not [path for path in (tmp_path / "store/lab/walk").iterdir() if not path.name.startswith(".")]


@pytest.mark.usefixtures("interruptible")
def test_an_export_ends_after_an_interrupt_that_python_drops(tmp_path, monkeypatch):
    write_episode, calls = _minari_writer._write_episode_group, []

    def write_and_be_interrupted(*arguments):
        calls.append(arguments)
        drop_an_interrupt()
        write_episode(*arguments)

    monkeypatch.setattr(_minari_writer, "_write_episode_group", write_and_be_interrupted)
    schema, episodes = records([3, 2, 4])
    folder = export(episodes, "lab/walk", schema=schema, license="mit", store=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        export_to("minari", folder, tmp_path / "out", progress=False)
    assert len(calls) == 1
    assert not (tmp_path / "out").exists()


def drop_an_interrupt():
    """Receive a SIGINT where Python cannot raise."""

    class Thing:
        """Something that can be referred to weakly."""

    thing = Thing()
    reference = weakref.ref(thing, lambda _: os.kill(os.getpid(), 2))
    del thing
    assert reference() is None
