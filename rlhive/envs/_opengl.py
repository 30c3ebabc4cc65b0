"""Which OpenGL draws without a screen: chosen at the first picture, closed before the process ends.

    MUJOCO_GL set ─► what it says
    otherwise     ─► EGL (a GPU's or Mesa's) ─► OSMesa ─► one sentence that names the packages

MuJoCo decides when it is imported and then takes the window system, so the choice is made here, later and by trying.
"""

import atexit
import contextlib
import ctypes
import importlib
import os
import platform
import sys
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from rlhive.errors import RenderingUnavailable

#: What gives a Debian or Ubuntu machine without a GPU its OpenGL.
DEBIAN_PACKAGES = "libegl1 libegl-mesa0 libgl1-mesa-dri"

_PLATFORM_DEVICE = 0x313F  # EGL_PLATFORM_DEVICE_EXT
_OFF = ("disable", "disabled", "off", "false", "0")

#: Once chosen: the class of contexts, its name, and the process that it was chosen in.
_chosen: dict[str, Any] = {}
_releases: list[weakref.finalize] = []
_inherited: list[Any] = []


def context_class(device: torch.device | None = None) -> type:
    """Return the class of OpenGL contexts that works here; the first call of a process decides.

    Args:
        device: A CUDA device also chooses the GPU that draws, unless MUJOCO_EGL_DEVICE_ID does.

    Raises:
        RenderingUnavailable: No OpenGL, or one that a fork inherited.
    """
    if not _chosen:
        name, context = _choose(device)
        _chosen.update(name=name, context=context, pid=os.getpid())
        # Registered after MuJoCo's own handler, so it runs before: contexts are closed while their display is open.
        atexit.register(_release_all)
        os.register_at_fork(after_in_child=_inherit)
    if _chosen["pid"] != os.getpid():
        msg = (
            "This process was forked from one that had drawn pictures, and OpenGL does not survive a fork: expected "
            "a spawned process. Start workers with the method 'spawn' (mp_start_method of ParallelEnv)."
        )
        raise RenderingUnavailable(msg)
    return _chosen["context"]


@dataclass
class Canvas:
    """An OpenGL context and what MuJoCo uploaded into it.

    Attributes:
        context: Of the class that :func:`context_class` returned; None once released.
        resources: MuJoCo's MjrContext; None once released.
    """

    context: Any
    resources: Any

    def release(self) -> None:
        """Free both in the order that OpenGL needs, and drop them: they try again when they are collected."""
        self.context.make_current()
        self.resources.free()
        self.context.free()
        self.context = self.resources = None


def released_with(owner: Any, canvas: Canvas) -> Callable[[], None]:
    """Return a function that releases a canvas, once.

    It is called when the owner is collected or the process ends, if nobody called it before. Until then it keeps the
    canvas alive: the garbage collector would free its parts in any order.
    """
    _releases[:] = [known for known in _releases if known.alive]
    release = weakref.finalize(owner, canvas.release)
    release.atexit = False  # it would come after the display is closed
    _releases.append(release)
    return release


def description() -> str:
    """Return the kind of the current context and who draws, for example "egl: llvmpipe (LLVM 15.0.6, 256 bits)"."""
    name = _chosen["name"]
    if name not in ("egl", "osmesa"):
        return name
    from OpenGL import GL

    return f"{name}: {GL.glGetString(GL.GL_RENDERER).decode(errors='replace')}"


def _choose(device: torch.device | None) -> tuple[str, type]:
    wanted = os.environ.get("MUJOCO_GL", "").lower().strip()
    if wanted in _OFF:
        msg = f"MUJOCO_GL={wanted} turns rendering off: expected egl, osmesa or nothing. Unset it to get pictures."
        raise RenderingUnavailable(msg)
    if platform.system() != "Linux" or wanted not in ("", "egl", "osmesa"):
        import mujoco.gl_context

        return wanted or platform.system(), mujoco.gl_context.GLContext
    # PyOpenGL serves one platform in a process: another library may have chosen it already.
    wanted = wanted or os.environ.get("PYOPENGL_PLATFORM", "").lower()
    if (wanted == "egl" or (wanted != "osmesa" and _egl_works())) and (context := _import("egl", device)):
        return "egl", context
    if wanted != "egl" and (context := _import("osmesa", device)):
        return "osmesa", context
    library = f"no {wanted}" if wanted else "neither EGL nor OSMesa"
    msg = (
        f"Pictures need OpenGL, and {library} works on this machine: on Debian or Ubuntu type: "
        f"apt-get install {DEBIAN_PACKAGES} (or libosmesa6)"
    )
    raise RenderingUnavailable(msg)


def _import(name: str, device: torch.device | None) -> type | None:
    """Return MuJoCo's class of contexts for EGL or OSMesa; None where the library is not there."""
    ours = "PYOPENGL_PLATFORM" not in os.environ
    # With the device's number a GPU that EGL does not list is an error, so the second try goes without.
    for number in (_egl_device(device), None):
        try:
            with _environment("MUJOCO_EGL_DEVICE_ID", number):
                return importlib.import_module(f"mujoco.{name}").GLContext
        except (ImportError, AttributeError, OSError, RuntimeError):
            continue
    if ours:
        os.environ.pop("PYOPENGL_PLATFORM", None)
        # PyOpenGL would go on looking for the library that is not there.
        for module in [module for module in sys.modules if module.split(".")[0] == "OpenGL"]:
            del sys.modules[module]
    return None


def _egl_device(device: torch.device | None) -> str | None:
    """Return the number that EGL gives to a CUDA device: CUDA's own, before CUDA_VISIBLE_DEVICES renumbers."""
    if device is None or device.type != "cuda" or "MUJOCO_EGL_DEVICE_ID" in os.environ:
        return None
    index = device.index or 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return visible[index] if index < len(visible) and visible[index].isdigit() else str(index)


@contextlib.contextmanager
def _environment(name: str, value: str | None) -> Iterator[None]:
    """Set a variable that was unset for a moment, so that processes started later do not inherit it."""
    if value is None:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]


def _egl_works() -> bool:
    """Whether EGL has a device to draw on, asked without PyOpenGL, which cannot change its mind once imported."""
    try:
        egl = ctypes.CDLL("libEGL.so.1")
    except OSError:
        return False
    address, pointer = egl.eglGetProcAddress, ctypes.c_void_p
    address.restype, address.argtypes = pointer, [ctypes.c_char_p]
    query, display = address(b"eglQueryDevicesEXT"), address(b"eglGetPlatformDisplayEXT")
    if not query or not display:
        return False
    devices, count = (pointer * 16)(), ctypes.c_int()
    query = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, ctypes.POINTER(pointer), ctypes.POINTER(ctypes.c_int))(query)
    display = ctypes.CFUNCTYPE(pointer, ctypes.c_uint, pointer, pointer)(display)
    query(16, devices, ctypes.byref(count))
    egl.eglInitialize.argtypes = [pointer, pointer, pointer]
    displays = (display(_PLATFORM_DEVICE, device, None) for device in devices[: count.value])
    return any(found and egl.eglInitialize(found, None, None) for found in displays)


def _release_all() -> None:
    for release in _releases:
        release()


def _inherit() -> None:
    """In a fork's child: keep what belongs to the parent from being freed by the child."""
    _inherited.extend(release.detach() for release in _releases)
    _releases.clear()
