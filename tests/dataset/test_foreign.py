"""Datasets of other libraries, opened by an address of a folder; tests/cli/test_formats.py opens one from the Hub."""

import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rlhive import check
from rlhive.data._video_files import VideoFile
from rlhive.data.formats import import_dataset
from rlhive.data.formats._lerobot import read_lerobot
from rlhive.data.versions import Manifest
from rlhive.dataset import _foreign
from rlhive.dataset._dataset import RoboHiveDataset
from rlhive.dataset._foreign import ForeignAddress
from rlhive.errors import (
    CorruptDatasetError,
    DatasetNotFoundError,
    InvalidOptionError,
    SchemaMismatchError,
    UnsupportedFormatError,
)
from tests.data.formats import make_lerobot, test_aloha
from tests.data.formats.make_lerobot import LENGTHS, SOLVED

SOURCE = make_lerobot.FILES / "v3.0-video"
FORMATS_PAGE = Path(__file__).parents[2] / "docs/formats.md"


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


def test_the_addresses_of_the_guide_are_opened(store, tmp_path):
    """With files of these kinds in place of a dataset on the Hub and of folders below /data."""
    (code,) = re.findall(r"```python3\n(.*?)```", FORMATS_PAGE.read_text("utf-8"), re.DOTALL)
    aloha = test_aloha.write(tmp_path / "sim_transfer_cube")
    code = code.replace("lerobot:lerobot/pusht", f"lerobot:{SOURCE}").replace("/data/sim_transfer_cube", str(aloha))
    code = code.replace("/data/lift/low_dim_v141.hdf5", str(make_lerobot.FILES.parent / "robomimic/demo.hdf5"))

    assert "/data/" not in code.replace("/tests/data/", "").replace("rlhive.data", "")
    exec(compile(code, FORMATS_PAGE.name, "exec"), {})
    assert {path.name for path in store.iterdir()} >= {"aloha", "lerobot", "robomimic"}


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
TASKS = {"reach", "push", "slide", "lift"}


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
        from tests.dataset.test_foreign import TASKS, Goal, is_close, name_of
        print(name_of(lambda c: isclose(np.ones(3), Goal(1)) in {"a", "b", "c"} or is_close(math.pi, len, json.dumps)))
        print(name_of(lambda columns: columns["task"] in TASKS))
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


def find_videos(folder):
    return sorted(path for path in folder.rglob("*.mp4"))


@pytest.mark.parametrize("kind", ["v3.0-video", "v2.1-video"])
def test_the_videos_of_an_address_stand_once_on_the_disk(kind, store, tmp_path):
    folder = shutil.copytree(make_lerobot.FILES / kind, tmp_path / "frames")
    dataset = RoboHiveDataset(f"lerobot:{folder}", reward="sparse", store=store)
    linked = find_videos(dataset.path)
    assert [path.stat().st_ino for path in linked] == [path.stat().st_ino for path in find_videos(folder)]
    copied = import_dataset(
        "lerobot", folder, "lab/copied", reward="sparse", license="mit", store=store, progress=False
    )
    assert [path.stat().st_nlink for path in find_videos(copied)] == [1]
    assert dataset.manifest.fingerprint == Manifest.read(copied).fingerprint
    expected = RoboHiveDataset(copied, store=tmp_path / "copied").as_tensordict()
    for cache in ("raw", "none"):
        assert (dataset.as_replay_buffer(image_cache=cache, dtype=None)[:].exclude("index") == expected).all()
    assert check(dataset.path).ok


@pytest.mark.parametrize(("skip", "num_frames"), [(2, 8), (0, 7), (1, 9)])
def test_a_video_with_frames_that_a_version_leaves_out_is_copied_without_them(skip, num_frames, folder, store):
    """A version that is published must not hold what was left out of it."""
    options = {"license": "mit", "store": store, "progress": False, "skip_episode": skip}
    linked = import_dataset("lerobot", folder, "lab/linked", link_videos=True, **options)
    copied = import_dataset("lerobot", folder, "lab/copied", **options)
    assert [path.read_bytes() for path in find_videos(linked)] == [path.read_bytes() for path in find_videos(copied)]
    assert [len(VideoFile(path, "video")) for path in find_videos(linked)] == [num_frames]
    assert Manifest.read(linked).fingerprint == Manifest.read(copied).fingerprint
    assert check(linked).ok


def test_a_video_of_the_hubs_cache_is_linked_to_its_blob(store, tmp_path):
    blobs, snapshot = tmp_path / "datasets--lab--frames/blobs", tmp_path / "datasets--lab--frames/snapshots/0123"
    blobs.mkdir(parents=True)
    for number, path in enumerate(sorted(path for path in SOURCE.rglob("*") if path.is_file())):
        target = snapshot / path.relative_to(SOURCE)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, blobs / str(number))
        target.symlink_to(blobs / str(number))
    dataset = RoboHiveDataset(f"lerobot:{snapshot}", store=store)
    (video,) = find_videos(dataset.path)
    assert not video.is_symlink()
    assert video.stat().st_ino == find_videos(snapshot)[0].stat().st_ino


def test_a_disk_without_links_gets_a_copy(folder, store, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    dataset = RoboHiveDataset(f"lerobot:{folder}", store=store)
    (video,) = find_videos(dataset.path)
    assert video.stat().st_nlink == 1
    assert video.read_bytes() == find_videos(folder)[0].read_bytes()
    assert check(dataset.path).ok


def test_a_linked_video_that_is_written_into_is_noticed_and_imported_again(folder, store):
    first = RoboHiveDataset(f"lerobot:{folder}", store=store)
    (video,) = find_videos(folder)
    content = bytearray(video.read_bytes())
    place = content.index(b"mdat") + 60
    content[place] ^= 1
    with video.open("r+b") as file:
        file.write(content)
    with pytest.raises(CorruptDatasetError, match=r"file-000.mp4"):
        first.as_replay_buffer()
    again = RoboHiveDataset(f"lerobot:{folder}", store=store)
    assert again.version == "2.0.0"
    assert check(again.path).ok
