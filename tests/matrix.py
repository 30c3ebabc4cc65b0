"""The data tests with the oldest and the newest versions that setup.py allows, for each Python: ``make matrix``.

    python -m tests.matrix                                  # every combination
    python -m tests.matrix 3.13-newest --tests tests/dataset  # one of them, and a part of the tests

Each combination has an environment of its own in the clone, whose files are hard links into uv's cache, and which is
removed afterwards. One line says what was installed and how the tests went. "oldest" are the lower bounds in setup.py
(where a Python has no wheel of them, the next version with one), "newest" is what the package index has, and
"neighbours" is the newest with the libraries in NEIGHBOURS.
"""

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.peers.environments import ROOT, MissingPythonError, find_python, find_uv

NEIGHBOURS = ("minari", "rerun-sdk")
COMBINATIONS = (
    *(f"{python}-{versions}" for python in ("3.11", "3.12", "3.13") for versions in ("oldest", "newest")),
    "3.13-neighbours",
)
#: What needs no simulator. tests/data and tests/dataset skip the few tests that need RoboHive; tests/test_normalization
#: trains on the toy.
TESTS = ("tests/data", "tests/dataset", "tests/test_public_api.py", "tests/test_normalization.py", "tests/test_keys.py")
SHOWN = ("numpy", "pyarrow", "torch", "torchrl", "tensordict", "datasets", *NEIGHBOURS)


class CombinationFailedError(Exception):
    """The environment could not be made, its packages do not fit, or a test failed."""


def run(*command: str | Path, fails: str) -> str:
    """Run a command in the clone and return what it printed.

    Raises:
        CombinationFailedError: The command failed; the message is ``fails`` and the end of its output.
    """
    environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    ran = subprocess.run(
        command,
        cwd=ROOT,
        env=environ,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if ran.returncode:
        msg = f"{fails}\n" + "\n".join(ran.stdout.splitlines()[-40:])
        raise CombinationFailedError(msg)
    return ran.stdout


@contextlib.contextmanager
def environment(name: str, interpreter: str) -> Iterator[Path]:
    """Make an empty environment, and remove it at the end; yields its interpreter."""
    # In the clone and not in /tmp, so that uv can link the 6 GB of torch instead of copying them.
    folder = ROOT / f".venv-matrix-{name}"
    try:
        run(find_uv(), "venv", "--quiet", "--clear", "--python", interpreter, folder, fails="no environment")
        yield folder / "bin/python"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def install(python: Path, versions: str) -> None:
    """Install the library, in the oldest or newest versions that it allows, and what its data tests need."""
    command = [find_uv(), "pip", "install", "--quiet", "--python", python]
    constraints: list[str | Path] = []
    with tempfile.TemporaryDirectory() as folder:
        if versions == "oldest":
            lowest = ["--resolution", "lowest-direct", "--only-binary", ":all:"]
            run(*command, *lowest, "--editable", ".", fails="the oldest versions could not be installed")
            frozen = run(
                find_uv(), "pip", "freeze", "--exclude-editable", "--python", python, fails="no list of versions"
            )
            file = Path(folder) / "oldest.txt"
            file.write_text("\n".join(line for line in frozen.splitlines() if "==" in line), encoding="utf-8")
            constraints = ["--constraint", file]
        neighbours = NEIGHBOURS if versions == "neighbours" else ()
        extras = ".[formats,train,release,dev]"
        run(*command, *constraints, "--editable", extras, *neighbours, fails="the packages do not fit")
    run(find_uv(), "pip", "check", "--python", python, fails="pip check found packages that do not fit")


def try_combination(name: str, tests: Sequence[str], processes: str) -> str:
    """Install and test a combination.

    Returns:
        The installed versions, the result of the tests and the time; or why it was skipped.

    Raises:
        CombinationFailedError: It could not be installed, or a test failed.
    """
    started = time.monotonic()
    wanted, versions = name.split("-")
    try:
        interpreter = find_python(wanted)
    except MissingPythonError as error:
        return f"skipped: {error}"
    with environment(name, interpreter) as python:
        install(python, versions)
        frozen = dict(
            line.split("==")
            for line in run(find_uv(), "pip", "freeze", "--python", python, fails="no list of versions").splitlines()
            if "==" in line
        )
        installed = ", ".join(f"{package} {frozen[package]}" for package in SHOWN if package in frozen)
        pytest = [python, "-m", "pytest", "-q", "-m", "not slow", "-n", processes, "--dist", "loadfile"]
        output = run(*pytest, "-p", "no:cacheprovider", *tests, fails=f"{installed}: tests failed")
    result = re.findall(r"^=*\s*(\d+ (?:passed|skipped).*? in [\d.]+s)", output, re.MULTILINE)[-1]
    return f"{installed}; pip check: fits; {result} ({time.monotonic() - started:.0f} s with the install)"


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the combinations (without a name all of them), tests and number of processes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    # Python 3.11 looks for the empty list among the choices.
    parser.add_argument("combinations", nargs="*", choices=[[], *COMBINATIONS], metavar="NAME")
    parser.add_argument("--tests", nargs="+", default=TESTS, help="the tests to run")
    parser.add_argument("--processes", default="auto", help="processes of pytest-xdist; auto takes every core")
    options = parser.parse_args(arguments)
    options.combinations = options.combinations or COMBINATIONS
    return options


def main() -> None:
    """Try the combinations one after another; print a line for each."""
    options = parse_arguments()
    failed = 0
    for name in options.combinations:
        try:
            line = try_combination(name, options.tests, options.processes)
        except CombinationFailedError as error:
            failed += 1
            line = f"FAILED: {error}"
        print(f"{name}: {line}", flush=True)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
