"""What `import rlhive` promises: names, docstrings, and that it costs next to nothing."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import rlhive

ROOT = Path(rlhive.__file__).parent


def test_importing_rlhive_is_fast_and_loads_nothing_heavy():
    script = "import sys, time; t = time.perf_counter(); import rlhive; print(time.perf_counter() - t, *sys.modules)"
    runs = [
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
        for _ in range(3)
    ]

    assert min(float(run[0]) for run in runs) < 0.2
    assert not {"torch", "torchrl", "tensordict", "numpy", "pyarrow", "mujoco", "robohive"} & set(runs[0])


@pytest.mark.parametrize("name", rlhive.__all__)
def test_every_public_name_is_there(name):
    assert getattr(rlhive, name) is not None
    assert name in dir(rlhive)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = rlhive.nothing


def test_every_error_has_a_builtin_parent_and_says_its_message():
    from rlhive import errors

    for kind in vars(errors).values():
        if isinstance(kind, type) and kind is not errors.RLHiveError:
            assert issubclass(kind, errors.RLHiveError)
            builtin = [parent for parent in kind.__mro__ if parent.__module__ == "builtins"]
            assert builtin[0] not in (Exception, BaseException), kind
            assert str(kind("what failed")) == "what failed"


def public_definitions():
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                yield pytest.param(node, id=f"{path.relative_to(ROOT)}::{node.name}")


@pytest.mark.parametrize("node", list(public_definitions()))
def test_every_public_name_has_a_docstring(node):
    assert ast.get_docstring(node), f"line {node.lineno}"


def test_the_historical_import_path_is_the_same_class():
    pytest.importorskip("mujoco", reason="the environment needs pip install 'rlhive[robohive]'")

    assert importlib.import_module("rlhive.rl_envs").RoboHiveEnv is rlhive.RoboHiveEnv
