"""The store: names, versions and paths; folders and files that appear complete or not at all."""

import errno
import os
import shutil
import threading
from pathlib import Path

import pytest

from rlhive.data import _store
from rlhive.errors import DatasetExistsError, DiskFullError, InvalidNameError, StoreNotWritableError


def list_names(folder):
    """Return the names in a folder, locks left out."""
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("knob", ("robohive", "knob")), ("my/knob", ("my", "knob")), ("a.b/c_d-1", ("a.b", "c_d-1"))],
)
def test_a_name_has_a_namespace(name, expected):
    assert _store.parse_name(name) == expected


@pytest.mark.parametrize("name", ["", "/", "a/b/c", "../x", "a/", ".hidden", "a b", "con", "x.partial-1", "é"])
def test_a_name_of_another_form_is_refused(name):
    with pytest.raises(InvalidNameError, match="expected 'name' or 'namespace/name'"):
        _store.parse_name(name)


def test_versions_are_three_numbers():
    assert _store.parse_version("1.20.300") == (1, 20, 300)
    assert _store.is_version("0.0.0")
    for text in ("1.0", "1.0.0.0", "01.0.0", "v1.0.0", "1.0.0 ", "", "1.0.1234567890"):
        assert not _store.is_version(text)
        with pytest.raises(InvalidNameError, match=r"expected MAJOR\.MINOR\.PATCH"):
            _store.parse_version(text)


def test_a_path_is_distinguished_from_a_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    assert _store.as_path("knob") is None
    assert _store.as_path("my/knob") is None
    assert _store.as_path("my/.knob") is None
    assert _store.as_path(Path("knob")) == tmp_path / "knob"
    assert _store.as_path("./knob") == tmp_path / "knob"
    assert _store.as_path("/data/knob") == Path("/data/knob")
    assert _store.as_path("~/knob") == tmp_path / "home/knob"


def test_a_split_expression_names_splits_in_order():
    assert _store.parse_splits("expert") == ["expert"]
    assert _store.parse_splits("expert+random+expert") == ["expert", "random", "expert"]


def test_paths_in_the_store(monkeypatch, tmp_path):
    monkeypatch.setenv("RLHIVE_DATASETS_PATH", str(tmp_path))

    assert _store.store_dir() == tmp_path
    assert _store.version_dir("knob", "1.0.0") == tmp_path / "robohive/knob/1.0.0"
    assert _store.recording_dir("my/knob", "1.0.0", "ab") == tmp_path / ".recordings/my/knob/1.0.0-ab"
    assert _store.memmap_dir("f0") == tmp_path / ".cache/f0"
    assert _store.memmap_dir("f0", kind="encoded") == tmp_path / ".cache/f0.encoded"
    assert _store.certificate_path("f0", store=tmp_path / "b") == tmp_path / "b/.certificates/f0.json"
    with pytest.raises(InvalidNameError, match="MAJOR"):
        _store.version_dir("knob", "1.0")


def test_a_folder_appears_when_it_is_complete(tmp_path):
    target = tmp_path / "store/target"

    with _store.atomic_dir(target) as partial:
        (partial / "data").write_text("content")
        assert not target.exists()
        assert partial.parent == target.parent

    assert (target / "data").read_text() == "content"
    assert list_names(target.parent) == ["target"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_folder_that_fails_leaves_nothing(error, tmp_path):
    def fail():
        with _store.atomic_dir(tmp_path / "target") as partial:
            (partial / "data").write_text("content")
            raise error

    with pytest.raises(error):
        fail()

    assert list_names(tmp_path) == []


def test_files_are_flushed_before_a_folder_is_published(tmp_path, monkeypatch):
    events = []
    fsync_path, rename = _store.fsync_path, Path.rename
    monkeypatch.setattr(_store, "fsync_path", lambda path: (events.append(path.name[:8]), fsync_path(path)))
    monkeypatch.setattr(Path, "rename", lambda path, to: (events.append("rename"), rename(path, to)))

    with _store.atomic_dir(tmp_path / "target") as partial:
        (partial / "data").write_text("content")

    moment = events.index("rename")
    assert sorted(events[:moment]) == ["data", "target.p"]
    assert events[moment + 1 :] == [tmp_path.name[:8]]


def test_an_existing_folder_is_never_overwritten(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "target/data").write_text("old")

    with pytest.raises(DatasetExistsError, match="never overwritten"), _store.atomic_dir(tmp_path / "target"):
        pytest.fail("the block is not entered")

    assert (tmp_path / "target/data").read_text() == "old"


def test_a_folder_that_another_process_published_meanwhile_is_not_overwritten(tmp_path):
    def publish_late():
        with _store.partial_dir(tmp_path / "next") as partial:
            (partial / "data").write_text("new")
            (tmp_path / "target").mkdir()
            (tmp_path / "target/data").write_text("old")
            _store.publish_dir(partial, tmp_path / "target")

    with pytest.raises(DatasetExistsError):
        publish_late()

    assert (tmp_path / "target/data").read_text() == "old"
    assert list_names(tmp_path) == ["target"]


def test_the_partial_folder_of_a_killed_process_is_removed_by_the_next(tmp_path):
    for name in ("target.partial-0123abcd", "other.partial-0123abcd"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data").touch()

    with _store.atomic_dir(tmp_path / "target"):
        assert len(list(tmp_path.glob("target.partial-*"))) == 1

    assert list_names(tmp_path) == ["other.partial-0123abcd", "target"]


def test_a_partial_folder_that_is_not_published_is_removed(tmp_path):
    with _store.partial_dir(tmp_path / "target") as partial:
        (partial / "data").touch()

    assert list_names(tmp_path) == []


def leave_resumable(target, error, *, has_note):
    def fail():
        with _store.resumable_dir(target, note="note") as partial:
            (partial / "data").write_text("half")
            if has_note:
                (partial / "note").touch()
            raise error

    with pytest.raises(error):
        fail()


@pytest.mark.parametrize(
    ("error", "has_note", "is_left"),
    [(KeyboardInterrupt, True, True), (KeyboardInterrupt, False, False), (ValueError, True, False)],
)
def test_a_resumable_folder_is_left_by_an_interrupt_after_a_note(error, has_note, is_left, tmp_path):
    leave_resumable(tmp_path / "target", error, has_note=has_note)

    assert _store.measure_resumable(tmp_path / "target") == (4 if is_left else 0)
    (tmp_path / "target.partial-0123abcd").mkdir()
    with _store.resumable_dir(tmp_path / "target", note="note") as partial:
        assert sorted(path.name for path in partial.iterdir()) == (["data", "note"] if is_left else [])
    assert list_names(tmp_path) == ["target"]
    assert _store.measure_resumable(tmp_path / "target") == 0


def test_a_resumable_folder_is_removed_with_its_target(tmp_path):
    leave_resumable(tmp_path / "target", KeyboardInterrupt, has_note=True)

    _store.remove_remains(tmp_path / "target")
    assert list_names(tmp_path) == []


def test_one_holder_of_a_lock_at_a_time(tmp_path):
    events = []

    def wait_for_lock():
        with _store.locked(tmp_path / "target"):
            events.append("second")

    with _store.locked(tmp_path / "target"):
        second = threading.Thread(target=wait_for_lock)
        second.start()
        second.join(0.3)
        events.append("first")
    second.join(10)

    assert events == ["first", "second"]


@pytest.mark.parametrize(
    ("number", "error", "message"),
    [
        (errno.EACCES, StoreNotWritableError, "cannot be written .*RLHIVE_DATASETS_PATH"),
        (errno.EROFS, StoreNotWritableError, "cannot be written .*RLHIVE_DATASETS_PATH"),
        (errno.ENOSPC, DiskFullError, "No space left on the disk .*RLHIVE_DATASETS_PATH"),
        (errno.EDQUOT, DiskFullError, "No space left"),
    ],
)
def test_errors_of_the_disk_name_the_target_and_the_next_step(number, error, message, tmp_path):
    with pytest.raises(error, match=message) as raised, _store.translate_disk_errors(tmp_path / "target"):
        raise OSError(number, os.strerror(number))

    assert str(tmp_path / "target") in str(raised.value)


def test_other_errors_and_translated_ones_pass_unchanged(tmp_path):
    for error in (OSError(errno.EIO, "broken"), DiskFullError("translated"), StoreNotWritableError("translated")):
        with pytest.raises(type(error)) as raised, _store.translate_disk_errors(tmp_path):
            raise error
        assert raised.value is error


def test_a_failed_write_leaves_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "file"
    _store.write_atomically(path, b"old")

    def fail(handle):
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="full"):
            _store.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list_names(tmp_path) == ["file"]

    _store.write_atomically(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_removed_folder_is_gone_and_a_missing_one_is_no_error(tmp_path, monkeypatch):
    target = tmp_path / "target"
    target.mkdir()
    (target / "data").touch()
    removed = []
    rmtree = shutil.rmtree
    monkeypatch.setattr(shutil, "rmtree", lambda path, **kwargs: (removed.append(path.name), rmtree(path, **kwargs)))

    _store.remove_dir(target)
    _store.remove_dir(target)

    assert list_names(tmp_path) == []
    assert all(name.startswith("target.partial-") for name in removed), "removed under another name, not in place"


def test_free_bytes_of_a_store_that_does_not_exist_are_those_of_its_disk(tmp_path):
    assert _store.free_bytes(tmp_path / "a/b") == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.5)
    assert _store.memory_bytes() > 2**20
