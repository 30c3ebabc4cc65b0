import logging
import multiprocessing
import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from rlhive.data import _parquet
from rlhive.data._arrow import read_start_states
from rlhive.data.recording._recorder import Recorder
from rlhive.data.versions import _export
from rlhive.data.versions._export import export
from rlhive.data.versions._manifest import SKETCHES_PATH, Manifest, compute_sha256
from rlhive.dataset._dataset import RoboHiveDataset
from rlhive.errors import CorruptDatasetError, DatasetNotFoundError, InvalidLicenseError, SchemaMismatchError
from rlhive.rollouts import check
from tests.data.strategies import records, transitions

MIT = {"license": "mit"}


def record(name, seeds, *, length=40, change=None, **options):
    """Record episodes of random numbers and commit them."""
    split = options.pop("split", "train")
    with Recorder(name, split=split) as recorder:
        for seed in seeds:
            episode = transitions(length, seed)
            recorder.add_episode(episode if change is None else change(episode), seed=seed)
    return recorder.commit(**options)


def shard_bytes(*folders):
    """Return the bytes that the shards of some versions take on the disk: a file with two names takes them once."""
    shards = [path.stat() for folder in folders for path in (folder / "data").iterdir()]
    return sum({status.st_ino: status.st_size for status in shards}.values())


def shard_names(folder):
    return sorted(path.name for path in (folder / "data").iterdir())


def test_five_days_of_appended_recordings_take_five_days_of_disk(store):
    days = [range(10 * day, 10 * day + 10) for day in range(5)]
    folders = [record("my/knob", day, append=True, **MIT) for day in days]

    assert [folder.name for folder in folders] == [f"{number}.0.0" for number in range(1, 6)]
    newest = RoboHiveDataset("my/knob")
    assert newest.episodes["seed"].to_pylist() == newest.episodes["episode"].to_pylist() == list(range(50))
    assert shard_bytes(*folders) == shard_bytes(folders[-1]) < 5.2 * shard_bytes(folders[0])
    assert check(newest.path).ok
    assert check(folders[2]).ok


def test_an_appended_version_equals_the_same_episodes_written_at_once(store):
    record("my/knob", range(3), **MIT)
    record("my/knob", range(3, 5), split="test", append=True)
    folder = record("my/knob", range(5, 9), append=True)

    at_once = export(RoboHiveDataset(folder), "my/other", **MIT)

    appended, whole = Manifest.read(folder), Manifest.read(at_once)
    assert appended.fingerprint == whole.fingerprint
    assert appended.splits == whole.splits
    assert {split: counts["num_episodes"] for split, counts in appended.splits.items()} == {"train": 7, "test": 2}
    for split, columns in whole.statistics.items():
        for column, row in columns.items():
            for name, values in row.items():
                np.testing.assert_allclose(
                    np.array(appended.statistics[split][column][name], float), np.array(values, float), rtol=1e-9
                )
    assert (RoboHiveDataset(folder).as_tensordict() == RoboHiveDataset(at_once).as_tensordict()).all()
    assert shard_names(folder) == [
        "test-00000-of-00001.parquet",
        "train-00000-of-00002.parquet",
        "train-00001-of-00002.parquet",
    ]
    assert shard_names(at_once) == ["test-00000-of-00001.parquet", "train-00000-of-00001.parquet"]


def test_what_is_known_of_a_dataset_is_carried_over(store):
    known = {"description": "Turns a knob.", "env_name": "Knob-v1", "task": "kitchen_knob1"}
    record("my/knob", [0], **MIT, **known)

    appended = Manifest.read(record("my/knob", [1], append=True))
    alone = Manifest.read(record("my/knob", [2], license="cc-by-4.0"))

    for manifest in (appended, alone):
        assert {name: getattr(manifest, name) for name in known} == known
    assert (appended.license, alone.license) == ("mit", "cc-by-4.0")
    assert [(parent["version"], parent["operations"]) for parent in appended.parents] == [("1.0.0", ["append"])]
    assert len(appended.runs) == 2


def test_a_commit_that_leaves_earlier_episodes_out_says_so(store, caplog):
    first = record("my/knob", [0, 1], **MIT)

    record("my/knob", [2], **MIT)

    (message,) = [entry.getMessage() for entry in caplog.records if entry.levelno == logging.WARNING]
    assert "my/knob 2.0.0 does not hold 2 episodes of 1.0.0" in message
    assert "commit(append=True)" in message
    assert message.endswith(f"rlhive append my/knob {first}")
    assert len(RoboHiveDataset("my/knob").append(RoboHiveDataset(first)).episodes) == 3


def test_a_commit_that_appends_or_holds_all_earlier_episodes_is_silent(store, caplog):
    record("my/knob", [0, 1], **MIT)

    record("my/knob", [2], append=True)
    record("my/knob", [0, 1, 2, 3], **MIT)

    assert [entry for entry in caplog.records if entry.levelno >= logging.WARNING] == []


def test_appending_to_nothing_makes_the_first_version(store):
    assert record("my/knob", [0], append=True, **MIT).name == "1.0.0"
    with Recorder("my/door") as recorder:
        recorder.add_episode(transitions(3, 0))
    with pytest.raises(InvalidLicenseError, match="License ''"):
        recorder.commit(append=True)
    assert recorder.path.exists()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda td: td.exclude("action"), "it lacks action"),
        (lambda td: td.set("force", torch.zeros(*td.shape, 3)), "the first lacks force"),
        (lambda td: td.set("action", td["action"].double()), r"key action: expected float32 \(.*\), got float64"),
    ],
)
def test_episodes_with_other_columns_are_refused_and_kept(store, change, expected):
    record("my/knob", [0], **MIT)
    with Recorder("my/knob") as recorder:
        recorder.add_episode(change(transitions(5, 1)))

    with pytest.raises(SchemaMismatchError, match=rf"Append to my/knob 1\.0\.0: .*{expected}.*add_column\(\)"):
        recorder.commit(append=True)

    assert recorder.path.exists()
    assert [path.name for path in (store / "my/knob").iterdir() if not path.name.startswith(".")] == ["1.0.0"]


def test_a_shard_of_another_size_is_not_appended_to(store):
    folder = record("my/knob", range(3), **MIT)
    shard = folder / "data" / "train-00000-of-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-1])
    with Recorder("my/knob") as recorder:
        recorder.add_episode(transitions(5, 1))

    with pytest.raises(CorruptDatasetError, match=r"train-00000-of-00001.*expected \d+ bytes, got \d+"):
        recorder.commit(append=True)

    shard.unlink()
    with pytest.raises(DatasetNotFoundError, match=r"no data/train.*rlhive pull my/knob --version 1\.0\.0"):
        recorder.commit(append=True)
    assert recorder.path.exists()


def test_a_damaged_shard_is_found_in_the_version_that_shares_it(store):
    folder = record("my/knob", range(3), **MIT)
    shard = folder / "data" / "train-00000-of-00001.parquet"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)

    appended = record("my/knob", [5], append=True)

    with pytest.raises(CorruptDatasetError, match=r"train-00000-of-00002.*SHA-256"):
        RoboHiveDataset(appended).as_arrow()
    assert check(appended).results["files"].status == "failed"


def test_an_episode_table_of_other_episodes_is_not_appended_to(store):
    folder = record("my/knob", range(3), **MIT)
    manifest = Manifest.read(folder)
    replace(manifest, fingerprint="0" * 64).write(folder)

    with pytest.raises(CorruptDatasetError, match=f"expected episodes of the fingerprint {'0' * 64}"):
        record("my/knob", [5], append=True)


def test_the_cost_of_an_append_does_not_grow_with_the_transitions(store, monkeypatch):
    record("my/knob", range(20), **MIT)
    hashed, read = [], []
    monkeypatch.setattr(_export, "compute_sha256", lambda path: hashed.append(path.name) or compute_sha256(path))
    for name in ("read_batches", "read_groups", "GroupReader"):
        monkeypatch.setattr(_parquet, name, lambda *arguments, name=name, **options: read.append(name))

    folder = record("my/knob", [20], append=True)

    assert read == []
    names = {entry.path.rpartition("/")[2] for entry in Manifest.read(folder).files}
    assert sorted(hashed) == sorted(names - {"train-00000-of-00002.parquet"})


def test_a_version_without_sketches_is_written_anew(store):
    folder = record("my/knob", range(3), **MIT)
    manifest = Manifest.read(folder)
    replace(manifest, files=tuple(item for item in manifest.files if item.path != SKETCHES_PATH)).write(folder)

    appended = RoboHiveDataset(record("my/knob", [5], append=True))

    assert appended.episodes["seed"].to_pylist() == [0, 1, 2, 5]
    assert shard_names(appended.path) == ["train-00000-of-00001.parquet"]
    assert check(appended.path).ok


@pytest.mark.parametrize("has_states", [(True, False), (False, True), (True, True), (False, False)])
def test_start_states_are_carried_over(store, has_states):
    with_state, without = ({"qpos": np.arange(3.0)}, {})
    _, made = records([4, 5, 6])
    states = [with_state if has_states[number > 0] else without for number in range(3)]
    made = [replace(record, start_state=state) for record, state in zip(made, states, strict=True)]
    export(made[:1], "my/states", **MIT)

    folder = export(made[1:], "my/states", license="", append=True)

    stored = list(read_start_states(RoboHiveDataset(folder).episodes))
    assert [sorted(state) for state in stored] == [sorted(state) for state in states]
    assert check(folder).results["files"].status == "passed"
    assert Manifest.read(folder).fingerprint == Manifest.read(RoboHiveDataset(folder).save("my/whole").path).fingerprint


def test_without_hard_links_shards_are_copied(store, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(1, "no links here")

    first = record("my/knob", range(3), **MIT)
    monkeypatch.setattr(os, "link", refuse)

    second = record("my/knob", range(3, 5), append=True)
    third = RoboHiveDataset(second).save("my/knob", description="Another description.").path

    assert shard_bytes(first, second) == shard_bytes(first) + shard_bytes(second)
    assert third.name == "2.0.1"
    assert check(third).ok


def test_a_version_with_other_words_shares_all_shards(store):
    first = record("my/knob", range(3), **MIT)

    second = RoboHiveDataset(first).save("my/knob", description="Another description.").path

    assert second.name == "1.0.1"
    assert shard_bytes(first, second) == shard_bytes(first)


def test_equal_episodes_of_the_version_all_stay(store):
    _, made = records([5, 5])
    twins = [replace(made[0], episode=0), replace(made[0], episode=1)]
    export(twins, "my/twins", **MIT)

    folder = export(made, "my/twins", license="", append=True)

    assert RoboHiveDataset(folder).episodes["episode"].to_pylist() == [0, 1, 2]
    assert check(folder).results["files"].status == "passed"


def test_splits_by_share_are_of_the_new_episodes(store):
    record("my/knob", range(4), **MIT)

    folder = record("my/knob", range(4, 8), append=True, splits={"train": 0.5, "test": 0.5})

    counts = {name: row["num_episodes"] for name, row in Manifest.read(folder).splits.items()}
    assert counts == {"train": 6, "test": 2}


def test_a_selection_is_appended_to_and_written_anew(store):
    dataset = RoboHiveDataset(record("my/knob", range(4), **MIT))

    selected = dataset.select([1, 3]).append(RoboHiveDataset(record("my/more", [7], **MIT)), name="my/few")

    assert selected.episodes["episode"].to_pylist() == [1, 3, 4]
    assert selected.episodes["seed"].to_pylist() == [1, 3, 7]
    assert selected.manifest.parents[0]["operations"] == ["select(2 ids)", "append"]


def _append_one(store, seed):
    os.environ["RLHIVE_DATASETS_PATH"] = str(store)
    record("my/knob", [seed], length=3, append=True)


def test_commits_at_the_same_time_lose_no_episode(store):
    record("my/knob", [0], length=3, **MIT)
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_append_one, args=(store, seed)) for seed in range(1, 6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)

    dataset = RoboHiveDataset("my/knob")
    assert dataset.version == "6.0.0"
    assert sorted(dataset.episodes["seed"].to_pylist()) == list(range(6))
