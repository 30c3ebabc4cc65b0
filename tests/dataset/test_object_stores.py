"""A store at s3://: what a user types gives there what it gives in a folder, bit for bit."""

import shutil

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from rlhive import Recorder, RoboHiveDataset
from rlhive.cli import app
from rlhive.data import _parquet, hub, release_dir, remove_dir
from rlhive.data._object_store import ObjectStore
from rlhive.data.formats import import_dataset
from rlhive.data.versions import Manifest, _objects, delete_stored_version, export
from rlhive.dataset import delete, find_version, open_view, versions
from rlhive.errors import DatasetExistsError, DatasetNotFoundError, StoreAccessDeniedError
from tests.data.formats import make_lerobot
from tests.data.strategies import records, same, transitions
from tests.object_server import ACCESS_DENIED

LEROBOT = make_lerobot.FILES / "v3.0-image"


@pytest.fixture
def stored(collected, object_store, tmp_path):
    """The bucket with toy_point 1.0.0, of which this machine has nothing."""
    from rlhive.data import version_dir

    _objects.commit_version(collected / "robohive/toy_point/1.0.0", version_dir("toy_point", "1.0.0"))
    object_store.server.reset()
    return object_store


def equal(left, right):
    return (left == right).all()


def test_batches_are_those_of_a_folder(collected, stored, tmp_path):
    local = RoboHiveDataset("toy_point", store=collected)
    dataset = RoboHiveDataset("toy_point")

    assert dataset.fingerprint == local.fingerprint
    assert dataset.episodes.equals(local.episodes)
    assert dataset.statistics == local.statistics
    assert equal(dataset.as_tensordict(), _copy(local, tmp_path).as_tensordict())
    buffers = [item.as_replay_buffer(batch_size=32, seed=3) for item in (dataset, _copy(local, tmp_path))]
    for _ in range(5):
        left, right = (buffer.sample() for buffer in buffers)
        assert equal(left, right)
    streamed = RoboHiveDataset("toy_point", streaming=True)
    pairs = zip(
        streamed.iter_batches(50, shuffle=100, seed=1), local.iter_batches(50, shuffle=100, seed=1), strict=True
    )
    assert all(equal(left, right) for left, right in pairs)


def _copy(local, tmp_path):
    """Return the dataset in a folder that may get a cache."""
    folder = tmp_path / "copy/robohive/toy_point/1.0.0"
    shutil.copytree(local.path, folder, dirs_exist_ok=True)
    return RoboHiveDataset(folder, store=tmp_path / "copy")


def test_streaming_fetches_no_shard_and_where_only_those_that_it_needs(stored):
    streamed = RoboHiveDataset("toy_point", streaming=True)
    ids = {int(td["episode"][0]) for td in streamed["expert"].iter_episodes()}

    assert ids == set(range(8))
    assert not list(streamed.path.glob("data/*"))
    gets = [path for method, path in stored.server.requests if method == "GET" and "/data/" in path]
    assert gets
    assert all("/data/expert-" in path for path in gets)
    assert RoboHiveDataset("toy_point", split="random").path == streamed.path
    assert [path.name[:6] for path in streamed.path.glob("data/*")] == ["random"]
    assert len(RoboHiveDataset("toy_point", where="split == 'medium'")) == 160
    assert sorted(path.name[:6] for path in streamed.path.glob("data/*")) == ["medium", "random"]


def test_streaming_reads_the_ranges_of_an_episode_and_not_its_whole_shard(object_store, monkeypatch):
    monkeypatch.setattr(_parquet, "ROW_GROUP_BYTES", 100_000)
    schema, episodes = records([1000] * 20, splits=("a",))
    folder = export(episodes, "org/knob", license="mit", schema=schema)
    (shard,) = (entry for entry in Manifest.read(folder).files if entry.split)
    shutil.rmtree(folder)
    num_bytes, read_range = [], ObjectStore.read_range

    def read_and_count(files, key, start, stop):
        num_bytes.append(stop - start if "/data/" in key else 0)
        return read_range(files, key, start, stop)

    monkeypatch.setattr(ObjectStore, "read_range", read_and_count)
    view = open_view(find_version("org/knob", splits=[]), streaming=True)
    (record,) = hub.stream_records(view.folder, view.manifest, ["a"], episode_ids=[30])

    assert same(record, episodes[9])
    assert 0 < sum(num_bytes) < shard.bytes / 4


def test_recorded_episodes_are_committed_and_appended(object_store):
    for day, append in enumerate((False, True, True)):
        with Recorder("org/arm") as recorder:
            recorder.add_episode(transitions(4, seed=day))
            recorder.commit(license="cc-by-4.0", append=append)

    dataset = RoboHiveDataset("org/arm")
    assert dataset.version == "3.0.0"
    assert [int(td["episode"][0]) for td in dataset.iter_episodes()] == [0, 1, 2]
    for day, episode in enumerate(dataset.iter_episodes()):
        assert torch.equal(episode["action"], transitions(4, seed=day)["action"])
    assert list(versions("org/arm")[0]) == ["1.0.0", "2.0.0", "3.0.0"]
    assert versions("org/arm")[0]["2.0.0"]["path"] == f"{object_store.url}/org/arm/2.0.0"


def test_a_recording_is_kept_while_the_store_denies_the_commit(object_store):
    recorder = Recorder("org/arm")
    recorder.add_episode(transitions(4, seed=0))
    object_store.server.fault = lambda method, _: (403, ACCESS_DENIED) if method == "PUT" else None

    with pytest.raises(StoreAccessDeniedError, match="denies access"):
        recorder.commit(license="mit")
    object_store.server.fault = None

    assert object_store.list_keys() == []
    assert recorder.commit(license="mit").name == "1.0.0"
    assert np.array_equal(RoboHiveDataset("org/arm").episodes["length"].to_numpy(), [4])


def test_transforms_write_into_the_store(stored):
    dataset = RoboHiveDataset("toy_point")
    saved = dataset.where("success").save("org/solved")

    assert stored.find(r"org/solved/1\.0\.0\.json")
    shutil.rmtree(saved.path)
    assert len(RoboHiveDataset("org/solved")) == len(saved)


def test_a_version_of_a_folder_is_saved_with_the_same_fingerprint(collected, object_store):
    local = RoboHiveDataset(collected / "robohive/toy_point/1.0.0")

    assert local.save("org/moved").fingerprint == RoboHiveDataset("org/moved").fingerprint == local.fingerprint
    assert object_store.find(r"org/moved/1\.0\.0/data/expert")


def test_a_deletion_removes_files_caches_and_what_a_killed_commit_left(stored):
    dataset = RoboHiveDataset("toy_point")
    dataset.as_replay_buffer()
    cache = dataset.store / ".cache"
    assert list(cache.glob(f"{dataset.fingerprint}*"))

    assert delete("toy_point", "1.0.0") == dataset.path
    assert stored.list_keys() == []
    assert not dataset.path.exists()
    assert not list(cache.glob(f"{dataset.fingerprint}*"))
    stored.put("robohive/toy_point/1.0.0/data/expert.x.parquet", b"1")
    assert versions("toy_point")[0] == {}
    delete("toy_point", "1.0.0")
    assert stored.list_keys() == []
    with pytest.raises(DatasetNotFoundError, match=f"no version 1.0.0 in {stored.url}"):
        delete("toy_point", "1.0.0")


def test_a_deletion_removes_the_cache_and_release_of_a_version_that_made_room_in_the_mirror(stored):
    dataset = RoboHiveDataset("toy_point")
    dataset.as_replay_buffer()
    release_dir(dataset.path).mkdir()
    remove_dir(dataset.path)

    assert delete("toy_point", "1.0.0") == dataset.path
    assert not list((dataset.store / ".cache").glob(f"{dataset.fingerprint}*"))
    assert not dataset.path.exists()
    assert not release_dir(dataset.path).exists()


def test_an_import_asks_the_store_and_not_the_mirror_whether_a_version_exists(object_store):
    options = {"license": "mit", "version": "1.0.0", "progress": False}
    folder = import_dataset("lerobot", LEROBOT, "lab/frames", **options)
    with pytest.raises(DatasetExistsError, match=rf"lab/frames 1\.0\.0: {object_store.url} has it, and a version is"):
        import_dataset("lerobot", LEROBOT.with_name("none"), "lab/frames", **options)
    delete_stored_version(folder)  # as another machine does, which leaves the mirror

    assert import_dataset("lerobot", LEROBOT, "lab/frames", **options) == folder
    assert object_store.find(r"lab/frames/1\.0\.0\.json")


def test_the_commands_name_the_store_and_not_its_mirror(stored):
    def run(*arguments):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        return result.output

    assert "expert 100%" in run("list", "--namespace", "robohive")
    assert f"{stored.url}/robohive/toy_point" in run("versions", "toy_point")
    assert "8 episodes, 160 transitions" in run("show", "toy_point")
    assert '"ok": true' in run("check", "toy_point", "--json")
    assert f"deleted {stored.url}/robohive/toy_point/1.0.0" in run("delete", "toy_point", "--version", "1.0.0", "--yes")
    assert f"{stored.url} holds no dataset yet" in run("list")


def test_a_list_reads_only_the_newest_manifest_of_each_dataset(stored):
    content = stored.get("robohive/toy_point/1.0.0.json")
    for number in range(1, 20):
        stored.put(f"robohive/toy_point/1.0.{number}.json", content)
    stored.server.requests.clear()

    result = CliRunner().invoke(app, ["list"])

    assert "1.0.19 and 19 earlier" in result.output
    assert stored.server.count("GET", ".json") == 1
