"""OpenGL: the choice of a library, its shutdown, and processes that cannot use it."""

import multiprocessing
import os
import subprocess
import sys

import pytest
import torch

from rlhive import keys

REACH = "FrankaReachRandom-v0"


@pytest.fixture(scope="module")
def reach(opengl, make):
    return make(REACH, from_pixels=True, image_size=(36, 48), render_quality="fast", cameras=["left_cam"], seed=0)


def test_a_cuda_device_selects_the_gpu_that_renders(opengl, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("MUJOCO_EGL_DEVICE_ID", raising=False)
    assert opengl._egl_device_number(torch.device("cpu")) is None
    assert opengl._egl_device_number(torch.device("cuda")) == "0"
    assert opengl._egl_device_number(torch.device("cuda:3")) == "3"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert opengl._egl_device_number(torch.device("cuda:1")) == "5"
    monkeypatch.setenv("MUJOCO_EGL_DEVICE_ID", "7")
    assert opengl._egl_device_number(torch.device("cuda:1")) is None


def _reason_in_child(connection, opengl):
    try:
        opengl.context_class()
    except RuntimeError as error:
        connection.send(str(error))


def test_a_forked_child_gets_an_error_that_asks_for_spawn(opengl, reach):
    """It would hang for ever otherwise: the threads that draw are not inherited."""
    receiver, sender = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=_reason_in_child, args=(sender, opengl))
    child.start()
    try:
        assert receiver.poll(20)
        assert "OpenGL does not survive a fork" in receiver.recv()
        child.join(20)
        assert child.exitcode == 0
    finally:
        child.kill()
    assert reach.reset(seed=1)[keys.PIXELS].float().std() > 20


def python(code, **environment):
    """Run code in a new process with nothing but these variables and the path of the package under test."""
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": os.environ.get("PYTHONPATH", ""), **environment}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=120)


DRAW = f"""
from rlhive.envs._robohive import RoboHiveEnv
env = RoboHiveEnv({REACH!r}, from_pixels=True, image_size=(8, 8), cameras=["left_cam"], render_quality="fast")
print(env.reset()["pixels"].float().std() > 20)
"""


@pytest.mark.slow
def test_a_process_that_closes_nothing_exits_without_output(opengl):
    answer = python(DRAW)
    assert (answer.stdout, answer.stderr, answer.returncode) == ("tensor(True)\n", "", 0)


@pytest.mark.slow
def test_without_opengl_states_work_and_pictures_raise_an_error(tmp_path):
    for library in ("libEGL.so", "libEGL.so.1", "libOSMesa.so", "libOSMesa.so.8", "libOSMesa.so.6"):
        (tmp_path / library).touch()  # found first, and no library
    code = f"""
import os
import sys
from rlhive.envs._robohive import RoboHiveEnv
from rlhive.errors import RenderingUnavailableError
RoboHiveEnv({REACH!r}).reset()
print([name for name in sys.modules if name.split(".")[0] == "OpenGL" or name.startswith("mujoco.egl")])
for library in ("", "osmesa", "disable"):
    os.environ["MUJOCO_GL"] = library
    try:
        RoboHiveEnv({REACH!r}, from_pixels=True)
    except RenderingUnavailableError as error:
        print(error)
"""
    answer = python(code, LD_LIBRARY_PATH=str(tmp_path))
    cure = "works on this machine: on Debian or Ubuntu type: apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri"
    assert answer.stdout.splitlines() == [
        "[]",
        f"Pictures need OpenGL, and neither EGL nor OSMesa {cure} (or libosmesa6)",
        f"Pictures need OpenGL, and no osmesa {cure} (or libosmesa6)",
        "MUJOCO_GL=disable turns rendering off: expected egl, osmesa or no value.",
    ], answer.stderr


@pytest.mark.slow
def test_osmesa_is_used_without_egl(tmp_path, opengl):
    for library in ("libEGL.so", "libEGL.so.1"):
        (tmp_path / library).touch()
    answer = python(DRAW + "print(env.provenance()['rendering']['gl'])", LD_LIBRARY_PATH=str(tmp_path))
    if "libosmesa6" in answer.stderr:
        pytest.skip("OSMesa is not installed: apt-get install libosmesa6")
    assert answer.stdout.startswith("tensor(True)\nosmesa: ")
    assert (answer.stderr, answer.returncode) == ("", 0)
