"""Builds of caches that were killed or interrupted: the next call goes on, and the bytes are those of one build."""

import json
import os
import signal

import numpy as np
import pytest

from rlhive.data import EpisodeRecord, Field, Schema, _parquet
from rlhive.data._ragged import make_rows
from rlhive.data.replay import _cache, _frames, _packed_writer, open_packed
from rlhive.data.replay._packed_writer import PackedCacheWriter
from rlhive.data.replay._progress import NOTE_NAME, BuildProgress
from rlhive.data.versions import Manifest, export
from rlhive.dataset._lookup import delete
from rlhive.errors import CorruptDatasetError
from tests.data.test_picture_storage import draw_rows

LENGTHS = (5, 1, 4, 7)
SHAPE = (2, 32, 40, 3)
FIELDS = (
    Field("action", "float32", (2,), observed=False),
    Field("audio", "float32", (-1,), observed=False),
    Field("next.reward", "float64", (1,), observed=False),
    Field("next.terminated", "bool", (1,), observed=False),
    Field("next.truncated", "bool", (1,), observed=False),
    Field("pixels", "uint8", SHAPE, observed=True),
)


def make_records():
    for episode, length in enumerate(LENGTHS):
        generator = np.random.default_rng(episode)
        pixels = draw_rows(length + 1, SHAPE, seed=episode)
        pixels[1:] = np.where(generator.random(pixels[1:].shape) < 0.1, pixels[1:], pixels[0])  # mostly still
        columns = {
            "action": generator.normal(size=(length, 2)).astype(np.float32),
            "audio": make_rows([generator.normal(size=row % 3).astype(np.float32) for row in range(length)]),
            "next.reward": generator.normal(size=(length, 1)),
            "next.terminated": np.zeros((length, 1), bool),
            "next.truncated": np.arange(length)[:, None] == length - 1,
            "pixels": pixels[:-1],
        }
        yield EpisodeRecord(episode, "train", columns, {"pixels": pixels[-1]})


@pytest.fixture
def small_steps(monkeypatch):
    """Batches of about two rows, row groups of several episodes, a note after every third row."""
    monkeypatch.setattr(_parquet, "ROW_GROUP_BYTES", 45_000)
    monkeypatch.setattr(_packed_writer, "CHUNK_BYTES", 20_000)
    monkeypatch.setattr(_cache, "_NOTE_BYTES", 3 * 8000)


@pytest.fixture(params=["raw", "png", "ffv1"])
def version(request, tmp_path, small_steps):
    if request.param == "ffv1":
        pytest.importorskip("av")
    storage = {"pixels": request.param}
    return export(
        make_records(), "my/knob", schema=Schema(FIELDS), license="mit", store=tmp_path / "store", storage=storage
    )


def read_files(folder):
    """Return the content of all files but the checksums, which hold times, and the note of progress."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in ("seal.json", NOTE_NAME)}


def build(version, store, kind):
    return open_packed(version, Manifest.read(version), image_cache=kind, store=store).folder


def count_built_rows(version, store, kind, monkeypatch):
    """Build the cache; return its folder and the number of transitions that were decoded for it."""
    counts, write = [], PackedCacheWriter.write

    def count(self, columns):
        counts.append(len(columns["action"]))
        write(self, columns)

    with monkeypatch.context() as patch:
        patch.setattr(PackedCacheWriter, "write", count)
        return build(version, store, kind), sum(counts)


#: Every write of rows, every flush to the disk, and every new name of a file.
EVENTS = ((PackedCacheWriter, "_write_chunk"), (os, "fsync"), (os, "replace"), (os, "rename"))


def build_until(event, version, store, kind, *, watched=EVENTS):
    """Build in a child process that is killed before the n-th call of a watched function.

    Returns:
        Whether it was killed; otherwise the build ended before.
    """
    child = os.fork()
    if not child:
        num_events = 0

        def watch(function):
            def call(*args, **options):
                nonlocal num_events
                num_events += 1
                if num_events == event:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **options)

            return call

        for owner, name in watched:
            setattr(owner, name, watch(getattr(owner, name)))
        try:
            build(version, store, kind)
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL)
    return status != 0


@pytest.fixture(params=["raw", "encoded"])
def kind(request):
    return request.param


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 9])
def test_a_build_that_is_killed_at_any_time_goes_on_to_the_same_bytes(version, kind, step, tmp_path, monkeypatch):
    monkeypatch.setattr(_frames, "num_threads", lambda: 1)
    whole = build(version, tmp_path / "whole", kind)
    expected, event, built = read_files(whole), 1, []
    while build_until(event, version, store := tmp_path / str(event), kind):
        if (store / ".cache" / whole.name).exists():  # killed after it got its name
            assert read_files(store / ".cache" / whole.name) == expected, event
        folder, num_rows = count_built_rows(version, store, kind, monkeypatch)
        assert read_files(folder) == expected, event
        assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == [folder.name]
        built.append(num_rows)
        event += step
    assert len(built) > 3
    assert built[0] == sum(LENGTHS)
    assert built[-1] < 4
    assert built == sorted(built, reverse=True)


def test_a_build_that_is_killed_again_and_again_ends(version, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(_frames, "num_threads", lambda: 1)
    num_kills = 0
    while build_until(2, version, tmp_path / "killed", kind, watched=((BuildProgress, "note"),)):
        num_kills += 1
        assert num_kills < 10
    assert num_kills > 1
    assert read_files(build(version, tmp_path / "killed", kind)) == read_files(build(version, tmp_path / "whole", kind))


def interrupt_at_note(number, version, store, kind, monkeypatch):
    """Interrupt a build before it notes its progress for the n-th time."""
    note, calls = BuildProgress.note, []

    def interrupted(self, *arguments):
        calls.append(arguments)
        if len(calls) == number:
            raise KeyboardInterrupt
        note(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(BuildProgress, "note", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build(version, store, kind)


@pytest.fixture
def unfinished(version, kind, tmp_path, monkeypatch):
    """The folder of a build that was interrupted after its first note."""
    interrupt_at_note(2, version, tmp_path / "store", kind, monkeypatch)
    (folder,) = (path for path in (tmp_path / "store" / ".cache").iterdir() if path.is_dir())
    return folder


def test_an_interrupted_build_goes_on(version, kind, unfinished, tmp_path, monkeypatch):
    num_transitions = json.loads((unfinished / NOTE_NAME).read_text())["num_transitions"]
    folder, num_rows = count_built_rows(version, tmp_path / "store", kind, monkeypatch)
    assert 0 < num_rows == sum(LENGTHS) - num_transitions
    assert read_files(folder) == read_files(build(version, tmp_path / "whole", kind))


def test_a_default_build_takes_the_kind_of_the_interrupted_one(version, kind, unfinished, tmp_path):
    assert build(version, tmp_path / "store", None).name == unfinished.name.partition(".partial-")[0]


def damage_content(folder):
    path = folder / "records.bin"
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)


def shorten(folder):
    os.truncate(folder / "records.bin", 8)


def remove_file(folder):
    (folder / "rows.bin").unlink()


def edit_note(**changes):
    def edit(folder):
        content = json.loads((folder / NOTE_NAME).read_text())
        (folder / NOTE_NAME).write_text(json.dumps(content | changes))

    return edit


def name_a_file_outside(folder):
    content = json.loads((folder / NOTE_NAME).read_text())
    content["files"] = {"../../victim": {"bytes": 0, "crc32": 0}}
    (folder / NOTE_NAME).write_text(json.dumps(content))


@pytest.mark.parametrize(
    "damage",
    [
        damage_content,
        shorten,
        remove_file,
        edit_note(key="of another version"),
        edit_note(files=[]),
        edit_note(num_transitions=None),
        lambda folder: (folder / NOTE_NAME).write_text("{"),
        name_a_file_outside,
    ],
)
def test_a_part_that_is_not_what_was_noted_is_built_again(version, kind, unfinished, tmp_path, monkeypatch, damage):
    (tmp_path / "store" / "victim").write_text("of another program")
    damage(unfinished)
    folder, num_rows = count_built_rows(version, tmp_path / "store", kind, monkeypatch)
    assert num_rows == sum(LENGTHS)
    assert read_files(folder) == read_files(build(version, tmp_path / "whole", kind))
    assert (tmp_path / "store" / "victim").read_text() == "of another program"


def test_an_interrupt_before_the_first_note_leaves_nothing(version, kind, tmp_path, monkeypatch):
    interrupt_at_note(1, version, tmp_path / "store", kind, monkeypatch)
    assert not [path for path in (tmp_path / "store" / ".cache").iterdir() if path.is_dir()]


def test_an_error_leaves_nothing(version, kind, tmp_path, monkeypatch):
    def refuse(self):
        msg = "too few"
        raise CorruptDatasetError(msg)

    monkeypatch.setattr(PackedCacheWriter, "finish", refuse)
    with pytest.raises(CorruptDatasetError, match="too few"):
        build(version, tmp_path / "store", kind)
    assert not [path for path in (tmp_path / "store" / ".cache").iterdir() if path.is_dir()]


def test_an_unfinished_cache_goes_with_its_version(version, unfinished, tmp_path):
    delete("my/knob", version.name, store=tmp_path / "store")
    assert not unfinished.exists()
