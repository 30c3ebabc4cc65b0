"""Loaders: from a view to its transitions, as a replay buffer, DataLoader, storage, TensorDict, table or iterator.

Buffers, DataLoaders and TensorDicts read the packed memmap cache (:mod:`rlhive.data.replay`), tables read the Parquet
shards, and iterators read the shards in pieces, from disk or from the Hub.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypedDict

import pyarrow as pa
import torch
from tensordict import TensorDict

from rlhive import keys as field_keys
from rlhive.data import Schema, unpack
from rlhive.data.hub import BatchStream, StreamOptions
from rlhive.data.replay import (
    DataLoaderOptions,
    DatasetReplayBuffer,
    EpochLoader,
    ImageCache,
    Normalize,
    PackedCache,
    PackedStorage,
    RaggedChoice,
    ReadOptions,
    SamplingOptions,
    make_dataloader,
    make_replay_buffer,
    make_storage,
    observation_norm,
    open_packed,
    select_ragged,
)
from rlhive.data.versions import locate_episodes, locate_rows, read_rows, verify_shards
from rlhive.dataset._view import DatasetView
from rlhive.errors import SchemaMismatchError

if TYPE_CHECKING:
    import datasets
    from torchrl.envs.transforms import ObservationNorm


class ReadKeywords(TypedDict, total=False):
    """The fields of :class:`rlhive.data.replay.ReadOptions` as keywords, for editors and type checkers."""

    keys: Sequence[field_keys.NestedKey] | None
    n_step: int
    gamma: float | None
    frame_stack: int
    return_to_go: bool
    action_chunk: int | None
    normalize: Normalize
    image_cache: ImageCache | None
    dtype: torch.dtype | None
    ragged: RaggedChoice
    device: torch.device | str
    in_memory: bool | None


def load_storage(view: DatasetView, options: ReadOptions) -> PackedStorage:
    """Return the read-only TorchRL storage of a view; builds the memmap cache if the store has none."""
    packed = load_packed(view, options)
    needs_statistics = options.normalize is not False and not isinstance(options.normalize, Mapping)
    statistics = view.compute_statistics() if needs_statistics else None
    return make_storage(packed, find_episodes(packed, view), options, statistics=statistics)


def load_packed(view: DatasetView, options: ReadOptions) -> PackedCache:
    """Return the open memmap cache of a view's version; builds it if the store has none."""
    return open_packed(
        view.folder,
        view.manifest,
        shards=view.require_shards(),
        image_cache=options.image_cache,
        dtype=options.cache_dtype,
        store=view.store,
    )


def load_replay_buffer(view: DatasetView, options: ReadOptions, sampling: SamplingOptions) -> DatasetReplayBuffer:
    """Return a TorchRL replay buffer that samples from a view."""
    return make_replay_buffer(load_storage(view, options), sampling)


def load_dataloader(view: DatasetView, options: ReadOptions, iteration: DataLoaderOptions) -> EpochLoader:
    """Return a torch DataLoader that goes through a view once per epoch."""
    return make_dataloader(load_storage(view, options), iteration)


def load_normalization(
    view: DatasetView, key: field_keys.NestedKey, *, how: str, dtype: torch.dtype | None
) -> "ObservationNorm":
    """Return a TorchRL transform that normalises a key by the statistics of a view.

    Raises:
        SchemaMismatchError: There is no such column.
    """
    schema = view.manifest.schema
    column = field_keys.key_to_column(key)
    if column not in schema.columns:
        msg = f"There is no column {column}: expected one of {', '.join(schema.columns)}."
        raise SchemaMismatchError(msg)
    return observation_norm(schema[column], view.compute_statistics().get(column, {}), how=how, dtype=dtype)


def load_tensordict(view: DatasetView, options: ReadOptions) -> TensorDict:
    """Return the transitions of a view as one TensorDict in memory."""
    return load_storage(view, options).read_all()


def load_table(view: DatasetView) -> pa.Table:
    """Return the transitions of a view as an Arrow table in memory."""
    view.require_shards()
    table = read_rows(view.folder, view.available, view.stored_splits)
    if view.selection is None:
        return table
    return table.take(locate_rows(table[field_keys.EPISODE].to_numpy(), view.selection))


def load_hf_dataset(view: DatasetView) -> "datasets.Dataset":
    """Return the transitions of a view as a Hugging Face dataset, memory-mapped from its own cache."""
    import datasets

    view.require_shards()
    paths = verify_shards(view.folder, view.available, view.stored_splits)
    dataset = datasets.Dataset.from_parquet([str(path) for path in paths])
    if view.selection is None:
        return dataset
    return dataset.select(locate_rows(dataset.data[field_keys.EPISODE].to_numpy(), view.selection))


def iter_episodes(view: DatasetView) -> Iterator[TensorDict]:
    """Yield the episodes of a view as TED TensorDicts ``[T]``."""
    for record in view.iter_records():
        yield unpack(record.columns, record.final, view.manifest.schema, episode=record.episode)


def load_batch_stream(
    view: DatasetView, options: StreamOptions, *, dtype: torch.dtype | None, ragged: RaggedChoice
) -> BatchStream:
    """Return the transitions of a view as a stream of TED batches."""
    schema = view.manifest.schema.cast(ReadOptions(dtype=dtype, ragged=ragged).cache_dtype)
    columns = select_ragged(schema, ragged, set(schema.columns))
    schema = Schema(tuple(field for field in schema.fields if field.column in columns))
    episode_ids = None if view.selection is None else view.episode_ids()
    return BatchStream(view.folder, view.manifest, view.stored_splits, episode_ids, schema, options, store=view.store)


def find_episodes(packed: PackedCache, view: DatasetView) -> torch.Tensor | None:
    """Return the positions of a view's episodes in the cache, int64, split by split; None for all of them in order."""
    if view.selection is not None:
        return torch.from_numpy(locate_episodes(packed.episodes[:, 0].numpy(), view.selection))
    codes = [packed.splits.index(name) for name in view.splits]
    if codes == list(range(len(packed.splits))):
        return None
    return torch.cat([(packed.episodes[:, 1] == code).nonzero().flatten() for code in codes])
