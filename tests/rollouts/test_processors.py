"""A recipe on another processor, which glibc plays on this one: without its paths with fused multiply-add."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rlhive import RoboHiveDataset
from rlhive.data.versions import diff

pytest.importorskip("robohive")

MAKE = """
import sys
from dataclasses import replace
from pathlib import Path
from rlhive.envs import get_task
from rlhive.rollouts import collect
task = get_task("kitchen_knob1")
task = replace(task, recipe=replace(task.recipe, episodes=dict.fromkeys(task.recipe.episodes, 2)))
collect(task, num_workers=1, store=Path(sys.argv[1]), progress=False)
"""
SINE = "import math; print(*(math.sin(i * 0.37).hex() for i in range(10_000)))"
OTHER_LIBM = {"GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA"}


def run(code, *arguments, **environment):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = {**os.environ, **environment, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(platform.machine() != "x86_64" or platform.libc_ver()[0] != "glibc", reason="glibc on x86-64 only")
def test_another_libm_gives_other_last_bits_and_the_same_outcomes(tmp_path):
    run(MAKE, tmp_path / "one")
    run(MAKE, tmp_path / "other", **OTHER_LIBM)
    one, other = (RoboHiveDataset("kitchen_knob1", store=tmp_path / name, generate=False) for name in ("one", "other"))

    assert one.outcome_fingerprint == other.outcome_fingerprint
    if run(SINE) != run(SINE, **OTHER_LIBM):  # a processor that has the other path
        assert one.fingerprint != other.fingerprint
        outcomes = diff(one.path, other.path).outcomes
        assert (outcomes["different"], outcomes["unequal_returns"]) == ([], [])
        assert outcomes["return_error"] < 1e-9
    rows = [dataset.as_tensordict() for dataset in (one, other)]
    assert (rows[0]["observation"] - rows[1]["observation"]).abs().max() < 1e-9
    assert np.array_equal(rows[0]["action"].numpy(), rows[1]["action"].numpy())
