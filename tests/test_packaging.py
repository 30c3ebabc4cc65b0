"""Packaging: the contents of wheel and sdist, an install without extras, and exact pins without addresses."""

import email
import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import rlhive

ROOT = Path(__file__).parent.parent

FLOW = """
import importlib.util, json
from rlhive import RoboHiveDataset, RoboHiveEnv
from rlhive.errors import MissingExtraError, RoboHiveMissingError
absent = [name for name in ("mujoco", "gymnasium", "robohive", "hydra", "matplotlib") if importlib.util.find_spec(name)]
dataset = RoboHiveDataset("toy_point")
messages = []
for attempt in (lambda: RoboHiveEnv("FK1_Knob1OnRandom-v4"), lambda: RoboHiveDataset("kitchen_knob1")):
    try:
        attempt()
    except RoboHiveMissingError as error:
        messages.append(str(error))
from rlhive.sim_algos import train
try:
    train("bc", "toy_point", output_dir="out")
except MissingExtraError as error:
    messages.append(str(error))
batch = dataset.as_replay_buffer(16, seed=0).sample()
print(json.dumps([absent, dataset.fingerprint, list(batch["next", "observation"].shape), messages]))
"""


def uv():
    command = shutil.which("uv") or next((str(path) for path in [ROOT / ".tools/bin/uv"] if path.exists()), None)
    return [command, "pip"] if command else None


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A copy of the project to build from, without the environments and results that lie in a clone."""
    folder = tmp_path_factory.mktemp("sources") / "rlhive"
    ignored = shutil.ignore_patterns(
        "__pycache__", ".git", ".venv*", ".venvs", ".tools", ".*_cache", "*.egg-info", "dist", "build"
    )
    shutil.copytree(ROOT, folder, ignore=ignored)
    return folder


@pytest.fixture(scope="module")
def built(sources, tmp_path_factory):
    """The sdist and the wheel, as setuptools' build backend makes them."""
    folder = tmp_path_factory.mktemp("dist")
    code = f"from setuptools.build_meta import *; build_sdist({str(folder)!r}); build_wheel({str(folder)!r})"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=sources)
    return {"sdist": next(folder.glob("*.tar.gz")), "wheel": next(folder.glob("*.whl"))}


def test_the_wheel_holds_the_package_and_its_metadata(built, sources):
    with zipfile.ZipFile(built["wheel"]) as wheel:
        names = set(wheel.namelist())
        metadata = email.message_from_bytes(wheel.read("rlhive-0.1.0.dist-info/METADATA"))

    package = {str(path.relative_to(sources)) for path in (sources / "rlhive").rglob("*") if path.is_file()}
    assert {name for name in names if name.startswith("rlhive/")} == package
    assert "rlhive/py.typed" in names
    assert "rlhive-0.1.0.dist-info/licenses/LICENSE" in names
    assert not {name for name in names if name.startswith(("tests", "benchmarks"))}
    assert metadata["Version"] == rlhive.__version__ == "0.1.0"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert "Typing :: Typed" in metadata.get_all("Classifier")
    assert {f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)} <= set(
        metadata.get_all("Classifier")
    )
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload().startswith("# RLHive")


def test_the_sdist_holds_what_its_tests_need(built, sources):
    with tarfile.open(built["sdist"]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}

    for folder in ("tests", "benchmarks", "docs", "examples", "rlhive"):
        files = {str(path.relative_to(sources)) for path in (sources / folder).rglob("*") if path.is_file()}
        assert files <= names, folder
    assert {"LICENSE", "README.md", "CHANGELOG.md", "Makefile", "constraints.txt", "pyproject.toml"} <= names
    assert not [name for name in names if ".venv" in name or "__pycache__" in name]


def test_the_version_is_written_once():
    texts = [*ROOT.glob("*.py"), *ROOT.glob("*.toml"), *(ROOT / "rlhive").rglob("*.py")]
    written = re.compile(r"^\s*(__version__|version)\s*=\s*[\"']0\.1\.0", re.MULTILINE)
    places = [path for path in texts if written.search(path.read_text())]

    assert places == [ROOT / "rlhive/__init__.py"]
    assert f"version: {rlhive.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## {rlhive.__version__}" in (ROOT / "CHANGELOG.md").read_text()


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


@pytest.mark.slow
def test_a_plain_install_is_the_data_layer(plain, tmp_path):
    ran = subprocess.run([plain, "-c", FLOW], capture_output=True, text=True, check=True, cwd=tmp_path)
    simulators, fingerprint, shape, messages = json.loads(ran.stdout)

    from rlhive.dataset._dataset import RoboHiveDataset

    assert simulators == []
    assert fingerprint == RoboHiveDataset("toy_point").fingerprint
    assert shape == [16, 2]
    assert len(messages) == 3
    assert all("rlhive setup" in message for message in messages[:2])
    assert "pip install 'rlhive[train]'" in messages[2]


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


def test_the_data_layer_asks_for_nothing_of_robohive(built):
    with zipfile.ZipFile(built["wheel"]) as wheel:
        metadata = email.message_from_bytes(wheel.read("rlhive-0.1.0.dist-info/METADATA"))
    requirements = [Requirement(text) for text in metadata.get_all("Requires-Dist")]
    data = {each.name: each.specifier for each in requirements if each.marker is None}

    for name in ("mujoco", "dm-control", "gymnasium", "h5py", "matplotlib"):
        assert name not in data
    allowed = {
        "numpy": ["1.26.0", "1.26.4", "2.0.0", "2.5.5"],
        "pyarrow": ["24.0.0", "25.0.1", "26.0.1"],
        "torch": ["2.14.0", "2.15.0"],
    }
    for name, versions in allowed.items():
        assert [version for version in versions if version not in data[name]] == []
    robohive = {each.name: each.specifier for each in requirements if 'extra == "robohive"' in str(each.marker)}
    assert "2.0.0" not in robohive["numpy"]
    assert "26.0.0" not in robohive["pyarrow"]


def test_every_pin_has_a_reason():
    pinned = [line for line in (ROOT / "setup.py").read_text().splitlines() if re.match(r'\s+"[\w-]+(==|.*<)', line)]

    assert len(pinned) >= 10
    assert [line for line in pinned if " # " not in line] == []


def test_installed_packages_are_compatible_except_for_robohives_pin():
    ran = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    complaints = [line for line in ran.stdout.splitlines() if line != "No broken requirements found."]

    assert [line for line in complaints if not line.startswith("robohive 0.7.0 has requirement h5py==3.7.0")] == []
