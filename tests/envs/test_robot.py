"""The vectorized robot equals RoboHive's bit for bit."""

import numpy as np
import pytest

pytest.importorskip("robohive")

from rlhive.envs._robohive import RoboHiveEnv

#: Velocity control of a kitchen, of an appliance; positions with actuators outside of the configuration; two arms'
#: worth of devices; no configuration at all.
ENVS = (
    "FK1_Knob1OnRandom-v4",
    "franka_slide_random-v3",
    "FrankaReachRandom-v0",
    "FrankaPickPlaceRandom-v0",
    "TrifingerReachRandom-v0",
    "baoding-v1",
)


def build_pair(env_name):
    import gymnasium

    vectorized = RoboHiveEnv(env_name)
    raw = gymnasium.make(env_name, seed=0, disable_env_checker=True).unwrapped
    return raw, vectorized


@pytest.mark.parametrize("env_name", ENVS)
@pytest.mark.filterwarnings("ignore")
def test_steps_are_robohives_bit_for_bit(env_name):
    import gymnasium

    if env_name not in gymnasium.registry:
        RoboHiveEnv("FrankaReachRandom-v0").close()
    raw, vectorized = build_pair(env_name)
    generator = np.random.default_rng(3)
    vectorized.set_seed(3)
    raw.seed(3)
    raw.robot.np_random = raw.np_random
    vectorized.reset()
    raw.reset()
    for _ in range(8):
        action = generator.uniform(-1, 1, raw.action_space.shape).astype(np.float32)
        observation, reward, *_ = raw.step(action)
        actual, actual_reward, *_ = vectorized.unwrapped.step(action)
        np.testing.assert_array_equal(actual, observation)
        assert actual_reward == reward
        np.testing.assert_array_equal(vectorized.unwrapped.last_ctrl, raw.last_ctrl)
        assert vectorized.unwrapped.last_ctrl.dtype == raw.last_ctrl.dtype
    vectorized.close()


@pytest.fixture(scope="module")
def pair():
    RoboHiveEnv("FrankaReachRandom-v0").close()  # imports RoboHive, which registers its ids
    raw, vectorized = build_pair("FK1_Knob1OnRandom-v4")
    yield raw.robot, vectorized.unwrapped.robot
    vectorized.close()


def test_the_robots_methods_are_replaced(pair):
    original, vectorized = pair
    assert "get_sensors" not in vars(original)
    assert {"get_sensors", "sensor2sim", "process_actuator"} <= set(vars(vectorized))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("mode", [{}, {"normalized": False}, {"position_limits": False}, {"velocity_limits": False}])
def test_controls_are_processed_alike(pair, dtype, mode):
    controls = np.random.default_rng(0).uniform(-1, 1, 9).astype(dtype)
    expected, got = (robot.process_actuator(controls, 0.08, **mode) for robot in pair)
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected)


def test_readings_out_of_range_are_clipped_alike(pair):
    for robot in pair:
        robot.sim.data.sensordata[:] = np.random.default_rng(1).uniform(-9, 9, len(robot.sim.data.sensordata))
    expected, got = (robot.get_sensors() for robot in pair)
    assert expected.keys() == got.keys()
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name])
    assert pair[1].get_sensor_from_cache(-1) is got


def test_noise_is_left_to_robohive(pair):
    for robot in pair:
        robot.np_random = np.random.RandomState(7)
    expected, got = (robot.get_sensors(noise_scale=0.5) for robot in pair)
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name])
    assert (got["franka"] != pair[1].get_sensors()["franka"]).any()
