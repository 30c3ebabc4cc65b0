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

import numpy as np

from rlhive import keys
from rlhive.data import _arrow, _parquet
from rlhive.data._episodes import EpisodeRecord
from rlhive.data.hub._client import translate_errors
from rlhive.data.hub._guard import guarded
from rlhive.data.hub._pin import HubPin
from rlhive.data.versions import FileEntry, Manifest, ObjectAddress, iterate_shards, open_videos


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
    folder, pin, schema = Path(folder), HubPin.read(folder), manifest.schema
    requested_ids = None if episode_ids is None else np.fromiter(episode_ids, np.int64)
    videos = open_videos(folder, manifest)
    for entry, episodes in iterate_shards(folder, manifest, splits):
        ids, lengths = episodes[keys.EPISODE].to_numpy(), episodes["length"].to_numpy()
        is_requested = np.ones(len(ids), bool) if requested_ids is None else np.isin(ids, requested_ids)
        if not is_requested.any():
            continue
        with _open_shard(folder, entry, pin) as reader:
            for chunk in _parquet.split_into_chunks(folder / entry.path, range(len(ids)), lengths, reader.sizes):
                first, stop = chunk.positions[0], chunk.positions[-1] + 1
                if not is_requested[first:stop].any():
                    continue
                owner = pin.repo_id if pin else manifest.name
                with translate_errors(owner, entry.path), guarded({entry.path: entry.bytes}):
                    rows = reader.read(chunk.groups)
                records = _arrow.table_to_records(rows, episodes.slice(first, stop - first), schema, videos)
                yield from itertools.compress(records, is_requested[first:stop])


@contextlib.contextmanager
def _open_shard(folder: Path, entry: FileEntry, pin: HubPin | None) -> Iterator[_parquet.GroupReader]:
    """Open the local file of a shard, or read byte ranges of the remote one if there is no local file."""
    path = folder / entry.path
    stored = ObjectAddress.of(folder)
    if pin is None and stored is not None and not path.is_file():
        key = stored.file_key(entry.path, entry.sha256)
        with _parquet.GroupReader(stored.store.open(key, entry.bytes), f"{stored.store.url}/{key}") as reader:
            yield reader
        return
    if path.is_file() or pin is None:
        with _parquet.GroupReader(path, str(path)) as reader:
            yield reader
        return
    from huggingface_hub import HfFileSystem

    address = f"datasets/{pin.repo_id}@{pin.commit}/{entry.path}"
    with translate_errors(pin.repo_id, entry.path), guarded({entry.path: entry.bytes}):
        # Without read-ahead: Parquet requests exactly the ranges that it needs.
        file = HfFileSystem(skip_instance_cache=True).open(address, "rb", cache_type="none")
        reader = _parquet.GroupReader(file, address)
    with reader:
        yield reader
