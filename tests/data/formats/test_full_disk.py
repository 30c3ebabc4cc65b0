"""Exports in other formats on a full disk: DiskFullError, nothing left, and the process lives on."""

import json
import os
import subprocess
import sys

import pytest

from tests.data.formats.full_disk import DISKS, LIMITS, OPTIONS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    ran = subprocess.run(
        [sys.executable, "-m", "tests.data.formats.full_disk", str(tmp_path_factory.mktemp("full"))],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"},
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads(ran.stdout.splitlines()[-1])


def expect(sizes):
    return {str(size): [0, "DiskFullError", []] for size in sizes[:-1]} | {str(sizes[-1]): [0, "ok", ["out"]]}


@pytest.mark.parametrize("kind", OPTIONS)
def test_a_file_that_cannot_grow_is_a_full_disk_and_leaves_nothing(results, kind):
    assert results["limit"][kind] == expect(LIMITS)


@pytest.mark.parametrize("kind", OPTIONS)
def test_a_full_disk_leaves_nothing(results, kind):
    by_size = results["disk"][kind]
    reason = by_size[str(DISKS[0])]
    if isinstance(reason, str):
        pytest.skip(f"no small disk can be mounted here: {reason}")

    assert by_size == expect(DISKS)
