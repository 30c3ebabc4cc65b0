"""Episodes and batches straight from a version's shards, here or on the Hub, in bounded memory.

::

    episode table ─► which shards and row groups hold wanted episodes ─► those byte ranges ─► episodes ─► batches

A byte range has no hash of its own; each episode's content hash, which the verified episode table holds, takes its
place, beside Parquet's page checksums. In memory are the row groups of the episodes at hand, and the pool to shuffle.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import HfFileSystem
from tensordict import TensorDict

from rlhive import keys
from rlhive.data import _arrow, _parquet
from rlhive.data._episodes import EpisodeRecord, unpack
from rlhive.data._schema import Schema
from rlhive.data.hub._client import translate_errors
from rlhive.data.hub._pull import HubPin
from rlhive.data.versions import FileEntry, Manifest, iterate_shards


def stream_records(
    folder: Path, manifest: Manifest, splits: Sequence[str], wanted: Iterable[int] | None = None
) -> Iterator[EpisodeRecord]:
    """Yield episodes of some splits, shard by shard; fetches only the row groups that hold wanted ones.

    Args:
        folder: The version's folder; shards that it lacks are read from the commit that it is pinned to.
        manifest: Its manifest.
        splits: Which splits, in order.
        wanted: Ids of the episodes; all by default.

    Raises:
        CorruptDataset: An episode's rows are not those that the episode table vouches for.
        HubUnreachable, HubAccessDenied: The Hub does not answer or does not give them.
    """
    folder, pin, schema = Path(folder), HubPin.read(folder), manifest.schema
    chosen = None if wanted is None else np.fromiter(wanted, np.int64)
    for entry, episodes in iterate_shards(folder, manifest, splits):
        ids, lengths = episodes[keys.EPISODE].to_numpy(), episodes["length"].to_numpy()
        keep = np.ones(len(ids), bool) if chosen is None else np.isin(ids, chosen)
        if not keep.any():
            continue
        with _opened(folder, entry, pin) as reader:
            for chunk in _parquet.split_into_chunks(folder / entry.path, range(len(ids)), lengths, reader.sizes):
                own = slice(chunk.positions.start, chunk.positions.stop)
                if keep[own].any():
                    with translate_errors(pin.repo_id if pin else manifest.name, entry.path):
                        rows = reader.read(chunk.groups)
                    records = _arrow.table_to_records(rows, episodes.slice(own.start, own.stop - own.start), schema)
                    yield from (record for record, kept in zip(records, keep[own], strict=True) if kept)


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
        schema: Of the transitions.
        batch_size: Transitions per batch.
        shuffle: Size of the pool that batches are drawn from, in transitions; 0 keeps the order.
        seed: The same seed gives the same batches.
        drop_last: Whether a smaller last batch is left out.
    """
    generator = torch.Generator()
    generator.seed() if seed is None else generator.manual_seed(seed)
    pool: list[TensorDict] = []
    size = 0
    for record in records:
        pool.append(unpack(record.columns, record.final, schema, episode=record.episode))
        size += record.length
        if size >= batch_size + shuffle:
            joined = torch.cat(pool)
            while len(joined) >= batch_size + shuffle:
                batch, joined = _draw(joined, batch_size, shuffle, generator)
                yield batch
            pool, size = [joined], len(joined)
    joined = torch.cat(pool) if pool else None
    while joined is not None and len(joined) >= (batch_size if drop_last else 1):
        batch, joined = _draw(joined, batch_size, shuffle, generator)
        yield batch


def _draw(pool: TensorDict, batch_size: int, shuffle: int, generator: torch.Generator) -> tuple[TensorDict, TensorDict]:
    """Cut a batch out of a pool; return it and the rest."""
    if not shuffle:
        return pool[:batch_size].clone(), pool[batch_size:]
    order = torch.randperm(len(pool), generator=generator)
    return pool[order[:batch_size]], pool[order[batch_size:]]


@contextlib.contextmanager
def _opened(folder: Path, entry: FileEntry, pin: HubPin | None) -> Iterator[_parquet.GroupReader]:
    """Open a shard: the file that is here, otherwise the pinned one, of which ranges are fetched."""
    path = folder / entry.path
    if path.is_file() or pin is None:
        with _parquet.GroupReader(path, str(path)) as reader:
            yield reader
        return
    address = f"datasets/{pin.repo_id}@{pin.commit}/{entry.path}"
    with translate_errors(pin.repo_id, entry.path):
        # No read-ahead: Parquet says itself which ranges it needs.
        file = HfFileSystem(skip_instance_cache=True).open(address, "rb", cache_type="none")
        reader = _parquet.GroupReader(file, address)
    with reader:
        yield reader
