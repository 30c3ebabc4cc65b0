"""LeRobot datasets, written by LeRobot's writer (make_lerobot.py), and RLHive's exports read by LeRobot."""

import hashlib
import json
import os
import shutil
import subprocess
from dataclasses import replace

import av
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from benchmarks.peers.environments import VENVS
from rlhive import RoboHiveDataset, check
from rlhive.data._episodes import EpisodeRecord
from rlhive.data._schema import Schema
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


def spoken_episodes():
    """Episodes of a robot that was told what to do, once or in steps, with columns of every kind; and their schema."""
    for episode, words in enumerate((["reach"] * 2, ["reach", "greif", "greif"], ["lift №1", ""])):
        generator = np.random.default_rng(episode)
        length = len(words)
        columns = {
            "observation": generator.normal(size=(length, 2)),
            "joints": generator.normal(size=(length, 3)).astype(np.float32),
            "grip": generator.normal(size=length).astype(np.float32),
            "pixels": generator.integers(0, 256, (length, 4, 5, 3), dtype=np.uint8),
            "success": np.zeros((length, 1), bool),
            "instruction": np.array(words, object),
            "task": np.array(["part one", *[""] * (length - 1)], object),
            "action": generator.normal(size=(length, 3)).astype(np.float32),
            "next.reward": generator.normal(size=(length, 1)),
            **end_flags(length, terminated=None),
        }
        columns["success"][-1] = episode == 1  # of the step: the column has no value after the last action
        final = {name: columns[name][-1] for name in ("observation", "joints", "grip", "pixels")} | {"instruction": ""}
        arrays = EpisodeArrays(columns, final, f"episode {episode}")
        schema = arrays.infer_schema()
        yield schema, arrays.to_record(schema, episode=episode, split="train", metadata={"operator": "Åsa", "trial": 3})


@pytest.fixture
def spoken(tmp_path):
    """The episodes, and the folder of a version that holds them."""
    schemas, records = zip(*spoken_episodes(), strict=True)
    return list(records), export(records, "lab/spoken", schema=schemas[0], license="mit", store=tmp_path / "spoken")


class TestLeRobotOfATeleoperatedRobot(WritableFormatTests):
    """A dataset that RLHive wrote: instructions per frame, another state, texts, scalars, success of the steps."""

    format = LeRobot()
    ignored_files = ("stats.json", "tasks.parquet", "README.md")
    write_options = {"fps": 30, "task_from": "instruction", "state": "joints"}  # noqa: RUF012

    @pytest.fixture
    def source(self, spoken, tmp_path):
        return export_to("lerobot", spoken[1], tmp_path / "out", progress=False, **self.write_options)

    @pytest.fixture
    def expected(self, spoken):
        return [
            ExpectedEpisode(
                {name: rows for name, rows in record.columns.items() if not name.startswith("next.t")},
                record.final,
                record.ended,
                split=record.split,
                metadata=record.metadata,
            )
            for record in spoken[0]
        ]


def read_task_files(target):
    """Return the tasks by number, those of the frames and those of the episodes, as LeRobot's files hold them."""
    table = pd.read_parquet(target / "meta" / "tasks.parquet")
    assert table["task_index"].tolist() == list(range(len(table)))
    frames = pd.read_parquet(target / "data").task_index.tolist()
    episodes = pd.read_parquet(target / "meta" / "episodes")["tasks"]
    return list(table.index), [table.index[index] for index in frames], [list(tasks) for tasks in episodes]


def test_every_frame_keeps_its_instruction(spoken, tmp_path):
    target = export_to("lerobot", spoken[1], tmp_path / "out", progress=False, fps=30, task_from="instruction")
    tasks, frames, episodes = read_task_files(target)
    assert tasks == ["reach", "greif", "lift №1", ""]
    assert frames == ["reach", "reach", "reach", "greif", "greif", "lift №1", ""]
    assert episodes == [["reach"], ["reach", "greif"], ["lift №1", ""]]


def export_with_metadata(path, *metadata, **options):
    """Export episodes of one step, one for each metadata, and return what read_task_files does."""
    columns = {"observation": np.zeros((1, 2)), "action": np.zeros((1, 2)), **end_flags(1, terminated=False)}
    arrays = EpisodeArrays(columns, {"observation": np.zeros(2)}, "episode")
    schema = arrays.infer_schema()
    records = [
        arrays.to_record(schema, episode=episode, split="train", metadata=values)
        for episode, values in enumerate(metadata)
    ]
    folder = export(records, "lab/m", schema=schema, license="mit", description="Arm.", store=path)
    return read_task_files(export_to("lerobot", folder, path / "out", progress=False, fps=10, **options))


def test_the_metadata_give_an_episode_its_instruction(tmp_path):
    metadata = {"instruction": "open"}, {"task": "close"}, {"language_instruction": "open"}, {"task": {"id": 3}}, {}
    tasks, frames, episodes = export_with_metadata(tmp_path / "a", *metadata)
    assert tasks == ["open", "close", "Arm."]
    assert frames == ["open", "close", "open", "Arm.", "Arm."]
    assert episodes == [[task] for task in frames]
    # The option fills in where an episode has no instruction, and takes none away.
    assert export_with_metadata(tmp_path / "b", *metadata, task="wave")[1] == ["open", "close", "open", "wave", "wave"]
    named = [{"prompt": "push", "task": "x"}, {"prompt": "pull"}]
    assert export_with_metadata(tmp_path / "c", *named, task_from="prompt")[1] == ["push", "pull"]
    with pytest.raises(UnsupportedFormatError, match=r"episode 1: expected an instruction in .* 'prompt', got none"):
        export_with_metadata(tmp_path / "d", named[0], {"task": "x"}, task_from="prompt")
    assert not (tmp_path / "d" / "out").exists()
    with pytest.raises(UnsupportedFormatError, match="task_from='action': expected a column of strings, got float64"):
        export_with_metadata(tmp_path / "e", {}, task_from="action")


@pytest.mark.parametrize(
    ("state", "names"),
    [
        (None, {"observation.state": "observation", "joints": "joints"}),
        ("joints", {"observation.state": "joints", "observation": "observation"}),
        ("none", {"observation": "observation", "joints": "joints"}),
    ],
)
def test_the_export_names_the_state(spoken, tmp_path, state, names):
    records, folder = spoken
    target = export_to("lerobot", folder, tmp_path / "out", progress=False, fps=30, state=state)
    features = json.loads((target / "meta" / "info.json").read_text())["features"]
    assert set(names) == features.keys() & {"observation.state", "observation", "joints"}
    frames = pd.read_parquet(target / "data")
    for feature, column in names.items():
        stored = np.stack(frames[feature])
        assert features[feature]["shape"] == list(stored.shape[1:])
        np.testing.assert_array_equal(stored, np.concatenate([record.columns[column] for record in records]))


@pytest.mark.parametrize("state", ["action", "pixels", "instruction", "velocity"])
def test_a_state_that_is_no_vector_is_refused(spoken, tmp_path, state):
    expected = f"state='{state}': expected a column of numbers of one dimension: grip, joints, observation; or none"
    with pytest.raises(UnsupportedFormatError, match=expected):
        export_to("lerobot", spoken[1], tmp_path / "out", progress=False, fps=30, state=state)
    assert not (tmp_path / "out").exists()


def test_two_columns_are_never_one_feature(tmp_path):
    columns = {"success": np.zeros((1, 1), bool), "task": np.array(["a"], object), "task_text": np.zeros((1, 2))}
    arrays = EpisodeArrays({**columns, **end_flags(1, terminated=False)}, {}, "episode")
    schema = arrays.infer_schema()
    record = arrays.to_record(schema, episode=0, split="train")
    folder = export([record], "lab/twice", schema=schema, license="mit", store=tmp_path)
    with pytest.raises(UnsupportedFormatError, match="Key task_text: would be task_text, as task is"):
        export_to("lerobot", folder, tmp_path / "out", progress=False, fps=10)


@pytest.mark.parametrize("rows", [[], {"action": {}}, {"action": {"column": "a", "shape": 3}}, {"action": "a"}])
def test_malformed_names_of_columns_are_refused(spoken, tmp_path, rows):
    target = export_to("lerobot", spoken[1], tmp_path / "out", progress=False, fps=30)
    info = json.loads((target / "meta" / "info.json").read_text())
    (target / "meta" / "info.json").write_text(json.dumps(info | {"rlhive_columns": rows or ["action"]}))
    with pytest.raises(SchemaMismatchError, match="rlhive_columns: expected column and shape of features"):
        list(read_lerobot(target).records())


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


@pytest.fixture(params=["lerobot", "lerobot06"])
def peer(request):
    """Folder of the programs of an environment with lerobot 0.4 or 0.6."""
    if not (VENVS / request.param).exists():
        pytest.skip(f"needs LeRobot's environment: python -m benchmarks.peers.environments {request.param}")
    return VENVS / request.param / "bin"


def run_lerobot(command, home):
    """Return what a program of LeRobot's environment prints; it finds nothing of this project."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    clean |= {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    ran = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=clean)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return ran.stdout


def read_with_lerobot(peer, target, home):
    """Return what LeRobot, in an environment of its own, reads from a folder."""
    return json.loads(run_lerobot([peer / "python", make_lerobot.__file__, "read", target], home))


@pytest.mark.slow
def test_lerobot_reads_an_exported_version(peer, records_and_target, tmp_path):
    records, target = records_and_target
    read_back = read_with_lerobot(peer, target, tmp_path)
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


@pytest.mark.slow
def test_lerobot_reads_the_instruction_of_every_frame(peer, spoken, tmp_path):
    records, folder = spoken
    target = export_to(
        "lerobot", folder, tmp_path / "out", progress=False, fps=30, task_from="instruction", state="joints"
    )
    frames = read_with_lerobot(peer, target, tmp_path)["frames"]
    for name, feature in {"task": "instruction", "instruction": "instruction", "task_text": "task"}.items():
        assert [frame[name] for frame in frames] == [text for record in records for text in record.columns[feature]]
    for name, feature in {"observation.state": "joints", "observation": "observation"}.items():
        rows = np.concatenate([record.columns[feature] for record in records])
        np.testing.assert_allclose([frame[name] for frame in frames], rows, rtol=1e-7)


def smooth_episodes():
    """Episodes of smooth pictures of two cameras, which a video keeps nearly."""
    for schema, record in own_episodes():
        rows = record.length + 1
        steps, places = np.arange(rows)[:, None, None, None, None], np.arange(64)
        pictures = np.broadcast_to(steps * 9 + places[:, None, None] + 10 * record.episode, (rows, 2, 64, 64, 3))
        pictures = pictures.astype(np.uint8)
        columns = record.columns | {"pixels": pictures[:-1]}
        final = record.final | {"pixels": pictures[-1]}
        fields = (replace(item, shape=(2, 64, 64, 3)) if item.column == "pixels" else item for item in schema.fields)
        yield Schema(tuple(fields)), replace(record, columns=columns, final=final)


@pytest.fixture
def smooth(tmp_path):
    schemas, records = zip(*smooth_episodes(), strict=True)
    folder = export(records, "lab/smooth", schema=schemas[0], license="mit", description="A test.", store=tmp_path)
    return list(records), folder


def decode_with_av(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_pictures_become_videos_with_lerobots_defaults(smooth, tmp_path):
    records, folder = smooth
    target = export_to("lerobot", folder, tmp_path / "out", progress=False, fps=12, video=True)
    info = json.loads((target / "meta/info.json").read_text())
    theirs = json.loads((FILES / "v3.0-video/meta/info.json").read_text())
    camera = info["features"]["observation.images.1"]
    expected = theirs["features"]["observation.images.top"]
    assert (camera["dtype"], camera["shape"]) == (expected["dtype"], expected["shape"])
    assert camera["info"] == expected["info"] | {"video.fps": 12}
    assert info["video_path"] == theirs["video_path"]
    with av.open(str(next((target / "videos/observation.images.1").rglob("*.mp4")))) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.codec.canonical_name, stream.average_rate, stream.frames) == ("av1", 12, 11)
        assert [entry.is_keyframe for entry in stream.index_entries][:4] == [True, False, True, False]
    frames = [decode_with_av(path) for path in sorted((target / "videos/observation.images.1").rglob("*.mp4"))]
    again = {record.seed: record for record in read_lerobot(target).records()}
    read = np.concatenate([again[record.seed].columns["pixels.1"] for record in ordered(records, target)])
    np.testing.assert_array_equal(read, np.concatenate(frames))  # bit for bit what PyAV decodes
    pictures = np.concatenate([record.columns["pixels"][:, 1] for record in ordered(records, target)])
    error = np.square(read.astype(float) - pictures).mean()
    assert 10 * np.log10(255**2 / error) > 35
    (row, *_) = pq.read_table(target / "meta/episodes").to_pylist()
    assert np.shape(row["stats/observation.images.1/mean"]) == (3, 1, 1)


def ordered(records, target):
    """Return the records in the order of the episodes of an export."""
    seeds = pq.read_table(target / "meta/rlhive_episodes.parquet").column("seed").to_pylist()
    return sorted(records, key=lambda record: seeds.index(record.seed))


def test_a_version_of_videos_is_copied(smooth, tmp_path):
    """The packets are those of the version, so nothing more is lost; video=False decodes them."""
    records, _ = smooth
    schemas, records = zip(*smooth_episodes(), strict=True)
    folder = export(
        records, "lab/h264", schema=schemas[0], license="mit", store=tmp_path, storage={"pixels": "h264:crf=30"}
    )
    served = RoboHiveDataset(folder).as_tensordict()["pixels"].numpy()
    target = export_to("lerobot", folder, tmp_path / "copied", progress=False, fps=12)
    assert (
        json.loads((target / "meta/info.json").read_text())["features"]["observation.images.0"]["info"]["video.codec"]
        == "h264"
    )
    for camera in (0, 1):
        read = np.concatenate([record.columns[f"pixels.{camera}"] for record in read_lerobot(target).records()])
        np.testing.assert_array_equal(read, served[:, camera])
    target = export_to("lerobot", folder, tmp_path / "decoded", progress=False, fps=12, video=False)
    read = np.concatenate([record.columns["pixels.0"] for record in read_lerobot(target).records()])
    np.testing.assert_array_equal(read, served[:, 0])
    assert not (target / "videos").exists()


def read_packets(folder):
    """Return the packets of all videos below a folder."""
    packets = []
    for path in sorted(folder.rglob("*.mp4")):
        with av.open(str(path)) as container:
            packets += [bytes(packet) for packet in container.demux(video=0) if packet.size]
    return packets


@pytest.mark.parametrize("kind", ["v3.0-video", pytest.param("v2.1-video", marks=pytest.mark.slow)])
@pytest.mark.parametrize("reward", [pytest.param(None, marks=pytest.mark.slow), "sparse"])
def test_a_version_keeps_the_packets_of_a_video(kind, reward, tmp_path):
    """Nothing is encoded again; the last frame of an episode that was solved is its final observation too."""
    options = {"license": "mit", "store": tmp_path, "progress": False}
    folder = import_dataset("lerobot", FILES / kind, "lab/frames", reward=reward, **options)
    dataset = RoboHiveDataset(folder)
    assert str(dataset.schema["pixels.top"].storage).startswith("av1:")
    packets = read_packets(FILES / kind)
    assert read_packets(folder) == packets
    assert len(packets) == sum(LENGTHS)
    records = list(read_lerobot(FILES / kind).records())
    following = [np.concatenate([r.columns["pixels.top"][1:], r.final["pixels.top"][None]]) for r in records]
    pictures = {"row": np.concatenate([r.columns["pixels.top"] for r in records]), "next": np.concatenate(following)}
    for cache in ("raw", "none"):
        batch = dataset.as_replay_buffer(image_cache=cache)[:]
        np.testing.assert_array_equal(batch["pixels", "top"], pictures["row"])
        np.testing.assert_array_equal(batch["next", "pixels", "top"], pictures["next"])
    assert check(folder).ok
    chosen = dataset.select([0, 2]).save("lab/chosen")
    np.testing.assert_array_equal(
        chosen.as_tensordict()["next", "pixels", "top"], np.concatenate([following[0], following[2]])
    )


@pytest.mark.parametrize("first", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_a_video_with_frames_out_of_order_is_decoded(first, tmp_path):
    """Its packets are no frames of a version: the pictures become PNG, also where only the last episode has such."""
    source = shutil.copytree(FILES / "v2.1-video", tmp_path / "frames")
    for path in sorted(source.rglob("*.mp4"))[first:]:
        frames = decode_with_av(path)
        with av.open(str(path), "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=10, options={"bf": "2", "crf": "1"})
            stream.width = stream.height = 64
            stream.pix_fmt = "yuv420p"
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode(None))
    folder = import_dataset("lerobot", source, "lab/frames", license="mit", store=tmp_path, progress=False)
    dataset = RoboHiveDataset(folder)
    assert dataset.schema["pixels.top"].storage == "png"
    read = np.concatenate([record.columns["pixels.top"] for record in read_lerobot(source).records()])
    np.testing.assert_array_equal(dataset.as_tensordict()["pixels", "top"], read)


def test_pictures_that_no_video_holds_are_refused(tmp_path):
    pictures = np.zeros((3, 33, 32, 3), np.uint8)
    columns = {"pixels": pictures[:-1], "action": np.zeros((2, 1)), **end_flags(2, terminated=False)}
    arrays = EpisodeArrays(columns, {"pixels": pictures[-1]}, "episode 0")
    schema = arrays.infer_schema()
    record = arrays.to_record(schema, episode=0, split="train")
    folder = export([record], "lab/odd", schema=schema, license="mit", store=tmp_path)
    with pytest.raises(UnsupportedFormatError, match=r"Key pixels: cannot be a video: .* even H and W.*without"):
        export_to("lerobot", folder, tmp_path / "out", progress=False, fps=12, video=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_lerobot_decodes_an_exported_video(peer, smooth, tmp_path):
    _, folder = smooth
    target = export_to("lerobot", folder, tmp_path / "out", progress=False, fps=12, video=True)
    read_back = read_with_lerobot(peer, target, tmp_path)
    theirs = np.array([frame["observation.images.1"] for frame in read_back["frames"]]).transpose(0, 2, 3, 1) * 255
    ours = np.concatenate([record.columns["pixels.1"] for record in read_lerobot(target).records()])
    np.testing.assert_allclose(theirs, ours, atol=1e-3)
    assert np.shape(read_back["statistics"]["observation.images.1"]["mean"]) == (3, 1, 1)


@pytest.mark.slow
def test_two_cameras_that_lerobot_wrote_have_the_frames_of_its_loader(peer, tmp_path):
    source = tmp_path / "cameras"
    run_lerobot([peer / "python", make_lerobot.__file__, "cameras", source, "2"], tmp_path)
    expected = json.loads(run_lerobot([peer / "python", make_lerobot.__file__, "digest", source], tmp_path))
    dataset = RoboHiveDataset(f"lerobot:{source}", reward="sparse", success="all", store=tmp_path / "store")
    assert len(dataset) == len(expected["observation.images.top"]) == 40 + 41
    for name, hashes in expected.items():
        pictures = dataset.as_tensordict()["pixels", name.rpartition(".")[2]].numpy()
        assert [hashlib.sha256(picture.tobytes()).hexdigest() for picture in pictures] == hashes
    videos = [path.stat().st_nlink for path in dataset.path.rglob("*.mp4")]
    assert videos == [2, 2]


@pytest.mark.slow
@pytest.mark.parametrize("video", [True, False])
def test_lerobot_visualises_an_exported_version(smooth, tmp_path, video):
    """Its command writes what its viewer shows of an episode to a file."""
    program = VENVS / "lerobot06/bin/lerobot-dataset-viz"
    if not program.exists():
        pytest.skip("needs LeRobot's environment: python -m benchmarks.peers.environments lerobot06")
    _, folder = smooth
    target = export_to("lerobot", folder, tmp_path / "out", progress=False, fps=12, video=video)
    command = [program, "--repo-id", "lab/ours", "--root", target, "--episode-index", "1", "--save", "1"]
    run_lerobot([*command, "--output-dir", tmp_path / "shown"], tmp_path)
    (recording,) = (tmp_path / "shown").iterdir()
    shown = run_lerobot([VENVS / "lerobot06/bin/rerun", "rrd", "print", recording], tmp_path)
    for entity in ("observation.images.0", "observation.images.1", "action", "state", "next.reward"):
        assert entity in shown


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
