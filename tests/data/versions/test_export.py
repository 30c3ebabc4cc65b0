"""Export: a version holds what was given, appears complete or not at all, and is never overwritten."""

import errno
import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings, strategies as st

from rlhive.data import _store
from rlhive.data._episodes import unpack
from rlhive.data.replay import open_packed
from rlhive.data.replay._storage import PackedStorage
from rlhive.data.versions import _export, _reader
from rlhive.data.versions._export import export
from rlhive.data.versions._manifest import Manifest
from rlhive.errors import (
    CorruptDatasetError,
    DatasetExistsError,
    DiskFullError,
    InvalidArgumentError,
    InvalidLicenseError,
    SchemaMismatchError,
)
from tests.data.strategies import endings, lengths, records, same


def write(episodes, schema, store, **kwargs):
    return export(episodes, "my/knob", version="1.0.0", schema=schema, license="mit", store=store, **kwargs)


@settings(max_examples=15, deadline=None)
@given(lengths=lengths, ended=endings, shard_bytes=st.sampled_from([1, 2000, 2**20]))
def test_a_version_gives_back_its_episodes_bit_for_bit(lengths, ended, shard_bytes, tmp_path_factory):
    schema, episodes = records(lengths, ended=ended)
    store = tmp_path_factory.mktemp("store")
    folder = write(episodes, schema, store, shard_bytes=shard_bytes)
    manifest = Manifest.read(folder)

    back = {record.episode: record for record in _reader.read_records(folder, manifest, list(manifest.splits))}

    assert sorted(back) == [record.episode for record in episodes]
    assert all(same(record, back[record.episode]) for record in episodes)
    assert manifest.num_episodes == len(lengths)
    assert manifest.num_transitions == sum(lengths)


@settings(max_examples=15, deadline=None)
@given(lengths=lengths, ended=endings)
def test_the_cache_gives_back_the_transitions_and_the_true_next(lengths, ended, tmp_path_factory):
    schema, episodes = records(lengths, ended=ended)
    store = tmp_path_factory.mktemp("store")
    manifest = Manifest.read(write(episodes, schema, store))
    folder = _store.version_dir("my/knob", "1.0.0", store=store)

    storage = PackedStorage(open_packed(folder, manifest, store=store))

    order = sorted(episodes, key=lambda record: list(manifest.splits).index(record.split))
    expected = torch.cat([unpack(r.columns, r.final, schema, episode=r.episode) for r in order])
    got = storage.get(slice(None))
    assert set(expected.keys(True, True)) == set(got.keys(True, True))
    for key in expected.keys(True, True):
        assert expected[key].dtype == got[key].dtype
        assert expected[key].numpy().tobytes() == got[key].contiguous().numpy().tobytes(), key


def test_the_fingerprint_depends_on_the_content_only(tmp_path):
    schema, episodes = records([4, 2, 7])
    one = Manifest.read(write(episodes, schema, tmp_path / "1"))
    two = Manifest.read(write(episodes, schema, tmp_path / "2", shard_bytes=1, description="other words"))
    assert one.fingerprint == two.fingerprint
    assert len(one.shards()) < len(two.shards())

    episodes[1].columns["action"][0, 0] += 1
    assert Manifest.read(write(episodes, schema, tmp_path / "3")).fingerprint != one.fingerprint
    assert Manifest.read(write(episodes[:2], schema, tmp_path / "4")).fingerprint != one.fingerprint


def test_the_fingerprint_of_a_fixed_episode_never_changes(tmp_path):
    """Published versions are found by it: another value here means that old caches and pins are lost."""
    schema, episodes = records([3, 2])

    manifest = Manifest.read(write(episodes, schema, tmp_path))

    assert manifest.fingerprint == "7a1c75335ddc98033660ab08ea04f6096f934a771380bcd36d3ed357ce8be440"


def test_statistics_are_those_of_the_rows(tmp_path):
    schema, episodes = records([5, 3, 8], splits=("a",))
    for record in episodes:
        record.columns["observation"][:] = np.random.default_rng(record.length).normal(size=(record.length, 3))
        record.final["observation"][:] = 0
    manifest = Manifest.read(write(episodes, schema, tmp_path))

    rows = np.concatenate([record.columns["observation"] for record in episodes])
    got = manifest.statistics["a"]["observation"]
    assert got["count"] == 16
    np.testing.assert_allclose(got["mean"], rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(got["std"], rows.std(axis=0), rtol=1e-12)
    assert got["min"] == rows.min(axis=0).tolist()
    assert got["max"] == rows.max(axis=0).tolist()


def test_a_version_is_never_overwritten(tmp_path):
    schema, episodes = records([2])
    folder = write(episodes, schema, tmp_path)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    with pytest.raises(DatasetExistsError, match="never overwritten"):
        write(episodes, schema, tmp_path)

    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_export_that_fails_leaves_nothing(tmp_path):
    schema, episodes = records([2, 3])

    def interrupted():
        yield episodes[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(interrupted(), schema, tmp_path)
    with pytest.raises(SchemaMismatchError, match="rising ids"):
        write(episodes[::-1], schema, tmp_path)

    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [".knob.lock", ".1.0.0.lock"]
    assert not (tmp_path / "my/knob/1.0.0").exists()
    write(episodes, schema, tmp_path)


@pytest.mark.parametrize("version", ["1.0.0", None])
@pytest.mark.parametrize("step", ["render_card", "compute_sha256", "_build_file_entries"])
def test_an_export_that_fails_after_its_episodes_leaves_nothing(step, version, tmp_path, monkeypatch):
    schema, episodes = records([2, 3])

    def fail(*arguments, **keywords):
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(_export, step, fail)
        with pytest.raises(DiskFullError, match="No space left on the disk"):
            export(episodes, "my/knob", version=version, schema=schema, license="mit", store=tmp_path)

    assert [path for path in (tmp_path / "my/knob").iterdir() if path.is_dir()] == []
    assert export(episodes, "my/knob", version=version, schema=schema, license="mit", store=tmp_path).name == "1.0.0"


@pytest.mark.parametrize("license", ["", "my own", "../x", None])
def test_a_licence_that_is_no_identifier_has_an_error_of_its_own(license, tmp_path):
    schema, episodes = records([2])

    for error in (InvalidLicenseError, InvalidArgumentError, ValueError):
        with pytest.raises(error, match=r"License .*: expected an identifier such as 'apache-2\.0'"):
            export(episodes, "my/knob", license=license, schema=schema, store=tmp_path)


def test_the_partial_folder_of_a_killed_export_is_removed_by_the_next(tmp_path):
    schema, episodes = records([2])
    partial = tmp_path / "my/knob/1.0.0.partial-0123abcd"
    partial.mkdir(parents=True)
    (partial / "data").touch()

    write(episodes, schema, tmp_path)

    assert sorted(path.name for path in (tmp_path / "my/knob").iterdir()) == [".1.0.0.lock", "1.0.0"]


def test_empty_splits_exist(tmp_path):
    schema, episodes = records([2], splits=("full",))

    folder = write(episodes, schema, tmp_path, splits=("empty", "full"))

    manifest = Manifest.read(folder)
    assert manifest.splits["empty"] == {"num_episodes": 0, "num_transitions": 0}
    assert _reader.read_rows(folder, manifest, ["empty"]).num_rows == 0
    assert len(PackedStorage(open_packed(folder, manifest, store=tmp_path))) == 2


def test_a_flipped_bit_in_a_file_is_noticed_before_the_file_is_served(tmp_path):
    schema, episodes = records([3, 2])
    folder = write(episodes, schema, tmp_path)
    manifest = Manifest.read(folder)
    for path in (*folder.glob("data/*.parquet"), folder / "meta/episodes.parquet"):
        content = path.read_bytes()
        for position in range(0, len(content), max(1, len(content) // 23)):
            path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
            with pytest.raises(CorruptDatasetError, match=path.name):
                open_packed(folder, manifest, store=tmp_path)
        path.unlink()
        with pytest.raises(CorruptDatasetError, match="no such file"):
            open_packed(folder, manifest, store=tmp_path)
        path.write_bytes(content)
    assert not list(tmp_path.glob(".cache/*/layout.json"))
    assert len(open_packed(folder, manifest, store=tmp_path)) == 5


def test_a_damaged_cache_is_built_again(tmp_path):
    schema, episodes = records([3, 2])
    folder = write(episodes, schema, tmp_path)
    manifest = Manifest.read(folder)
    before = PackedStorage(open_packed(folder, manifest, store=tmp_path)).get(slice(None))
    target = _store.memmap_dir(manifest.fingerprint, store=tmp_path)
    for path in list(target.iterdir()):
        path.write_bytes(path.read_bytes()[:-1])

        again = PackedStorage(open_packed(folder, manifest, store=tmp_path)).get(slice(None))

        assert (again == before).all(), path.name


def test_the_cache_needs_no_parquet(tmp_path):
    schema, episodes = records([3, 2])
    folder = write(episodes, schema, tmp_path)
    manifest = Manifest.read(folder)
    open_packed(folder, manifest, store=tmp_path)
    shutil.rmtree(folder / "data")

    assert PackedStorage(open_packed(folder, manifest, store=tmp_path)).get(0)["episode"] == 3


def test_datasets_reads_a_version_where_rlhive_is_not_importable(tmp_path):
    schema, episodes = records([3, 2, 4])
    folder = write(episodes, schema, tmp_path)
    script = """
import sys, json
sys.modules["rlhive"] = None
import datasets, numpy as np
loaded = datasets.load_dataset(sys.argv[1])
episodes = datasets.load_dataset(sys.argv[1], "episodes")["train"]
rows = {split: [[row["episode"], row["step_count"], *row["action"], row["next.reward"]] for row in rows]
        for split, rows in loaded.items()}
print(json.dumps({"rows": rows, "lengths": episodes["length"][:]}))
"""
    ran = subprocess.run(
        [sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    got = json.loads(ran.stdout)

    assert got["lengths"] == [3, 2, 4]
    for split, rows in got["rows"].items():
        split_episodes = [record for record in episodes if record.split == split]
        expected = [
            [
                record.episode,
                step,
                *record.columns["action"][step].tolist(),
                float(record.columns["next.reward"][step, 0]),
            ]
            for record in split_episodes
            for step in range(record.length)
        ]
        assert rows == expected


def test_pandas_reads_a_shard(tmp_path):
    schema, episodes = records([3], splits=("a",))
    folder = write(episodes, schema, tmp_path)

    frame = pd.read_parquet(folder / "data/a-00000-of-00001.parquet")

    assert frame["episode"].tolist() == [3, 3, 3]
    assert np.stack(frame["observation"]).tobytes() == episodes[0].columns["observation"].tobytes()


@pytest.mark.parametrize(
    "rewards",
    [
        [[np.inf, 1.0], [1.0]],
        [[np.inf, -np.inf], [1.0]],
        [[1e308, 1e308], [-1e308]],
        [[-1e308], [1e308]],
        [[1e305], [1e305]],
        [[5e-324], [0.0]],
        [[1e16], [1e16 + 2]],
    ],
    ids=str,
)
def test_episodes_with_extreme_rewards_become_a_version(rewards, tmp_path):
    schema, episodes = records([len(row) for row in rewards])
    for record, row in zip(episodes, rewards, strict=True):
        record.columns["next.reward"][:] = np.array(row)[:, None]

    folder = write(episodes, schema, tmp_path)

    rows = pq.read_table(sorted(folder.glob("data/*.parquet")))
    by_episode = {record.episode: [] for record in episodes}
    for episode, reward in zip(rows["episode"].to_pylist(), rows["next.reward"].to_pylist(), strict=True):
        by_episode[episode].append(reward)
    assert list(by_episode.values()) == rewards
    assert "returns.svg" in {path.name for path in folder.iterdir()}
