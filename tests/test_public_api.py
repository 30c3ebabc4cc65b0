"""The public API: names, docstrings, types that mypy sees, and an import that takes less than 0.2 s."""

import ast
import importlib
import os
import re
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
def test_every_public_name_resolves_and_has_a_docstring(name):
    assert getattr(rlhive, name).__doc__
    assert name in dir(rlhive)


SNIPPET = """
import rlhive
from rlhive import RoboHiveDataset
from rlhive import nonsense

reveal_type(RoboHiveDataset)
dataset = RoboHiveDataset("x")
dataset.as_replay_buffer(batch_size=256, n_step=3)
dataset.as_dataloader(batch_size=256, n_step=3, where="success")
dataset.as_replay_buffer(batch_sizee=256)
dataset.as_dataloader(n_stepp=3)
dataset.as_storage(n_stepp=3)
dataset.as_tensordict(n_step="three")
dataset.wher("success")
"""


@pytest.fixture(scope="module")
def mypy_output(tmp_path_factory):
    """Return what mypy prints, by line number, for the snippet and then a reveal_type of every public name."""
    lines = [*SNIPPET.splitlines(), *(f"reveal_type(rlhive.{name})" for name in rlhive.__all__)]
    path = tmp_path_factory.mktemp("mypy") / "snippet.py"
    path.write_text("\n".join(lines))
    repository = Path(__file__).parents[1]
    settings = ["--config-file", str(repository / "pyproject.toml"), "--cache-dir", str(repository / ".mypy_cache")]
    # An installed wheel is found by its py.typed; mypy refuses site-packages in MYPYPATH.
    search_path = {"MYPYPATH": str(repository)} if ROOT.parent == repository else {}
    ran = subprocess.run(
        [sys.executable, "-m", "mypy", *settings, str(path)],
        cwd=path.parent,
        env=os.environ | search_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stderr == ""
    messages = {}
    for number, message in re.findall(r"snippet\.py:(\d+): (.*)", ran.stdout):
        messages.setdefault(lines[int(number) - 1], message)
    return messages


def test_mypy_sees_the_class_and_its_signatures(mypy_output):
    revealed = mypy_output["reveal_type(RoboHiveDataset)"]
    assert re.search(r"def \(name: .*\) -> rlhive\.dataset\._dataset\.RoboHiveDataset", revealed)
    assert {line: message for line, message in mypy_output.items() if not line.startswith("reveal_type")} == {
        "from rlhive import nonsense": 'error: Module "rlhive" has no attribute "nonsense"  [attr-defined]',
        "dataset.as_replay_buffer(batch_sizee=256)": 'error: Unexpected keyword argument "batch_sizee" for '
        '"as_replay_buffer" of "RoboHiveDataset"; did you mean "batch_size"?  [call-arg]',
        "dataset.as_dataloader(n_stepp=3)": 'error: Unexpected keyword argument "n_stepp" for "as_dataloader" of '
        '"RoboHiveDataset"; did you mean "n_step"?  [call-arg]',
        "dataset.as_storage(n_stepp=3)": 'error: Unexpected keyword argument "n_stepp" for "as_storage" of '
        '"RoboHiveDataset"; did you mean "n_step"?  [call-arg]',
        'dataset.as_tensordict(n_step="three")': 'error: Argument "n_step" to "as_tensordict" of "RoboHiveDataset" '
        'has incompatible type "str"; expected "int"  [arg-type]',
        'dataset.wher("success")': 'error: "RoboHiveDataset" has no attribute "wher"; maybe "where"?  [attr-defined]',
    }


@pytest.mark.parametrize("name", rlhive.__all__)
def test_mypy_sees_the_signature_of_every_public_name(name, mypy_output):
    revealed = mypy_output[f"reveal_type(rlhive.{name})"]

    # "def (name: str, …) -> Path", for a class of what it constructs, or "Overload(def …)"
    assert re.match(r'note: Revealed type is "(Overload\()?def ', revealed), revealed


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = rlhive.nothing


def test_the_old_names_of_errors_are_the_renamed_classes_and_warn():
    from rlhive import errors

    assert len(errors._OLD_NAMES) == 33
    for name, kind in errors._OLD_NAMES.items():
        with pytest.warns(DeprecationWarning, match=rf"errors\.{name} is renamed {kind.__name__}; .* in 0\.2"):
            assert getattr(errors, name) is kind
    with pytest.warns(DeprecationWarning, match="InvalidName"), pytest.raises(errors.InvalidName, match="licen"):
        rlhive.export([], "my/knob", license="no such licence")
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = errors.Nothing


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
