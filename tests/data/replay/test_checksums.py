import json
import os

import pytest

from rlhive.data.replay._checksums import read_source, require_intact, write_checksums
from rlhive.errors import CorruptDatasetError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.bin").write_bytes(bytes(range(256)) * 9)
    (tmp_path / "b.bin").touch()
    write_checksums(tmp_path, "here")
    return tmp_path


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_files_with_unchanged_stamps_are_not_read(folder, monkeypatch):
    monkeypatch.setattr(
        "rlhive.data.replay._checksums._compute_checksums", lambda path: pytest.fail(f"{path} was read")
    )

    require_intact(folder)
    assert read_source(folder) == "here"


def test_a_file_with_a_new_stamp_is_read_once(folder, monkeypatch):
    os.utime(folder / "a.bin", ns=(1, 1))
    require_intact(folder)

    monkeypatch.setattr(
        "rlhive.data.replay._checksums._compute_checksums", lambda path: pytest.fail(f"{path} was read again")
    )
    require_intact(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: flip(folder / "a.bin"), "the content of a.bin does not match its checksums"),
        (lambda folder: (folder / "a.bin").write_bytes(b""), "the content of a.bin does not match"),
        (lambda folder: (folder / "b.bin").unlink(), "expected the files a.bin, b.bin, got a.bin"),
        (lambda folder: (folder / "c.bin").touch(), "got a.bin, b.bin, c.bin"),
        (lambda folder: (folder / "seal.json").unlink(), "seal.json"),
        (lambda folder: (folder / "seal.json").write_text("[]"), "seal.json"),
    ],
)
def test_a_damaged_folder_is_refused(folder, damage, message):
    damage(folder)

    with pytest.raises(CorruptDatasetError, match=message):
        require_intact(folder)


def test_a_changed_file_with_its_old_modification_time_is_refused(folder):
    """The time of change cannot be set back, whatever a program does to the time of modification."""
    before = (folder / "a.bin").stat()
    flip(folder / "a.bin")
    os.utime(folder / "a.bin", ns=(before.st_atime_ns, before.st_mtime_ns))

    with pytest.raises(CorruptDatasetError, match=r"the content of a\.bin does not match its checksums"):
        require_intact(folder)


def test_a_change_below_the_file_system_is_found_by_reading_all_files(folder):
    content = json.loads((folder / "seal.json").read_text())
    content["files"]["a.bin"]["crc32"][0] ^= 1  # as if the bits had changed below the file system: no stamp tells
    (folder / "seal.json").write_text(json.dumps(content))

    require_intact(folder)
    with pytest.raises(CorruptDatasetError, match=r"content of a\.bin does not match"):
        require_intact(folder, read_all=True)
