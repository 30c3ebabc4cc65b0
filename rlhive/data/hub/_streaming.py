"""Episodes read from a version's shards, local or remote, in bounded memory and without torch.

::

    episode table ─► shards and row groups with requested episodes ─► byte ranges of these ─► episodes

A byte range of a remote file cannot be compared with the file's hash. Instead, each episode is compared with its
content hash in the verified episode table, and Parquet's page checksums are verified. Memory holds the row groups of
the current episodes.
"""

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rlhive import keys
from rlhive.data import _arrow, _parquet
from rlhive.data._episodes import EpisodeRecord
from rlhive.data.hub._client import translate_errors
from rlhive.data.hub._guard import guarded
from rlhive.data.hub._pin import HubPin
from rlhive.data.versions import FileEntry, Manifest, ObjectAddress, iterate_shards, open_videos

if TYPE_CHECKING:
    import pyarrow.parquet as pq


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
    """

    def __init__(self, folder: Path, manifest: Manifest):
        self._folder = folder
        self._pin = HubPin.read(folder)
        self._stored = ObjectAddress.of(folder)
        self._owner = self._pin.repo_id if self._pin else manifest.name

    @contextlib.contextmanager
    def translating_errors(self, entry: FileEntry) -> Iterator[None]:
        """Raise one of RLHive's errors for every error of a transfer in the block, which has a limit of time."""
        with translate_errors(self._owner, entry.path), guarded({entry.path: entry.bytes}):
            yield

    @contextlib.contextmanager
    def open(self, entry: FileEntry, footer: "pq.FileMetaData | None" = None) -> Iterator[_parquet.GroupReader]:
        """Open the local file of a shard, or read byte ranges of the remote one if there is no local file.

        Args:
            entry: The shard.
            footer: Its footer, if it was read before.
        """
        path = self._folder / entry.path
        if path.is_file() or (self._pin is None and self._stored is None):
            reader = _parquet.GroupReader(path, str(path), footer)
        elif self._pin is None and self._stored is not None:
            key = self._stored.file_key(entry.path, entry.sha256)
            address = f"{self._stored.store.url}/{key}"
            reader = _parquet.GroupReader(self._stored.store.open(key, entry.bytes), address, footer)
        else:
            reader = self._open_on_hub(entry, footer)
        with reader:
            yield reader

    def _open_on_hub(self, entry: FileEntry, footer: "pq.FileMetaData | None") -> _parquet.GroupReader:
        from huggingface_hub import HfFileSystem

        assert self._pin is not None
        address = f"datasets/{self._pin.repo_id}@{self._pin.commit}/{entry.path}"
        with self.translating_errors(entry):
            # Without read-ahead: Parquet requests exactly the ranges that it needs.
            file = HfFileSystem(skip_instance_cache=True).open(address, "rb", cache_type="none")
            return _parquet.GroupReader(file, address, footer)
