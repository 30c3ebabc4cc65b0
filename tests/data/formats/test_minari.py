"""Minari datasets, written by Minari's writer in each storage (make_minari.py), and RLHive's exports read by Minari."""

import io
import json
import shutil
import subprocess

import h5py
import numpy as np
import pytest
from PIL import Image

from benchmarks.peers.environments import VENVS
from rlhive import RoboHiveDataset
from rlhive.data.formats._builtin import Minari
from rlhive.data.formats._convert import export_to, import_dataset
from rlhive.data.formats._minari import read_minari
from rlhive.data.versions._export import export
from rlhive.errors import DatasetExistsError, SchemaMismatchError, UnsupportedFormatError
from rlhive.testing import ExpectedEpisode, WritableFormatTests
from tests.data.formats import make_minari
from tests.data.formats.make_minari import FILES, LENGTHS, LOSSY, STORAGES, TERMINATED, plain, truth
from tests.data.strategies import teleoperated_records

EPISODES = range(len(LENGTHS))
OBSERVED = {
    "observation.pose": lambda episode: episode["observations"]["pose"],
    "observation.goal.0": lambda episode: episode["observations"]["goal"][0],
    "observation.goal.1": lambda episode: episode["observations"]["goal"][1],
    "observation.camera": lambda episode: episode["observations"]["camera"],
    "observation.order": lambda episode: np.array(episode["observations"]["order"], object),
    "info.success": lambda episode: episode["infos"]["success"],
    "info.state.qpos": lambda episode: episode["infos"]["state"]["qpos"],
}
OTHERS = {
    "action.move": lambda episode: episode["actions"]["move"],
    "action.grip": lambda episode: episode["actions"]["grip"],
    "next.reward": lambda episode: episode["rewards"][:, None],
    "next.terminated": lambda episode: episode["terminations"][:, None],
    "next.truncated": lambda episode: episode["truncations"][:, None],
}


class MinariTests(WritableFormatTests):
    """A dataset of every kind of space."""

    format = Minari()
    storage: str
    not_kept = ("split", "metadata", "policy", "start_state")

    @pytest.fixture
    def source(self, tmp_path):
        return shutil.copytree(FILES / self.storage, tmp_path / self.storage)

    @pytest.fixture
    def expected(self):
        episodes = []
        for episode in EPISODES:
            values = truth(episode)
            observed = {column: get(values) for column, get in OBSERVED.items()}
            columns = {column: rows[:-1] for column, rows in observed.items()}
            columns |= {column: get(values) for column, get in OTHERS.items() if "runcat" not in column}
            del columns["next.terminated"]
            ended = "terminated" if TERMINATED[episode] else "truncated"
            final = {column: rows[-1] for column, rows in observed.items()}
            episodes.append(ExpectedEpisode(columns, final, ended, seed=100 + episode))
        return episodes


class TestMinariHdf5(MinariTests):
    storage = "hdf5"


class TestMinariArrow(MinariTests):
    storage = "arrow"


class TestMinariParquet(MinariTests):
    storage = "parquet"


def assert_true(records):
    for episode, record in zip(EPISODES, records, strict=True):
        expected = truth(episode)
        assert set(record.columns) == OBSERVED.keys() | OTHERS.keys()
        for column, get in OBSERVED.items():
            assert record.columns[column].dtype == get(expected).dtype, column
            np.testing.assert_array_equal(record.columns[column], get(expected)[:-1])
            np.testing.assert_array_equal(record.final[column], get(expected)[-1])
        for column, get in OTHERS.items():
            assert record.columns[column].dtype == get(expected).dtype, column
            np.testing.assert_array_equal(record.columns[column], get(expected))


@pytest.mark.parametrize("storage", STORAGES)
def test_every_space_and_storage_is_read_bit_for_bit(storage, tmp_path):
    source = read_minari(FILES / storage)
    records = list(source.records())
    assert_true(records)
    assert [record.seed for record in records] == [100, 101, 102]
    assert [record.metadata for record in records] == [{}, {"options": {"level": 1}}, {"options": {"level": 2}}]
    assert [record.ended for record in records] == ["terminated" if end else "truncated" for end in TERMINATED]
    folder = import_dataset("minari", FILES / storage, "lab/spaces", license="mit", store=tmp_path, progress=False)
    dataset = RoboHiveDataset(folder)
    assert dataset.env_name == "CartPole-v1"
    assert json.loads(dataset.manifest.runs[0]["env_spec"])["id"] == "CartPole-v1"
    td = dataset.as_tensordict()
    np.testing.assert_array_equal(td["next", "observation", "pose"][:5], truth(0)["observations"]["pose"][1:])


@pytest.fixture
def exported(tmp_path):
    folder = import_dataset("minari", FILES / "arrow", "lab/spaces", license="mit", store=tmp_path, progress=False)
    return export_to("minari", folder, tmp_path / "out", progress=False), folder


def test_an_exported_version_is_imported_unchanged(exported):
    target, folder = exported
    records = list(read_minari(target).records())
    assert_true(records)
    assert [record.seed for record in records] == [100, 101, 102]
    assert records[1].metadata == {"options": {"level": 1, "split": "train"}}
    with pytest.raises(DatasetExistsError):
        export_to("minari", folder, target, progress=False)


@pytest.mark.skipif(
    not (VENVS / "minari").exists(), reason="needs Minari: python -m benchmarks.peers.environments minari"
)
def test_minari_reads_an_exported_version(exported):
    target, _ = exported
    command = [VENVS / "minari" / "bin" / "python", make_minari.__file__, "read", str(target)]
    read_back = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert (read_back["id"], read_back["steps"]) == ("lab/spaces-v1", sum(LENGTHS))
    for episode, got in enumerate(read_back["episodes"]):
        assert got.pop("seed") == 100 + episode
        assert got == {name: plain(value) for name, value in truth(episode).items()}


@pytest.mark.slow
def test_a_toy_dataset_is_exported_with_its_dtypes(tmp_path):
    from rlhive.rollouts._collect import collect

    folder = collect("toy_point", store=tmp_path, progress=False, num_workers=1)
    target = export_to("minari", folder, tmp_path / "out", progress=False)
    ours, again = RoboHiveDataset(folder), read_minari(target)
    expected = ours.as_tensordict()
    records = list(again.records())
    assert len(records) == len(ours.episodes)
    for name in ("observation", "action", ("next", "reward"), ("next", "terminated")):
        column = name if isinstance(name, str) else ".".join(name)
        got = np.concatenate([record.columns[column] for record in records])
        np.testing.assert_array_equal(got, expected[name].numpy())


def test_jpeg_pictures_are_decoded_and_named():
    source = read_minari(FILES / LOSSY)
    assert source.notes == ("JPEG pictures, decoded: observation.camera",)
    record, camera = next(source.records()), truth(0)["observations"]["camera"]
    packed = io.BytesIO()
    Image.fromarray(camera[2]).save(packed, format="JPEG")
    np.testing.assert_array_equal(record.columns["observation.camera"][2], np.asarray(Image.open(packed)))
    assert record.columns["observation.camera"].shape == (5, 32, 32, 3)


def test_a_folder_that_is_not_a_minari_dataset_is_refused(tmp_path):
    with pytest.raises(SchemaMismatchError, match="expected a Minari dataset"):
        read_minari(tmp_path)


def test_a_dataset_without_rewards_is_refused_by_the_writer_and_read(tmp_path):
    teleop = export(teleoperated_records([3, 4]), "lab/teleop", license="mit", store=tmp_path / "store")
    with pytest.raises(UnsupportedFormatError, match="Minari's episodes hold rewards, and none were recorded"):
        export_to("minari", teleop, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()
    with_rewards = RoboHiveDataset(teleop).add_column(
        "next.reward", lambda columns, final: np.ones((len(columns["action"]), 1)), name="lab/rewarded"
    )
    target = export_to("minari", with_rewards.path, tmp_path / "out", progress=False)
    with h5py.File(target / "data" / "main_data.hdf5", "a") as file:
        for group in file.values():
            for name in ("rewards", "terminations", "truncations"):
                del group[name]

    back = RoboHiveDataset(
        import_dataset("minari", target, "lab/back", license="mit", store=tmp_path / "s", progress=False)
    )

    assert back.episodes["return"].to_pylist() == [None, None]
    assert back.episodes["ended"].to_pylist() == ["unfinished"] * 2
    assert back.as_tensordict()["observation"].equal(RoboHiveDataset(teleop).as_tensordict()["observation"])
