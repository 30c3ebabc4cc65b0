"""Pictures of a simulation: cameras, three qualities, and the OpenGL that draws them.

    MjData ─► mjv_updateScene, once a camera ─► OpenGL (EGL on a GPU, Mesa's EGL, OSMesa) ─► uint8 [camera, H, W, 3]

RoboHive's own renderer is not used: it keeps the first size that it was asked for, and always draws depth as well.
Nothing here touches the physics: MuJoCo reads a few visual settings of the model when a renderer is built, so they are
set for that moment and put back; all that follows is kept in the renderer's own scene.

OpenGL is loaded when the first renderer is built, never at import.
"""

import contextlib
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torchrl.data import Bounded, Unbounded

from rlhive import keys
from rlhive.envs import _opengl
from rlhive.envs._visual import VISUAL, Visual, visual_of_keys
from rlhive.errors import InvalidSetting, RenderingUnavailable

#: Largest height or width. Any OpenGL of the last fifteen years draws it, with 0.5 GB of memory at full quality.
MAX_SIZE = 4096

#: Of a scene; RoboHive's own limit.
_MAX_GEOMS = 10_000


@dataclass(frozen=True)
class Quality:
    """What a picture shows and costs.

    Attributes:
        shadow_size: Side of the map from which shadows are drawn, in pixels; None as the model says, 0 no shadows.
        samples: Anti-aliasing samples per pixel; None as the model says.
        reflections: Whether mirrors and polished floors reflect.
    """

    shadow_size: int | None
    samples: int | None
    reflections: bool


#: Name → quality. Each is a visual domain of its own: a policy trained on one has not seen the others.
QUALITIES = {
    "robohive": Quality(shadow_size=None, samples=None, reflections=True),
    "shadows": Quality(shadow_size=1024, samples=0, reflections=False),
    "fast": Quality(shadow_size=0, samples=0, reflections=False),
}


@dataclass(frozen=True)
class View:
    """What is to be drawn. Checked when it is made, but for the cameras, which the model knows.

    Attributes:
        cameras: Names in the order of the pictures; None for all that the model has.
        image_size: Height and width in pixels.
        depth: Whether to give distances as well.
        quality: A name in QUALITIES.

    Raises:
        InvalidSetting: An impossible size or an unknown quality.
    """

    cameras: tuple[str, ...] | None
    image_size: tuple[int, int]
    depth: bool
    quality: str

    def __post_init__(self) -> None:
        if self.quality not in QUALITIES:
            msg = f"render_quality is {self.quality!r}: expected one of {', '.join(map(repr, QUALITIES))}."
            raise InvalidSetting(msg)
        try:
            size = tuple(operator.index(side) for side in self.image_size)
        except TypeError:
            size = ()
        if len(size) != 2 or not all(0 < side <= MAX_SIZE for side in size):
            msg = (
                f"image_size is {self.image_size!r}: expected (height, width) in pixels, two whole numbers "
                f"from 1 to {MAX_SIZE}."
            )
            raise InvalidSetting(msg)
        object.__setattr__(self, "image_size", size)


def view_of(env: Any, env_name: str, from_pixels: bool | None, wishes: dict[str, Any]) -> View | None:
    """Return what is to be drawn, None for nothing: the caller's wishes, else what the id stands for."""
    visual = VISUAL.get(env_name)
    if visual is None and "_v2d" in env_name and env.visual_keys:
        visual = visual_of_keys(env_name, env.visual_keys)
    wishes = {name: value for name, value in wishes.items() if value is not None}
    if not (visual is not None if from_pixels is None else from_pixels):
        if wishes:
            msg = f"{env_name} was given {', '.join(wishes)} without pixels: add from_pixels=True or leave that out."
            raise InvalidSetting(msg)
        return None
    visual = visual or Visual(env_name, cameras=None, image_size=(84, 84))
    return View(
        cameras=wishes.get("cameras", visual.cameras),
        image_size=wishes.get("image_size", visual.image_size),
        depth=wishes.get("depth", visual.depth),
        quality=wishes.get("render_quality", "robohive"),
    )


class CameraRenderer:
    """Draws what the cameras of a RoboHive simulation see; owns an OpenGL context until it is closed.

    Costs 0.4 s to build for a kitchen (its textures and meshes are uploaded). To be used in the thread that built it.
    MuJoCo's Renderer is not used for lack of a safe end: it frees its textures after its context, and so takes them
    from whichever context is current by then.

    Args:
        sim: RoboHive's simulation scene.
        view: What to draw.
        device: A CUDA device chooses the GPU that draws, unless MUJOCO_EGL_DEVICE_ID does.

    Raises:
        InvalidSetting: A camera that the model does not have, none at all, or one twice.
        RenderingUnavailable: This machine has no OpenGL; the message names what to install.
    """

    def __init__(self, sim: Any, view: View, device: torch.device | None = None) -> None:
        import mujoco

        self._mujoco, self._model, self._data = mujoco, sim.model.ptr, sim.data.ptr
        self.cameras = _checked_cameras(view.cameras, self._model)
        self._view, self._shape = view, (len(self.cameras), *view.image_size)
        self._views = [_fixed_camera(mujoco, self._model, name) for name in self.cameras]
        self._option = mujoco.MjvOption()
        sim.renderer._update_renderer_settings(self._option)  # the Myo suite shows its muscles
        self._scene = mujoco.MjvScene(self._model, maxgeom=_MAX_GEOMS)
        if not QUALITIES[view.quality].reflections:
            self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        self._rectangle = mujoco.MjrRect(0, 0, view.image_size[1], view.image_size[0])
        self._canvas = _canvas(self._model, view, _opengl.context_class(device))
        #: Closes, once; called by the garbage collector or at exit if nobody did.
        self.close = _opengl.released_with(self, self._canvas)
        self._gl = _opengl.description()

    def specs(self) -> dict[str, Bounded | Unbounded]:
        """Return the TorchRL spec of each key that :meth:`draw` gives."""
        specs = {keys.PIXELS: Bounded(0, 255, (*self._shape, 3), dtype=torch.uint8)}
        return specs | ({keys.DEPTH: Unbounded(self._shape, dtype=torch.float32)} if self._view.depth else {})

    def draw(self) -> dict[str, torch.Tensor]:
        """Draw the present state.

        Returns:
            New tensors: "pixels" uint8 [camera, H, W, 3], top row first, and where asked for "depth" float32
            [camera, H, W], the distance from the camera's plane in metres.
        """
        mujoco, every = self._mujoco, self._mujoco.mjtCatBit.mjCAT_ALL
        pixels = np.empty((*self._shape, 3), np.uint8)
        depth = np.empty(self._shape, np.float32)
        self._canvas.context.make_current()
        resources = self._canvas.resources
        for index, camera in enumerate(self._views):
            mujoco.mjv_updateScene(self._model, self._data, self._option, None, camera, every, self._scene)
            mujoco.mjr_render(self._rectangle, self._scene, resources)
            mujoco.mjr_readPixels(pixels[index], None, self._rectangle, resources)
            if self._view.depth:
                depth[index] = self._draw_depth()
        # OpenGL begins at the bottom.
        result = {keys.PIXELS: torch.from_numpy(pixels[:, ::-1].copy())}
        return result | ({keys.DEPTH: torch.from_numpy(depth[:, ::-1].copy())} if self._view.depth else {})

    def _draw_depth(self) -> np.ndarray:
        """Draw the scene again, without lights and colours, and return metres [H, W], bottom row first."""
        flags, render = self._scene.flags, self._mujoco.mjtRndFlag
        before = flags.copy()
        # In these colours MuJoCo's depth is exact far away too.
        flags[render.mjRND_SEGMENT] = flags[render.mjRND_IDCOLOR] = True
        self._mujoco.mjr_render(self._rectangle, self._scene, self._canvas.resources)
        flags[:] = before
        buffer = np.empty(self._shape[1:], np.float32)
        self._mujoco.mjr_readPixels(None, buffer, self._rectangle, self._canvas.resources)
        extent, planes = self._model.stat.extent, self._model.vis.map
        near, far = np.float32(planes.znear * extent), np.float32(planes.zfar * extent)
        # The buffer holds 1 at the near plane and 0 at the far one: solve OpenGL's projection for the distance.
        scale = np.float32(0.5) * (far + near) / (far - near) - np.float32(0.5)
        offset = far * near / (far - near)
        return offset / (buffer.astype(np.float64) + scale)

    def provenance(self) -> dict[str, Any]:
        """Return what decides the pictures, as JSON-able values: "gl" names who drew them."""
        return {
            "cameras": list(self.cameras),
            "image_size": list(self._view.image_size),
            "depth": self._view.depth,
            "render_quality": self._view.quality,
            "gl": self._gl,
        }


def _checked_cameras(cameras: Sequence[str] | None, model: Any) -> tuple[str, ...]:
    available = [model.camera(index).name for index in range(model.ncam)]
    chosen = tuple(available if cameras is None else [cameras] if isinstance(cameras, str) else cameras)
    unknown = [camera for camera in chosen if camera not in available]
    if unknown:
        msg = f"No camera named {unknown[0]!r}: expected names out of {', '.join(available) or 'none at all'}."
        raise InvalidSetting(msg)
    if not chosen or len(set(chosen)) < len(chosen):
        msg = f"cameras is {list(chosen)}: expected one or more, each once, out of {', '.join(available) or 'none'}."
        raise InvalidSetting(msg)
    return chosen


def _fixed_camera(mujoco: Any, model: Any, name: str) -> Any:
    camera = mujoco.MjvCamera()
    camera.type, camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, model.camera(name).id
    return camera


def _canvas(model: Any, view: View, context_class: type) -> _opengl.Canvas:
    """Return a context and, uploaded into it, the model's textures and meshes."""
    import mujoco

    height, width = view.image_size
    try:
        context = context_class(width, height)
        context.make_current()
        with _settings(model, QUALITIES[view.quality], view.image_size):
            resources = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_150)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, resources)
    except (mujoco.FatalError, RuntimeError) as error:
        msg = f"OpenGL gave no picture of {height} x {width} pixels: {error}. Try a smaller image_size."
        raise RenderingUnavailable(msg) from error
    resources.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR
    return _opengl.Canvas(context, resources)


@contextlib.contextmanager
def _settings(model: Any, quality: Quality, image_size: tuple[int, int]) -> Iterator[None]:
    """Set what a renderer reads of the model while it is built, and put the model back as it was.

    The buffer is made as large as the pictures: the kitchen's own, 2560 x 1920, costs a tenth of each frame and shows
    in none.
    """
    globals_, qualities = model.vis.global_, model.vis.quality
    before = globals_.offheight, globals_.offwidth, qualities.shadowsize, qualities.offsamples
    globals_.offheight, globals_.offwidth = image_size
    if quality.shadow_size is not None:
        qualities.shadowsize = quality.shadow_size
    if quality.samples is not None:
        qualities.offsamples = quality.samples
    try:
        yield
    finally:
        globals_.offheight, globals_.offwidth, qualities.shadowsize, qualities.offsamples = before
