"""A version's memmap cache: opened if it is intact, otherwise built from the verified shards."""

import contextlib
import hashlib
import json
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
from rlhive.data._arrow_pictures import count_decoded_bytes, read_frame_numbers
from rlhive.data._cast import ColumnCast
from rlhive.data._episodes import Columns
from rlhive.data._schema import Field, Schema
from rlhive.data.replay._checksums import read_source, require_intact, write_checksums
from rlhive.data.replay._layout import FORMAT_VERSION, ImageCache, PackedCache, build_blocks
from rlhive.data.replay._packed_writer import PackedCacheWriter
from rlhive.data.replay._progress import NOTE_NAME, BuildProgress, remove_progress
from rlhive.data.replay._validation import require_choice
from rlhive.data.versions import FileEntry, Manifest, open_videos, read_shard_episodes, verify_files, verify_shards
from rlhive.errors import CorruptDatasetError, DatasetExistsError, DiskFullError, InvalidOptionError

logger = logging.getLogger(__name__)

#: Largest share of the memory and of the free disk that raw pictures take by default.
_RAW_SHARE = 0.5

#: Bytes of rows after which a build notes how far it came; the rows after the last note are what a kill costs.
_NOTE_BYTES = 256 * 2**20

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

    A build verifies the hash of every file, reads each shard once and holds one row group in memory at a time. One that
    was interrupted or killed goes on where it was, after a check of what it wrote.

    Args:
        folder: The version's folder.
        manifest: The version's manifest.
        shards: Shards that are needed; None for all. If others are missing in the folder, the cache holds these alone.
        image_cache: How to store pictures; by default as an existing cache does. Otherwise raw if the pictures take no
            more than half of the memory and of the free disk, else encoded; a log line says which. Without pictures
            there is one kind of cache. ``"none"`` leaves pictures in their videos.
        dtype: Dtype of the floating-point fields in the cache, NumPy's name of it; None for the stored ones.
        store: Folder of all datasets; the default store for None.

    Raises:
        ValueError: ``image_cache`` is none of these.
        InvalidOptionError: ``image_cache`` is ``"none"``, and pictures are not in videos.
        SchemaMismatchError: ``dtype`` cannot represent a stored number; the message names the column.
        CorruptDatasetError: A file does not match the manifest; no cache is left.
        StoreNotWritableError, DiskFullError: The cache cannot be written; nothing half-written is left. A disk that is
            too small for raw pictures is found before the first one is decoded.
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
        with contextlib.suppress(DatasetExistsError), _store.resumable_dir(target, note=NOTE_NAME) as unfinished:
            if kind == "raw":
                _require_free_disk(manifest, schema, store, num_written_bytes=_store.measure_resumable(target))
            episodes = read_shard_episodes(folder, version_manifest, manifest.shards())
            _build_cache(unfinished, Path(folder), manifest, schema, episodes, kind)
            write_checksums(unfinished, manifest.data_key)
        # Not before the folder has its name: a kill while it is flushed to the disk would cost everything.
        remove_progress(target)
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
        find = partial(_store.memmap_dir, dtype=self.dtype, kind=kind, store=self.store)
        target = find(manifest.fingerprint)
        if target.exists() and read_source(target) not in ("", manifest.data_key):
            return find(f"{manifest.fingerprint}-{manifest.data_key[:16]}")
        return target


def _choose_image_cache(manifest: Manifest, address: _CacheAddress, image_cache: ImageCache | None) -> ImageCache:
    """Return how to store pictures: as requested, as an existing cache does, or by their size."""
    kinds: tuple[ImageCache, ...] = get_args(ImageCache)
    if image_cache is not None:
        require_choice(image_cache, kinds, "image_cache")
    blocks = build_blocks(address.schema)[1:]
    row_bytes = sum(block.row_bytes for block in blocks)
    if image_cache == "none":
        _require_videos(manifest, [block.fields[0].field for block in blocks])
        return image_cache
    if not row_bytes:
        return "raw"
    if image_cache is not None:
        return image_cache
    folders = {kind: address.folder(manifest, kind) for kind in kinds}
    existing = [kind for kind in kinds if folders[kind].exists()]
    unfinished = [kind for kind in kinds if _store.measure_resumable(folders[kind])]
    if existing or unfinished:
        return (existing or unfinished)[0]
    raw_bytes = row_bytes * sum(entry.num_transitions + entry.num_episodes for entry in manifest.shards())
    limit_bytes = min(_store.memory_bytes(), _store.free_bytes(address.store)) * _RAW_SHARE
    kind: ImageCache = "raw" if raw_bytes <= limit_bytes else "encoded"
    logger.info(
        "%s %s: %s image cache, since raw pictures take %.1f GB and half of the memory and the free disk is %.1f GB; "
        "image_cache= chooses",
        *(manifest.name, manifest.version, kind, raw_bytes / 1e9, limit_bytes / 1e9),
    )
    return kind


def _all_exist(folder: Path, entries: Sequence[FileEntry]) -> bool:
    return all((Path(folder) / entry.path).is_file() for entry in entries)


def _require_videos(manifest: Manifest, fields: Sequence[Field]) -> None:
    """Raise unless all wide fields are in videos, from which they can be read without a cache."""
    others = [item for item in fields if not item.is_video]
    if others or not fields:
        names = ", ".join(f"{item.column} as {item.storage}" for item in others) or "no pictures"
        column = others[0].column if others else "COLUMN"
        msg = (
            f"image_cache='none': expected pictures in videos, {manifest.name} {manifest.version} has {names}. "
            f"Make a version of videos: rlhive encode {manifest.name} --keys {column}=ffv1"
        )
        raise InvalidOptionError(msg)


def _require_free_disk(manifest: Manifest, schema: Schema, store: Path | None, *, num_written_bytes: int) -> None:
    """Raise unless the rest of a raw cache fits on the disk, before anything is decoded."""
    num_rows = manifest.num_transitions + manifest.num_episodes
    num_bytes = num_rows * sum(block.row_bytes for block in build_blocks(schema)) - num_written_bytes
    free_bytes = _store.free_bytes(store)
    if num_bytes > free_bytes:
        sizes = f"takes {num_bytes / 1e6:,.0f} MB, and the disk of the store has {free_bytes / 1e6:,.0f} MB free"
        msg = (
            f"The cache of {manifest.name} {manifest.version} {sizes}. Free some space, set {_store.STORE_VARIABLE} "
            "to a folder on another disk, or take less: image_cache='encoded', or 'none' for pictures in videos."
        )
        raise DiskFullError(msg)


def _build_cache(
    target: Path, folder: Path, manifest: Manifest, schema: Schema, episodes: pa.Table, kind: ImageCache
) -> None:
    """Write the cache of a version into a folder, or what is missing there; ``schema`` is that of the cache."""
    splits = list(manifest.splits)
    order = _order_by_split(episodes, splits)
    split_codes = np.array([splits.index(split) for split in episodes["split"].to_pylist()], dtype=np.int64)
    table = np.stack([episodes[keys.EPISODE].to_numpy(), split_codes, episodes["length"].to_numpy()], axis=1)
    reader = _ColumnReader(folder, manifest, schema, kind)
    finals = {name: values[order] for name, values in reader.read_finals(episodes).items()}
    progress = BuildProgress(target, _find_build_key(manifest, schema, kind))
    writer = PackedCacheWriter(
        target,
        schema,
        splits,
        table[order],
        finals,
        image_cache=kind,
        videos=reader.videos_by_column,
        num_written=progress.num_transitions,
    )
    rows_per_note = max(1, _NOTE_BYTES // sum(block.row_bytes for block in build_blocks(schema)))
    with contextlib.closing(writer):
        paths, num_rows = verify_shards(folder, manifest, splits), int(table[:, 2].sum())
        batches = _parquet.read_batches(
            paths, decoded_bytes=count_decoded_bytes(reader.decoded_schema), first_row=writer.num_written
        )
        with _open_bar(manifest, num_rows, writer.num_written) as bar:
            for batch in batches:
                writer.write(reader.read_rows(batch))
                bar.update(len(batch))
                if writer.num_written - progress.num_transitions >= rows_per_note:
                    progress.note(writer.num_written, writer.flush())
        writer.finish()


def _find_build_key(manifest: Manifest, schema: Schema, kind: ImageCache) -> str:
    """Return what the bytes of a cache depend on."""
    parts = [FORMAT_VERSION, manifest.data_key, schema.to_json(), kind]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _open_bar(manifest: Manifest, num_rows: int, num_written: int) -> tqdm:
    """Return a progress bar, shown when the build takes longer than a second; TQDM_DISABLE=1 turns it off."""
    return tqdm(
        total=num_rows,
        initial=num_written,
        desc=f"pack {manifest.name}",
        unit="row",
        unit_scale=True,
        delay=1,
        leave=False,
    )


class _ColumnReader:
    """Reads the columns of a version for its cache: values, or for pictures that stay in videos their frame numbers.

    Args:
        folder: Folder of the version.
        manifest: Manifest of the version.
        schema: Schema of the cache.
        kind: Kind of the cache.
    """

    def __init__(self, folder: Path, manifest: Manifest, schema: Schema, kind: ImageCache):
        wide = {layout.field.column for block in build_blocks(schema)[1:] for layout in block.fields}
        self._direct = [item for item in manifest.schema.fields if kind == "none" and item.column in wide]
        columns = {item.column for item in self._direct}
        self.decoded_schema = Schema(tuple(item for item in manifest.schema.fields if item.column not in columns))
        self._videos = open_videos(folder, manifest)
        self._cast = ColumnCast(schema, f"{manifest.name} {manifest.version}")
        self._files = {entry.path: number for number, entry in enumerate(manifest.videos)}
        self.videos_by_column = {}
        if self._direct:
            verify_files(folder, manifest.videos)
            paths = [folder / entry.path for entry in manifest.videos]
            self.videos_by_column = {item.column: paths for item in self._direct}

    def read_rows(self, batch: pa.RecordBatch) -> Columns:
        """Return the columns of some transitions."""
        columns = self._cast(_arrow.table_to_columns(batch, self.decoded_schema, self._videos))
        numbers = {item.column: self._read_frame_numbers(batch.column(item.column), item) for item in self._direct}
        return columns | numbers

    def read_finals(self, episodes: pa.Table) -> Columns:
        """Return the final values of the observed columns of all episodes."""
        finals = self._cast(_arrow.read_final_values(episodes, self.decoded_schema, self._videos))
        return finals | {
            item.column: self._read_frame_numbers(episodes[f"{_arrow.FINAL_PREFIX}{item.column}"], item)
            for item in self._direct
            if item.observed
        }

    def _read_frame_numbers(self, column: pa.Array | pa.ChunkedArray, item: Field) -> np.ndarray:
        return read_frame_numbers(column, item, self._files)


def _order_by_split(episodes: pa.Table, splits: Sequence[str]) -> np.ndarray:
    """Return the positions of the episodes in the order of the shards: split by split."""
    names = np.array(episodes["split"].to_pylist(), dtype=object)
    return np.concatenate([np.empty(0, np.int64), *(np.flatnonzero(names == split) for split in splits)])
