"""Episodes and batches read from a version's shards, local or on the Hub, in bounded memory.

::

    episode table ─► shards and row groups with requested episodes ─► byte ranges of these ─► episodes ─► batches

A byte range of a remote file cannot be compared with the file's hash. Instead, each episode is compared with its
content hash in the verified episode table, and Parquet's page checksums are verified. Memory holds the row groups of
the current episodes and the pool for shuffling.
"""

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import HfFileSystem
from tensordict import TensorDict

from rlhive import keys
from rlhive.data import _arrow, _parquet
from rlhive.data._episodes import EpisodeRecord, unpack
from rlhive.data._ragged import to_nested
from rlhive.data._schema import Schema
from rlhive.data.hub._client import translate_errors
from rlhive.data.hub._guard import guarded
from rlhive.data.hub._pin import HubPin
from rlhive.data.versions import FileEntry, Manifest, iterate_shards


def stream_records(
    folder: Path, manifest: Manifest, splits: Sequence[str], episode_ids: Iterable[int] | None = None
) -> Iterator[EpisodeRecord]:
    """Yield episodes of some splits, shard by shard. Only row groups with requested episodes are fetched.

    Args:
        folder: The version's folder. Shards that are not in it are read from the commit in its pin.
        manifest: The version's manifest.
        splits: Names of the splits, in the order of the result.
        episode_ids: Ids of the episodes; all by default.

    Raises:
        CorruptDatasetError: An episode does not have the content hash of the episode table.
        HubUnreachableError: The Hub did not answer.
        HubAccessDeniedError: The token may not read the repository.
    """
    folder, pin, schema = Path(folder), HubPin.read(folder), manifest.schema
    requested_ids = None if episode_ids is None else np.fromiter(episode_ids, np.int64)
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
                records = _arrow.table_to_records(rows, episodes.slice(first, stop - first), schema)
                yield from itertools.compress(records, is_requested[first:stop])


def iterate_batches(
    records: Iterable[EpisodeRecord],
    schema: Schema,
    batch_size: int,
    *,
    shuffle: int = 0,
    seed: int | None = None,
    drop_last: bool = False,
) -> Iterator[TensorDict]:
    """Yield the transitions of episodes as TED batches, each transition once.

    Args:
        records: The episodes.
        schema: The transitions' schema.
        batch_size: Number of transitions per batch.
        shuffle: Number of transitions, beyond one batch, in the pool from which batches are drawn at random; 0 keeps
            the order.
        seed: Seed of the shuffle; random by default.
        drop_last: Whether to drop a last batch that is smaller.
    """
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    pending: list[_Pool] = []
    num_pending = 0
    for record in records:
        pending.append(_Pool.of_episode(record, schema))
        num_pending += record.length
        if num_pending >= batch_size + shuffle:
            pool = _Pool.join(pending)
            while len(pool) >= batch_size + shuffle:
                yield pool.draw(batch_size, shuffle, generator)
            pending, num_pending = [pool], len(pool)
    if pending:
        pool = _Pool.join(pending)
        while len(pool) >= (batch_size if drop_last else 1):
            yield pool.draw(batch_size, shuffle, generator)


class _Pool:
    """Transitions from which batches are drawn.

    Args:
        transitions: The fields whose rows have one length.
        ragged: Object arrays of the others, by nested key: nested tensors can be neither joined nor indexed by rows.
    """

    def __init__(self, transitions: TensorDict, ragged: dict[tuple[str, ...], np.ndarray]):
        self._transitions = transitions
        self._ragged = ragged

    @classmethod
    def of_episode(cls, record: EpisodeRecord, schema: Schema) -> "_Pool":
        """Return the transitions of one episode."""
        plain = Schema(tuple(item for item in schema.fields if not item.is_ragged))
        ragged = {}
        for item in schema.ragged:
            key, rows = (item.key,) if isinstance(item.key, str) else item.key, record.columns[item.column]
            ragged[key] = rows
            if item.observed:
                ragged[keys.NEXT, *key] = np.concatenate([rows[1:], record.final[item.column][None]])
        return cls(unpack(record.columns, record.final, plain, episode=record.episode), ragged)

    @classmethod
    def join(cls, pools: Sequence["_Pool"]) -> "_Pool":
        """Return the transitions of several pools in one."""
        ragged = {key: np.concatenate([pool._ragged[key] for pool in pools]) for key in pools[0]._ragged}
        return cls(torch.cat([pool._transitions for pool in pools]), ragged)

    def __len__(self) -> int:
        return len(self._transitions)

    def draw(self, batch_size: int, shuffle: int, generator: torch.Generator) -> TensorDict:
        """Remove and return a batch: the first transitions, or random ones if ``shuffle`` is not 0."""
        if shuffle:
            order = torch.randperm(len(self), generator=generator)
            self._transitions = self._transitions[order]
            self._ragged = {key: rows[order.numpy()] for key, rows in self._ragged.items()}
        batch = self._transitions[:batch_size].clone()
        for key, rows in self._ragged.items():
            batch[key] = to_nested(rows[:batch_size])
        self._transitions = self._transitions[batch_size:]
        self._ragged = {key: rows[batch_size:] for key, rows in self._ragged.items()}
        return batch


@contextlib.contextmanager
def _open_shard(folder: Path, entry: FileEntry, pin: HubPin | None) -> Iterator[_parquet.GroupReader]:
    """Open the local file of a shard, or read byte ranges of the pinned one if there is no local file."""
    path = folder / entry.path
    if path.is_file() or pin is None:
        with _parquet.GroupReader(path, str(path)) as reader:
            yield reader
        return
    address = f"datasets/{pin.repo_id}@{pin.commit}/{entry.path}"
    with translate_errors(pin.repo_id, entry.path), guarded({entry.path: entry.bytes}):
        # Without read-ahead: Parquet requests exactly the ranges that it needs.
        file = HfFileSystem(skip_instance_cache=True).open(address, "rb", cache_type="none")
        reader = _parquet.GroupReader(file, address)
    with reader:
        yield reader
