"""Formats of installed packages, registered by entry points, with the example format of docs/formats.md."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from rlhive import RoboHiveDataset
from rlhive.data.formats import _registry
from rlhive.data.formats._builtin import D4RL, RoboSet
from rlhive.data.formats._convert import import_dataset, open_source
from rlhive.data.formats._format import Format, Option
from rlhive.data.formats._registry import BUILT_IN, available_formats, get_format
from rlhive.errors import SchemaMismatchError, UnsupportedFormatError

PAGE = Path(__file__).parents[3] / "docs" / "formats.md"
CODE, TESTS = re.findall(r"```py(?:thon)?\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
ENTRY_POINTS = """
[project.entry-points."rlhive.formats"]
jsonl = "lab_formats:JsonLines"
broken = "lab_formats:MISSING"
number = "lab_formats:NUMBER"
copycat = "lab_formats:RoboSet"
"""
PYPROJECT = f"""
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "lab-formats"
version = "0.1"
{ENTRY_POINTS}"""
MORE = """
class RoboSet(JsonLines):
    name = "roboset"


NUMBER = 3
"""


def lines():
    """Return two episodes as the lines of a file."""
    generator = np.random.default_rng(0)
    for solved, length in ((True, 3), (False, 2)):
        numbers = {"states": (length + 1, 2), "actions": (length, 1), "rewards": (length,)}
        yield {name: generator.normal(size=shape).tolist() for name, shape in numbers.items()} | {"solved": solved}


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines()))
    return path


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with an installed package that names formats, sound and broken ones."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    (source / "pyproject.toml").write_text(PYPROJECT)
    (source / "lab_formats.py").write_text(CODE + MORE)
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*install, "--disable-pip-version-check", "--target", target, source], check=True)
    return target


def run(site, *words, **variables):
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path} | variables
    return subprocess.run(words, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_the_format_of_an_installed_package_is_imported_by_the_command(site, source, tmp_path):
    words = ["import", "jsonl", source, "lab/log", "--license", "mit", "--option", "split=expert"]
    command = [sys.executable, "-m", "rlhive.cli", *words]

    ran = run(site, *command, RLHIVE_DATASETS_PATH=str(tmp_path / "data"))

    assert ran.returncode == 0, ran.stderr
    assert "expert: 2 episodes" in ran.stdout
    warned = " ".join(ran.stderr.split())
    assert "The format 'lab_formats:MISSING' (lab-formats) is left out: AttributeError" in warned
    assert "'lab_formats:NUMBER' (lab-formats) is left out: UnsupportedFormatError('expected a Format" in warned
    assert (
        "'lab_formats:RoboSet' (lab-formats) is left out: UnsupportedFormatError(\"the name 'roboset' is taken"
        in warned
    )
    rows = RoboHiveDataset("lab/log", store=tmp_path / "data", generate=False).as_tensordict()
    first, second = lines()
    np.testing.assert_array_equal(rows["next", "reward"].ravel().numpy(), first["rewards"] + second["rewards"])
    following = np.array(first["states"][1:] + second["states"][1:])
    np.testing.assert_array_equal(rows["next", "observation"].numpy(), following)
    assert rows["next", "terminated"].ravel().tolist() == [False, False, True, False, False]
    assert rows["next", "truncated"].ravel().tolist() == [False] * 4 + [True]


def test_a_broken_package_does_not_affect_the_built_in_formats(site):
    script = (
        "from rlhive.data.formats import available_formats, get_format; print(type(get_format('roboset')).__module__)"
    )
    quiet = run(site, sys.executable, "-W", "error", "-c", script)
    assert quiet.stdout.split() == ["rlhive.data.formats._builtin"], quiet.stderr  # no plugin is imported for it

    listed = run(site, sys.executable, "-c", f"{script}; print(*available_formats())")
    assert listed.stdout.splitlines()[1].split() == [*BUILT_IN, "jsonl"]
    assert listed.stderr.count("is left out") == 3


@pytest.mark.slow
def test_the_conformance_suite_of_the_page_passes(site, tmp_path):
    (tmp_path / "test_lab_formats.py").write_text(TESTS)
    ran = run(site, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tmp_path)
    assert re.search(r"\b9 passed", ran.stdout), ran.stdout


def test_a_format_needs_no_registration(source, tmp_path):
    scope: dict = {}
    exec(compile(CODE, "formats.md", "exec"), scope)
    folder = import_dataset(
        scope["JsonLines"](), source, "lab/log", license="mit", store=tmp_path / "store", progress=False
    )
    assert RoboHiveDataset(folder).manifest.description == "Imported from jsonl files."
    with pytest.raises(UnsupportedFormatError, match="No format 'jsonl': expected one of roboset, d4rl"):
        open_source("jsonl", source)


def test_of_two_packages_with_the_same_format_name_the_first_is_used():
    class Entry:
        def __init__(self, package, item):
            self.value, self.dist, self.item = f"{package}:X", mock.Mock(), item
            self.dist.name = package

        def load(self):
            return self.item

    class First(RoboSet):
        name = "same"

    class Second(D4RL):
        name = "same"

    _registry._load_plugin_formats.cache_clear()
    entries = [Entry("one", First), Entry("two", Second())]
    try:
        with (
            mock.patch("importlib.metadata.entry_points", return_value=entries),
            pytest.warns(RuntimeWarning, match=r"'two:X' \(two\) is left out: .*the name 'same' is taken"),
        ):
            assert isinstance(get_format("same"), First)
    finally:
        _registry._load_plugin_formats.cache_clear()


def test_the_built_in_formats_are_listed_with_those_that_can_be_written():
    names = ["roboset", "d4rl", "minari", "lerobot", "rlds"]
    names += ["robomimic", "ogbench", "aloha", "diffusion_policy", "parquet"]
    assert list(available_formats())[: len(BUILT_IN)] == list(BUILT_IN) == names
    assert [name for name, item in BUILT_IN.items() if item.can_write] == ["minari", "lerobot"]
    with pytest.raises(
        UnsupportedFormatError, match=r"No format 'd4rl' that can be written: expected one of minari, lerobot\."
    ):
        get_format("d4rl", for_writing=True)


WRONG = [
    (
        {"alignmen": "state"},
        UnsupportedFormatError,
        r"no option 'alignmen': nearest alignment; expected one of alig",
    ),
    ({"zzz": 1}, UnsupportedFormatError, r"no option 'zzz': expected one of alignment, horizon, breaks, split\."),
    (
        {"alignment": "row"},
        SchemaMismatchError,
        "alignment='row': expected one of state, path, or None for the default",
    ),
    ({"horizon": "20"}, SchemaMismatchError, "horizon='20': expected a value of type int"),
    ({"horizon": True}, SchemaMismatchError, "horizon=True: expected a value of type int"),
]


@pytest.mark.parametrize(("options", "error", "message"), WRONG, ids=lambda value: str(value)[:20])
def test_a_wrong_option_is_refused_before_the_file_is_opened(options, error, message, tmp_path):
    with pytest.raises(error, match=message):
        open_source("d4rl", tmp_path / "not-looked-at", **options)


def test_options_are_parsed_by_their_declaration():
    assert Option("n", int, "").parse("3") == 3
    assert Option("x", float, "").parse("3") == 3.0
    assert Option("b", bool, "").parse("True") is True
    assert Option("s", str, "", choices=("a", "b")).parse("b") == "b"
    for option, text in (
        (Option("n", int, ""), "x"),
        (Option("b", bool, ""), "1"),
        (Option("s", str, "", ("a",)), "c"),
    ):
        with pytest.raises(SchemaMismatchError, match=f"{option.name}='{text}': expected"):
            option.parse(text)
    several = Option("drop", str, "", repeatable=True)
    several.require(["a", "b"])
    several.require("a")
    with pytest.raises(SchemaMismatchError, match=r"drop=\['a', 3\]: expected a value of type str, or several"):
        several.require(["a", 3])


def test_a_format_without_read_cannot_be_made():
    class Nothing(Format):
        name = "nothing"

    with pytest.raises(TypeError, match="read"):
        Nothing()
