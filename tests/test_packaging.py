"""What is installed is what was meant: the base alone is the data layer, and versions are pinned without addresses."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

FLOW = """
import importlib.util, json
from rlhive import RoboHiveDataset, RoboHiveEnv
from rlhive.errors import MissingExtra, RoboHiveMissing
absent = [name for name in ("mujoco", "gymnasium", "robohive", "hydra", "matplotlib") if importlib.util.find_spec(name)]
dataset = RoboHiveDataset("toy_point")
said = []
for attempt in (lambda: RoboHiveEnv("FK1_Knob1OnRandom-v4"), lambda: RoboHiveDataset("kitchen_knob1")):
    try:
        attempt()
    except RoboHiveMissing as error:
        said.append(str(error))
from rlhive.sim_algos import train
try:
    train("bc", "toy_point", output_dir="out")
except MissingExtra as error:
    said.append(str(error))
batch = dataset.as_replay_buffer(16, seed=0).sample()
print(json.dumps([absent, dataset.fingerprint, list(batch["next", "observation"].shape), said]))
"""


def uv():
    found = shutil.which("uv") or next((str(path) for path in [ROOT / ".tools/bin/uv"] if path.exists()), None)
    return [found, "pip"] if found else None


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A copy to build from: a build in the clone would mix with what an earlier one left there."""
    folder = tmp_path_factory.mktemp("sources")
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "rlhive", folder / "rlhive", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def plain(sources):
    """An environment into which only the base was installed, from a built wheel."""
    # In the clone and not in /tmp, so that uv can link the 6 GB of torch instead of copying them.
    folder = ROOT / ".venv-plain"
    shutil.rmtree(folder, ignore_errors=True)
    python = folder / "bin/python"
    constraints = ["--constraint", str(ROOT / "constraints.txt")]
    try:
        if uv():
            subprocess.run([uv()[0], "venv", "--quiet", "--python", sys.executable, folder], check=True)
            install = [*uv(), "install", "--quiet", "--python", python, *constraints, sources]
        else:
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            install = [python, "-m", "pip", "install", "--quiet", *constraints, sources]
        subprocess.run(install, check=True)
        yield python
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_a_plain_install_is_the_data_layer(plain, tmp_path):
    ran = subprocess.run([plain, "-c", FLOW], capture_output=True, text=True, check=True, cwd=tmp_path)
    simulators, fingerprint, shape, said = json.loads(ran.stdout)

    from rlhive.dataset._dataset import RoboHiveDataset

    assert simulators == []
    assert fingerprint == RoboHiveDataset("toy_point").fingerprint
    assert shape == [16, 2]
    assert len(said) == 3
    assert all("rlhive setup" in sentence for sentence in said[:2])
    assert "pip install 'rlhive[train]'" in said[2]


def test_the_wheel_carries_every_file(plain, sources):
    code = "import rlhive, pathlib; print(pathlib.Path(rlhive.__file__).parent)"
    folder = Path(
        subprocess.run([plain, "-c", code], capture_output=True, text=True, check=True, cwd="/").stdout.strip()
    )

    assert folder.is_relative_to(ROOT / ".venv-plain")
    for path in (sources / "rlhive").rglob("*"):
        if path.is_file():
            assert (folder / path.relative_to(sources / "rlhive")).read_bytes() == path.read_bytes()


def test_constraints_are_exact_versions_and_nothing_else():
    lines = (ROOT / "constraints.txt").read_text().splitlines()

    assert all(re.fullmatch(r"#.*|[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line) for line in lines)
    names = [line.split("==")[0].lower() for line in lines if "==" in line]
    assert len(names) == len(set(names))
    assert {"torch", "torchrl", "robohive", "mujoco", "pyarrow", "uv"} <= set(names)


def test_every_pin_says_why():
    pinned = [line for line in (ROOT / "setup.py").read_text().splitlines() if re.match(r'\s+"[\w-]+(==|.*<)', line)]

    assert len(pinned) >= 10
    assert [line for line in pinned if " # " not in line] == []


def test_what_is_installed_fits_together_but_for_robohives_own_pin():
    ran = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    complaints = [line for line in ran.stdout.splitlines() if line != "No broken requirements found."]

    assert [line for line in complaints if not line.startswith("robohive 0.7.0 has requirement h5py==3.7.0")] == []
