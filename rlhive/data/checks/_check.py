"""``rlhive check``: is a version what it says it is, and is it fit to learn from? docs/checks.md lists the checks.

    manifest ─► files: size, SHA-256 ─► episode table ─► shards: schema, pages ─► rows ─► CheckReport
                                                                  scan.py, rows.py

A file that is not what the manifest recorded is not looked into. What could not be looked at, because an earlier
check failed or something is not installed, is "skipped", with the reason. Reads files alone: what needs a simulator
comes in as a function.
"""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa

from rlhive.data import _arrow, _parquet
from rlhive.data._episodes import EpisodeRecord
from rlhive.data._statistics import ColumnStatistics, merge_statistics
from rlhive.data.checks._duplicates import Sketcher
from rlhive.data.checks._report import CheckReport, ReportBuilder
from rlhive.data.checks._rows import RowChecks
from rlhive.data.checks._scan import Scanner
from rlhive.data.versions import (
    EPISODES_PATH,
    FileEntry,
    Manifest,
    find_count_mismatches,
    find_schema_mismatches,
    find_table_mismatches,
    verify_files,
)
from rlhive.errors import CorruptDataset, RLHiveError

#: Computes an episode's rewards anew and says under "reward" and "success" what differs; under "unavailable", why
#: it cannot.
RewardChecker = Callable[[EpisodeRecord], Mapping[str, str]]


def run_checks(
    folder: Path,
    *,
    reward_checker: RewardChecker | None = None,
    why_no_rewards: str = "no environment was given",
    threads: int | None = None,
) -> CheckReport:
    """Check a version; nothing is changed, and no damage raises.

    Memory: a row group per thread, and some hundred bytes per episode and 17 per row.

    Args:
        folder: Of the version.
        reward_checker: Computes the rewards of an episode anew, see :func:`rlhive.rollouts.judge_of`.
        why_no_rewards: Why there is none.
        threads: Number of threads; by default one per core.

    Returns:
        The report; ``report.ok`` says whether any check failed.

    Example:
        >>> check(Path("~/.rlhive/datasets/robohive/kitchen_knob1/1.0.0").expanduser()).ok  # doctest: +SKIP
        True
    """
    folder, findings = Path(folder), ReportBuilder()
    threads = threads or len(os.sched_getaffinity(0))
    try:
        manifest = Manifest.read(folder)
    except RLHiveError as error:
        findings.add("manifest", str(error))
        return findings.stop(folder, "the manifest is not readable", seen=["manifest"])
    intact = _files(folder, manifest, findings, threads)
    episodes = _episode_table(folder, manifest, findings) if EPISODES_PATH in intact else None
    if episodes is None or not _counts(manifest, episodes, findings):
        seen = ["manifest", "files", "pages", "schema", "counts"]
        return findings.stop(folder, "the episode table is not one of this manifest", seen=seen)
    chunks = _chunks(folder, manifest, episodes, intact, findings)
    scanner = Scanner(manifest.schema, episodes, _sketcher(manifest), reward_checker)
    rows = RowChecks(manifest, episodes, findings)
    for facts in scanner.scan(chunks, num_threads=threads):
        rows.add(facts)
    rows.finish("" if reward_checker else why_no_rewards)
    return findings.report(folder)


def _files(folder: Path, manifest: Manifest, findings: ReportBuilder, threads: int) -> set[str]:
    """Verify every file; return the paths of those that are what the manifest recorded."""

    def problem_of(entry: FileEntry) -> str:
        try:
            verify_files(folder, [entry])
        except RLHiveError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(threads) as pool:
        problems = dict(zip(manifest.files, pool.map(problem_of, manifest.files), strict=True))
    for problem in filter(None, problems.values()):
        findings.add("files", problem)
    listed = {entry.path for entry in manifest.files}
    for path in sorted((folder / "data").rglob("*")):
        if path.is_file() and path.relative_to(folder).as_posix() not in listed:
            findings.add("files", f"{path}: is not in the manifest, but other readers of data/ take it. Remove it.")
    return {entry.path for entry, problem in problems.items() if not problem}


def _episode_table(folder: Path, manifest: Manifest, findings: ReportBuilder) -> pa.Table | None:
    path = folder / EPISODES_PATH
    try:
        table = _parquet.read_table(path)
    except CorruptDataset as error:
        findings.add("pages", str(error))
        return None
    problems = list(find_table_mismatches(path, table.schema, manifest))
    for problem in problems:
        findings.add("schema", problem)
    return None if problems else table


def _counts(manifest: Manifest, episodes: pa.Table, findings: ReportBuilder) -> bool:
    """Compare the episode table with the manifest; return whether the rows can be looked up by it."""
    for problem in find_count_mismatches(manifest, episodes):
        findings.add("counts", problem)
    lengths = episodes["length"].to_numpy()
    return bool(((lengths >= 1) & (lengths <= manifest.num_transitions)).all())


def _chunks(
    folder: Path, manifest: Manifest, episodes: pa.Table, intact: set[str], findings: ReportBuilder
) -> list[_parquet.Chunk]:
    """Return the chunks of those shards that are what the manifest says."""
    expected, lengths = _arrow.row_schema(manifest.schema), episodes["length"].to_numpy()
    names = np.array(episodes["split"].to_pylist(), dtype=object)
    chunks = []
    for split in manifest.splits:
        positions = np.flatnonzero(names == split).tolist()
        for entry in manifest.shards(split):
            own, positions = positions[: entry.num_episodes], positions[entry.num_episodes :]
            path = folder / entry.path
            if entry.path not in intact:
                continue
            try:
                sizes, schema = _parquet.read_group_sizes(path), _parquet.read_arrow_schema(path)
            except CorruptDataset as error:
                findings.add("pages", str(error))
                continue
            problems = list(find_schema_mismatches(path, schema, expected))
            for problem in problems:
                findings.add("schema", problem)
            if sum(sizes) != lengths[own].sum():
                said = f"expected the {lengths[own].sum()} rows of its {len(own)} episodes, got {sum(sizes)}"
                findings.add("counts", f"{path}: {said}.")
            elif not problems:
                chunks += _parquet.split_into_chunks(path, own, lengths[own], sizes)
    return chunks


def _sketcher(manifest: Manifest) -> Sketcher:
    kept = [
        {name: ColumnStatistics.from_json(row) for name, row in part.items()} for part in manifest.statistics.values()
    ]
    return Sketcher(manifest.schema, merge_statistics(kept), manifest.num_transitions)
