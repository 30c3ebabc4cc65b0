"""The cache of a stream: later epochs need no network, nothing unverified is served, and its size has a limit."""

import hashlib
import itertools
import threading

import numpy as np
import pyarrow.parquet as pq
import pytest

from rlhive import RoboHiveDataset
from rlhive.data import _parquet, _store
from rlhive.data.hub import _stream_cache
from rlhive.data.hub._batches import read_ahead
from rlhive.data.hub._stream_cache import CachedRanges, RangeCache
from rlhive.data.versions import _objects, export
from rlhive.dataset import delete
from rlhive.errors import CorruptDatasetError, InvalidOptionError, StoreAccessDeniedError
from tests.data.hub.test_batch_streams import numbered
from tests.hub_client import read_files
from tests.hub_server import Repository
from tests.object_server import ACCESS_DENIED


@pytest.fixture
def stored(object_store, tmp_path, monkeypatch):
    """The bucket with my/steps 1.0.0, of which this machine has nothing, and its folder elsewhere."""
    monkeypatch.setattr(_parquet, "ROW_GROUP_BYTES", 2000)
    episodes = numbered([20 + episode % 5 for episode in range(12)])
    folder = export(
        episodes, "my/steps", version="1.0.0", license="mit", store=tmp_path / "elsewhere", shard_bytes=8000
    )
    _objects.commit_version(folder, _store.version_dir("my/steps", "1.0.0"))
    object_store.server.reset()
    object_store.folder = folder
    return object_store


def open_stream(**options):
    return RoboHiveDataset("my/steps", streaming=True).iter_batches(16, shuffle=50, seed=3, **options)


def values(stream):
    return [batch["observation"].tolist() for batch in stream]


def cached_files():
    return sorted(_store.store_dir().glob(".cache/*.stream/*"))


def test_later_epochs_send_no_requests_and_give_the_same(stored):
    local = RoboHiveDataset(stored.folder).iter_batches(16, shuffle=50, seed=3)
    expected = [values(local) for _ in range(2)]

    stream = open_stream()
    epochs = [values(stream)]
    num_gets = stored.server.count("GET", "/data/")
    assert num_gets > 0
    epochs.append(values(stream))

    assert epochs == expected
    assert stored.server.count("GET", "/data/") == num_gets
    assert len(cached_files()) > 1
    again = open_stream()  # as in another process: only the footers are read
    assert values(again) == expected[0]
    num_shards = len(list(stored.folder.glob("data/*")))
    assert stored.server.count("GET", "/data/") <= num_gets + 2 * num_shards


def test_a_damaged_range_is_fetched_again(stored):
    expected = values(open_stream())
    for number, path in enumerate(cached_files()):
        content = bytearray(path.read_bytes())
        content[(len(content) * number) // len(cached_files())] ^= 1
        path.write_bytes(content[:-1] if number % 5 == 4 else content)
    damaged = {path: path.read_bytes() for path in cached_files()}

    assert values(open_stream()) == expected

    assert all(path.read_bytes() != content for path, content in damaged.items())
    assert values(open_stream()) == expected


def test_a_range_that_the_store_damaged_is_an_error_and_is_not_kept(stored):
    path = min(stored.folder.glob("data/*"))
    column = pq.ParquetFile(path).metadata.row_group(0).column(0)
    place = column.data_page_offset + column.total_compressed_size - 1
    key, content = stored.find(rf"data/{path.stem}"), bytearray(path.read_bytes())
    content[place] ^= 1
    stored.put(key, bytes(content))

    for _ in range(2):
        with pytest.raises(CorruptDatasetError):
            values(open_stream())

    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    ranges = [file.name.split("-")[1:] for file in cached_files() if file.name.startswith(sha256)]
    assert not any(int(start) <= place < int(stop) for start, stop in ranges)


def test_the_cache_has_a_limit_and_other_versions_make_room(stored):
    expected = values(open_stream())
    size = sum(path.stat().st_size for path in cached_files())
    cached_files()[0].parent.rename(other := _store.store_dir() / ".cache" / "0ther.stream")
    limit = size * 0.6

    for _ in range(2):
        assert values(open_stream(cache_gb=limit / 1e9)) == expected
        assert 0.3 * size < sum(path.stat().st_size for path in cached_files()) <= limit
    assert not other.exists()


def test_without_a_cache_nothing_is_kept(stored):
    values(open_stream(cache_gb=0))
    assert cached_files() == []
    with pytest.raises(InvalidOptionError, match=r"cache_gb=-1: expected a number of gigabytes, or 0"):
        open_stream(cache_gb=-1)


def test_a_cache_that_cannot_be_written_is_a_warning(stored, monkeypatch, caplog):
    expected = values(open_stream(cache_gb=0))
    monkeypatch.setattr(RangeCache, "_write", lambda *_: (_ for _ in ()).throw(OSError("read-only")))

    assert values(open_stream()) == expected
    assert caplog.text.count("ranges are not cached any more") == 1


def test_the_disk_is_not_filled(stored, monkeypatch):
    monkeypatch.setattr(_stream_cache, "_RESERVED_BYTES", 10**18)
    values(open_stream())
    assert cached_files() == []


def test_a_local_version_needs_no_cache(stored, store):
    values(RoboHiveDataset(stored.folder, store=store).iter_batches(16))
    assert not list(store.glob(".cache/*"))


def test_deleting_a_version_removes_its_ranges(stored):
    values(open_stream())
    assert cached_files()
    delete("my/steps", version="1.0.0")
    assert cached_files() == []


def test_a_refusal_in_the_middle_is_one_error(stored):
    stream = open_stream(prefetch=2)
    next(stream)
    stored.server.fault = lambda method, path: (403, ACCESS_DENIED) if "/data/" in path else None
    with pytest.raises(StoreAccessDeniedError):
        values(stream)


def test_ranges_of_the_hub_are_cached_too(hub, online, store, tmp_path):
    folder = export(numbered([5, 6, 7]), "org/knob", version="1.0.0", license="mit", store=tmp_path / "origin")
    hub.repositories["org/knob"] = Repository()
    hub.repositories["org/knob"].commit(read_files(folder), tag="v1.0.0")
    source = """
import os
os.environ["RLHIVE_DATASETS_PATH"] = store
from rlhive import RoboHiveDataset
stream = RoboHiveDataset("org/knob", streaming=True).iter_batches(4, shuffle=9, seed=0)
answer = [[batch["next", "reward"].flatten().tolist() for batch in stream] for _ in range(epochs)]
"""
    (first,) = online.run(source, store=str(store), epochs=1)
    served = sum(size for path, size in hub.served.items() if path.startswith("data/"))
    first_again, second = online.run(source, store=str(store), epochs=2)
    footers = sum(size for path, size in hub.served.items() if path.startswith("data/")) - served

    assert first == first_again
    assert sorted(itertools.chain(*first)) == sorted(itertools.chain(*second)) == list(range(18))
    assert footers <= served


def test_as_many_items_are_read_ahead_as_there_are_threads():
    started, release = [], threading.Event()

    def read(item):
        started.append(item)
        release.wait(5)
        return item

    ahead = read_ahead(read, iter(range(100)), 3)
    threading.Timer(0.3, release.set).start()
    assert next(ahead) == 0
    assert len(started) <= 4
    assert list(ahead) == list(range(1, 100))
    assert list(read_ahead(read, range(5), 0)) == list(range(5))


def test_ranges_are_kept_when_they_are_verified_and_not_before(tmp_path):
    cache = RangeCache(tmp_path / "f.stream", 100)
    ranges = CachedRanges(cache, "file", lambda start, stop: bytes(range(start, stop)))

    assert ranges.read(3, 6) == b"\3\4\5"
    assert not ranges.uses_cache
    assert cache.find("file-3-6") is None
    ranges.keep()
    again = CachedRanges(cache, "file", None)
    assert again.read(3, 6) == b"\3\4\5"
    assert again.uses_cache
    renewed = CachedRanges(cache, "file", lambda start, stop: bytes(stop - start), renew=True)
    renewed.read(3, 6)
    renewed.keep()
    assert cache.find("file-3-6") == bytes(3)
    cache.add("large", bytes(101))
    assert cache.find("large") is None
    cache.add("two", bytes(60))
    cache.add("three", bytes(60))
    assert [path.name for path in tmp_path.glob("*/*")] in (["two", "file-3-6"], ["file-3-6", "two"])
    assert np.all(np.frombuffer(cache.find("two"), np.uint8) == 0)
