"""Every check finds the defect that is planted for it, and says nothing of a clean version."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlhive.data import _parquet
from rlhive.data._episodes import EpisodeRecord
from rlhive.data._schema import Field, Schema
from rlhive.data.checks._check import run_checks
from rlhive.data.checks._report import CHECKS
from rlhive.data.versions._export import export
from rlhive.data.versions._manifest import compute_sha256

HORIZON = 30
SCHEMA = Schema(
    (
        Field("action", "float32", (2,), observed=False),
        Field("next.reward", "float64", (1,), observed=False),
        Field("next.terminated", "bool", (1,), observed=False),
        Field("next.truncated", "bool", (1,), observed=False),
        Field("observation", "float64", (4,), observed=True),
        Field("success", "bool", (1,), observed=True),
    )
)


def episode(number: int, *, length: int = HORIZON, split: str = "") -> EpisodeRecord:
    """A random walk that is cut off at the horizon; its reward is the next state's first number."""
    generator = np.random.default_rng(number)
    states = generator.normal(size=(length + 1, 4)).cumsum(axis=0)
    success = states[:, :1] > 3
    columns = {
        "action": generator.uniform(-1, 1, (length, 2)).astype(np.float32),
        "next.reward": states[1:, :1].copy(),
        "next.terminated": np.zeros((length, 1), bool),
        "next.truncated": np.arange(1, length + 1)[:, None] == HORIZON,
        "observation": states[:-1].copy(),
        "success": success[:-1].copy(),
    }
    return EpisodeRecord(
        episode=number,
        split=split or ("train" if number % 2 else "test"),
        columns=columns,
        final={"observation": states[-1], "success": success[-1]},
        seed=number,
        start_state={"qpos": states[0]},
        run="run",
    )


def write(store, made, name="my/walk"):
    runs = [{"run": "run", "env": {"horizon": HORIZON}}]
    return export(made, name, version="1.0.0", schema=SCHEMA, license="mit", runs=runs, store=store, shard_bytes=4_000)


def rewards(record):
    """What rlhive.rollouts._replay's judge does, for the walk."""
    states = np.concatenate([record.columns["observation"][1:], record.final["observation"][None]])
    success = np.concatenate([record.columns["success"][1:], record.final["success"][None]])
    said = {}
    if (states[:, 0] != record.columns["next.reward"][:, 0]).any():
        said["reward"] = f"row {np.argmax(states[:, 0] != record.columns['next.reward'][:, 0])}"
    if ((states[:, 0] > 3) != success[:, 0]).any():
        said["success"] = "another"
    return said


def rewrite(folder: Path, name: str, change) -> None:
    """Change the table of a file and have the manifest agree, as a careless or a dishonest writer would."""
    (path,) = sorted(folder.glob(name))[:1]
    table = change(pq.read_table(path))
    _parquet.write_table(table, path)
    resign(folder)


def resign(folder: Path, **changes) -> None:
    """Have the manifest say the hashes that the files have now."""
    content = json.loads((folder / "rlhive.json").read_text()) | changes
    for entry in content["files"]:
        path = folder / entry["path"]
        entry |= {"sha256": compute_sha256(path), "bytes": path.stat().st_size}
    (folder / "rlhive.json").write_text(json.dumps(content))


def setting(column: str, row: int, value):
    """Return a change of one cell of a table."""

    def change(table: pa.Table) -> pa.Table:
        index = table.column_names.index(column)
        values = table[column].to_pylist()
        values[row] = value
        return table.set_column(index, table.schema.field(column), pa.array(values, table.schema.field(column).type))

    return change


# --- defects that are in the episodes when they are written ---


def nan(made):
    made[3].columns["observation"][7, 2] = np.nan


def nan_final(made):
    made[3].final["observation"][1] = np.nan


def infinite(made):
    made[3].columns["observation"][7, 2] = np.inf


def early_end(made):
    made[3].columns["next.terminated"][4] = True


def beyond_horizon(made):
    made[3] = replace(episode(3, length=HORIZON + 5), split="train")
    made[3].columns["next.truncated"][:] = np.arange(HORIZON + 5)[:, None] == HORIZON + 4


def no_end_at_the_horizon(made):
    made[3].columns["next.truncated"][-1] = False


def unfinished(made):
    made[3] = episode(3, length=HORIZON - 5)


def cut_before_the_horizon(made):
    made[3] = episode(3, length=HORIZON - 5)
    made[3].columns["next.truncated"][-1] = True


def other_reward(made):
    made[3].columns["next.reward"][5] += 1e-9


def other_success(made):
    made[3].columns["success"][5] ^= True


def leak(made):
    made[4] = replace(made[3], episode=4, split="test")


def duplicate(made):
    made[5] = replace(made[3], episode=5)


def rounded_copy(made):
    columns = {name: array.astype(np.float32).astype(array.dtype) for name, array in made[3].columns.items()}
    made[4] = replace(made[3], episode=4, split="test", columns=columns)


def noisy_copy(made):
    noise = np.random.default_rng(0).normal(size=made[3].columns["observation"].shape) * 1e-3
    columns = made[3].columns | {"observation": made[3].columns["observation"] + noise}
    made[5] = replace(made[3], episode=5, columns=columns)


def shifted_copy(made):
    columns = {name: array[6:].copy() for name, array in made[3].columns.items()}
    made[5] = replace(made[3], episode=5, columns=columns)


def last_row_as_final(made):
    for record in made:
        record.final["observation"][:] = record.columns["observation"][-1]


def next_start_as_final(made):
    for record, following in itertools.pairwise(made):
        record.final["observation"][:] = following.columns["observation"][0]


def constant(made):
    for record in made:
        record.columns["observation"][:, 1] = 4


def saturated(made):
    for record in made:
        record.columns["action"][::3, 0] = 1
        record.columns["action"][1::3, 0] = 1


IN_EPISODES = [
    (nan, "nan", "episode 3 (train), row 7: observation is NaN"),
    (nan_final, "nan", "episode 3 (train), final value: observation is NaN"),
    (infinite, "infinite", "episode 3 (train), row 7: observation is infinite"),
    (early_end, "ends", "episode 3 (train): row 4: expected the end at the last row, 29"),
    (beyond_horizon, "ends", "episode 3 (train): expected at most the horizon's 30 rows, got 35"),
    (no_end_at_the_horizon, "ends", "episode 3 (train): expected to end at the horizon"),
    (unfinished, "horizon", "episode 3 (train): does not end"),
    (cut_before_the_horizon, "horizon", "episode 3 (train): is truncated after 25 of 30 rows"),
    (other_reward, "reward", "episode 3 (train): row 5"),
    (other_success, "success", "episode 3 (train): another"),
    (leak, "split_leak", "episode 4 (test) is episode 3 (train) again"),
    (duplicate, "duplicates", "episode 5 (train) is episode 3 (train) again"),
    (rounded_copy, "near_duplicates", "episode 3 (train) and episode 4 (test) share"),
    (noisy_copy, "near_duplicates", "episode 3 (train) and episode 5 (train) share"),
    (shifted_copy, "near_duplicates", "episode 3 (train) and episode 5 (train) share"),
    (last_row_as_final, "final", "is that of the last row in 12 of 12 episodes"),
    (next_start_as_final, "final", "the final observation is the first of episode 1 (train)"),
    (constant, "constant", "observation: 1 of 4 elements (1) never change"),
    (saturated, "saturated", "action: 1 of 2 elements (0) stand at an extreme in up to 67% of the rows"),
]

# --- defects of the files ---


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
    resign(folder)


def bad_page_of_the_table(folder):
    path = folder / "meta/episodes.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    resign(folder)


def another_type(folder):
    def change(table):
        index = table.column_names.index("next.reward")
        field = pa.field("next.reward", pa.float32(), nullable=False)
        return table.set_column(index, field, table["next.reward"].cast(pa.float32()))

    rewrite(folder, "data/train-*", change)


def a_column_more(folder):
    rewrite(folder, "meta/episodes.parquet", lambda table: table.append_column("pickle", table["return"]))


def rows_swapped(folder):
    rewrite(folder, "data/train-*", lambda table: table.take([1, 0, *range(2, len(table))]))


def a_row_less(folder):
    rewrite(folder, "data/train-*", lambda table: table.slice(1))


def an_episode_less(folder):
    rewrite(folder, "meta/episodes.parquet", lambda table: table.slice(0, len(table) - 1))


def ids_out_of_order(folder):
    rewrite(folder, "meta/episodes.parquet", setting("episode", 3, 1))


def another_value(folder):
    rewrite(folder, "data/train-*", setting("action", 3, [0.25, 0.25]))


def another_fingerprint(folder):
    resign(folder, fingerprint="0" * 64)


def another_seed(folder):
    rewrite(folder, "meta/episodes.parquet", setting("seed", 3, 99))


def another_return(folder):
    rewrite(folder, "meta/episodes.parquet", setting("return", 3, 99.0))


def another_outcome(folder):
    rewrite(folder, "meta/episodes.parquet", setting("ended", 3, "terminated"))


def other_statistics(folder):
    content = json.loads((folder / "rlhive.json").read_text())
    content["statistics"]["train"]["action"]["max"][1] = 7.0
    (folder / "rlhive.json").write_text(json.dumps(content))


def no_manifest(folder):
    (folder / "rlhive.json").write_text("{")


IN_FILES = [
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


def status(report):
    return {name: outcome.status for name, outcome in report.results.items() if outcome.status != "passed"}


def test_a_clean_version_passes_every_check(tmp_path):
    report = run_checks(write(tmp_path, [episode(number) for number in range(12)]), reward_checker=rewards)

    assert status(report) == {}
    assert report.ok
    assert report.results.keys() == CHECKS.keys()


@pytest.mark.parametrize(("plant", "name", "says"), IN_EPISODES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_defect_of_episodes_is_found_by_its_check(plant, name, says, tmp_path):
    made = [episode(number) for number in range(12)]
    plant(made)

    # The walk's rewards follow from its observations: only where they are the point are they computed anew.
    report = run_checks(write(tmp_path, made), reward_checker=rewards if name in ("reward", "success") else None)

    found = {name for name, outcome in report.results.items() if outcome.count}
    assert says in report.results[name].findings[0]
    assert report.results[name].status == ("failed" if CHECKS[name][0] == "error" else "warned")
    assert report.ok == (CHECKS[name][0] == "warning")
    assert found == ({name, "horizon"} if plant in (no_end_at_the_horizon, shifted_copy) else {name})


@pytest.mark.parametrize(("plant", "name", "says"), IN_FILES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_defect_of_files_is_found_by_its_check(plant, name, says, tmp_path):
    folder = write(tmp_path, [episode(number) for number in range(12)])
    plant(folder)

    report = run_checks(folder, reward_checker=rewards)

    assert report.results[name].status == "failed"
    assert any(says in finding for finding in report.results[name].findings), report.results[name].findings
    assert not report.ok


def test_text_is_checked_as_content_and_not_as_numbers(tmp_path):
    fields = (*SCHEMA.fields, Field("instruction", "string", (), observed=False))
    schema = Schema(tuple(sorted(fields, key=lambda item: item.column)))
    made = [episode(number) for number in range(6)]
    for record in made:
        record.columns["instruction"] = np.array([f"turn {step}" for step in range(HORIZON)], dtype=object)
    folder = export(made, "my/walk", version="1.0.0", schema=schema, license="mit", store=tmp_path)
    clean = status(run_checks(folder, reward_checker=rewards))

    rewrite(folder, "data/train-*", setting("instruction", 3, "turn 4"))

    assert clean == {}
    assert run_checks(folder).results["content"].findings[0].startswith("episode 1 (train): expected content hash")


def test_every_check_has_a_planted_defect_and_a_line_in_the_documentation():
    documented = (Path(__file__).parents[3] / "docs/checks.md").read_text()

    assert all(f"| `{name}` |" in documented for name in CHECKS)
    assert {name for _, name, _ in (*IN_EPISODES, *IN_FILES)} == CHECKS.keys()


@pytest.mark.parametrize(("value", "name", "status"), [(np.inf, "infinite", "warned"), (np.nan, "nan", "failed")])
def test_an_odd_action_is_found_though_actions_have_no_final_value(tmp_path, value, name, status):
    made = [episode(0), episode(1)]
    made[1].columns["action"][7, 1] = value

    outcome = run_checks(write(tmp_path, made)).results[name]

    assert outcome.status == status
    assert "episode 1" in outcome.findings[0]
