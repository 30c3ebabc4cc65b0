"""Any Parquet dataset with a column that numbers the episodes, as on the Hugging Face Hub, read into episodes.

::

    episode_index, or another name        the rows of an episode lie together, in the order of time
    action, next.reward, done, …          the columns of that name; usual names are recognised by the import
    observation.<name>                    observed, as every column of that root
    <name>, datasets.Image                pixels.<name>: structs of the bytes of a PNG or JPEG file
    <name>                                that column

A row holds a state and the action taken in it, so the state after the last action is not in the files: the last row
gives the final observation, without its action, unless the episode ended the task.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rlhive import keys
from rlhive.data import _parquet
from rlhive.data._episodes import Columns
from rlhive.data.formats._arrow_values import read_arrow_columns
from rlhive.data.formats._episode_source import EpisodeArrays, EpisodeSource, Keeps, PendingEpisode
from rlhive.data.formats._foreign_parquet import read_foreign_batches
from rlhive.data.formats._parquet_rows import ParquetRows, read_picture_contents
from rlhive.data.formats._pending_source import build_source
from rlhive.data.formats._pictures import decode_pictures, stack_pictures
from rlhive.data.formats._source_files import list_source_files
from rlhive.errors import SchemaMismatchError

#: Names of the column that numbers the episodes, in the order in which they are tried.
_EPISODE_COLUMNS = ("episode_index", "episode_id", "episode", "traj_id", "trajectory_id")
#: Columns of row numbers: they rise, and say no more than the order of the rows.
_ROW_NUMBERS = ("frame_index", "index", "step_index")
_SHARD = re.compile(r"([A-Za-z0-9_]+)-[0-9]{5}-of-[0-9]{5}\.parquet")
_MAX_EPISODES = 10**7


@dataclass(frozen=True)
class _Run:
    """The rows of one episode.

    Attributes:
        name: What the column says of it.
        shard: The name of its files before their numbers; episodes of different names are different ones.
        length: Number of rows.
    """

    name: Any
    shard: str
    length: int


def read_parquet_dataset(source: Path, *, episode: str | None = None, split: str | None = None) -> EpisodeSource:
    """Read one Parquet file, or all below a folder in the order of their paths.

    Args:
        source: File or folder.
        episode: Column that numbers the episodes; by default episode_index, episode_id, episode, traj_id or
            trajectory_id.
        split: Name of the split for all episodes; by default that of the file, ``train-00000-of-00001.parquet``, or
            train.

    Returns:
        The episodes, numbered from 0; the metadata of each has what the column says.

    Raises:
        SchemaMismatchError: There is no such column, or the rows of an episode lie apart or in another order than their
            numbers (frame_index, index or step_index).
        CorruptDatasetError: A file is damaged.

    Example:
        >>> read_parquet_dataset(Path("demos/data"), episode="demo_id").num_episodes  # doctest: +SKIP
        50
    """
    paths = list_source_files(source, "**/*.parquet") if source.is_dir() else [source]
    if not paths or not source.exists():
        msg = f"{source}: expected a Parquet file or a folder of them, got none."
        raise SchemaMismatchError(msg)
    column = episode or _find_episode_column(paths[0])
    runs = _find_runs_of_rows(paths, column)

    def pending() -> Iterator[PendingEpisode]:
        rows = ParquetRows(paths)
        for number, run in enumerate(runs):
            context = f"{source}, episode {run.name}"
            table = rows.take(run.length, context=context)
            fields = {"split": split or run.shard or "train", "run": "parquet"}
            yield PendingEpisode(number, context, partial(_read_table, table, run, column, context), fields)

    described = {"run": "parquet", "imported_from": "parquet", "episode_column": column}
    notes = (
        f"episodes are those of the column {column}; the last row of one that was cut off is its final observation",
    )
    return build_source(pending, runs=(described,), num_episodes=len(runs), notes=notes)


def _find_episode_column(path: Path) -> str:
    names = _parquet.read_arrow_schema(path).names
    column = next((name for name in _EPISODE_COLUMNS if name in names), None)
    if column is None:
        msg = (
            f"{path}: expected a column that numbers the episodes, one of {', '.join(_EPISODE_COLUMNS)}, got "
            f"{', '.join(names)}. The option episode names another."
        )
        raise SchemaMismatchError(msg)
    return column


def _find_runs_of_rows(paths: list[Path], column: str) -> list[_Run]:
    """Return the episodes in the order of the files; only the column of episodes is read."""
    names: list[Any] = []
    lengths: list[int] = []
    shards: list[str] = []
    for path in paths:
        match = _SHARD.fullmatch(path.name)
        shard = match[1] if match else ""
        if column not in _parquet.read_arrow_schema(path).names:
            msg = f"{path}: expected the column {column!r} of the other files, got none. The option episode names one."
            raise SchemaMismatchError(msg)
        for batch in read_foreign_batches([path], [column]):
            for name, length in _count_runs(batch.column(0), f"{path}, column {column}"):
                if names and names[-1] == name and shards[-1] == shard:
                    lengths[-1] += length
                else:
                    names.append(name)
                    lengths.append(length)
                    shards.append(shard)
            if len(names) > _MAX_EPISODES:
                msg = f"{path}: expected at most {_MAX_EPISODES} episodes, got more."
                raise SchemaMismatchError(msg)
    runs = [_Run(*values) for values in zip(names, shards, lengths, strict=True)]
    _require_together(runs, column, paths[0].parent)
    return runs


def _count_runs(values: pa.Array, context: str) -> Iterator[tuple[Any, int]]:
    """Yield the values that follow each other, and how often."""
    tests = (pa.types.is_integer, pa.types.is_string, pa.types.is_large_string)
    if values.null_count or not any(test(values.type) for test in tests):
        msg = f"{context}: expected integers or texts without nulls, got {values.type} with {values.null_count} nulls."
        raise SchemaMismatchError(msg)
    items = values.to_numpy(zero_copy_only=False)
    starts = np.flatnonzero(np.append(True, items[1:] != items[:-1])) if len(items) else np.zeros(0, np.int64)
    for start, stop in zip(starts, np.append(starts[1:], len(items)), strict=True):
        yield values[int(start)].as_py(), int(stop - start)


def _require_together(runs: list[_Run], column: str, folder: Path) -> None:
    seen: set[tuple[str, Any]] = set()
    for run in runs:
        if (run.shard, run.name) in seen:
            msg = (
                f"{folder}: expected the rows of an episode to lie together, got {column} {run.name} twice. Sort the "
                f"rows by {column} and time, or name another column by the option episode."
            )
            raise SchemaMismatchError(msg)
        seen.add((run.shard, run.name))


def _read_table(table: pa.Table, run: _Run, column: str, context: str, keeps: Keeps) -> EpisodeArrays:
    columns: Columns = {}
    origins: dict[str, str] = {}
    for name in table.column_names:
        is_picture = _is_picture(table.column(name).type)
        target = f"{keys.PIXELS}.{name.removeprefix('observation.')}" if is_picture else name
        if name == column or not keeps(name, target):
            continue
        if name in _ROW_NUMBERS:
            _require_order(table.column(name), name, column, context)
            continue
        if is_picture:
            address = f"{context}, {name}"
            contents = read_picture_contents(table.column(name), address)
            columns[target] = stack_pictures(decode_pictures(contents, context=address), context=address)
            origins[target] = name
            continue
        for part, rows in read_arrow_columns(name, table.column(name), context=context):
            columns[part], origins[part] = rows, part
    metadata = {column: run.name}
    return EpisodeArrays(columns, {}, context, {"metadata": metadata}, has_frames=True, origins=origins)


def _require_order(numbers: pa.ChunkedArray, name: str, column: str, context: str) -> None:
    """Refuse rows whose numbers do not rise, such as those that were shuffled within an episode."""
    is_integer = pa.types.is_integer(numbers.type) and not numbers.null_count
    values = numbers.to_numpy() if is_integer else np.zeros(2)
    if (values[1:] <= values[:-1]).any():
        msg = (
            f"{context}: expected the rows in the order of {name}, integers that rise. Sort the rows by {column} and "
            f"{name}. The option drop={name} keeps the order of the file."
        )
        raise SchemaMismatchError(msg)


def _is_picture(kind: pa.DataType) -> bool:
    """Return whether a column has the type of ``datasets.Image``."""
    return pa.types.is_struct(kind) and {field.name for field in kind} == {"bytes", "path"}
