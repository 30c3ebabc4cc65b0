"""The camera of videos: its picture is the simulation's, which does not change."""

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from rlhive.envs._episode_camera import VIDEO_SIZE, open_camera
from rlhive.envs._toy import ToyEnv
from rlhive.errors import InvalidOptionError

REACH = "FrankaReachRandom-v0"


def test_the_picture_is_the_simulations_and_does_not_change_it(opengl, make):
    env, other = make(REACH), make(REACH)
    pixels = make(REACH, from_pixels=True, cameras=["left_cam"], image_size=VIDEO_SIZE, render_quality="fast")
    for one in (env, other, pixels):
        one.reset(seed=2)
    action = TensorDict({"action": torch.full((9,), 0.4)}, [])
    with open_camera(env) as camera:
        assert camera.fps == 1 / env.dt
        for _ in range(3):
            picture = camera.draw()
            expected = pixels.step(action.copy())["next", "pixels"][0].numpy()
            got, reference = env.step(action.copy())["next"], other.step(action.copy())["next"]
            assert torch.equal(got["observation"], reference["observation"])
            assert not np.array_equal(picture, expected)
            np.testing.assert_array_equal(camera.draw(), expected)


def test_the_first_default_camera_of_a_visual_id_is_used(opengl, make, monkeypatch):
    monkeypatch.setattr("rlhive.envs._episode_camera.VIDEO_SIZE", (24, 32))
    env = make("visual_franka_slide_random-v3", image_size=(24, 32), render_quality="fast")
    start = env.reset(seed=1)
    with open_camera(env) as default, open_camera(env, "left_cam") as left:
        np.testing.assert_array_equal(default.draw(), start["pixels"][0].numpy())
        np.testing.assert_array_equal(left.draw(), start["pixels"][1].numpy())


def test_an_environment_without_a_camera_is_refused():
    with (
        pytest.raises(InvalidOptionError, match="has no camera named 'top' for a video: expected a RoboHive"),
        open_camera(ToyEnv(), "top"),
    ):
        pass
