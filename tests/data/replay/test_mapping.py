"""A cache that is cut while it is open is an error; reading it would kill the process."""

import os

import pytest
import torch

from rlhive.data.replay import _layout
from rlhive.data.replay._buffer import make_replay_buffer
from rlhive.data.replay._layout import PackedCache
from rlhive.data.replay._mapping import MappedFiles
from rlhive.data.replay._options import SamplingOptions
from rlhive.data.replay._storage import PackedStorage
from rlhive.errors import CorruptDatasetError
from tests.data.replay.caches import write_cache


@pytest.mark.parametrize("image_cache", ["raw", "encoded"])
def test_a_cut_file_is_an_error_that_names_it(tmp_path, monkeypatch, image_cache):
    monkeypatch.setattr(_layout, "WIDE", 16)
    write_cache(tmp_path / "cache", image_cache=image_cache)
    files = [path for path in (tmp_path / "cache").iterdir() if path.suffix in (".bin", ".lz4", ".idx")]
    for path in files:
        buffer = make_replay_buffer(
            PackedStorage(PackedCache(tmp_path / "cache")), SamplingOptions(batch_size=8, seed=0)
        )
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        if path.name == "episodes.bin":  # which was copied
            assert buffer.sample().shape == (8,)
        else:
            with pytest.raises(CorruptDatasetError, match=f"{path.name} was cut while it was open: expected"):
                buffer.sample()
        path.write_bytes(content)
    assert len(files) > 3


def test_a_deleted_or_replaced_cache_is_read_to_the_end(tmp_path):
    cache, _ = write_cache(tmp_path / "cache")
    storage = PackedStorage(cache)
    expected = storage.read_all()
    for path in (tmp_path / "cache").iterdir():
        path.unlink()

    assert torch.equal(storage.read_all()["episode"], expected["episode"])


def test_files_are_closed_with_the_object(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"abc")
    files = MappedFiles(tmp_path)
    files.add("a.bin")
    handle = files._files[0][0]
    files.require_whole()
    del files

    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(handle)
