"""Where scores are kept: beside the dataset, in ``<store>/.scores/<fingerprint>.v1.parquet``.

A version's folder never changes, and scores follow from its content, which the fingerprint identifies. The file is safe
to delete; it is computed again. The number in its name is raised when a score is computed otherwise.
"""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from rlhive import keys
from rlhive.data import _parquet, _store
from rlhive.data.versions import SCORE_COLUMNS, Manifest
from rlhive.errors import CorruptDatasetError

SCORES_VERSION = 1

_TYPES = {"duplicate": pa.bool_(), "outlier": pa.string()}
SCORE_SCHEMA = pa.schema(
    [(keys.EPISODE, pa.int64()), *((name, _TYPES.get(name, pa.float64())) for name in SCORE_COLUMNS)]
)


def score_path(fingerprint: str, *, store: Path | None = None) -> Path:
    """Return the path of the scores of a fingerprint, whether it exists or not."""
    return (store or _store.store_dir()) / ".scores" / f"{fingerprint}.v{SCORES_VERSION}.parquet"


def read_stored_scores(manifest: Manifest, *, store: Path | None = None) -> pa.Table | None:
    """Return the stored scores of a version; None if there are none or the file is damaged."""
    path = score_path(manifest.fingerprint, store=store)
    if not path.is_file():
        return None
    try:
        table = _parquet.read_table(path, max_rows=manifest.num_episodes)
    except CorruptDatasetError:
        return None
    is_complete = table.schema.equals(SCORE_SCHEMA) and len(table) == manifest.num_episodes
    return table if is_complete else None


def write_scores(table: pa.Table, manifest: Manifest, *, store: Path | None = None) -> Path:
    """Keep the scores of a version; the file appears when it is complete.

    Raises:
        StoreNotWritableError, DiskFullError: The store cannot be written.
    """
    path = score_path(manifest.fingerprint, store=store)
    sink = pa.BufferOutputStream()
    _parquet.write_table(table, sink)
    with _store.translate_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _store.write_atomically(path, sink.getvalue().to_pybytes())
    return path


def add_scores(table: pa.Table, scores: pa.Table, names: Sequence[str] = SCORE_COLUMNS) -> pa.Table:
    """Return an episode table with scores of its episodes as further columns.

    Args:
        table: Rows with a column ``episode``.
        scores: Scores of these and of other episodes. Those of an episode that it does not have are null.
        names: Scores to add.
    """
    import pyarrow.compute as pc  # slow to import, and stored scores are read without it

    rows = pc.index_in(table[keys.EPISODE], value_set=scores[keys.EPISODE])
    for name in names:
        table = table.append_column(SCORE_SCHEMA.field(name), scores[name].take(rows))
    return table
