"""Environments of every family run, show pictures and close; ids whose assets are not installed are skipped."""

import pytest
import torch
from tensordict import LazyStackedTensorDict
from torchrl.envs import check_env_specs

from benchmarks.env_coverage import CHECKS, Coverage, cover_env, find_blank, format_table
from rlhive import keys
from tests.envs import families

#: Ids with pictures of their own.
PICTURED = ["visual_franka_slide_random-v3", "visual_door-v1", "FK1_Knob1OnRandom_v2d-v4", "DKittyWalkRandom_v2d-v0"]


@pytest.mark.slow
@pytest.mark.parametrize("env_name", [*families.WITH_PYPI_ASSETS, *families.WITH_GIT_ASSETS, *PICTURED])
def test_environments_of_every_family_run_show_pictures_and_close(opengl, env_name):
    coverage = cover_env(env_name)
    if coverage.runs == "assets":
        pytest.skip(f"{env_name}: {families.NO_ASSETS}")

    assert coverage.failures == {}


@pytest.mark.slow
@pytest.mark.parametrize("env_name", families.ONE_EACH)
def test_torchrls_own_cases_pass(opengl, build, env_name):
    """Those of its TestRoboHive: pixels and depth or neither, dense rollouts of 4 steps, check_env_specs."""
    states = build(env_name)
    pictures = {"from_pixels": True, "image_size": (16, 16), "render_quality": "fast"}
    envs = [states]
    if states.unwrapped.sim.model.ptr.ncam:
        envs += [build(env_name, **pictures, depth=depth) for depth in (False, True)]
    for env in envs:
        rollout = env.rollout(4)
        assert all(isinstance(value, torch.Tensor) for value in rollout.values(True, True))
        assert not any(isinstance(value, LazyStackedTensorDict) for value in rollout.values(True))
        check_env_specs(env)


def test_one_colour_and_failures_are_found():
    class Env:
        def provenance(self):
            return {"rendering": {"cameras": ["left", "right"]}}

    pixels = torch.zeros(2, 4, 4, 3, dtype=torch.uint8)
    pixels[0, 1, 1] = 9
    assert find_blank({keys.PIXELS: pixels}, Env()) == "the picture of camera 'right' is of one colour"
    assert Coverage("door-v1", "yes", "no camera", "closing keeps the simulation").failures == {
        "closes": "closing keeps the simulation"
    }


def test_the_table_counts_what_applies():
    rows = [
        Coverage("door-v1"),
        Coverage("pen-v1", pictures="no camera"),
        Coverage("hammer-v1", runs="ValueError: no"),
        Coverage("Fetch-v0", *("assets" for _ in CHECKS)),
        Coverage("motorFinger-v0", pictures="no camera"),
    ]
    assert format_table(rows).splitlines()[2:] == [
        "| Fetch | 1 | no assets | no assets | no assets |",
        "| Adroit (door, hammer, pen, relocate) | 3 | 2 of 3 | 2 of 2 | 3 of 3 |",
        "| Motor fingers | 1 | 1 of 1 | no camera | 1 of 1 |",
    ]
