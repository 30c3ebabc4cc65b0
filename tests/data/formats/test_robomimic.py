"""robomimic's files, written by robomimic's own script (make_robomimic.py), and the traps of other writers."""

import json
import shutil

import h5py
import numpy as np
import pytest

from rlhive import RoboHiveDataset
from rlhive.data.formats._builtin import RoboMimic
from rlhive.data.formats._convert import import_dataset, open_source
from rlhive.errors import SchemaMismatchError
from rlhive.testing import ExpectedEpisode, FormatTests
from tests.data.formats.make_robomimic import FILES, LENGTHS, MASKS, SOLVED_FROM, describe_model, observe, walk

SPLITS = {0: "train", 1: "valid", 2: "train", 10: "other"}


def expected_episode(number, *, length=None, with_camera=False, final=True, terminated=False, split=None):
    truth = walk(number)
    length = len(truth["actions"]) if length is None else length
    frames = [observe(state, with_camera=with_camera) for state in truth["states"]]
    names = {name: f"pixels.{name}" if name.endswith("image") else f"observation.{name}" for name in frames[0]}
    columns = {column: np.stack([frame[name] for frame in frames[:length]]) for name, column in names.items()}
    last = length if final else length - 1
    columns |= {
        "action": truth["actions"][:length],
        "next.reward": truth["rewards"][:length, None],
        "info.states": truth["states"][:length],
    }
    values = {column: frames[last][name] for name, column in names.items()}
    ended = "terminated" if terminated else "truncated"
    return ExpectedEpisode(columns, values, ended, split=split or SPLITS[number])


@pytest.mark.slow
class TestRoboMimic(FormatTests):
    """A file with pictures and next_obs, whose dones mark solved states (done_mode 0)."""

    format = RoboMimic()

    @pytest.fixture
    def source(self, tmp_path):
        return shutil.copy(FILES / "demo.hdf5", tmp_path / "demo.hdf5")

    @pytest.fixture
    def expected(self):
        return [
            expected_episode(number, with_camera=True, terminated=SOLVED_FROM[number] is not None) for number in LENGTHS
        ]


@pytest.mark.slow
class TestRoboMimicWithoutNextObs(FormatTests):
    """The state after the last action is not in the file; dones mark every end (done_mode 2)."""

    format = RoboMimic()

    @pytest.fixture
    def source(self, tmp_path):
        return shutil.copy(FILES / "no_next_obs.hdf5", tmp_path / "no_next_obs.hdf5")

    @pytest.fixture
    def expected(self):
        solved = {number: SOLVED_FROM[number] is not None for number in LENGTHS}
        return [
            expected_episode(
                number, length=length - (not solved[number]), final=not solved[number], terminated=solved[number]
            )
            for number, length in LENGTHS.items()
        ]


@pytest.fixture
def file(tmp_path):
    """A copy to change, opened for writing."""
    path = tmp_path / "demo.hdf5"
    shutil.copy(FILES / "demo.hdf5", path)
    with h5py.File(path, "r+") as h5:
        yield path, h5


def read(path, **options):
    return list(open_source("robomimic", path, **options).records())


def test_states_model_and_masks_are_kept(file):
    path, _ = file
    source = open_source("robomimic", path)
    for number, record in zip(LENGTHS, source.records(), strict=True):
        np.testing.assert_array_equal(record.start_state["state"], walk(number)["states"][0])
        assert record.metadata["model_file"] == describe_model(number)
        masks = {f"mask_{name}": number in demos for name, demos in MASKS.items()}
        assert {name: value for name, value in record.metadata.items() if name in masks} == masks
        assert (record.metadata["file"], record.metadata["demo"]) == ("demo.hdf5", f"demo_{number}")
    assert source.env_name == "Lift"
    assert source.runs[0]["env_args"]["env_kwargs"] == {"control_freq": 20}
    notes = "\n".join(source.notes)
    assert "masks taken as splits: train, valid" in notes
    assert "metadata of the episodes alone: 20_percent, better" in notes
    assert "dones before the last row, which end no episode (in 1 episodes)" in notes  # demo_2 is solved early


def test_episodes_are_chosen_by_a_mask(file, tmp_path):
    folder = import_dataset("robomimic", file[0], "lab/lift", license="mit", store=tmp_path, progress=False)
    chosen = RoboHiveDataset(folder).where("metadata.mask_better")
    assert len(chosen) == sum(LENGTHS[number] for number in MASKS["better"])
    assert {"train", "valid", "other"} == {*RoboHiveDataset(folder).manifest.splits}


def test_overlapping_masks_become_no_splits(file):
    path, _ = file
    with pytest.raises(SchemaMismatchError, match=r"mask/train: .* mask/better lacks, got demo_0 in both.*split_masks"):
        open_source("robomimic", path, split_masks=["better", "train"])
    assert [record.split for record in read(path, split_masks="better")] == ["better", "better", "other", "better"]
    assert {record.split for record in read(path, split_masks="none", split="all")} == {"all"}
    with pytest.raises(
        SchemaMismatchError, match="split_masks='best': expected one of 20_percent, better, train, valid"
    ):
        open_source("robomimic", path, split_masks="best")


def test_missing_rewards_and_dones_count_as_not_recorded(file):
    path, h5 = file
    for number in LENGTHS:
        del h5[f"data/demo_{number}/rewards"], h5[f"data/demo_{number}/dones"]
    h5.flush()
    for number, record in zip(LENGTHS, read(path), strict=True):
        assert record.ended == "unfinished"
        assert "next.reward" not in record.columns
        np.testing.assert_array_equal(record.columns["action"], walk(number)["actions"])
        np.testing.assert_array_equal(record.final["observation.object"], observe(walk(number)["states"][-1])["object"])


def test_a_camera_without_next_obs_shortens_what_was_cut_off(file):
    """A file with next_obs for numbers alone: numbers and pictures stay of the same moment."""
    path, h5 = file
    for number in LENGTHS:
        del h5[f"data/demo_{number}/next_obs/agentview_image"]
    h5.flush()
    records = dict(zip(LENGTHS, read(path), strict=True))
    assert records[1].length == LENGTHS[1] - 1  # not solved
    last = observe(walk(1)["states"][-2], with_camera=True)
    np.testing.assert_array_equal(records[1].final["pixels.agentview_image"], last["agentview_image"])
    np.testing.assert_array_equal(records[1].final["observation.object"], last["object"])
    assert records[0].length == LENGTHS[0]
    assert records[0].metadata["final_observation"] == "unknown"


def test_the_final_observation_may_stand_in_obs(file):
    path, h5 = file
    for number in LENGTHS:
        group = h5[f"data/demo_{number}"]
        for name in list(group["obs"]):
            rows = np.concatenate([group[f"obs/{name}"][()], group[f"next_obs/{name}"][-1:]])
            del group[f"obs/{name}"]
            group[f"obs/{name}"] = rows
        del group["next_obs"]
    h5.flush()
    for number, record in zip(LENGTHS, read(path), strict=True):
        np.testing.assert_array_equal(record.final["observation.object"], observe(walk(number)["states"][-1])["object"])
        assert record.length == LENGTHS[number]


def test_next_obs_that_does_not_follow_is_noted(file):
    path, h5 = file
    h5["data/demo_0/next_obs/object"][1] = 77
    h5.flush()
    notes = "\n".join(open_source("robomimic", path).notes)
    assert "/object of next_obs, which differs from obs (in 1 episodes)" in notes


def test_states_alone_are_the_observation():
    """What robosuite collects, before observations are rendered."""
    for number, record in zip(LENGTHS, read(FILES / "raw.hdf5"), strict=True):
        np.testing.assert_array_equal(record.columns["observation"], walk(number)["states"][:-2])
        np.testing.assert_array_equal(record.final["observation"], walk(number)["states"][-2])
        assert record.ended == "unfinished"


def test_libero_and_mimicgen(file):
    """LIBERO's instruction and initial state, MimicGen's datagen_info, by their documented layout."""
    path, h5 = file
    h5["data"].attrs["problem_info"] = json.dumps({"language_instruction": ["pick", "up", "the", "bowl"]})
    h5["data"].attrs["bddl_file_name"] = "bowl.bddl"
    for number, length in LENGTHS.items():
        group = h5[f"data/demo_{number}"]
        group["robot_states"], group["datagen_info/eef_pose/x"] = np.ones((length, 9)), np.zeros((length, 4, 4))
        group["src_demo_inds"] = np.arange(2)
        group.attrs["ep_meta"] = json.dumps({"lang": "not this", "layout_id": 3})
    h5.flush()
    source = open_source("robomimic", path)
    record = next(source.records())
    assert record.metadata["task"] == "pick up the bowl"
    assert record.metadata["ep_meta"]["layout_id"] == 3
    assert record.columns["info.robot_states"].shape == (LENGTHS[0], 9)
    assert record.columns["info.datagen_info.eef_pose.x"].shape == (LENGTHS[0], 4, 4)
    assert source.runs[0]["bddl_file_name"] == "bowl.bddl"
    assert "src_demo_inds, which has no row for each action (in 4 episodes)" in "\n".join(source.notes)


@pytest.mark.slow
def test_a_folder_is_read_file_by_file(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        shutil.copy(FILES / "demo.hdf5", tmp_path / name / "demo.hdf5")
    records = read(tmp_path)
    assert [record.episode for record in records] == list(range(2 * len(LENGTHS)))
    assert [record.metadata["file"] for record in records] == ["a/demo.hdf5"] * 4 + ["b/demo.hdf5"] * 4


def test_an_external_link_is_refused(file, tmp_path):
    path, h5 = file
    del h5["data/demo_1/actions"]
    h5["data/demo_1/actions"] = h5py.ExternalLink(str(tmp_path / "other.hdf5"), "/secret")
    h5.flush()
    with pytest.raises(SchemaMismatchError, match="external link"):
        open_source("robomimic", path)


@pytest.mark.parametrize("text", ["{", "[" * 50_000])
def test_malformed_json_is_refused(file, text):
    path, h5 = file
    h5["data"].attrs["env_args"] = text
    h5.flush()
    with pytest.raises(SchemaMismatchError, match="data, attribute env_args: expected JSON"):
        open_source("robomimic", path)


def test_json_of_another_kind_is_kept_and_is_no_instruction(file):
    path, h5 = file
    h5["data"].attrs["problem_info"] = "3"
    h5["data/demo_0"].attrs["ep_meta"] = "[1]"
    h5.flush()
    record = read(path)[0]
    assert record.metadata["ep_meta"] == [1]
    assert "task" not in record.metadata


@pytest.mark.parametrize(("last", "ended"), [(1, "terminated"), (0, "truncated"), (-1, "truncated")])
def test_the_last_done_ends_the_task_unless_the_reward_says_otherwise(file, last, ended):
    path, h5 = file
    h5["data/demo_1/dones"][-1], h5["data/demo_1/rewards"][-1] = 1, last
    h5.flush()
    assert read(path)[1].ended == ended


def test_rewards_that_are_not_one_a_row_are_left_out_or_refused(file):
    path, h5 = file
    del h5["data/demo_1/rewards"]
    h5["data/demo_1/rewards"] = np.zeros(LENGTHS[1] - 1)
    h5["data/demo_1/dones"][-1] = 1
    h5.flush()
    record = read(path, skip_episode=[0, 2, 3])[0]
    assert (record.ended, "next.reward" in record.columns) == ("terminated", False)
    del h5["data/demo_1/rewards"]
    h5["data/demo_1/rewards"] = np.zeros((LENGTHS[1], 2))
    h5.flush()
    with pytest.raises(SchemaMismatchError, match=r"demo_1: column next\.reward: expected one number"):
        open_source("robomimic", path)


def test_a_file_of_another_layout_is_refused(tmp_path):
    for name, missing in (
        ("other", "group data"),
        ("data/demo_0/obs/x", "expected actions"),
        ("data/x", "expected demonstrations"),
    ):
        with h5py.File(tmp_path / "x.hdf5", "w") as h5:
            h5[name] = np.zeros(3)
        with pytest.raises(SchemaMismatchError, match=missing):
            open_source("robomimic", tmp_path / "x.hdf5")
