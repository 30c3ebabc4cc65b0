"""Episodes read from a version's shards, local or remote, in bounded memory and without torch.

::

    episode table ─► shards and row groups with requested episodes ─► byte ranges of these ─► episodes

A byte range of a remote file cannot be compared with the file's hash. Instead, each episode is compared with its
content hash in the verified episode table, and Parquet's page checksums are verified. Memory holds the row groups of
the current episodes.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast

import numpy as np

from rlhive import keys
from rlhive.data import _arrow, _parquet
from rlhive.data._episodes import EpisodeRecord
from rlhive.data._object_store import RangeFile
from rlhive.data.hub._pin import HubPin
from rlhive.data.hub._stream_cache import CachedRanges, RangeCache
from rlhive.data.versions import FileEntry, Manifest, ObjectAddress, iterate_shards, open_videos
from rlhive.errors import CorruptDatasetError

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_Result = TypeVar("_Result")


def stream_records(
    folder: Path, manifest: Manifest, splits: Sequence[str], episode_ids: Iterable[int] | None = None
) -> Iterator[EpisodeRecord]:
    """Yield episodes of some splits, shard by shard. Only row groups with requested episodes are fetched.

    Args:
        folder: The version's folder. Shards that are not in it are read from the commit in its pin, or from the object
            store that holds the version.
        manifest: The version's manifest.
        splits: Names of the splits, in the order of the result.
        episode_ids: Ids of the episodes; all by default.

    Raises:
        CorruptDatasetError: An episode does not have the content hash of the episode table.
        HubUnreachableError: The Hub did not answer.
        HubAccessDeniedError: The token may not read the repository.
        StoreAccessDeniedError, StoreUnreachableError: The object store denies access or does not answer.
    """
    folder, schema = Path(folder), manifest.schema
    requested_ids = None if episode_ids is None else np.fromiter(episode_ids, np.int64)
    source, videos = ShardSource(folder, manifest), open_videos(folder, manifest)
    for entry, episodes in iterate_shards(folder, manifest, splits):
        ids, lengths = episodes[keys.EPISODE].to_numpy(), episodes["length"].to_numpy()
        is_requested = np.ones(len(ids), bool) if requested_ids is None else np.isin(ids, requested_ids)
        if not is_requested.any():
            continue
        with source.open(entry) as reader:
            for chunk in _parquet.split_into_chunks(folder / entry.path, range(len(ids)), lengths, reader.sizes):
                first, stop = chunk.positions[0], chunk.positions[-1] + 1
                if not is_requested[first:stop].any():
                    continue
                with source.translating_errors(entry):
                    rows = reader.read(chunk.groups)
                records = _arrow.table_to_records(rows, episodes.slice(first, stop - first), schema, videos)
                yield from itertools.compress(records, is_requested[first:stop])


class ShardSource:
    """Where the shards of a version are read: in its folder, or in byte ranges from the Hub or an object store.

    Args:
        folder: The version's folder.
        manifest: The version's manifest.
        cache: Cache of byte ranges for :meth:`read`.
    """

    def __init__(self, folder: Path, manifest: Manifest, cache: RangeCache | None = None):
        self._folder, self._cache = folder, cache
        self._pin = HubPin.read(folder)
        self._stored = ObjectAddress.of(folder)
        self._owner = self._pin.repo_id if self._pin else manifest.name
        self._hub_files: Any = None

    @contextlib.contextmanager
    def translating_errors(self, entry: FileEntry) -> Iterator[None]:
        """Raise one of RLHive's errors for every error of a transfer in the block, which has a limit of time."""
        # The Hub's client takes longer to import than a version in the store to open.
        from rlhive.data.hub._client import translate_errors
        from rlhive.data.hub._guard import guarded

        with translate_errors(self._owner, entry.path), guarded({entry.path: entry.bytes}):
            yield

    @contextlib.contextmanager
    def open(self, entry: FileEntry) -> Iterator[_parquet.GroupReader]:
        """Open the local file of a shard, or read byte ranges of the remote one if there is no local file."""
        address, fetch = self._locate(entry)
        source: Path | BinaryIO = Path(address) if fetch is None else _as_file(fetch, entry)
        with self.translating_errors(entry):
            reader = _parquet.GroupReader(source, address)
        with reader:
            yield reader

    def read(
        self,
        entry: FileEntry,
        use: Callable[[_parquet.GroupReader], _Result],
        footer: "pq.FileMetaData | None" = None,
    ) -> _Result:
        """Return what a function makes of a shard, and cache the byte ranges that it read.

        Args:
            entry: The shard.
            use: Reads the shard and verifies what it read. It is called a second time where the cache proves damaged.
            footer: The shard's footer, if it was read before.
        """
        address, fetch = self._locate(entry)
        if fetch is None:
            with _parquet.GroupReader(Path(address), address, footer) as reader:
                return use(reader)

        def read(ranges: CachedRanges) -> _Result:
            source = _as_file(ranges.read, entry)
            with self.translating_errors(entry), _parquet.GroupReader(source, address, footer) as reader:
                return use(reader)

        ranges = CachedRanges(self._cache, entry.sha256, fetch)
        try:
            result = read(ranges)
        except CorruptDatasetError:
            if not ranges.uses_cache:
                raise
            ranges = CachedRanges(self._cache, entry.sha256, fetch, renew=True)
            result = read(ranges)
        ranges.keep()
        return result

    def _locate(self, entry: FileEntry) -> tuple[str, Callable[[int, int], bytes] | None]:
        """Return the address of a shard, and the function that fetches its bytes; None for a local file."""
        path = self._folder / entry.path
        if path.is_file() or (self._pin is None and self._stored is None):
            return str(path), None
        if self._pin is None and self._stored is not None:
            key = self._stored.file_key(entry.path, entry.sha256)
            return f"{self._stored.store.url}/{key}", functools.partial(self._stored.store.read_range, key)
        address = f"datasets/{self._owner}@{self._pin.commit if self._pin else ''}/{entry.path}"
        return address, functools.partial(self._fetch_from_hub, address)

    def _fetch_from_hub(self, address: str, start: int, stop: int) -> bytes:
        from huggingface_hub import HfFileSystem

        if self._hub_files is None:
            self._hub_files = HfFileSystem(skip_instance_cache=True)
        # Without read-ahead: Parquet requests exactly the ranges that it needs.
        with self._hub_files.open(address, "rb", cache_type="none") as file:
            file.seek(start)
            return file.read(stop - start)


def _as_file(fetch: Callable[[int, int], bytes], entry: FileEntry) -> BinaryIO:
    return cast(BinaryIO, RangeFile(fetch, entry.bytes))
