"""Several processes and one store: one correct result, nothing half-written, no lock of the dead."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from rlhive.data.versions import _reader
from rlhive.data.versions._export import export
from rlhive.data.versions._manifest import Manifest, verify_files
from tests.data.strategies import records

SCRIPT = """
import sys, time
from pathlib import Path
from rlhive.data.versions._export import export
from rlhive.errors import DatasetExistsError
from tests.data.strategies import records

store, version, pause = Path(sys.argv[1]), sys.argv[2] or None, float(sys.argv[3])
schema, made = records([4, 2, 3, 5, 6])

def slowly():
    for record in made:
        yield record
        print("one", flush=True)
        time.sleep(pause)

try:
    print(export(slowly(), "my/knob", version=version, schema=schema, license="mit", store=store).name, flush=True)
except DatasetExistsError:
    print("DatasetExistsError", flush=True)
"""


def start(store, version="", pause=0.05):
    command = [sys.executable, "-c", SCRIPT, str(store), version, str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def require_whole(store):
    folder = store / "my/knob/1.0.0"
    manifest = Manifest.read(folder)
    verify_files(folder, manifest.files)
    _, made = records([4, 2, 3, 5, 6])
    back = _reader.read_records(folder, manifest, list(manifest.splits))
    assert {record.episode: record.identity() for record in back} == {r.episode: r.identity() for r in made}


@pytest.mark.parametrize("version", ["1.0.0", ""])
def test_two_processes_that_export_at_once_get_one_correct_result(version, tmp_path):
    both = [start(tmp_path, version), start(tmp_path, version)]
    seen = []
    while any(process.poll() is None for process in both):  # a reader that looks all the time
        folder = tmp_path / "my/knob/1.0.0"
        if folder.exists():
            seen.append(json.loads((folder / "rlhive.json").read_text())["fingerprint"])
        time.sleep(0.01)
    last = sorted(process.communicate()[0].split()[-1] for process in both)

    assert last == (["1.0.0", "DatasetExistsError"] if version else ["1.0.0", "1.0.0"])
    assert len(set(seen)) <= 1
    assert sorted(path.name for path in (tmp_path / "my/knob").iterdir() if path.is_dir()) == ["1.0.0"]
    require_whole(tmp_path)


def test_a_killed_exporter_blocks_nobody_and_leaves_nothing(tmp_path):
    process = start(tmp_path, "1.0.0", pause=60)
    assert process.stdout.readline() == "one\n"
    partial = [path.name for path in (tmp_path / "my/knob").iterdir() if path.is_dir()]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(partial) == 1
    assert partial[0].startswith("1.0.0.partial-")

    _, made = records([4, 2, 3, 5, 6])
    began = time.monotonic()
    export(made, "my/knob", license="mit", version="1.0.0", store=tmp_path)

    assert time.monotonic() - began < 30
    assert sorted(path.name for path in (tmp_path / "my/knob").iterdir()) == [".1.0.0.lock", "1.0.0"]
    require_whole(tmp_path)
