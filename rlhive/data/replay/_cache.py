"""A version's memmap cache: opened where it is intact, built from the verified shards where it is not."""

import contextlib
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from rlhive import keys
from rlhive.data import _arrow, _parquet, _store
from rlhive.data.replay._checksums import require_sealed, seal, source_of
from rlhive.data.replay._layout import ImageCache, Packed, PackedWriter, blocks_of
from rlhive.data.versions import FileEntry, Manifest, episodes_of, verified_shards
from rlhive.errors import CorruptDataset, DatasetExists

logger = logging.getLogger(__name__)

#: Raw pictures may take this share of the memory and of the free disk unasked.
_SHARE = 0.5

#: A cache that others remove or damage while it is made is made so many times.
_TRIES = 4


def open_packed(
    folder: Path,
    manifest: Manifest,
    *,
    shards: Sequence[FileEntry] | None = None,
    image_cache: ImageCache | None = None,
    store: Path | None = None,
) -> Packed:
    """Open the memmap cache of a version; build it where there is none or a damaged one.

    Building verifies every file's hash, reads each shard once and holds a row group in memory at a time.

    Args:
        folder: The version's folder.
        manifest: Its manifest.
        shards: What is needed at least. Where the folder lacks others, the cache is of these alone.
        image_cache: How pictures are kept; by default as a cache that is there keeps them, otherwise raw while they
            take no more than half of the memory and of the free disk, and encoded above, which a log line says.
            Without pictures there is one kind of cache.
        store: Folder of all datasets.

    Raises:
        ValueError: ``image_cache`` is neither.
        CorruptDataset: A file is not what the manifest recorded; no cache is left.
        StoreNotWritable, DiskFull: The cache cannot be written; nothing half-written is left.
    """
    whole = manifest
    kind = _kind_of(manifest, image_cache, store)
    target = _cache_of(manifest, kind, store)
    if shards is not None and not target.exists() and not _has(folder, manifest.shards()):
        manifest = manifest.only(shards)
    for _ in range(_TRIES):
        target = _cache_of(manifest, kind, store)
        if target.exists():
            try:
                require_sealed(target)
                return Packed(target)
            except CorruptDataset:
                _store.discard(target)
        # Where another process was faster, its cache is opened instead.
        with contextlib.suppress(DatasetExists), _store.publishing(target) as partial:
            _build_packed(partial, Path(folder), manifest, episodes_of(folder, whole, manifest.shards()), kind)
            seal(partial, manifest.data_key)
    msg = f"Cache {target} is damaged or removed again whenever it was made. Find out who writes to it."
    raise CorruptDataset(msg)


def _kind_of(manifest: Manifest, wanted: ImageCache | None, store: Path | None) -> ImageCache:
    """Return how pictures are kept: as asked, as a cache that is there keeps them, or by their size."""
    if wanted not in (None, "raw", "encoded"):
        msg = f"image_cache={wanted!r}: expected 'raw' or 'encoded'. Choose one, or leave it out."
        raise ValueError(msg)
    row_bytes = sum(block.row_bytes for block in blocks_of(manifest.schema)[1:])
    if not row_bytes:
        return "raw"
    there = [kind for kind in ("raw", "encoded") if _cache_of(manifest, kind, store).exists()]
    if wanted or there:
        return wanted or there[0]
    need = row_bytes * sum(entry.num_transitions + entry.num_episodes for entry in manifest.shards())
    room = min(_store.memory_bytes(), _store.free_bytes(store)) * _SHARE
    kind = "raw" if need <= room else "encoded"
    logger.info(
        "%s %s: %s image cache, since raw pictures take %.1f GB and half of the memory and the free disk is %.1f GB; "
        "image_cache= chooses",
        *(manifest.name, manifest.version, kind, need / 1e9, room / 1e9),
    )
    return kind


def _cache_of(manifest: Manifest, kind: ImageCache, store: Path | None) -> Path:
    """Return the folder of a version's cache.

    Anyone can claim a fingerprint in a manifest. A cache that was made of other files is left to those, and this
    version has one of its own beside it.
    """
    encoded = kind == "encoded"
    target = _store.memmap_dir(manifest.fingerprint, encoded=encoded, store=store)
    if target.exists() and source_of(target) not in ("", manifest.data_key):
        own = f"{manifest.fingerprint}-{manifest.data_key[:16]}"
        return _store.memmap_dir(own, encoded=encoded, store=store)
    return target


def _has(folder: Path, entries: Iterable[FileEntry]) -> bool:
    return all((Path(folder) / entry.path).is_file() for entry in entries)


def _build_packed(partial: Path, folder: Path, manifest: Manifest, episodes: pa.Table, kind: ImageCache) -> None:
    splits = list(manifest.splits)
    order = _by_split(episodes, splits)
    finals = _arrow.read_final_values(episodes, manifest.schema)
    codes = np.array([splits.index(split) for split in episodes["split"].to_pylist()], dtype=np.int64)
    table = np.stack([episodes[keys.EPISODE].to_numpy(), codes, episodes["length"].to_numpy()], axis=1)
    finals = {name: values[order] for name, values in finals.items()}
    writer = PackedWriter(partial, manifest.schema, splits, table[order], finals, image_cache=kind)
    with contextlib.closing(writer):
        paths, total = verified_shards(folder, manifest, splits), int(table[:, 2].sum())
        # Seen when it takes longer than a second, and off with TQDM_DISABLE=1: who waits wants to know what for.
        with tqdm(total=total, desc=f"pack {manifest.name}", unit="row", unit_scale=True, delay=1, leave=False) as bar:
            for batch in _parquet.read_batches(paths):
                writer.write(_arrow.table_to_columns(batch, manifest.schema))
                bar.update(len(batch))
        writer.finish()


def _by_split(episodes: pa.Table, splits: Sequence[str]) -> np.ndarray:
    """Positions of the episodes in the order in which the shards hold them."""
    names = np.array(episodes["split"].to_pylist(), dtype=object)
    return np.concatenate([np.flatnonzero(names == split) for split in splits] or [np.empty(0, int)]).astype(np.int64)
