"""A small dataset of random walks for the tests of checks, and functions that falsify it on disk."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rlhive.data import _parquet
from rlhive.data._episodes import EpisodeRecord
from rlhive.data._schema import Field, Schema
from rlhive.data.checks import CheckReport
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


def make_walk(episode_id: int, *, length: int = HORIZON, split: str = "") -> EpisodeRecord:
    """Return a random walk that the horizon truncates; its reward is the first number of the next state."""
    generator = np.random.default_rng(episode_id)
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
        episode=episode_id,
        split=split or ("train" if episode_id % 2 else "test"),
        columns=columns,
        final={"observation": states[-1], "success": success[-1]},
        seed=episode_id,
        start_state={"qpos": states[0]},
        run="run",
    )


def make_walks(count: int = 12) -> list[EpisodeRecord]:
    """Return walks with the ids 0, 1, 2, …"""
    return [make_walk(episode_id) for episode_id in range(count)]


def write_version(store: Path, records: list[EpisodeRecord], schema: Schema = SCHEMA) -> Path:
    """Export records as version 1.0.0 with several shards per split; return the version's folder."""
    runs = [{"run": "run", "env": {"horizon": HORIZON}}, {"run": "clocked", "env": {"horizon": HORIZON}, "fps": 30}]
    options = {"schema": schema, "license": "mit", "runs": runs, "store": store, "shard_bytes": 4_000}
    return export(records, "my/walk", version="1.0.0", **options)


def check_rewards(record: EpisodeRecord) -> dict[str, str]:
    """Recompute the rewards and successes of a walk, as the reward checker of an environment does."""
    states = np.concatenate([record.columns["observation"][1:], record.final["observation"][None]])
    success = np.concatenate([record.columns["success"][1:], record.final["success"][None]])
    differences = {}
    wrong_rewards = states[:, 0] != record.columns["next.reward"][:, 0]
    if wrong_rewards.any():
        differences["reward"] = f"row {np.argmax(wrong_rewards)}"
    if ((states[:, 0] > 3) != success[:, 0]).any():
        differences["success"] = "another"
    return differences


def rewrite_table(folder: Path, pattern: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change the table of a file and update its hash in the manifest, as a careless or dishonest writer would."""
    path = sorted(folder.glob(pattern))[0]
    _parquet.write_table(change(pq.read_table(path)), path)
    update_hashes(folder)


def update_hashes(folder: Path, **changes: Any) -> None:
    """Write the current hashes and sizes of all files into the manifest, and change other keys of it."""
    content = json.loads((folder / "rlhive.json").read_text()) | changes
    for entry in content["files"]:
        path = folder / entry["path"]
        entry |= {"sha256": compute_sha256(path), "bytes": path.stat().st_size}
    (folder / "rlhive.json").write_text(json.dumps(content))


def set_cell(column: str, row: int, value: object) -> Callable[[pa.Table], pa.Table]:
    """Return a function that changes one cell of a table."""

    def change(table: pa.Table) -> pa.Table:
        index = table.column_names.index(column)
        field = table.schema.field(column)
        values = table[column].to_pylist()
        values[row] = value
        return table.set_column(index, field, pa.array(values, field.type))

    return change


def write_older_table(table: pa.Table) -> pa.Table:
    """Return the episode table as versions had it before it had nulls."""
    for name, value in (("return", 0.0), ("success", False)):
        field = table.schema.field(name).with_nullable(nullable=False)
        table = table.set_column(table.column_names.index(name), field, pa.array([value] * len(table), field.type))
    return table


def unpassed(report: CheckReport) -> Mapping[str, str]:
    """Return the status of every check that did not pass."""
    return {name: result.status for name, result in report.results.items() if result.status != "passed"}
