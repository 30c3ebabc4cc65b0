import json
import os

import pytest

from rlhive.data.replay._checksums import read_source, require_intact, write_checksums
from rlhive.errors import CorruptDataset


@pytest.fixture
def sealed(tmp_path):
    (tmp_path / "a.bin").write_bytes(bytes(range(256)) * 9)
    (tmp_path / "b.bin").touch()
    write_checksums(tmp_path, "here")
    return tmp_path


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_an_untouched_folder_is_not_even_read(sealed, monkeypatch):
    monkeypatch.setattr(
        "rlhive.data.replay._checksums._compute_checksums", lambda path: pytest.fail(f"{path} was read")
    )

    require_intact(sealed)
    assert read_source(sealed) == "here"


def test_a_file_that_was_touched_is_read_once_and_stamped_anew(sealed, monkeypatch):
    os.utime(sealed / "a.bin", ns=(1, 1))
    require_intact(sealed)

    monkeypatch.setattr(
        "rlhive.data.replay._checksums._compute_checksums", lambda path: pytest.fail(f"{path} was read again")
    )
    require_intact(sealed)


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda folder: flip(folder / "a.bin"), "the content of a.bin does not match its checksums"),
        (lambda folder: (folder / "a.bin").write_bytes(b""), "the content of a.bin does not match"),
        (lambda folder: (folder / "b.bin").unlink(), "expected the files a.bin, b.bin, got a.bin"),
        (lambda folder: (folder / "c.bin").touch(), "got a.bin, b.bin, c.bin"),
        (lambda folder: (folder / "seal.json").unlink(), "seal.json"),
        (lambda folder: (folder / "seal.json").write_text("[]"), "seal.json"),
    ],
)
def test_a_harmed_folder_is_refused(sealed, harm, says):
    harm(sealed)

    with pytest.raises(CorruptDataset, match=says):
        require_intact(sealed)


def test_a_flip_with_the_old_times_is_found_too(sealed):
    """The time of change cannot be set back, whatever a program does to the time of modification."""
    before = (sealed / "a.bin").stat()
    flip(sealed / "a.bin")
    os.utime(sealed / "a.bin", ns=(before.st_atime_ns, before.st_mtime_ns))

    with pytest.raises(CorruptDataset, match=r"the content of a\.bin does not match its checksums"):
        require_intact(sealed)


def test_what_the_disk_alone_changed_is_found_by_reading(sealed):
    content = json.loads((sealed / "seal.json").read_text())
    content["files"]["a.bin"]["crc32"][0] ^= 1  # as if the bits had changed below the file system: no stamp tells
    (sealed / "seal.json").write_text(json.dumps(content))

    require_intact(sealed)
    with pytest.raises(CorruptDataset, match=r"content of a\.bin does not match"):
        require_intact(sealed, read_all=True)
