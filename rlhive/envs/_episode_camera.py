"""A camera that watches an environment from outside, for videos of episodes; the simulation does not change."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torchrl.envs import EnvBase, GymEnv, TransformedEnv

from rlhive import keys
from rlhive.envs._rendering import CameraRenderer, RenderOptions
from rlhive.envs._robohive import RoboHiveEnv
from rlhive.envs._visual import VISUAL
from rlhive.errors import InvalidOptionError

#: Height and width of a video's frames in pixels.
VIDEO_SIZE = (480, 640)


@dataclass(frozen=True)
class EpisodeCamera:
    """A camera of an environment.

    Attributes:
        draw: Returns the picture of the current state, uint8 ``[H, W, 3]``.
        fps: Steps of the environment per simulated second.
    """

    draw: Callable[[], np.ndarray]
    fps: float


@contextlib.contextmanager
def open_camera(env: EnvBase, camera: str | None = None, *, quality: str = "fast") -> Iterator[EpisodeCamera]:
    """Open a camera of an environment, and close it after the block.

    Args:
        env: A RoboHive environment, or a task of gymnasium with ``env_kwargs={"render_mode": "rgb_array"}``.
        camera: Name of the camera; None for the first of the environment's default pictures, or else of its model.
        quality: Render quality of RoboHive, as for :class:`RoboHiveEnv`.

    Returns:
        Context manager with the camera.

    Raises:
        InvalidOptionError: The environment has no camera, or none of that name.
        RenderingUnavailableError: This machine has no OpenGL. The message names the packages to install.
    """
    base = env.base_env if isinstance(env, TransformedEnv) else env
    if isinstance(base, RoboHiveEnv):
        with _open_renderer(base, camera, quality) as renderer:
            yield EpisodeCamera(lambda: renderer.draw()[keys.PIXELS][0].numpy(), 1 / base.dt)
    elif isinstance(base, GymEnv) and base._env.render_mode == "rgb_array" and camera is None:
        yield EpisodeCamera(base._env.render, float(base._env.metadata.get("render_fps", 30)))
    else:
        named = "" if camera is None else f" named {camera!r}"
        msg = (
            f"{env.env_name} has no camera{named} for a video: expected a RoboHive environment, or a gymnasium task "
            f"with env_kwargs={{'render_mode': 'rgb_array'}}. Evaluate it without videos."
        )
        raise InvalidOptionError(msg)


@contextlib.contextmanager
def _open_renderer(env: RoboHiveEnv, camera: str | None, quality: str) -> Iterator[CameraRenderer]:
    sim: Any = env.unwrapped.sim
    model = sim.model.ptr
    if camera is None:
        defaults = VISUAL.get(env.env_name)
        if model.ncam == 0:
            msg = f"{env.env_name} has no camera for a video: its model holds none. Evaluate it without videos."
            raise InvalidOptionError(msg)
        camera = defaults.cameras[0] if defaults and defaults.cameras else model.camera(0).name
    options = RenderOptions(cameras=(camera,), image_size=VIDEO_SIZE, depth=False, quality=quality)
    renderer = CameraRenderer(sim, options, env.device)
    try:
        yield renderer
    finally:
        renderer.close()
