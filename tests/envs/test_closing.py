"""Closing an environment frees its memory at once, without waiting for the garbage collector."""

import gc
import json
import subprocess
import sys
import weakref

import pytest

from rlhive.errors import EnvClosedError

REACH = "FrankaReachRandom-v0"

GROWTH = """
import gc, json, sys, warnings
warnings.simplefilter("ignore")
gc.disable()
from rlhive.envs._robohive import RoboHiveEnv

def resident_mb():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024

memory_mb = []
for _ in range(8):
    env = RoboHiveEnv("FK1_Knob1OnRandom-v4", seed=0, **json.loads(sys.argv[1]))
    env.reset()
    env.close()
    memory_mb.append(resident_mb())
print(json.dumps(memory_mb))
"""


@pytest.fixture
def no_garbage_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_closing_frees_the_simulation_at_once(no_garbage_collector):
    from rlhive.envs._robohive import RoboHiveEnv

    env = RoboHiveEnv(REACH, seed=0)
    rollout = env.rollout(2)
    simulation = weakref.ref(env.unwrapped.sim.data.ptr)
    assert not env.is_closed

    env.close()

    assert env.is_closed
    assert simulation() is None
    assert rollout["next", "observation"].isfinite().all()
    env.close(raise_if_closed=False)


def test_closing_frees_the_pictures_at_once(no_garbage_collector, opengl):
    from rlhive.envs._robohive import RoboHiveEnv

    env = RoboHiveEnv(REACH, from_pixels=True, image_size=(16, 16), render_quality="fast", seed=0)
    offscreen = env._renderer._offscreen
    simulation = weakref.ref(env.unwrapped.sim.data.ptr)

    env.close()

    assert offscreen.context is None
    assert offscreen.resources is None
    assert simulation() is None


def test_using_a_closed_environment_is_an_error_that_says_so():
    from rlhive.envs._robohive import RoboHiveEnv

    env = RoboHiveEnv(REACH, seed=0)
    action = env.reset().update(env.rand_action())
    env.close()

    for use in (env.reset, env.get_state, env.provenance, lambda: env.step(action), lambda: env.unwrapped.sim):
        with pytest.raises(EnvClosedError, match="FrankaReachRandom-v0 is closed"):
            use()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_building_and_closing_again_and_again_takes_no_more_memory(opengl):
    """Without closing, a kitchen with pictures keeps 275 MB; the first build loads what stays.

    Mesa's threads take and give back some 100 MB meanwhile, so the least of three readings is compared, four builds on.
    """
    pixels = {"from_pixels": True, "cameras": ["left_cam"], "image_size": [32, 32], "render_quality": "fast"}
    ran = subprocess.run([sys.executable, "-c", GROWTH, json.dumps(pixels)], capture_output=True, text=True, check=True)
    memory_mb = json.loads(ran.stdout.splitlines()[-1])

    assert min(memory_mb[5:]) - min(memory_mb[1:4]) < 4 * 25, memory_mb
