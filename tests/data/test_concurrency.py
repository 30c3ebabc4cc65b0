"""Several processes export to one store: one correct version, no partial folders, no locks of dead processes."""

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


def start_export(store, version="", pause=0.05):
    command = [sys.executable, "-c", SCRIPT, str(store), version, str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def require_complete(store):
    folder = store / "my/knob/1.0.0"
    manifest = Manifest.read(folder)
    verify_files(folder, manifest.files)
    _, made = records([4, 2, 3, 5, 6])
    back = _reader.read_records(folder, manifest, list(manifest.splits))
    assert {record.episode: record.identity() for record in back} == {r.episode: r.identity() for r in made}


@pytest.mark.slow
@pytest.mark.parametrize("version", ["1.0.0", ""])
def test_two_processes_that_export_at_once_write_one_version(version, tmp_path):
    processes = [start_export(tmp_path, version), start_export(tmp_path, version)]
    fingerprints = []
    while any(process.poll() is None for process in processes):  # reads the manifest all the time
        folder = tmp_path / "my/knob/1.0.0"
        if folder.exists():
            fingerprints.append(json.loads((folder / "rlhive.json").read_text())["fingerprint"])
        time.sleep(0.01)
    results = sorted(process.communicate()[0].split()[-1] for process in processes)

    assert results == (["1.0.0", "DatasetExistsError"] if version else ["1.0.0", "1.0.0"])
    assert len(set(fingerprints)) <= 1
    assert sorted(path.name for path in (tmp_path / "my/knob").iterdir() if path.is_dir()) == ["1.0.0"]
    require_complete(tmp_path)


def test_a_killed_export_leaves_no_lock_and_no_partial_folder(tmp_path):
    process = start_export(tmp_path, "1.0.0", pause=60)
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
    require_complete(tmp_path)
