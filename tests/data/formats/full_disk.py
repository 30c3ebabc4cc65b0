"""Export a version in other formats while the disk has too little space.

    python -m tests.data.formats.full_disk FOLDER

Prints one JSON line: for each kind of full disk, format and size, the exit status of a child that exported, its result,
and what it left. A disk is a tmpfs where it can be mounted; else the reason stands in place of the results.
"""

import ctypes
import gc
import json
import os
import resource
import subprocess
import sys
import traceback
from pathlib import Path

from rlhive.data.formats import export_to
from rlhive.data.versions import export
from rlhive.errors import RLHiveError
from tests.data import limited

OPTIONS = {"minari": {}, "lerobot": {"fps": 10, "task": "walk"}}
#: Bytes of a file; the frames take about 230 kB.
LIMITS = (0, 100, 2000, 200_000, 10_000_000)
#: Bytes of a disk.
DISKS = (65_536, 180_224, 4_194_304)


def export_in_child(kind, source, folder, limit=None):
    """Return the exit status of a child that exports, and its result."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            export_to(kind, source, folder / "out", progress=False, **OPTIONS[kind])
            result = "ok"
        except RLHiveError as error:
            result = type(error).__name__
        except BaseException:
            result = traceback.format_exc()
        os.write(writer, result.encode()[-3000:])
        gc.collect()
        ctypes.CDLL(None).exit(0)  # not os._exit: HDF5 cleans up where the process ends
    os.close(writer)
    with os.fdopen(reader) as file:
        result = file.read()
    status = os.waitpid(child, 0)[1]
    return status, result, sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def export_on_disk(kind, source, folder, size):
    """Return the same on a disk of its own; the reason where none can be mounted."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], capture_output=True)
    if mounted.returncode:
        return mounted.stderr.decode().strip()
    try:
        return export_in_child(kind, source, folder)
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def main():
    folder = Path(sys.argv[1])
    limited.LENGTH = 60
    source = export(limited.episodes(6), "my/walks", license="mit", store=folder / "store")
    results = {"limit": {}, "disk": {}}
    for kind in OPTIONS:
        target = folder / kind
        target.mkdir()
        results["disk"][kind] = {size: export_on_disk(kind, source, target, size) for size in DISKS}
        results["limit"][kind] = {limit: export_in_child(kind, source, target, limit) for limit in LIMITS}
    sys.stdout.write(json.dumps(results) + "\n")


if __name__ == "__main__":
    main()
