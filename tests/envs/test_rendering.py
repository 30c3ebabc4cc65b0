"""Rendering: pictures equal RoboHive's pixel by pixel, and drawing them has no side effects."""

import gc
import time
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torchrl.envs import EnvCreator, ParallelEnv, check_env_specs

from rlhive import keys
from rlhive.envs._rendering import QUALITIES, resolve_render_options
from rlhive.errors import InvalidOptionError

KNOB = "FK1_Knob1OnRandom-v4"
REACH = "FrankaReachRandom-v0"
KITCHEN_CAMERAS = ["left_cam", "right_cam", "top_cam", "Franka_wrist_cam"]

#: What most tests here draw: it costs milliseconds.
SMALL = {"from_pixels": True, "image_size": (36, 48), "render_quality": "fast"}


@pytest.fixture(scope="module")
def make(opengl, make):
    """As elsewhere, where there is OpenGL."""
    return make


@pytest.fixture(scope="module")
def kitchen(make):
    return make(**SMALL, cameras=["left_cam", "top_cam"], depth=True, seed=0)


@pytest.fixture(scope="module")
def actions():
    return torch.as_tensor(np.random.default_rng(5).uniform(-1, 1, (60, 9)), dtype=torch.float32)


def step(env, action):
    return env.step(TensorDict({keys.ACTION: action}, []))[keys.NEXT]


def mean_difference(one, other):
    return (one.float() - other.float()).abs().mean().item()


@pytest.mark.parametrize("env_name", [KNOB, REACH])
def test_the_default_quality_is_robohives_own_picture(make, opengl, monkeypatch, actions, env_name):
    import mujoco.gl_context

    env = make(env_name, from_pixels=True, cameras=["right_cam", "left_cam"], image_size=(45, 60), depth=True)
    env.reset(seed=3)
    got = step(env, actions[0])
    monkeypatch.setattr(mujoco.gl_context, "GLContext", opengl.context_class())
    robohive = env.unwrapped.sim_obsd.renderer
    for index, camera in enumerate(["right_cam", "left_cam"]):
        pixels, depth = robohive.render_offscreen(width=60, height=45, depth=True, camera_id=camera)
        np.testing.assert_array_equal(got[keys.PIXELS][index].numpy(), pixels)
        np.testing.assert_array_equal(got[keys.DEPTH][index].numpy(), depth)
    robohive._renderer.close()
    assert got[keys.PIXELS].float().std() > 20
    assert got[keys.PIXELS].dtype == torch.uint8
    assert got[keys.DEPTH].dtype == torch.float32


def test_cheaper_qualities_show_the_same_scene_in_another_light(make):
    pictures = {}
    for quality in QUALITIES:
        env = make(from_pixels=True, cameras=["left_cam"], image_size=(84, 84), depth=True, render_quality=quality)
        pictures[quality] = env.reset(seed=0)
    robohive, shadows, fast = (pictures[quality][keys.PIXELS] for quality in ("robohive", "shadows", "fast"))
    # As measured when the qualities were chosen: 5 and 16 grey levels of 255.
    assert 3 < mean_difference(robohive, shadows) < 7
    assert 12 < mean_difference(robohive, fast) < 20
    # Without shadows the scene is brighter; with them it is as bright as RoboHive's.
    assert fast.float().mean() - robohive.float().mean() > 8
    assert abs(shadows.float().mean() - robohive.float().mean()) < 1
    for quality in QUALITIES:
        assert torch.equal(pictures[quality][keys.DEPTH], pictures["robohive"][keys.DEPTH])


def test_depth_is_metres_from_the_camera(make):
    """The nearest point of a sphere that hangs 2 m before the wrist camera is its radius nearer."""
    env = make(REACH, from_pixels=True, cameras=["top_cam"], image_size=(65, 65), depth=True, render_quality="fast")
    env.reset(seed=0)
    import mujoco

    model, data = env._model, env._data
    camera = model.camera("top_cam").id
    ahead = -data.cam_xmat[camera].reshape(3, 3)[:, 2]
    seen = env.reset(seed=0)[keys.DEPTH][0, 32, 32].item()
    hit = mujoco.mj_ray(model, data, data.cam_xpos[camera], ahead, None, 1, -1, np.zeros(1, np.int32))
    assert seen == pytest.approx(hit, abs=0.02)


@pytest.mark.parametrize("quality", QUALITIES)
def test_segmentation_names_the_object_that_a_pixel_shows(make, quality):
    env = make(
        REACH, from_pixels=True, cameras=["top_cam"], image_size=(65, 65), segmentation=True, render_quality=quality
    )
    seen = env.reset(seed=0)[keys.SEGMENTATION][0]
    import mujoco

    model, data = env._model, env._data
    camera = model.camera("top_cam").id
    ahead = -data.cam_xmat[camera].reshape(3, 3)[:, 2]
    hit = np.zeros(1, np.int32)
    drawn = mujoco.MjvOption().geomgroup  # not the geoms that only collide
    mujoco.mj_ray(model, data, data.cam_xpos[camera], ahead, drawn, 1, -1, hit)
    assert seen[32, 32].tolist() == [hit[0], mujoco.mjtObj.mjOBJ_GEOM]
    numbers, types = seen.flatten(0, 1).unbind(1)
    assert set(types.tolist()) <= {-1, int(mujoco.mjtObj.mjOBJ_GEOM), int(mujoco.mjtObj.mjOBJ_SITE)}
    assert len(numbers.unique()) > 5
    assert numbers.max() < max(model.ngeom, model.nsite)
    assert env.provenance()["rendering"]["segmentation"]
    check_env_specs(env)


def test_keeps_the_torchrl_contract(kitchen):
    check_env_specs(kitchen)
    assert kitchen.observation_spec[keys.PIXELS].shape == (2, 36, 48, 3)
    assert kitchen.observation_spec[keys.DEPTH].shape == (2, 36, 48)


def test_every_step_and_reset_renders_the_current_state(kitchen, make, actions):
    start = kitchen.reset(seed=1)
    first = step(kitchen, actions[0])
    last = [step(kitchen, action) for action in actions[1:10]][-1]
    # One step moves the arm, and the arm alone.
    assert start[keys.PIXELS].float().std() > 20
    assert 0 < mean_difference(start[keys.PIXELS], first[keys.PIXELS]) < 10
    assert 0 < mean_difference(start[keys.DEPTH], first[keys.DEPTH]) < 0.5
    assert mean_difference(start[keys.PIXELS], last[keys.PIXELS]) > 1
    assert mean_difference(start[keys.DEPTH], last[keys.DEPTH]) > 0.01
    again = kitchen.reset(seed=1)
    assert torch.equal(again[keys.PIXELS], start[keys.PIXELS])
    assert torch.equal(again[keys.DEPTH], start[keys.DEPTH])
    state = kitchen.get_state()
    other = make(**SMALL, cameras=["left_cam", "top_cam"], depth=True, seed=9)
    other.reset()
    assert torch.equal(other.set_state(state)[keys.PIXELS], start[keys.PIXELS])
    assert torch.equal(step(other, actions[0])[keys.PIXELS], first[keys.PIXELS])


def test_successive_pictures_share_no_memory(kitchen, actions):
    start = kitchen.reset(seed=1)
    copy = start.clone()
    for action in actions[:5]:
        step(kitchen, action)[keys.PIXELS].zero_()
    assert torch.equal(start[keys.PIXELS], copy[keys.PIXELS])
    assert torch.equal(kitchen.reset(seed=1)[keys.PIXELS], copy[keys.PIXELS])


@pytest.mark.parametrize("quality", QUALITIES)
def test_rendering_changes_neither_physics_nor_state_nor_model(make, actions, quality):
    blind = make(REACH, seed=0)
    seeing = make(REACH, seed=0, from_pixels=True, cameras=["left_cam"], image_size=(8, 8), render_quality=quality)
    assert torch.equal(seeing.reset(seed=4)[keys.OBSERVATION], blind.reset(seed=4)[keys.OBSERVATION])
    for action in actions[:3]:
        left, right = step(blind, action), step(seeing, action)
        assert torch.equal(left[keys.OBSERVATION], right[keys.OBSERVATION])
        assert torch.equal(left[keys.REWARD], right[keys.REWARD])
    for name, value in blind.get_state().items():
        np.testing.assert_array_equal(seeing.get_state()[name], value)
    from rlhive.envs._robohive import _hash_model

    assert _hash_model(seeing._model) == _hash_model(blind._model)
    assert seeing.provenance()["model_hash"] == blind.provenance()["model_hash"]


def test_sizes_and_environments_do_not_disturb_each_other(make):
    from rlhive.envs._robohive import RoboHiveEnv

    sizes = [(20, 30), (64, 48), (36, 48)]
    envs = [make(REACH, **{**SMALL, "image_size": size}, cameras=["left_cam"]) for size in sizes]
    first = [env.reset(seed=2)[keys.PIXELS] for env in envs]
    assert [tuple(picture.shape) for picture in first] == [(1, *size, 3) for size in sizes]
    # One that is collected without being closed, and one that is closed, take nothing of the others with them.
    passing = RoboHiveEnv(REACH, **SMALL, cameras=["left_cam"])
    passing.reset()
    del passing
    gc.collect()
    envs.pop(0).close()
    for env, picture in zip(envs, first[1:], strict=True):
        assert torch.equal(env.reset(seed=2)[keys.PIXELS], picture)
    alone = make(REACH, **SMALL, cameras=["left_cam"])
    assert torch.equal(alone.reset(seed=2)[keys.PIXELS], first[2])


def test_all_cameras_by_default_in_the_order_asked_for(make, kitchen):
    every = make(**SMALL)
    assert every.provenance()["rendering"]["cameras"] == KITCHEN_CAMERAS
    pictures = every.reset(seed=1)[keys.PIXELS]
    two_cameras = kitchen.reset(seed=1)[keys.PIXELS]
    assert torch.equal(pictures[[0, 2]], two_cameras)
    assert not torch.equal(pictures[0], pictures[1])


def test_the_provenance_names_the_rendering_options_and_the_renderer(make, kitchen, opengl):
    rendering = kitchen.provenance()["rendering"]
    assert rendering.pop("gl") == opengl.describe_library()
    assert rendering == {
        "cameras": ["left_cam", "top_cam"],
        "image_size": [36, 48],
        "depth": True,
        "render_quality": "fast",
    }
    assert "rendering" not in make(seed=0).provenance()


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"cameras": ["left"]}, f"No camera named 'left': expected names out of {', '.join(KITCHEN_CAMERAS)}"),
        ({"cameras": []}, r"cameras is \[\]: expected one or more"),
        ({"cameras": ["left_cam", "left_cam"]}, r"cameras is \['left_cam', 'left_cam'\]: expected .* each once"),
        ({"image_size": (0, 84)}, r"image_size is \(0, 84\): expected \(height, width\)"),
        ({"image_size": (84, -1)}, r"image_size is \(84, -1\): expected"),
        ({"image_size": (84, 4097)}, r"image_size is \(84, 4097\): .* from 1 to 4096"),
        ({"image_size": (84.0, 84)}, r"image_size is \(84.0, 84\): expected .* whole numbers"),
        ({"image_size": 84}, "image_size is 84: expected"),
        ({"image_size": (84, 84, 3)}, r"image_size is \(84, 84, 3\): expected"),
        ({"render_quality": "best"}, "render_quality is 'best': expected one of 'robohive', 'shadows', 'fast'"),
        ({"from_pixels": False, "cameras": ["left_cam"]}, "was given cameras without pixels: add from_pixels=True"),
        ({"from_pixels": None, "depth": True}, "was given depth without pixels"),
    ],
)
def test_invalid_options_are_refused_in_one_sentence(make, wrong, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        make(**{"from_pixels": True, **wrong})
    assert "\n" not in str(caught.value)


def test_cameras_can_be_a_single_name(make):
    assert make(REACH, **SMALL, cameras="left_cam").provenance()["rendering"]["cameras"] == ["left_cam"]


def test_a_model_without_a_camera_is_named(make):
    import mujoco

    scene = SimpleNamespace(model=SimpleNamespace(ptr=mujoco.MjModel.from_xml_string("<mujoco/>")))
    env = SimpleNamespace(sim_obsd=scene, visual_keys=[])
    options = dict.fromkeys(("cameras", "image_size", "depth", "render_quality"))

    with pytest.raises(InvalidOptionError, match=r"blind-v0 has no camera: .*Pass from_pixels=False\."):
        resolve_render_options(env, "blind-v0", True, options)
    assert resolve_render_options(env, "blind-v0", False, options) is None


def test_the_motor_finger_has_no_camera(build):
    assert keys.PIXELS not in build("visual_motorFingerReachFixed-v0", from_pixels=False).reset()
    with pytest.raises(InvalidOptionError, match="visual_motorFingerReachFixed-v0 has no camera"):
        build("visual_motorFingerReachFixed-v0")


def test_builds_in_under_three_seconds(make):
    make(seed=0)  # the import of RoboHive is not counted
    started = time.process_time()
    make(from_pixels=True)
    assert time.process_time() - started < 3


def test_tensors_go_to_the_device(make):
    env = make(REACH, **SMALL, cameras=["left_cam"], depth=True, device="meta")
    start = env._reset()  # TorchRL's reset looks at values, which this device does not have
    assert {str(value.device) for value in start.values()} == {"meta"}
    assert str(env.observation_spec[keys.PIXELS].device) == "meta"
    assert start[keys.PIXELS].shape == (1, 36, 48, 3)


def _worker(env_name, **kwargs):
    from rlhive.envs._robohive import RoboHiveEnv

    return RoboHiveEnv(env_name, **kwargs)


@pytest.mark.slow
def test_parallel_workers_reproduce_a_seed_bit_for_bit(make):
    """TorchRL spawns its workers, so this is also the test of a spawned process."""
    options = {**SMALL, "cameras": ["left_cam"]}
    alone = make(REACH, **options)
    workers = ParallelEnv(2, EnvCreator(partial(_worker, REACH, **options)))
    try:
        second_seed = alone.set_seed(5)
        workers.set_seed(5)
        first = workers.rollout(4, zeros)
        workers.set_seed(5)
        assert_same(workers.rollout(4, zeros), first)
        # Worker 0 has the seed itself, worker 1 TorchRL's next one.
        assert_same(alone.rollout(4, zeros), first[0])
        alone.set_seed(second_seed)
        assert_same(alone.rollout(4, zeros), first[1])
        assert not torch.equal(first[0][keys.PIXELS], first[1][keys.PIXELS])
        start, expected = workers.reset(seed=8), alone.reset(seed=8)
        for key in (keys.OBSERVATION, keys.PIXELS):
            assert torch.equal(start[key], torch.stack([expected[key]] * 2))
    finally:
        workers.close()


def zeros(tensordict):
    """A policy that holds still."""
    return tensordict.set(keys.ACTION, torch.zeros(*tensordict.shape, 9))


def assert_same(left, right):
    for key in (keys.OBSERVATION, keys.PIXELS, (keys.NEXT, keys.PIXELS), keys.NEXT_REWARD):
        assert torch.equal(left[key], right[key]), key
