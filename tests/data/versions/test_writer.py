"""The writer: files, fingerprint and statistics are functions of the episodes, and odd episodes are refused."""

from dataclasses import replace

import numpy as np
import pytest

from rlhive.data import _arrow, _parquet
from rlhive.data._statistics import ColumnStatistics
from rlhive.data.versions import _writer
from rlhive.data.versions._manifest import EPISODES_PATH, compute_fingerprint
from rlhive.data.versions._source import VersionSource
from rlhive.data.versions._writer import write_episodes
from rlhive.errors import DiskFullError, SchemaMismatchError
from tests.data.strategies import records

LENGTHS = [4, 1, 7, 3, 5]


def write(folder, episodes, *, schema=None, splits=(), shard_bytes=2**20):
    folder.mkdir(exist_ok=True)
    source = VersionSource(schema or records([1])[0], lambda: iter(episodes), splits=splits)
    return write_episodes(folder, source, None, shard_bytes=shard_bytes)


def read_files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_result_describes_what_was_written(tmp_path):
    schema, episodes = records(LENGTHS)

    result = write(tmp_path, episodes, splits=("b", "empty"), shard_bytes=1)

    assert result.fingerprint == compute_fingerprint(schema, [record.identity() for record in episodes])
    assert list(result.counts) == ["b", "empty", "a"]
    assert result.counts == {
        "b": {"num_episodes": 2, "num_transitions": 4},
        "empty": {"num_episodes": 0, "num_transitions": 0},
        "a": {"num_episodes": 3, "num_transitions": 16},
    }
    assert sorted(result.shards.values()) == [
        ("a", 4, 1),
        ("a", 5, 1),
        ("a", 7, 1),
        ("b", 1, 1),
        ("b", 3, 1),
        ("empty", 0, 0),
    ]
    for path, (_, num_transitions, _) in result.shards.items():
        assert sum(_parquet.read_group_sizes(tmp_path / path)) == num_transitions


def test_the_outcomes_are_mean_return_and_success_rate(tmp_path):
    _, episodes = records(LENGTHS)
    result = write(tmp_path, episodes, splits=("empty",))

    for split in "ab":
        of_split = [record for record in episodes if record.split == split]
        mean, success = result.outcomes[split]
        assert mean == pytest.approx(np.mean([record.episode_return for record in of_split]))
        assert success == np.mean([record.success for record in of_split])
    assert result.outcomes["empty"] == (0.0, 0.0)


def test_the_statistics_of_a_split_are_those_of_its_rows(tmp_path):
    _, episodes = records(LENGTHS)

    result = write(tmp_path, episodes, shard_bytes=1)  # a block per episode

    assert result.statistics["a"].keys() == episodes[0].columns.keys()
    for name in ("action", "parts.camera", "gripper", "next.reward"):
        rows = np.concatenate([record.columns[name] for record in episodes if record.split == "b"])
        expected = ColumnStatistics.from_rows(rows).to_json()
        for statistic in ("count", "min", "max"):
            assert result.statistics["b"][name][statistic] == expected[statistic], (name, statistic)
        if name != "action":  # an action is odd by intention: infinities have no mean
            np.testing.assert_allclose(result.statistics["b"][name]["mean"], expected["mean"], rtol=1e-12)


def test_the_files_do_not_depend_on_timing(tmp_path, monkeypatch):
    _, episodes = records(LENGTHS * 3)
    write(tmp_path / "first", episodes, shard_bytes=2000)
    encode = _parquet.ShardWriter.write

    def encode_slowly(self, *arguments, **keywords):
        np.sort(np.random.default_rng(0).random(10**6))
        encode(self, *arguments, **keywords)

    monkeypatch.setattr(_parquet.ShardWriter, "write", encode_slowly)
    write(tmp_path / "second", episodes, shard_bytes=2000)

    assert read_files(tmp_path / "first") == read_files(tmp_path / "second")


def test_the_episode_table_is_written_in_blocks_of_rows(tmp_path, monkeypatch):
    _, episodes = records(LENGTHS)
    monkeypatch.setattr(_writer, "_TABLE_ROWS", 2)

    write(tmp_path, episodes)

    assert _parquet.read_group_sizes(tmp_path / EPISODES_PATH) == [2, 2, 1]
    assert _parquet.read_table(tmp_path / EPISODES_PATH)["episode"].to_pylist() == [3, 6, 9, 12, 15]


@pytest.mark.parametrize("known", ["0011", "1100", "0101", "1011", "0000", "1111"])
def test_a_start_state_may_be_unknown_in_any_block_of_the_table(known, tmp_path, monkeypatch):
    _, episodes = records([2] * 4)
    episodes = [
        replace(e, start_state=e.start_state if flag == "1" else {}) for e, flag in zip(episodes, known, strict=True)
    ]
    monkeypatch.setattr(_writer, "_TABLE_ROWS", 1)

    write(tmp_path, episodes)

    table = _parquet.read_table(tmp_path / EPISODES_PATH)
    assert table["episode"].to_pylist() == [3, 6, 9, 12]
    states = list(_arrow.read_start_states(table))
    assert [state.keys() for state in states] == [episode.start_state.keys() for episode in episodes]
    for state, episode in zip(states, episodes, strict=True):
        assert all(values.tobytes() == episode.start_state[name].tobytes() for name, values in state.items())


def test_a_version_without_episodes_has_its_tables(tmp_path):
    result = write(tmp_path, [], splits=("a",))

    assert result.counts == {"a": {"num_episodes": 0, "num_transitions": 0}}
    table = _parquet.read_table(tmp_path / EPISODES_PATH)
    assert len(table) == 0
    assert "final.count" in table.column_names


def other_columns(record, **columns):
    return replace(record, columns=record.columns | columns)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: replace(r, episode=3), "Episode 3 comes after 3: expected rising ids, each once"),
        (lambda r: replace(r, episode=1), "Episode 1 comes after 3: expected rising ids, each once"),
        (
            lambda r: other_columns(r, action=r.columns["action"].astype(np.float64)),
            r"Episode 6: expected action \(dtype\('float32'\), \(2,\)\), got \(dtype\('float64'\), \(2,\)\)",
        ),
        (
            lambda r: other_columns(r, action=r.columns["action"][:, :1]),
            r"expected action .*\(2,\)\), got .*\(1,\)\)",
        ),
        (lambda r: other_columns(r, extra=np.zeros(r.length)), "expected extra None, got .*float64"),
        (
            lambda r: replace(r, columns={name: r.columns[name] for name in r.columns if name != "gripper"}),
            "expected gripper .*int64.*, got None",
        ),
        (
            lambda r: replace(r, final={name: r.final[name] for name in r.final if name != "count"}),
            r"Episode 6: expected final \['count', .*, got \['observation'",
        ),
        (lambda r: replace(r, columns={name: rows[:0] for name, rows in r.columns.items()}), "0 transitions"),
        (
            lambda r: replace(r, start_state={"qpos": np.zeros(9)}),
            r"Episode 6: expected a start state of \{'qpos': 3, 'time': 1\}, got \{'qpos': 9\}",
        ),
        (lambda r: replace(r, split="a+b"), "Split 'a\\+b': expected letters, digits and '_'"),
        (lambda r: replace(r, split=""), "Split '': expected letters"),
        (lambda r: replace(r, split="x" * 65), "at most 64 characters"),
    ],
)
def test_an_episode_that_does_not_fit_is_refused(change, message, tmp_path):
    _, (first, second) = records([2, 3])

    with pytest.raises(SchemaMismatchError, match=message):
        write(tmp_path, [first, change(second)])


def test_an_error_of_the_encoding_thread_is_raised_to_the_caller(tmp_path, monkeypatch):
    _, episodes = records(LENGTHS)

    def fail(self, *arguments, **keywords):
        msg = "no space"
        raise DiskFullError(msg)

    monkeypatch.setattr(_parquet.ShardWriter, "write", fail)

    with pytest.raises(DiskFullError, match="no space"):
        write(tmp_path, episodes, shard_bytes=1)


def test_an_error_of_the_source_is_raised_to_the_caller(tmp_path):
    _, episodes = records([2, 3])

    def interrupted():
        yield episodes[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, interrupted())
