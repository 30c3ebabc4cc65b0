"""Environments for a module's tests."""

import pytest


@pytest.fixture(scope="module")
def make():
    """Build environments, the kitchen's first knob by default, and close them at the end of the module."""
    from rlhive.envs._robohive import RoboHiveEnv

    built = []

    def build(env_name="FK1_Knob1OnRandom-v4", **kwargs):
        built.append(RoboHiveEnv(env_name, **kwargs))
        return built[-1]

    yield build
    for env in built:
        env.close(raise_if_closed=False)
