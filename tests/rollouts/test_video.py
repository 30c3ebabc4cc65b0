"""Videos of evaluated episodes: what is in the files, and that the numbers do not change."""

import dataclasses

import av
import numpy as np
import pytest
import torch

from rlhive.envs._robohive import RoboHiveEnv
from rlhive.envs._tasks import Task
from rlhive.errors import InvalidOptionError, MissingExtraError, StoreNotWritableError
from rlhive.rollouts import _video
from rlhive.rollouts._evaluate import evaluate
from rlhive.rollouts._rollout import get_cached_env
from rlhive.rollouts._video import film_episode, prepare_videos

STEPS = 4
REACH = Task("filmed", "FrankaReachRandom-v0", STEPS, "", env_kwargs={"max_episode_steps": STEPS})


class Sway:
    """Actions that depend on the seed, the step and torch's generator."""

    def begin_episode(self, seed):
        self.sign = 1 if seed % 2 else -1

    def __call__(self, tensordict):
        return tensordict.set("action", self.sign * (0.3 + 0.5 * torch.rand(9)))


def read_frames(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return stream.average_rate, [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]


@pytest.mark.slow
def test_the_first_episodes_are_filmed_and_the_numbers_are_the_same(opengl, tmp_path, monkeypatch):
    monkeypatch.setattr("rlhive.envs._episode_camera.VIDEO_SIZE", (49, 64))
    arguments = {"num_episodes": 3, "num_workers": 1, "progress": False}
    without = evaluate(Sway(), REACH, **arguments)
    with_videos = evaluate(Sway(), REACH, video_dir=tmp_path / "a" / "b", num_videos=2, **arguments)

    assert with_videos == without
    assert len(set(without.returns)) == 3
    names = sorted(path.name for path in (tmp_path / "a" / "b").iterdir())
    assert names == ["seed-1000000.mp4", "seed-1000001.mp4"]
    rate, frames = read_frames(tmp_path / "a" / "b" / names[0])
    assert rate == 1 / 0.08
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * (STEPS + 1)
    env = RoboHiveEnv(
        REACH.env_name, from_pixels=True, cameras=["left_cam"], image_size=(49, 64), render_quality="fast"
    )
    picture = env.reset(seed=1_000_000)["pixels"][0].numpy()[:48]
    env.close()
    # the grey values: a video holds a colour for four pixels
    assert np.abs(frames[0].mean(axis=-1) - picture.mean(axis=-1)).mean() < 3
    assert np.abs(frames[0].astype(float) - frames[-1]).mean() > 0.5  # the arm moved


def test_another_camera_is_filmed_and_an_unknown_one_is_named(opengl, tmp_path, monkeypatch):
    monkeypatch.setattr("rlhive.envs._episode_camera.VIDEO_SIZE", (48, 64))
    env = get_cached_env(REACH)
    for camera in ("top_cam", "left_cam"):
        film_episode(env, Sway(), seed=1, video=prepare_videos(tmp_path / camera, 1, camera))
    top, left = (read_frames(tmp_path / camera / "seed-1.mp4")[1][0] for camera in ("top_cam", "left_cam"))
    assert np.abs(top.astype(float) - left).mean() > 5
    with pytest.raises(InvalidOptionError, match="No camera named 'front': expected names out of left_cam"):
        film_episode(env, Sway(), seed=1, video=prepare_videos(tmp_path / "front", 1, "front"))
    assert list((tmp_path / "front").iterdir()) == []


class Walk:
    """Takes a step, then fails."""

    steps = 0

    def __call__(self, tensordict):
        self.steps += 1
        if self.steps == 2:
            raise ArithmeticError
        return tensordict.set("action", torch.zeros(9))


def test_a_failed_episode_leaves_no_video_and_a_diverged_one_the_steps_before(opengl, tmp_path, monkeypatch):
    monkeypatch.setattr("rlhive.envs._episode_camera.VIDEO_SIZE", (48, 64))
    env = get_cached_env(REACH)
    video = prepare_videos(tmp_path, 1, None)
    video.path(7).write_bytes(b"older")
    with pytest.raises(ArithmeticError):
        film_episode(env, Walk(), seed=7, video=video)
    assert [path.name for path in tmp_path.iterdir()] == ["seed-7.mp4"]
    assert video.path(7).read_bytes() == b"older"

    def explode(tensordict):
        if env._elapsed == 2:
            env._data.qvel[:] = 1e12
        return tensordict.set("action", torch.zeros(9))

    assert film_episode(env, explode, seed=7, video=video).step == 3
    assert len(read_frames(video.path(7))[1]) == 3


class Killed:
    """Leaves what a killed worker would."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, tensordict):
        (self.folder / ".seed-5.mp4.partial").write_bytes(b"half")
        raise KeyboardInterrupt


def test_an_interrupt_leaves_no_half_of_a_video(opengl, tmp_path):
    video = {"video_dir": tmp_path, "num_videos": 1, "seed": 6}
    with pytest.raises(KeyboardInterrupt):
        evaluate(Killed(tmp_path), REACH, num_episodes=1, num_workers=1, progress=False, **video)
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_is_said_in_a_sentence(tmp_path, monkeypatch):
    arguments = {"num_episodes": 1, "num_workers": 1, "progress": False}
    with pytest.raises(InvalidOptionError, match=r"ToyPoint-v0 has no camera for a video: .* Evaluate it without"):
        evaluate("expert", "toy_point", video_dir=tmp_path, **arguments)
    with pytest.raises(InvalidOptionError, match="num_videos: expected at least 1, got 0"):
        evaluate("expert", "toy_point", video_dir=tmp_path, num_videos=0, **arguments)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreNotWritableError, match=r"No videos can be written to .*file: expected a folder"):
        evaluate("expert", "toy_point", video_dir=tmp_path / "file", **arguments)

    def missing():
        msg = "Videos need av"
        raise MissingExtraError(msg)

    monkeypatch.setattr(_video, "require_av", missing)
    with pytest.raises(MissingExtraError):
        evaluate("expert", "toy_point", video_dir=tmp_path, **arguments)


def test_a_gymnasium_task_is_filmed_where_it_renders(tmp_path):
    gymnasium = pytest.importorskip("gymnasium")

    class Blink(gymnasium.Env):
        metadata = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012
        observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
        action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

        def __init__(self, render_mode=None):
            self.render_mode, self.count = render_mode, 0

        def reset(self, *, seed=None, options=None):
            self.count = 0
            return np.zeros(2, np.float32), {}

        def step(self, action):
            self.count += 1
            return np.zeros(2, np.float32), 1.0, False, False, {}

        def render(self):
            return np.full((32, 32, 3), 40 * self.count, np.uint8)

    gymnasium.register("Blink-v0", entry_point=Blink)
    task = Task("blink", "Blink-v0", 3, "", backend="gymnasium", env_kwargs={"render_mode": "rgb_array"})

    def act(tensordict):
        return tensordict.set("action", torch.zeros(1))

    arguments = {"num_episodes": 1, "num_workers": 1, "progress": False, "video_dir": tmp_path}
    evaluate(act, task, **arguments)
    rate, frames = read_frames(tmp_path / "seed-1000000.mp4")
    assert rate == 5
    assert [round(frame.mean(), -1) for frame in frames] == [0, 40, 80, 120]
    with pytest.raises(InvalidOptionError, match="render_mode"):
        evaluate(act, dataclasses.replace(task, env_kwargs={}), **arguments)
