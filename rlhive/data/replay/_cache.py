"""A version's memmap cache: opened if it is intact, otherwise built from the verified shards."""

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from rlhive import keys
from rlhive.data import _arrow, _parquet, _store
from rlhive.data._cast import ColumnCast
from rlhive.data._schema import Schema
from rlhive.data.replay._checksums import read_source, require_intact, write_checksums
from rlhive.data.replay._layout import ImageCache, PackedCache, PackedCacheWriter, build_blocks
from rlhive.data.replay._validation import require_choice
from rlhive.data.versions import FileEntry, Manifest, open_videos, read_shard_episodes, verify_shards
from rlhive.errors import CorruptDatasetError, DatasetExistsError

logger = logging.getLogger(__name__)

#: Largest share of the memory and of the free disk that raw pictures take by default.
_RAW_SHARE = 0.5

#: Number of attempts to build a cache while other processes remove or damage it.
_MAX_ATTEMPTS = 4


def open_packed(
    folder: Path,
    manifest: Manifest,
    *,
    shards: Sequence[FileEntry] | None = None,
    image_cache: ImageCache | None = None,
    dtype: str | None = None,
    store: Path | None = None,
) -> PackedCache:
    """Open the memmap cache of a version; build it if it does not exist or is damaged.

    A build verifies the hash of every file, reads each shard once and holds one row group in memory at a time.

    Args:
        folder: The version's folder.
        manifest: The version's manifest.
        shards: Shards that are needed; None for all. If others are missing in the folder, the cache holds these alone.
        image_cache: How to store pictures; by default as an existing cache does. Otherwise raw if the pictures take no
            more than half of the memory and of the free disk, else encoded; a log line says which. Without pictures
            there is one kind of cache.
        dtype: Dtype of the floating-point fields in the cache, NumPy's name of it; None for the stored ones.
        store: Folder of all datasets; the default store for None.

    Raises:
        ValueError: ``image_cache`` is neither ``"raw"`` nor ``"encoded"``.
        SchemaMismatchError: ``dtype`` cannot represent a stored number; the message names the column.
        CorruptDatasetError: A file does not match the manifest; no cache is left.
        StoreNotWritableError, DiskFullError: The cache cannot be written; nothing half-written is left.
    """
    version_manifest = manifest
    schema = manifest.schema.cast(dtype)
    address = _CacheAddress(schema, dtype if schema != manifest.schema else None, store)
    kind = _choose_image_cache(manifest, address, image_cache)
    target = address.folder(manifest, kind)
    if shards is not None and not target.exists() and not _all_exist(folder, manifest.shards()):
        manifest = manifest.restrict_to_shards(shards)
    for _ in range(_MAX_ATTEMPTS):
        target = address.folder(manifest, kind)
        if target.exists():
            try:
                require_intact(target)
                return PackedCache(target)
            except CorruptDatasetError:
                _store.remove_dir(target)
        # If another process was faster, the next attempt opens its cache.
        with contextlib.suppress(DatasetExistsError), _store.atomic_dir(target) as unfinished:
            episodes = read_shard_episodes(folder, version_manifest, manifest.shards())
            _build_cache(unfinished, Path(folder), manifest, schema, episodes, kind)
            write_checksums(unfinished, manifest.data_key)
    msg = f"Cache {target} was built {_MAX_ATTEMPTS} times, and each time another process removed or damaged it."
    raise CorruptDatasetError(msg)


@dataclass(frozen=True)
class _CacheAddress:
    """What the folder of a cache depends on beside the version and the kind of its image cache.

    Attributes:
        schema: Schema of the cache.
        dtype: Dtype of its floating-point fields; None if all fields have the stored ones.
        store: Folder of all datasets; the default store for None.
    """

    schema: Schema
    dtype: str | None
    store: Path | None

    def folder(self, manifest: Manifest, kind: ImageCache) -> Path:
        """Return the folder of a version's cache.

        Any manifest can claim any fingerprint. If a cache was made from other files of the same fingerprint, this
        version gets a folder of its own beside it.
        """
        find = partial(_store.memmap_dir, dtype=self.dtype, encoded=kind == "encoded", store=self.store)
        target = find(manifest.fingerprint)
        if target.exists() and read_source(target) not in ("", manifest.data_key):
            return find(f"{manifest.fingerprint}-{manifest.data_key[:16]}")
        return target


def _choose_image_cache(manifest: Manifest, address: _CacheAddress, image_cache: ImageCache | None) -> ImageCache:
    """Return how to store pictures: as requested, as an existing cache does, or by their size."""
    kinds: tuple[ImageCache, ...] = get_args(ImageCache)
    if image_cache is not None:
        require_choice(image_cache, kinds, "image_cache")
    row_bytes = sum(block.row_bytes for block in build_blocks(address.schema)[1:])
    if not row_bytes:
        return "raw"
    if image_cache is not None:
        return image_cache
    for kind in kinds:
        if address.folder(manifest, kind).exists():
            return kind
    raw_bytes = row_bytes * sum(entry.num_transitions + entry.num_episodes for entry in manifest.shards())
    limit_bytes = min(_store.memory_bytes(), _store.free_bytes(address.store)) * _RAW_SHARE
    kind = "raw" if raw_bytes <= limit_bytes else "encoded"
    logger.info(
        "%s %s: %s image cache, since raw pictures take %.1f GB and half of the memory and the free disk is %.1f GB; "
        "image_cache= chooses",
        *(manifest.name, manifest.version, kind, raw_bytes / 1e9, limit_bytes / 1e9),
    )
    return kind


def _all_exist(folder: Path, entries: Sequence[FileEntry]) -> bool:
    return all((Path(folder) / entry.path).is_file() for entry in entries)


def _build_cache(
    target: Path, folder: Path, manifest: Manifest, schema: Schema, episodes: pa.Table, kind: ImageCache
) -> None:
    """Write the cache of a version into an empty folder; ``schema`` is that of the cache."""
    splits = list(manifest.splits)
    order = _order_by_split(episodes, splits)
    split_codes = np.array([splits.index(split) for split in episodes["split"].to_pylist()], dtype=np.int64)
    table = np.stack([episodes[keys.EPISODE].to_numpy(), split_codes, episodes["length"].to_numpy()], axis=1)
    cast = ColumnCast(schema, f"{manifest.name} {manifest.version}")
    videos = open_videos(folder, manifest)
    final_values = _arrow.read_final_values(episodes, manifest.schema, videos)
    finals = cast({name: values[order] for name, values in final_values.items()})
    writer = PackedCacheWriter(target, schema, splits, table[order], finals, image_cache=kind)
    with contextlib.closing(writer):
        paths, num_rows = verify_shards(folder, manifest, splits), int(table[:, 2].sum())
        # Shown when the build takes longer than a second; TQDM_DISABLE=1 turns it off.
        with tqdm(
            total=num_rows, desc=f"pack {manifest.name}", unit="row", unit_scale=True, delay=1, leave=False
        ) as bar:
            for batch in _parquet.read_batches(paths, decoded_bytes=_arrow.count_decoded_bytes(manifest.schema)):
                writer.write(cast(_arrow.table_to_columns(batch, manifest.schema, videos)))
                bar.update(len(batch))
        writer.finish()


def _order_by_split(episodes: pa.Table, splits: Sequence[str]) -> np.ndarray:
    """Return the positions of the episodes in the order of the shards: split by split."""
    names = np.array(episodes["split"].to_pylist(), dtype=object)
    return np.concatenate([np.empty(0, np.int64), *(np.flatnonzero(names == split) for split in splits)])
