"""Datasets of other libraries, opened by an address of a folder; tests/cli/test_formats.py opens one from the Hub."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from rlhive.data.formats._lerobot import read_lerobot
from rlhive.dataset import _foreign
from rlhive.dataset._dataset import RoboHiveDataset
from rlhive.dataset._foreign import ForeignAddress
from rlhive.errors import DatasetNotFoundError, InvalidOptionError, SchemaMismatchError, UnsupportedFormatError
from tests.data.formats import make_lerobot
from tests.data.formats.make_lerobot import LENGTHS, SOLVED

SOURCE = make_lerobot.FILES / "v3.0-video"


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(SOURCE, tmp_path / "frames")


@pytest.fixture
def imports(monkeypatch):
    """The calls that read a source."""
    made = []
    original = _foreign._import

    def count(*arguments):
        made.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(_foreign, "_import", count)
    return made


def test_an_address_is_a_kind_and_a_place():
    assert ForeignAddress.parse("lerobot:lab/frames") == ForeignAddress("lerobot", "lab/frames")
    assert ForeignAddress.parse("lerobot:lab/frames").path is None
    assert str(ForeignAddress.parse("aloha:/data/x").path) == "/data/x"
    for name in ("kitchen_knob1", "lab/frames", "./lerobot:x", "/lerobot:x", SOURCE):
        assert ForeignAddress.parse(name) is None


def test_a_folder_is_opened_as_transitions(folder, store):
    dataset = RoboHiveDataset(f"lerobot:{folder}", reward="sparse", store=store)
    records = list(read_lerobot(folder).records())
    assert len(dataset) == sum(length if solved else length - 1 for length, solved in zip(LENGTHS, SOLVED, strict=True))
    transitions = dataset.as_tensordict()
    np.testing.assert_array_equal(transitions["action"], np.concatenate([r.columns["action"] for r in records]))
    pictures = np.concatenate([record.columns["pixels.top"] for record in records])
    np.testing.assert_array_equal(transitions["pixels", "top"], pictures)
    rewards, ends = transitions["next", "reward"].flatten(), transitions["next", "terminated"].flatten()
    np.testing.assert_array_equal(rewards != 0, ends)
    assert ends.sum() == sum(SOLVED)
    assert dataset.name.startswith("lerobot/frames-")
    assert dataset.manifest.description == f"Imported by RLHive from {folder}."


def test_the_same_folder_is_imported_once_and_a_changed_one_is_a_new_version(folder, store, imports):
    first = RoboHiveDataset(f"lerobot:{folder}", store=store)
    assert RoboHiveDataset(f"lerobot:{folder}", store=store).path == first.path
    assert len(imports) == 1
    shutil.rmtree(folder)
    shutil.copytree(make_lerobot.FILES / "v3.0-image", folder)
    changed = RoboHiveDataset(f"lerobot:{folder}", store=store)
    assert (changed.name, changed.version) == (first.name, "2.0.0")
    assert len(imports) == 2
    os.utime(folder / "meta/info.json")  # read again, but nothing differs
    assert RoboHiveDataset(f"lerobot:{folder}", store=store).path == changed.path
    assert len(imports) == 3
    assert RoboHiveDataset(f"lerobot:{folder}", store=store).path == changed.path
    assert len(imports) == 3


@pytest.mark.slow
def test_options_make_another_dataset(folder, store):
    def closeness(columns):
        return columns["action"][:, 0]

    names = {
        RoboHiveDataset(f"lerobot:{folder}", store=store, **options).name
        for options in (
            {},
            {"reward": "sparse"},
            {"reward": "sparse", "success": "all"},
            {"reward": closeness},
            {"reward": lambda columns: columns["action"][:, 1]},
            {"rename": {"observation.state": "observation.joints"}},
        )
    }
    assert len(names) == 6
    again = RoboHiveDataset(f"lerobot:{folder}", reward=closeness, store=store)
    assert again.name in names
    assert [version.name for version in again.path.parent.iterdir() if version.is_dir()] == ["1.0.0"]


def name_of(reward):
    return _foreign._name_dataset("lerobot", "frames", ["/frames"], {"reward": reward})


THRESHOLD = 0.5


def is_close(rows):
    return rows < THRESHOLD


class Goal:
    def __init__(self, place):
        self.place = place

    def __repr__(self):
        return f"Goal({self.place})"

    def score(self, columns):
        return columns["action"][:, 0] - self.place


def near(goal):
    return lambda columns: columns["action"] - goal


def with_default(scale):
    def score(columns, *, scale=scale):
        return columns["action"] * scale

    return score


def changed(values, index, difference):
    values = values.copy()
    values[index] += difference
    return values


ZEROS = np.zeros(5000)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Goal(1).score, Goal(2).score),
        (with_default(1), with_default(2)),
        (near(ZEROS), near(changed(ZEROS, 2500, 1))),
        (near(ZEROS[:3]), near(changed(ZEROS[:3], 1, 1e-12))),
        (near(torch.zeros(5000)), near(torch.zeros(5000, dtype=torch.float64))),
        (near([ZEROS]), near((ZEROS,))),
        (near(np.isclose), near(np.isfinite)),
        (near(int), near(float)),
    ],
    ids=["bound object", "default", "long array", "digits", "dtype", "sequence", "function", "class"],
)
def test_functions_that_use_other_values_make_another_dataset(first, second):
    assert name_of(first) == name_of(first) != name_of(second) == name_of(second)


@pytest.mark.parametrize(
    "reward", [is_close, lambda columns: is_close(columns["action"]), lambda _: [THRESHOLD for _ in "x"]]
)
def test_functions_whose_globals_changed_make_another_dataset(reward, monkeypatch):
    before = name_of(reward)
    monkeypatch.setitem(globals(), "THRESHOLD", 0.6)
    assert name_of(reward) != before


def test_a_function_may_call_itself():
    def sums(columns):
        return sums(columns) if is_close(columns) else 0

    assert name_of(sums) == name_of(sums)


@pytest.mark.slow
def test_a_function_is_the_same_option_in_another_process():
    script = """if True:
        import json, math, numpy as np
        from numpy import isclose
        from tests.dataset.test_foreign import Goal, is_close, name_of
        print(name_of(lambda c: isclose(np.ones(3), Goal(1)) in {"a", "b", "c"} or is_close(math.pi, len, json.dumps)))
    """
    names = {
        subprocess.run(
            [sys.executable, "-c", script], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in "12"
    }
    assert len(names) == 1


def test_a_deleted_version_is_imported_again(folder, store, imports):
    dataset = RoboHiveDataset(f"lerobot:{folder}", store=store)
    shutil.rmtree(dataset.path)
    assert RoboHiveDataset(f"lerobot:{folder}", store=store).path == dataset.path
    assert len(imports) == 2


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("lerobt:/x", {}, UnsupportedFormatError, "No format 'lerobt': expected one of roboset"),
        ("lerobot:/no/such", {}, DatasetNotFoundError, "/no/such: expected a file or folder"),
        ("lerobot:{}", {"version": "1.0.0"}, InvalidOptionError, "version='1.0.0': expected none"),
        ("lerobot:{}", {"revision": "main"}, InvalidOptionError, "no repository on the Hub"),
        ("lerobot:{}", {"reward": "speed"}, SchemaMismatchError, "expected 'sparse' or a column, one of action"),
        ("kitchen_knob1", {"reward": "sparse"}, InvalidOptionError, "for an address such as lerobot:org/name"),
        ("rlds:lab/frames", {}, UnsupportedFormatError, "rlds"),
    ],
)
def test_bad_input_is_refused(folder, store, name, options, error, message):
    with pytest.raises(error, match=message):
        RoboHiveDataset(name.format(folder), store=store, **options)
    assert not list(store.rglob("rlhive.json"))
