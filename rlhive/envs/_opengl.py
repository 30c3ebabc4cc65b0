"""Choice of an off-screen OpenGL library at the first rendering, and release of its contexts before the process ends.

    MUJOCO_GL set ─► the library that it names
    otherwise     ─► EGL (a GPU's or Mesa's) ─► OSMesa ─► an error that names the packages to install

MuJoCo would choose at import, and would take the window system. This module chooses later, by trying.
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

from rlhive.errors import RenderingUnavailableError

#: Packages that provide OpenGL on a Debian or Ubuntu machine without a GPU.
DEBIAN_PACKAGES = "libegl1 libegl-mesa0 libgl1-mesa-dri"

_PLATFORM_DEVICE = 0x313F  # EGL_PLATFORM_DEVICE_EXT
_OFF = ("disable", "disabled", "off", "false", "0")


@dataclass(frozen=True)
class _Library:
    """The chosen OpenGL library.

    Attributes:
        name: "egl", "osmesa", or the library or platform that MuJoCo itself chose.
        context_class: Class of MuJoCo's OpenGL contexts.
        pid: Process in which the library was chosen.
    """

    name: str
    context_class: type
    pid: int


_library: _Library | None = None
_releases: list["weakref.finalize[..., Any]"] = []
_inherited: list[Any] = []


def context_class(device: torch.device | None = None) -> type:
    """Return the class of OpenGL contexts that works on this machine; the first call of a process chooses the library.

    Args:
        device: A CUDA device also selects the GPU that renders, unless MUJOCO_EGL_DEVICE_ID is set.

    Raises:
        RenderingUnavailableError: There is no OpenGL library, or the process inherited one through a fork.
    """
    global _library
    if _library is None:
        name, context = _choose_library(device)
        _library = _Library(name, context, os.getpid())
        # Registered after MuJoCo's own handler and therefore called before it, while the display is still open.
        atexit.register(_release_all)
        os.register_at_fork(after_in_child=_keep_inherited_contexts)
    if _library.pid != os.getpid():
        msg = (
            "This process was forked from one that had rendered, and OpenGL does not survive a fork: expected a "
            "spawned process. Start workers with the method 'spawn' (mp_start_method of ParallelEnv)."
        )
        raise RenderingUnavailableError(msg)
    return _library.context_class


@dataclass
class OffscreenContext:
    """An OpenGL context and the rendering resources that MuJoCo uploaded into it.

    Attributes:
        context: Instance of the class that :func:`context_class` returned; None after the release.
        resources: MuJoCo's MjrContext; None after the release.
    """

    context: Any
    resources: Any

    def release(self) -> None:
        """Free both in the order that OpenGL needs; drop them, because their finalizers would free them again."""
        self.context.make_current()
        self.resources.free()
        self.context.free()
        self.context = None
        self.resources = None


def register_release(owner: Any, offscreen: OffscreenContext) -> Callable[[], None]:
    """Return a function that releases a context once, and register it for the end of the owner and of the process.

    The function is called when the owner is garbage-collected or the process ends, unless the caller called it before.
    Until then it keeps the context alive: the garbage collector would free its parts in any order.
    """
    _releases[:] = [release for release in _releases if release.alive]
    release = weakref.finalize(owner, offscreen.release)
    release.atexit = False  # weakref's own exit handler runs after the display is closed
    _releases.append(release)
    return release


def describe_library() -> str:
    """Return the OpenGL library and the renderer of the current context, e.g. "egl: llvmpipe (LLVM 15.0.6, 256 bits)".

    A context of the class that :func:`context_class` returned must be current.
    """
    name = _library.name if _library else ""
    if name not in ("egl", "osmesa"):
        return name
    from OpenGL import GL

    return f"{name}: {GL.glGetString(GL.GL_RENDERER).decode(errors='replace')}"


def _choose_library(device: torch.device | None) -> tuple[str, type]:
    """Return the name of the OpenGL library to use and its class of contexts."""
    requested = os.environ.get("MUJOCO_GL", "").lower().strip()
    if requested in _OFF:
        msg = f"MUJOCO_GL={requested} turns rendering off: expected egl, osmesa or no value."
        raise RenderingUnavailableError(msg)
    if platform.system() != "Linux" or requested not in ("", "egl", "osmesa"):
        import mujoco.gl_context

        return requested or platform.system(), mujoco.gl_context.GLContext
    # PyOpenGL serves one platform per process, and another library may have chosen it already.
    requested = requested or os.environ.get("PYOPENGL_PLATFORM", "").lower()
    tries_egl = requested == "egl" or (requested != "osmesa" and _egl_has_device())
    for name in ("egl", "osmesa"):
        is_candidate = tries_egl if name == "egl" else requested != "egl"
        context = _import_library(name, device) if is_candidate else None
        if context is not None:
            return name, context
    library = f"no {requested}" if requested else "neither EGL nor OSMesa"
    msg = (
        f"Pictures need OpenGL, and {library} works on this machine: on Debian or Ubuntu type: "
        f"apt-get install {DEBIAN_PACKAGES} (or libosmesa6)"
    )
    raise RenderingUnavailableError(msg)


def _import_library(name: str, device: torch.device | None) -> type | None:
    """Return MuJoCo's class of contexts for EGL or OSMesa, None if the library is not installed."""
    is_platform_unset = "PYOPENGL_PLATFORM" not in os.environ
    # A device that EGL does not list is an error, so the second attempt leaves the choice to EGL.
    for number in (_egl_device_number(device), None):
        try:
            with _temporary_variable("MUJOCO_EGL_DEVICE_ID", number):
                return importlib.import_module(f"mujoco.{name}").GLContext
        except (ImportError, AttributeError, OSError, RuntimeError):
            continue
    if is_platform_unset:
        os.environ.pop("PYOPENGL_PLATFORM", None)
        # Imported modules of PyOpenGL would keep looking for the library that is not installed.
        for module in [module for module in sys.modules if module.split(".")[0] == "OpenGL"]:
            del sys.modules[module]
    return None


def _egl_device_number(device: torch.device | None) -> str | None:
    """Return EGL's number of a CUDA device: CUDA's number before CUDA_VISIBLE_DEVICES renumbers; None for a CPU."""
    if device is None or device.type != "cuda" or "MUJOCO_EGL_DEVICE_ID" in os.environ:
        return None
    index = device.index or 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return visible[index] if index < len(visible) and visible[index].isdigit() else str(index)


@contextlib.contextmanager
def _temporary_variable(name: str, value: str | None) -> Iterator[None]:
    """Set an unset environment variable for the block only: processes started later must not inherit it."""
    if value is None:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]


def _egl_has_device() -> bool:
    """Whether EGL has a device to render on, queried without PyOpenGL: its platform is fixed once it is imported."""
    try:
        egl = ctypes.CDLL("libEGL.so.1")
    except OSError:
        return False
    pointer = ctypes.c_void_p
    get_address = egl.eglGetProcAddress
    get_address.restype = pointer
    get_address.argtypes = [ctypes.c_char_p]
    query_address, display_address = get_address(b"eglQueryDevicesEXT"), get_address(b"eglGetPlatformDisplayEXT")
    if not query_address or not display_address:
        return False
    query_type = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, ctypes.POINTER(pointer), ctypes.POINTER(ctypes.c_int))
    query_devices = query_type(query_address)
    get_display = ctypes.CFUNCTYPE(pointer, ctypes.c_uint, pointer, pointer)(display_address)
    devices, count = (pointer * 16)(), ctypes.c_int()
    query_devices(16, devices, ctypes.byref(count))
    egl.eglInitialize.argtypes = [pointer, pointer, pointer]
    displays = (get_display(_PLATFORM_DEVICE, device, None) for device in devices[: count.value])
    return any(display and egl.eglInitialize(display, None, None) for display in displays)


def _release_all() -> None:
    for release in _releases:
        release()


def _keep_inherited_contexts() -> None:
    """Keep a forked child from freeing the contexts of its parent."""
    _inherited.extend(release.detach() for release in _releases)
    _releases.clear()
