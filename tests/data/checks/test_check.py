"""A clean version passes every check, and every defect of files is found by its check."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from rlhive.data.checks import CHECKS
from rlhive.data.checks._check import run_checks
from tests.data.checks import test_rows
from tests.data.checks.walks import (
    check_rewards,
    make_walks,
    rewrite_table,
    set_cell,
    unpassed,
    update_hashes,
    write_version,
)


def flipped_bit(folder):
    path = folder / "data/train-00000-of-00002.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def missing_shard(folder):
    (folder / "data/train-00000-of-00002.parquet").unlink()


def unlisted_shard(folder):
    (folder / "data/train-00009-of-00002.parquet").write_bytes(b"more")


def bad_page(folder):
    flipped_bit(folder)
    update_hashes(folder)


def bad_page_of_the_table(folder):
    path = folder / "meta/episodes.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    update_hashes(folder)


def another_type(folder):
    def change(table):
        index = table.column_names.index("next.reward")
        field = pa.field("next.reward", pa.float32(), nullable=False)
        return table.set_column(index, field, table["next.reward"].cast(pa.float32()))

    rewrite_table(folder, "data/train-*", change)


def a_column_more(folder):
    rewrite_table(folder, "meta/episodes.parquet", lambda table: table.append_column("pickle", table["return"]))


def rows_swapped(folder):
    rewrite_table(folder, "data/train-*", lambda table: table.take([1, 0, *range(2, len(table))]))


def a_row_less(folder):
    rewrite_table(folder, "data/train-*", lambda table: table.slice(1))


def an_episode_less(folder):
    rewrite_table(folder, "meta/episodes.parquet", lambda table: table.slice(0, len(table) - 1))


def ids_out_of_order(folder):
    rewrite_table(folder, "meta/episodes.parquet", set_cell("episode", 3, 1))


def another_value(folder):
    rewrite_table(folder, "data/train-*", set_cell("action", 3, [0.25, 0.25]))


def another_fingerprint(folder):
    update_hashes(folder, fingerprint="0" * 64)


def another_seed(folder):
    rewrite_table(folder, "meta/episodes.parquet", set_cell("seed", 3, 99))


def another_return(folder):
    rewrite_table(folder, "meta/episodes.parquet", set_cell("return", 3, 99.0))


def another_outcome(folder):
    rewrite_table(folder, "meta/episodes.parquet", set_cell("ended", 3, "terminated"))


def other_statistics(folder):
    content = json.loads((folder / "rlhive.json").read_text())
    content["statistics"]["train"]["action"]["max"][1] = 7.0
    (folder / "rlhive.json").write_text(json.dumps(content))


def no_manifest(folder):
    (folder / "rlhive.json").write_text("{")


DEFECTS = [
    (flipped_bit, "files", "train-00000-of-00002.parquet: expected SHA-256"),
    (missing_shard, "files", "train-00000-of-00002.parquet: expected"),
    (unlisted_shard, "files", "train-00009-of-00002.parquet: is not in the manifest"),
    (bad_page, "pages", "train-00000-of-00002.parquet: expected a readable Parquet file"),
    (bad_page_of_the_table, "pages", "episodes.parquet: expected a readable Parquet file"),
    (another_type, "schema", "column next.reward: expected pyarrow.Field<next.reward: double not null>, got"),
    (a_column_more, "schema", "column pickle: expected none, got"),
    (rows_swapped, "order", "episode 1 (train): row 0: expected episode 1, step_count 0; got 1, 1"),
    (a_row_less, "counts", "rows of its"),
    (an_episode_less, "counts", "split train: the manifest says {'num_episodes': 6"),
    (ids_out_of_order, "counts", "expected rising ids, got 1 after 2"),
    (another_value, "content", "episode 1 (train): expected content hash"),
    (another_fingerprint, "content", "expected the fingerprint 0000"),
    (another_seed, "content", "expected the fingerprint"),
    (another_return, "summary", "episode 3 (train): return is 99.0 in the episode table"),
    (another_outcome, "summary", "episode 3 (train): ended is terminated in the episode table, truncated"),
    (other_statistics, "statistics", "split train, action: max is"),
    (no_manifest, "manifest", "is not a manifest that RLHive wrote"),
]


def test_a_clean_version_passes_every_check(tmp_path):
    report = run_checks(write_version(tmp_path, make_walks()), reward_checker=check_rewards)

    assert unpassed(report) == {}
    assert report.ok
    assert report.results.keys() == CHECKS.keys()


@pytest.mark.parametrize(("plant", "check", "message"), DEFECTS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_defect_of_files_is_found_by_its_check(plant, check, message, tmp_path):
    folder = write_version(tmp_path, make_walks())
    plant(folder)

    report = run_checks(folder, reward_checker=check_rewards)

    assert report.results[check].status == "failed"
    findings = report.results[check].findings
    assert any(message in finding for finding in findings), findings
    assert not report.ok


@pytest.mark.parametrize(
    ("plant", "done"),
    [
        (no_manifest, {"manifest"}),
        (a_column_more, {"manifest", "files", "pages", "schema", "counts"}),
        (bad_page, set(CHECKS) - {"statistics"}),
    ],
)
def test_checks_that_cannot_run_are_skipped_with_a_reason(plant, done, tmp_path):
    folder = write_version(tmp_path, make_walks())
    plant(folder)

    report = run_checks(folder, reward_checker=check_rewards)

    skipped = {name: result.note for name, result in report.results.items() if result.status == "skipped"}
    assert skipped.keys() == CHECKS.keys() - done
    assert all(skipped.values())


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_number_of_threads_does_not_change_the_report(threads, tmp_path):
    folder = write_version(tmp_path, make_walks())
    rows_swapped(folder)
    another_seed(folder)

    report = run_checks(folder, threads=threads)

    assert report.to_json() == run_checks(folder).to_json()


def test_every_check_has_a_planted_defect_and_a_line_in_the_documentation():
    documentation = (Path(__file__).parents[3] / "docs/checks.md").read_text()

    assert all(f"| `{name}` |" in documentation for name in CHECKS)
    assert {check for _, check, _ in (*test_rows.DEFECTS, *DEFECTS)} == CHECKS.keys()
