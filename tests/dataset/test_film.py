"""Videos of recorded episodes."""

import contextlib

import numpy as np
import pytest
from tensordict import TensorDict

from rlhive import Recorder, RoboHiveDataset
from rlhive.data.formats import write_gif
from rlhive.errors import InvalidOptionError, ReplayRefusedError, SchemaMismatchError, StoreNotWritableError

Image = pytest.importorskip("PIL.Image")


@pytest.fixture
def pictures(store):
    """A dataset with two cameras of one colour per step, 6 states."""
    shades = np.arange(6, dtype=np.uint8) * 40
    frames = np.broadcast_to(shades[:, None, None, None, None], (6, 2, 16, 16, 3)).copy()
    frames[:, 1] //= 2
    done = np.arange(5)[:, None] == 4
    ends = {"done": done, "terminated": done, "truncated": done & ~done, "reward": np.zeros((5, 1), np.float32)}
    transitions = {"pixels": frames[:5], "action": np.zeros((5, 1), np.float32), "next": {"pixels": frames[1:], **ends}}
    with Recorder("film", fps=5) as recorder:
        recorder.add_episode(TensorDict(transitions, batch_size=5))
        recorder.commit(license="mit")
    return frames


def test_a_gif_shows_every_stored_picture_with_its_cameras_side_by_side(pictures, tmp_path) -> None:
    path = RoboHiveDataset("film").save_video(0, tmp_path / "new" / "a.gif")
    with Image.open(path) as gif:
        assert (gif.n_frames, gif.size, gif.info["duration"]) == (6, (32, 16), 200)
        for index in range(6):
            gif.seek(index)
            frame = np.asarray(gif.convert("RGB"))
            assert np.abs(frame[8, 8].astype(int) - pictures[index, 0, 8, 8]).max() <= 2
            assert np.abs(frame[8, 24].astype(int) - pictures[index, 1, 8, 8]).max() <= 2
    assert [file.name for file in path.parent.iterdir()] == ["a.gif"]


def test_an_mp4_has_the_rate_of_the_dataset(pictures, tmp_path) -> None:
    av = pytest.importorskip("av")
    path = RoboHiveDataset("film").save_video(0, tmp_path / "a.mp4")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.average_rate, stream.width, stream.height) == (5, 32, 16)
        assert len(list(container.decode(stream))) == 6


def test_what_cannot_be_filmed_is_said(pictures, filled_toy, tmp_path) -> None:
    dataset = RoboHiveDataset("film")
    with pytest.raises(InvalidOptionError, match=r"expected a file named \.mp4 or \.gif"):
        dataset.save_video(0, tmp_path / "a.avi")
    with pytest.raises(SchemaMismatchError, match="There is no episode 3"):
        dataset.save_video(3, tmp_path / "a.gif")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreNotWritableError, match="No video can be written to"):
        dataset.save_video(0, tmp_path / "file" / "a.gif")
    with pytest.raises(InvalidOptionError, match="ToyPoint-v0 has no camera for a video"):
        RoboHiveDataset("toy_point").save_video(0, tmp_path / "a.gif")
    assert not list(tmp_path.glob("a.*"))


@pytest.fixture
def filled_toy(collected, store):
    """The toy dataset beside the one with pictures."""
    import shutil

    shutil.copytree(collected, store, dirs_exist_ok=True)


@pytest.mark.slow
def test_states_without_pictures_are_rendered_again(store, tmp_path) -> None:
    pytest.importorskip("robohive")
    from dataclasses import replace

    from rlhive.envs import Recipe, get_task
    from rlhive.rollouts import collect

    task = replace(get_task("reach"), name="few", recipe=Recipe("1.0.0", {"expert": 1}, "mit"))
    dataset = RoboHiveDataset(collect(task, num_workers=1, progress=False))
    with Image.open(dataset.save_video(0, tmp_path / "a.gif")) as gif:
        first = np.asarray(gif.convert("RGB")).astype(int)
        assert gif.n_frames == 51
        gif.seek(20)
        later = np.asarray(gif.convert("RGB")).astype(int)
    assert first.shape == (480, 640, 3)
    assert first.std() > 10
    assert np.abs(first - later).max() > 30  # the arm has moved


def test_a_slow_recording_is_shown_within_the_limits_of_the_format(tmp_path) -> None:
    write_gif(tmp_path / "a.gif", [np.full((4, 4, 3), shade, np.uint8) for shade in (0, 200)], fps=1e-6)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.info["duration"] == 600_000


def test_an_episode_that_cannot_be_stepped_again_is_refused_in_a_sentence(filled_toy, tmp_path, monkeypatch) -> None:
    dataset = RoboHiveDataset("toy_point")

    @contextlib.contextmanager
    def open_camera(env, camera):
        monkeypatch.setattr(type(env), "step", lambda *_: [][1])
        yield type("Camera", (), {"draw": lambda self: np.zeros((8, 8, 3), np.uint8)})()

    monkeypatch.setattr("rlhive.envs.open_camera", open_camera)
    with pytest.raises(
        ReplayRefusedError, match=r"Episode 0 of .*toy_point cannot be stepped again: list index out of"
    ):
        dataset.save_video(0, tmp_path / "a.gif")
    assert not list(tmp_path.glob("*.gif*"))
