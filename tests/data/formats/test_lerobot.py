"""LeRobot datasets, written by LeRobot's writer (make_lerobot.py), and RLHive's exports read by LeRobot."""

import json
import os
import shutil
import subprocess

import numpy as np
import pytest

from benchmarks.peers.environments import VENVS
from rlhive import RoboHiveDataset
from rlhive.data._episodes import EpisodeRecord
from rlhive.data.formats._builtin import LeRobot
from rlhive.data.formats._convert import export_to, import_dataset
from rlhive.data.formats._episode_source import EpisodeArrays, end_flags
from rlhive.data.formats._lerobot import read_lerobot
from rlhive.data.versions._export import export
from rlhive.errors import SchemaMismatchError, UnsupportedFormatError
from rlhive.testing import ExpectedEpisode, WritableFormatTests
from tests.data.formats import make_lerobot
from tests.data.formats.make_lerobot import FILES, LENGTHS, SOLVED, TASKS, truth

LOSSLESS = "v3.0-image"


class TestLeRobot(WritableFormatTests):
    """A dataset that LeRobot wrote, with pictures as PNG."""

    format = LeRobot()
    ignored_files = ("stats.json", "tasks.parquet")

    @pytest.fixture
    def source(self, tmp_path):
        return shutil.copytree(FILES / LOSSLESS, tmp_path / LOSSLESS)

    @pytest.fixture
    def expected(self):
        episodes = []
        for episode, solved in enumerate(SOLVED):
            frames, length = truth(episode), LENGTHS[episode] - (not SOLVED[episode])
            columns = {
                "observation": frames["observation.state"][:length],
                "pixels.top": frames["observation.images.top"][:length],
                "action": frames["action"][:length],
                "next.reward": frames["next.reward"][:length],
                "success": np.zeros((length, 1), bool),
            }
            final = {
                "observation": frames["observation.state"][-1],
                "pixels.top": frames["observation.images.top"][-1],
                "success": np.array([solved]),
            }
            ended, metadata = "terminated" if solved else "truncated", {"task": TASKS[episode]}
            episodes.append(ExpectedEpisode(columns, final, ended, metadata=metadata))
        return episodes


class TestLeRobotOfRLHive(WritableFormatTests):
    """A dataset that RLHive wrote: float64, two cameras of random pixels that are not square, splits and seeds."""

    format = LeRobot()
    ignored_files = ("stats.json", "tasks.parquet", "README.md")
    write_options = {"fps": 12, "task": "turn the knob"}  # noqa: RUF012

    @pytest.fixture
    def source(self, records_and_target):
        return records_and_target[1]

    @pytest.fixture
    def expected(self, records_and_target):
        episodes = []
        for record in records_and_target[0]:
            columns, final = dict(record.columns), dict(record.final)
            for flag in ("next.terminated", "next.truncated"):
                del columns[flag]
            pictures, last = columns.pop("pixels"), final.pop("pixels")
            columns |= {f"pixels.{camera}": pictures[:, camera] for camera in (0, 1)}
            final |= {f"pixels.{camera}": last[camera] for camera in (0, 1)}
            fields = {"split": record.split, "seed": record.seed, "metadata": record.metadata}
            episodes.append(ExpectedEpisode(columns, final, record.ended, **fields))
        return episodes


@pytest.mark.parametrize("kind", [LOSSLESS, "v3.0-video", "v2.1-video"])
def test_frames_become_transitions(kind):
    source = read_lerobot(FILES / kind)
    for episode, record in enumerate(source.records()):
        frames, solved = truth(episode), SOLVED[episode]
        # The state after the last action is in no file: a cut episode gives its last frame for it.
        length = LENGTHS[episode] if solved else LENGTHS[episode] - 1
        assert record.length == length
        assert record.ended == ("terminated" if solved else "truncated")
        assert record.metadata["task"] == TASKS[episode]
        assert ("final_observation" in record.metadata) == solved
        np.testing.assert_array_equal(record.columns["observation"], frames["observation.state"][:length])
        np.testing.assert_array_equal(record.final["observation"], frames["observation.state"][-1])
        np.testing.assert_array_equal(record.columns["action"], frames["action"][:length])
        np.testing.assert_array_equal(record.columns["next.reward"], frames["next.reward"][:length])
        assert record.success == solved
        assert not record.columns["success"].any()
        pictures, expected = record.columns["pixels.top"], frames["observation.images.top"][:length]
        assert pictures.dtype == np.uint8
        if kind == LOSSLESS:
            np.testing.assert_array_equal(pictures, expected)
        else:  # which frame of which episode it is survives the codec, the last bits do not
            assert np.abs(pictures.astype(int) - expected).max() < 16


def test_an_imported_version_serves_the_values_of_the_files(tmp_path):
    folder = import_dataset("lerobot", FILES / LOSSLESS, "lab/frames", license="mit", store=tmp_path, progress=False)
    dataset = RoboHiveDataset(folder)
    assert dataset.manifest.runs[0]["fps"] == make_lerobot.FPS
    batch = dataset.as_tensordict()
    assert batch["next", "done"].sum() == len(LENGTHS)
    np.testing.assert_array_equal(batch["pixels", "top"][:5], truth(0)["observation.images.top"])


def own_episodes():
    """Episodes as RLHive records them: float64, two cameras without names, a true final observation."""
    for episode, length in enumerate((4, 1, 6)):
        generator = np.random.default_rng(episode)
        columns = {
            "observation": generator.normal(size=(length, 5)),
            "pixels": generator.integers(0, 256, (length, 2, 8, 6, 3), dtype=np.uint8),
            "success": np.zeros((length, 1), bool),
            "action": generator.normal(size=(length, 3)).astype(np.float32),
            "next.reward": generator.normal(size=(length, 1)),
            **end_flags(length, terminated=episode == 0),
        }
        final = {
            "observation": generator.normal(size=5),
            "pixels": generator.integers(0, 256, (2, 8, 6, 3), dtype=np.uint8),
            "success": np.array([episode == 0]),
        }
        arrays = EpisodeArrays(columns, final, f"episode {episode}")
        schema = arrays.infer_schema()
        split, metadata = "expert" if episode else "random", {"task": f"task {episode}"}
        yield schema, arrays.to_record(schema, episode=episode, split=split, seed=7 + episode, metadata=metadata)


@pytest.fixture
def records_and_target(tmp_path) -> tuple[list[EpisodeRecord], os.PathLike]:
    schemas, records = zip(*own_episodes(), strict=True)
    folder = export(records, "lab/own", schema=schemas[0], license="mit", description="A test.", store=tmp_path)
    return list(records), export_to("lerobot", folder, tmp_path / "out", progress=False, fps=12)


def test_an_exported_version_is_imported_unchanged(records_and_target):
    records, target = records_and_target
    again = {record.seed: record for record in read_lerobot(target).records()}
    for record in records:
        back = again[record.seed]
        assert (back.split, back.ended, back.metadata) == (record.split, record.ended, record.metadata)
        for name in ("observation", "action", "next.reward", "next.terminated", "next.truncated", "success"):
            assert back.columns[name].dtype == record.columns[name].dtype
            np.testing.assert_array_equal(back.columns[name], record.columns[name])
        np.testing.assert_array_equal(back.final["observation"], record.final["observation"])
        for camera in (0, 1):
            np.testing.assert_array_equal(back.columns[f"pixels.{camera}"], record.columns["pixels"][:, camera])
            np.testing.assert_array_equal(back.final[f"pixels.{camera}"], record.final["pixels"][camera])


NEEDS = "needs LeRobot's environment: python -m benchmarks.peers.environments lerobot"


@pytest.mark.slow
@pytest.mark.skipif(not (VENVS / "lerobot").exists(), reason=NEEDS)
def test_lerobot_reads_an_exported_version(records_and_target, tmp_path):
    records, target = records_and_target
    command = [VENVS / "lerobot" / "bin" / "python", make_lerobot.__file__, "read", str(target)]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"HF_HOME": str(tmp_path)}
    read_back = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, env=clean).stdout)
    tasks = [frame["task"] for frame in read_back["frames"]]
    ordered = sorted(records, key=lambda record: tasks.index(record.metadata["task"]))
    assert (read_back["fps"], read_back["episodes"], len(read_back["frames"])) == (12, 3, 11)
    frames = iter(read_back["frames"])
    for index, record in enumerate(ordered):
        for row in range(record.length):
            frame = next(frames)
            assert frame["observation.state"] == pytest.approx(record.columns["observation"][row].tolist(), rel=1e-7)
            assert frame["action"] == record.columns["action"][row].tolist()
            assert frame["next.reward"] == pytest.approx(record.columns["next.reward"][row].item(), rel=1e-6)
            assert frame["next.done"] == (row == record.length - 1)
            assert frame["next.success"] == (record.success and row == record.length - 1)
            assert (frame["episode_index"], frame["frame_index"]) == (index, row)
            assert frame["timestamp"] == pytest.approx(row / 12)
            picture = np.round(np.array(frame["observation.images.1"]) * 255).astype(np.uint8).transpose(1, 2, 0)
            np.testing.assert_array_equal(picture, record.columns["pixels"][row, 1])
    rewards = np.concatenate([record.columns["next.reward"] for record in records])
    assert read_back["statistics"]["next.reward"]["mean"] == pytest.approx([rewards.mean()])
    assert read_back["statistics"]["next.reward"]["std"] == pytest.approx([rewards.std()])
    assert np.shape(read_back["statistics"]["observation.images.0"]["mean"]) == (3, 1, 1)


def test_data_that_lerobot_cannot_store_are_refused(tmp_path):
    columns = {"observation": np.zeros((2, 3, 3)), "action": np.zeros((2, 1)), **end_flags(2, terminated=False)}
    arrays = EpisodeArrays(columns, {"observation": np.zeros((3, 3))}, "episode 0")
    schema = arrays.infer_schema()
    record = arrays.to_record(schema, episode=0, split="train")
    folder = export([record], "lab/own", schema=schema, license="mit", store=tmp_path)
    with pytest.raises(UnsupportedFormatError, match="expected fps="):
        export_to("lerobot", folder, tmp_path / "out", progress=False)
    with pytest.raises(UnsupportedFormatError, match="LeRobot takes one dimension"):
        export_to("lerobot", folder, tmp_path / "out", progress=False, fps=10)
    assert not (tmp_path / "out").exists()


def test_damaged_datasets_are_refused(tmp_path):
    with pytest.raises(SchemaMismatchError, match="expected a LeRobot dataset"):
        read_lerobot(tmp_path)
    shutil.copytree(FILES / "v2.1-video", tmp_path / "short")
    (tmp_path / "short" / "data" / "chunk-000" / "episode_000001.parquet").unlink()
    with pytest.raises(SchemaMismatchError, match="episode 1: expected 3 frames"):
        list(read_lerobot(tmp_path / "short").records())
    info = tmp_path / "short" / "meta" / "info.json"
    info.write_text(info.read_text().replace("v2.1", "v9.0"))
    with pytest.raises(SchemaMismatchError, match=r"expected a codebase_version of v3.0, v2.1, v2.0, got 'v9.0'"):
        read_lerobot(tmp_path / "short")
