"""Rendering of camera pictures in three qualities with off-screen OpenGL.

    MjData ─► mjv_updateScene, per camera ─► OpenGL (EGL on a GPU, Mesa's EGL, OSMesa) ─► uint8 [camera, H, W, 3]

RoboHive's own renderer is not used: it keeps the first image size that was requested, and always renders depth as well.
Rendering does not change the physics. MuJoCo reads a few visual settings of the model while a renderer is built; they
are set for that time and restored. Everything else is stored in the renderer's own scene.

OpenGL is loaded when the first renderer is built, never at import.
"""

import contextlib
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torchrl.data import Bounded, Unbounded

from rlhive import keys
from rlhive.envs import _opengl
from rlhive.envs._visual import VISUAL, VisualDefaults, parse_visual_keys
from rlhive.errors import InvalidOptionError, RenderingUnavailableError

#: Largest height or width. OpenGL libraries of the last fifteen years support it; full quality takes 0.5 GB of memory.
MAX_SIZE = 4096

#: Largest number of geoms in a scene; RoboHive's own limit.
_MAX_GEOMS = 10_000


@dataclass(frozen=True)
class Quality:
    """Settings that determine the look and the cost of a picture.

    Attributes:
        shadow_size: Side of the shadow map in pixels; None takes the model's value, 0 disables shadows.
        samples: Anti-aliasing samples per pixel; None takes the model's value.
        reflections: Whether mirrors and polished floors reflect.
    """

    shadow_size: int | None
    samples: int | None
    reflections: bool


#: Name → quality. Each is a visual domain of its own: a policy trained on one has never seen the others.
QUALITIES = {
    "robohive": Quality(shadow_size=None, samples=None, reflections=True),
    "shadows": Quality(shadow_size=1024, samples=0, reflections=False),
    "fast": Quality(shadow_size=0, samples=0, reflections=False),
}


@dataclass(frozen=True)
class RenderOptions:
    """Rendering options of an environment.

    The constructor checks all options but the cameras, whose names only the model knows.

    Attributes:
        cameras: Camera names in the order of the pictures; None for all cameras of the model.
        image_size: Height and width in pixels.
        depth: Whether to render depth as well.
        quality: A name in QUALITIES.
        segmentation: Whether to render which object each pixel shows.

    Raises:
        InvalidOptionError: The image size is out of range or the quality is unknown.
    """

    cameras: tuple[str, ...] | None
    image_size: tuple[int, int]
    depth: bool
    quality: str
    segmentation: bool = False

    def __post_init__(self) -> None:
        if self.quality not in QUALITIES:
            msg = f"render_quality is {self.quality!r}: expected one of {', '.join(map(repr, QUALITIES))}."
            raise InvalidOptionError(msg)
        try:
            size = tuple(operator.index(side) for side in self.image_size)
        except TypeError:
            size = ()
        if len(size) != 2 or not all(0 < side <= MAX_SIZE for side in size):
            msg = (
                f"image_size is {self.image_size!r}: expected (height, width) in pixels, two whole numbers "
                f"from 1 to {MAX_SIZE}."
            )
            raise InvalidOptionError(msg)
        object.__setattr__(self, "image_size", size)


def resolve_render_options(
    env: Any, env_name: str, from_pixels: bool | None, options: Mapping[str, Any]
) -> RenderOptions | None:
    """Return the rendering options of an environment, None if it renders nothing.

    Args:
        env: RoboHive's environment.
        env_name: Its id; ``visual_*`` and ``_v2d`` ids have default pictures.
        from_pixels: Whether to render; None lets the id decide.
        options: The caller's ``cameras``, ``image_size``, ``depth``, ``render_quality`` and ``segmentation``; None for
            the default.

    Raises:
        InvalidOptionError: An option is invalid, options were passed without pixels, or the model has no camera.
    """
    defaults = VISUAL.get(env_name)
    if defaults is None and "_v2d" in env_name and env.visual_keys:
        defaults = parse_visual_keys(env_name, env.visual_keys)
    options = {name: value for name, value in options.items() if value is not None}
    has_pixels = defaults is not None if from_pixels is None else from_pixels
    if not has_pixels:
        if options:
            msg = f"{env_name} was given {', '.join(options)} without pixels: add from_pixels=True or leave that out."
            raise InvalidOptionError(msg)
        return None
    if not env.sim_obsd.model.ptr.ncam:
        msg = f"{env_name} has no camera: expected a model with one to render pixels. Pass from_pixels=False."
        raise InvalidOptionError(msg)
    defaults = defaults or VisualDefaults(env_name, cameras=None, image_size=(84, 84))
    return RenderOptions(
        cameras=options.get("cameras", defaults.cameras),
        image_size=options.get("image_size", defaults.image_size),
        depth=options.get("depth", defaults.depth),
        quality=options.get("render_quality", "robohive"),
        segmentation=options.get("segmentation", False),
    )


class CameraRenderer:
    """Renders the cameras of a RoboHive simulation; owns an OpenGL context until it is closed.

    Building one takes 0.4 s for a kitchen, whose textures and meshes are uploaded. Use it only in the thread that built
    it. MuJoCo's own Renderer is not used because it cannot be closed safely: it frees its textures after its context,
    and thereby frees those of whichever context is current at that time.

    Args:
        sim: RoboHive's simulation scene.
        options: Rendering options.
        device: A CUDA device selects the GPU that renders, unless MUJOCO_EGL_DEVICE_ID is set.

    Attributes:
        cameras: Camera names in the order of the pictures.
        close: Function that frees the context once; called at garbage collection or at exit if the caller does not.

    Raises:
        InvalidOptionError: The model has no camera of that name, no camera was named, or one was named twice.
        RenderingUnavailableError: This machine has no OpenGL. The message names the packages to install.
    """

    def __init__(self, sim: Any, options: RenderOptions, device: torch.device | None = None) -> None:
        import mujoco

        self._mujoco = mujoco
        self._model = sim.model.ptr
        self._data = sim.data.ptr
        self.cameras = _require_cameras(options.cameras, self._model)
        self._options = options
        self._shape = (len(self.cameras), *options.image_size)
        self._fixed_cameras = [_fixed_camera(mujoco, self._model, name) for name in self.cameras]
        self._visual_options = mujoco.MjvOption()
        sim.renderer._update_renderer_settings(self._visual_options)  # the Myo suite shows its muscles
        self._scene = mujoco.MjvScene(self._model, maxgeom=_MAX_GEOMS)
        if not QUALITIES[options.quality].reflections:
            self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        self._rectangle = mujoco.MjrRect(0, 0, options.image_size[1], options.image_size[0])
        self._offscreen = _build_offscreen_context(self._model, options, _opengl.context_class(device))
        self.close = _opengl.register_release(self, self._offscreen)
        self._gl = _opengl.describe_library()

    def specs(self) -> dict[str, Bounded | Unbounded]:
        """Return the TorchRL spec of each key that :meth:`draw` returns."""
        specs: dict[str, Bounded | Unbounded] = {keys.PIXELS: Bounded(0, 255, (*self._shape, 3), dtype=torch.uint8)}
        if self._options.depth:
            specs[keys.DEPTH] = Unbounded(self._shape, dtype=torch.float32)
        if self._options.segmentation:
            specs[keys.SEGMENTATION] = Unbounded((*self._shape, 2), dtype=torch.int16)
        return specs

    def draw(self) -> dict[str, torch.Tensor]:
        """Render the current state of the simulation.

        Returns:
            New tensors: "pixels" uint8 [camera, H, W, 3], top row first, and with ``depth`` also "depth" float32
            [camera, H, W], the distance from the camera's plane in metres. With ``segmentation`` also "segmentation"
            int16 [camera, H, W, 2], number and type (``mujoco.mjtObj``) of the object that a pixel shows, -1 and -1
            where it shows none.
        """
        mujoco = self._mujoco
        all_geoms = mujoco.mjtCatBit.mjCAT_ALL
        pixels = np.empty((*self._shape, 3), np.uint8)
        depth = np.empty(self._shape, np.float32)
        segmentation = np.empty((*self._shape, 2), np.int16)
        self._offscreen.context.make_current()
        resources = self._offscreen.resources
        for index, camera in enumerate(self._fixed_cameras):
            mujoco.mjv_updateScene(self._model, self._data, self._visual_options, None, camera, all_geoms, self._scene)
            mujoco.mjr_render(self._rectangle, self._scene, resources)
            mujoco.mjr_readPixels(pixels[index], None, self._rectangle, resources)
            if self._options.depth or self._options.segmentation:
                colours, buffer = self._draw_objects()
                if self._options.depth:
                    depth[index] = self._to_metres(buffer)
                if self._options.segmentation:
                    segmentation[index] = self._to_objects(colours)
        drawn: dict[str, np.ndarray] = {keys.PIXELS: pixels}
        drawn |= {keys.DEPTH: depth} if self._options.depth else {}
        drawn |= {keys.SEGMENTATION: segmentation} if self._options.segmentation else {}
        # OpenGL's first row is the bottom one.
        return {name: torch.from_numpy(values[:, ::-1].copy()) for name, values in drawn.items()}

    def _draw_objects(self) -> tuple[np.ndarray, np.ndarray]:
        """Render the scene again, each object in a colour of its own, without lights.

        Returns:
            MuJoCo's segmentation colours, uint8 [H, W, 3], and OpenGL's depth buffer [H, W], the bottom row first.
        """
        flags = self._scene.flags
        original_flags = flags.copy()
        # With segmentation colours MuJoCo's depth is also exact at large distances.
        flags[self._mujoco.mjtRndFlag.mjRND_SEGMENT] = True
        flags[self._mujoco.mjtRndFlag.mjRND_IDCOLOR] = True
        self._mujoco.mjr_render(self._rectangle, self._scene, self._offscreen.resources)
        flags[:] = original_flags
        colours = np.empty((*self._shape[1:], 3), np.uint8)
        buffer = np.empty(self._shape[1:], np.float32)
        self._mujoco.mjr_readPixels(colours, buffer, self._rectangle, self._offscreen.resources)
        return colours, buffer

    def _to_objects(self, colours: np.ndarray) -> np.ndarray:
        """Return number and type of the objects [H, W, 2] of MuJoCo's segmentation colours."""
        geoms = [geom for geom in self._scene.geoms[: self._scene.ngeom] if geom.segid >= 0]
        objects = np.full((1 + max((geom.segid + 1 for geom in geoms), default=0), 2), -1, np.int16)
        for geom in geoms:
            objects[geom.segid + 1] = geom.objid, geom.objtype
        index = colours.astype(np.int32) @ np.array([1, 2**8, 2**16], np.int32)
        index[index >= len(objects)] = 0  # the background
        return objects[index]

    def _to_metres(self, buffer: np.ndarray) -> np.ndarray:
        """Return the distances [H, W] of OpenGL's depth buffer."""
        extent = self._model.stat.extent
        near = np.float32(self._model.vis.map.znear * extent)
        far = np.float32(self._model.vis.map.zfar * extent)
        # The buffer is 1 at the near plane and 0 at the far plane: solve OpenGL's projection for the distance.
        scale = np.float32(0.5) * (far + near) / (far - near) - np.float32(0.5)
        offset = far * near / (far - near)
        return offset / (buffer.astype(np.float64) + scale)

    def provenance(self) -> dict[str, Any]:
        """Return the JSON-able values that determine the pictures; "gl" names the OpenGL library and its renderer."""
        return {
            "cameras": list(self.cameras),
            "image_size": list(self._options.image_size),
            "depth": self._options.depth,
            "render_quality": self._options.quality,
            **({"segmentation": True} if self._options.segmentation else {}),
            "gl": self._gl,
        }


def _require_cameras(cameras: Sequence[str] | None, model: Any) -> tuple[str, ...]:
    """Return the camera names, all of the model's for None.

    Raises:
        InvalidOptionError: The model has no camera of a name, no camera was named, or one was named twice.
    """
    available = [model.camera(index).name for index in range(model.ncam)]
    names = tuple(available if cameras is None else [cameras] if isinstance(cameras, str) else cameras)
    unknown = [name for name in names if name not in available]
    if unknown:
        msg = f"No camera named {unknown[0]!r}: expected names out of {', '.join(available)}."
        raise InvalidOptionError(msg)
    if not names or len(set(names)) < len(names):
        msg = f"cameras is {list(names)}: expected one or more, each once, out of {', '.join(available)}."
        raise InvalidOptionError(msg)
    return names


def _fixed_camera(mujoco: Any, model: Any, name: str) -> Any:
    camera = mujoco.MjvCamera()
    camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
    camera.fixedcamid = model.camera(name).id
    return camera


def _build_offscreen_context(model: Any, options: RenderOptions, context_class: type) -> _opengl.OffscreenContext:
    """Create an OpenGL context and upload the model's textures and meshes into it."""
    import mujoco

    height, width = options.image_size
    try:
        context = context_class(width, height)
        context.make_current()
        with _build_settings(model, QUALITIES[options.quality], options.image_size):
            resources = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_150)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, resources)
    except (mujoco.FatalError, RuntimeError) as error:
        msg = f"OpenGL cannot render {height} x {width} pixels: {error}. Try a smaller image_size."
        raise RenderingUnavailableError(msg) from error
    resources.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR
    return _opengl.OffscreenContext(context, resources)


@contextlib.contextmanager
def _build_settings(model: Any, quality: Quality, image_size: tuple[int, int]) -> Iterator[None]:
    """Set the visual settings of the model that a renderer reads while it is built, and restore them afterwards.

    The off-screen buffer gets the size of the pictures: the kitchen's own size, 2560 x 1920, takes a tenth of the time
    of each frame without being visible.
    """
    height, width = image_size
    values = {"offheight": height, "offwidth": width, "shadowsize": quality.shadow_size, "offsamples": quality.samples}
    original = {}
    for name, value in values.items():
        settings = model.vis.global_ if name in ("offheight", "offwidth") else model.vis.quality
        original[name] = settings, getattr(settings, name)
        if value is not None:
            setattr(settings, name, value)
    try:
        yield
    finally:
        for name, (settings, value) in original.items():
            setattr(settings, name, value)
