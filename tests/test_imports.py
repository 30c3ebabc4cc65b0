"""The structure of the library: its layers, its private modules, and one owner for each foreign library."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import rlhive

ROOT = Path(rlhive.__file__).parent

CLI = "rlhive.cli"
EXPERTS = "rlhive.envs.experts"

#: Modules, or packages with all that they hold, that may import a library.
OWNERS = {
    "gymnasium": {"rlhive.envs._loading", "rlhive.envs._custom"},
    "robohive": {"rlhive.envs._loading", "rlhive.envs.experts._kinematics"},
    "dm_control": {"rlhive.envs._loading", "rlhive.envs.experts._kinematics"},
    "mujoco": {
        "rlhive.envs._episode_state",
        "rlhive.envs._loading",
        "rlhive.envs._robohive",
        "rlhive.envs._rendering",
        "rlhive.envs._opengl",
        EXPERTS,
    },
    "rerun": {"rlhive.dataset._rerun"},
    "OpenGL": {"rlhive.envs._opengl"},
    "pyarrow": {"rlhive.data", "rlhive.dataset"},
    "h5py": {"rlhive.data.formats._hdf5"},
    "av": {
        "rlhive.data._video_encoding",
        "rlhive.data._video_files",
        "rlhive.data.formats._video_clips",
        "rlhive.data.formats._videos",
    },
    "PIL": {"rlhive.data._pictures", "rlhive.data.formats._pictures"},
    "google_crc32c": {"rlhive.data.formats._tfrecord"},
    "google": {"rlhive.data.formats._tfrecord"},
    "huggingface_hub": {"rlhive.data.hub"},
    "mlcroissant": {"rlhive.data.release._validation"},
    "fsspec": {"rlhive.data._object_store"},
    "datasets": {"rlhive.dataset"},
    "typer": {CLI},
    "rich": {CLI},
    "hydra": {"rlhive.sim_algos._config", "rlhive.sim_algos.run"},
}


def modules():
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imported(path):
    """Every module that a file imports, at its top or inside a function; ``from a import b`` also as ``a.b``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_within(module, package):
    return module == package or module.startswith(f"{package}.")


def violations(module, path):
    for name in imported(path):
        library, *parts = name.split(".")
        if library in OWNERS and not any(is_within(module, owner) for owner in OWNERS[library]):
            yield f"{module} imports {library}, which belongs to {sorted(OWNERS[library])}"
        if library != "rlhive":
            continue
        private = next((index for index, part in enumerate(parts) if part.startswith("_")), None)
        package = ".".join(["rlhive", *parts[:private]])
        if private is not None and not is_within(module, package):
            yield f"{module} imports {name}, which is private to {package}"


def test_the_layers_hold():
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    linted = subprocess.run(command, cwd=ROOT.parent, capture_output=True, text=True, check=False)

    assert linted.returncode == 0, linted.stdout


@pytest.mark.parametrize(("module", "path"), list(modules()), ids=lambda value: str(value)[-30:])
def test_private_modules_and_libraries_stay_with_their_owner(module, path):
    assert list(violations(module, path)) == []


@pytest.mark.parametrize(
    ("module", "source", "message"),
    [
        ("rlhive.dataset._view", "from rlhive.data._schema import Schema", "private to rlhive.data"),
        ("rlhive.dataset._view", "from rlhive.data.versions import _manifest", "private to rlhive.data.versions"),
        ("rlhive.rollouts._collect", "def f():\n    import pyarrow.parquet", "belongs to"),
    ],
)
def test_a_violation_is_detected(module, source, message, tmp_path):
    path = tmp_path / "module.py"
    path.write_text(source)

    assert any(message in violation for violation in violations(module, path))
