"""Entry of ``rlhive check``: is a version what its manifest says, and is it fit to learn from?

::

    manifest ─► files: size, SHA-256 ─► episode table ─► shards: schema, pages ─► rows ─► CheckReport
                                                                                  _scan, _rows

docs/checks.md lists the checks. A file whose size or hash differs from the manifest is not opened. A check that
cannot run, because an earlier one failed or a package is not installed, is "skipped" with the reason. Only files are
read; the check of rewards, which needs a simulator, is passed in as a function.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa

from rlhive._threads import num_cores
from rlhive.data import _arrow, _parquet
from rlhive.data._statistics import ColumnStatistics, merge_statistics
from rlhive.data.checks._duplicates import Sketcher
from rlhive.data.checks._report import CheckReport, ReportBuilder
from rlhive.data.checks._rows import RowChecks
from rlhive.data.checks._scan import RewardChecker, Scanner
from rlhive.data.versions import (
    EPISODES_PATH,
    FileEntry,
    Manifest,
    find_count_mismatches,
    find_schema_mismatches,
    find_table_mismatches,
    open_videos,
    verify_files,
)
from rlhive.errors import CorruptDatasetError, RLHiveError


def run_checks(
    folder: Path,
    *,
    reward_checker: RewardChecker | None = None,
    skip_reason: str = "no environment was given",
    threads: int | None = None,
) -> CheckReport:
    """Check a version. Nothing is changed, and damage is reported instead of raised.

    Memory: one row group per thread, some hundred bytes per episode, and 17 bytes per row.

    Args:
        folder: The version's folder.
        reward_checker: Function that recomputes the rewards of an episode, see
            :func:`rlhive.rollouts.make_reward_checker`; without it the checks of rewards are skipped.
        skip_reason: Why there is no reward checker, for the report.
        threads: Number of threads; one per core by default.

    Returns:
        The report; ``report.ok`` is False if any check failed.

    Example:
        >>> check(Path("~/.rlhive/datasets/robohive/kitchen_knob1/1.0.0").expanduser()).ok  # doctest: +SKIP
        True
    """
    folder = Path(folder)
    builder = ReportBuilder()
    threads = threads or num_cores()
    try:
        manifest = Manifest.read(folder)
    except RLHiveError as error:
        builder.add("manifest", str(error))
        builder.skip_remaining("the manifest cannot be read", done=["manifest"])
        return builder.build(folder)
    intact_paths = _check_files(folder, manifest, builder, threads)
    episodes = _check_episode_table(folder, manifest, builder) if EPISODES_PATH in intact_paths else None
    if episodes is None or not _check_counts(manifest, episodes, builder):
        done = ["manifest", "files", "pages", "schema", "counts"]
        builder.skip_remaining("the episode table does not match the manifest", done=done)
        return builder.build(folder)
    chunks = _check_shards(folder, manifest, episodes, intact_paths, builder)
    videos = open_videos(folder, manifest)
    try:
        scanner = Scanner(manifest.schema, episodes, _make_sketcher(manifest), videos, reward_checker)
    except CorruptDatasetError as error:
        builder.add("pages", str(error))
        builder.skip_remaining(
            "final observations cannot be read", done=["manifest", "files", "pages", "schema", "counts"]
        )
        return builder.build(folder)
    row_checks = RowChecks(manifest, episodes, builder)
    for facts in scanner.scan(chunks, num_threads=threads):
        row_checks.add(facts)
    row_checks.finish("" if reward_checker else skip_reason)
    return builder.build(folder)


def _check_files(folder: Path, manifest: Manifest, builder: ReportBuilder, threads: int) -> set[str]:
    """Verify every file; return the paths of the files that have the recorded size and hash."""

    def find_problem(entry: FileEntry) -> str:
        try:
            verify_files(folder, [entry])
        except RLHiveError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(threads) as pool:
        problems = dict(zip(manifest.files, pool.map(find_problem, manifest.files), strict=True))
    for problem in filter(None, problems.values()):
        builder.add("files", problem)
    listed_paths = {entry.path for entry in manifest.files}
    for path in sorted((folder / "data").rglob("*")):
        if path.is_file() and path.relative_to(folder).as_posix() not in listed_paths:
            builder.add("files", f"{path}: is not in the manifest, but other readers of data/ read it. Remove it.")
    return {entry.path for entry, problem in problems.items() if not problem}


def _check_episode_table(folder: Path, manifest: Manifest, builder: ReportBuilder) -> pa.Table | None:
    """Return the episode table; None if it is damaged or does not have the columns of the manifest's schema."""
    path = folder / EPISODES_PATH
    try:
        table = _parquet.read_table(path, max_rows=manifest.num_episodes)
    except CorruptDatasetError as error:
        builder.add("pages", str(error))
        return None
    problems = list(find_table_mismatches(path, table.schema, manifest))
    for problem in problems:
        builder.add("schema", problem)
    return None if problems else table


def _check_counts(manifest: Manifest, episodes: pa.Table, builder: ReportBuilder) -> bool:
    """Compare the episode table with the manifest; return whether its lengths can locate rows."""
    for problem in find_count_mismatches(manifest, episodes):
        builder.add("counts", problem)
    lengths = episodes["length"].to_numpy()
    return bool(((lengths >= 1) & (lengths <= manifest.num_transitions)).all())


def _check_shards(
    folder: Path, manifest: Manifest, episodes: pa.Table, intact_paths: set[str], builder: ReportBuilder
) -> list[_parquet.Chunk]:
    """Compare the shards with the manifest; return the chunks of those that match."""
    split_names = np.array(episodes["split"].to_pylist(), dtype=object)
    lengths = episodes["length"].to_numpy()
    chunks = []
    for split in manifest.splits:
        positions = np.flatnonzero(split_names == split).tolist()
        for entry in manifest.shards(split):
            shard_positions, positions = positions[: entry.num_episodes], positions[entry.num_episodes :]
            if entry.path in intact_paths:
                path = folder / entry.path
                chunks += _check_shard(path, manifest, shard_positions, lengths[shard_positions], builder)
    return chunks


def _check_shard(
    path: Path, manifest: Manifest, positions: list[int], lengths: np.ndarray, builder: ReportBuilder
) -> list[_parquet.Chunk]:
    """Return the chunks of a shard with the episodes at ``positions``; none if it does not match the manifest."""
    try:
        group_sizes, schema = _parquet.read_group_sizes(path), _parquet.read_arrow_schema(path)
    except CorruptDatasetError as error:
        builder.add("pages", str(error))
        return []
    problems = list(find_schema_mismatches(path, schema, _arrow.row_schema(manifest.schema)))
    for problem in problems:
        builder.add("schema", problem)
    num_rows = sum(group_sizes)
    if num_rows != lengths.sum():
        msg = f"{path}: expected the {lengths.sum()} rows of its {len(positions)} episodes, got {num_rows}."
        builder.add("counts", msg)
        return []
    return [] if problems else _parquet.split_into_chunks(path, positions, lengths.tolist(), group_sizes)


def _make_sketcher(manifest: Manifest) -> Sketcher:
    splits = [
        {column: ColumnStatistics.from_json(row) for column, row in columns.items()}
        for columns in manifest.statistics.values()
    ]
    return Sketcher(manifest.schema, merge_statistics(splits), manifest.num_transitions)
