"""The visual ids of earlier versions: what each one builds and shows."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torchrl.envs import check_env_specs

from rlhive import keys
from rlhive.envs._visual import AGENTHIVE, HISTORICAL, VISUAL, parse_visual_keys
from rlhive.errors import EnvNotFoundError, RoboHiveMissingError

#: As the README of the first version listed them.
README_LIST = [
    "visual_franka_slide_random-v3",
    "visual_franka_slide_close-v3",
    "visual_franka_slide_open-v3",
    "visual_franka_micro_random-v3",
    "visual_franka_micro_close-v3",
    "visual_franka_micro_open-v3",
    "visual_kitchen_knob1_off-v3",
    "visual_kitchen_knob1_on-v3",
    "visual_kitchen_knob2_off-v3",
    "visual_kitchen_knob2_on-v3",
    "visual_kitchen_knob3_off-v3",
    "visual_kitchen_knob3_on-v3",
    "visual_kitchen_knob4_off-v3",
    "visual_kitchen_knob4_on-v3",
    "visual_kitchen_light_off-v3",
    "visual_kitchen_light_on-v3",
    "visual_kitchen_sdoor_close-v3",
    "visual_kitchen_sdoor_open-v3",
    "visual_kitchen_ldoor_close-v3",
    "visual_kitchen_ldoor_open-v3",
    "visual_kitchen_rdoor_close-v3",
    "visual_kitchen_rdoor_open-v3",
    "visual_kitchen_micro_close-v3",
    "visual_kitchen_micro_open-v3",
    "visual_kitchen_close-v3",
]

#: As AgentHive's README listed them.
AGENTHIVE_LIST = [
    "visual_motorFingerReachFixed-v0",
    "visual_door-v1",
    "visual_hammer-v1",
    "visual_pen-v1",
    "visual_relocate-v1",
    "visual_franka_slide_random-v3",
    "visual_franka_slide_close-v3",
    "visual_franka_slide_open-v3",
    "visual_franka_micro_random-v3",
    "visual_franka_micro_close-v3",
    "visual_franka_micro_open-v3",
    "visual_FK1_Knob1OffRandom-v4",
    "visual_FK1_Knob1OnRandom-v4",
    "visual_FK1_Knob2OffRandom-v4",
    "visual_FK1_Knob2OnRandom-v4",
    "visual_FK1_Knob3OffRandom-v4",
    "visual_FK1_Knob3OnRandom-v4",
    "visual_FK1_Knob4OffRandom-v4",
    "visual_FK1_Knob4OnRandom-v4",
    "visual_FK1_LightOffRandom-v4",
    "visual_FK1_LightOnRandom-v4",
    "visual_FK1_SdoorCloseRandom-v4",
    "visual_FK1_SdoorOpenRandom-v4",
    "visual_FK1_LdoorCloseRandom-v4",
    "visual_FK1_LdoorOpenRandom-v4",
    "visual_FK1_RdoorCloseRandom-v4",
    "visual_FK1_RdoorOpenRandom-v4",
    "visual_FK1_MicroOpenRandom-v4",
    "visual_FK1_MicroCloseRandom-v4",
    "visual_FK1_RelaxRandom-v4",
]

SMALL = {"image_size": (32, 40), "render_quality": "fast"}


@pytest.fixture
def make(opengl):
    """Build environments, and close them at the end of the test."""
    from rlhive.envs._robohive import RoboHiveEnv

    built = []

    def build(env_name, **kwargs):
        built.append(RoboHiveEnv(env_name, **kwargs))
        return built[-1]

    yield build
    for env in built:
        env.close(raise_if_closed=False)


def test_every_name_ever_listed_is_known():
    assert len(README_LIST) == 25
    assert list(HISTORICAL) == README_LIST
    assert set(AGENTHIVE_LIST) <= set(VISUAL)
    assert set(VISUAL) == {*README_LIST, *AGENTHIVE_LIST}
    assert len(AGENTHIVE) == 24


def test_every_one_maps_to_an_environment_that_robohive_registers():
    from rlhive.envs._robohive import RoboHiveEnv

    RoboHiveEnv("FrankaReachRandom-v0").close()
    import gymnasium

    for name, visual in VISUAL.items():
        assert visual.robohive_id in gymnasium.registry, name
        new = visual.robohive_id.removesuffix("Random-v4").removeprefix("FK1_").lower()
        old = name.removeprefix("visual_kitchen_").removesuffix("-v3").replace("_", "")
        assert old == new or name == f"visual_{visual.robohive_id}" or name == "visual_kitchen_close-v3", name


def test_the_page_lists_every_one():
    page = (Path(__file__).parents[2] / "docs" / "visual.md").read_text(encoding="utf-8")
    for name, visual in VISUAL.items():
        assert f"`{name}`" in page
        assert f"`{visual.robohive_id}`" in page


@pytest.mark.parametrize(
    "env_name", ["visual_kitchen_knob1_on-v3", "visual_franka_micro_open-v3", "visual_FK1_RdoorOpenRandom-v4"]
)
def test_pictures_and_observations_are_the_historical_ones(make, env_name):
    env = make(env_name, **SMALL)
    check_env_specs(env)
    start = env.reset(seed=6)
    mapped = VISUAL[env_name].robohive_id
    plain = make(
        mapped, from_pixels=True, cameras=["right_cam", "left_cam"], obs_keys=["robot_jnt", "ee_pose"], **SMALL
    )
    expected = plain.reset(seed=6)
    assert (env.env_name, env.robohive_id, env.horizon) == (env_name, mapped, plain.horizon)
    assert torch.equal(start[keys.PIXELS], expected[keys.PIXELS])
    parts = torch.cat([expected["robot_jnt"], expected["ee_pose"]])
    assert torch.equal(start[keys.OBSERVATION], parts)
    assert parts.shape == (15,)
    assert env.provenance()["robohive_id"] == mapped
    assert env.provenance()["rendering"]["cameras"] == ["right_cam", "left_cam"]


def test_has_the_historical_size_and_cameras_by_default(make):
    assert make("visual_kitchen_light_on-v3").observation_spec[keys.PIXELS].shape == (2, 224, 224, 3)
    other = make("visual_kitchen_light_on-v3", cameras=["top_cam"], image_size=(24, 32))
    assert other.observation_spec[keys.PIXELS].shape == (1, 24, 32, 3)
    assert keys.PIXELS not in make("visual_kitchen_light_on-v3", from_pixels=False).reset()


@pytest.mark.filterwarnings("ignore:.*default interaction site")
def test_closing_the_kitchen_starts_with_everything_open_and_has_fifty_steps(make):
    env = make("visual_kitchen_close-v3", **SMALL, obs_keys=["objs_jnt", "obj_goal"])
    start = env.reset(seed=0)
    open_ = [-1.57, -1.57, -1.57, -1.57, -0.7, 0.44, -1.25, 1.57, -1.25]
    np.testing.assert_allclose(start["objs_jnt"][:9], open_, atol=0.02)
    assert not start[keys.SUCCESS]
    assert start["obj_goal"][:9].abs().max() < 0.02
    assert env.horizon == 50
    assert env.rollout(60)[keys.NEXT_TRUNCATED].flatten().nonzero().flatten().tolist() == [49]


def test_hands_without_their_assets_are_an_error_with_the_command_to_type(make):
    from rlhive.envs._assets import verify_assets
    from rlhive.envs._install import package_folder

    if verify_assets(package_folder() / "simhive").source == "git":
        pytest.skip("the assets from git hold the hands; the ones from the package index do not")
    for name in ("visual_door-v1", "visual_motorFingerReachFixed-v0"):
        with pytest.raises(RoboHiveMissingError, match="rlhive setup --assets git"):
            make(name)


def test_robohives_v2d_ids_render_the_cameras_that_they_register(make):
    env = make("FrankaReachRandom_v2d-v0")
    assert env.observation_spec[keys.PIXELS].shape == (3, 224, 224, 3)
    assert env.provenance()["rendering"]["cameras"] == ["left_cam", "right_cam", "top_cam"]
    assert keys.PIXELS not in make("FrankaReachRandom_v2d-v0", from_pixels=False).reset()
    small = make("FrankaReachRandom_v2d-v0", **SMALL)
    plain = make("FrankaReachRandom-v0", from_pixels=True, cameras=["left_cam", "right_cam", "top_cam"], **SMALL)
    assert torch.equal(small.reset(seed=3)[keys.PIXELS], plain.reset(seed=3)[keys.PIXELS])


def test_robohives_visual_keys_are_read():
    defaults = parse_visual_keys("some-v0", ["rgb:a:b:240x424:2d", "rgb:c:240x424:2d", "d:a:b:240x424:2d"])
    assert (defaults.cameras, defaults.image_size, defaults.depth) == (("a:b", "c"), (240, 424), True)
    assert parse_visual_keys("some-v0", ["rgb:c:8x9:2d"]).depth is False


def test_an_unknown_visual_id_is_named_with_its_neighbours(make):
    with pytest.raises(EnvNotFoundError, match="visual_kitchen_knob1_on-v3"):
        make("visual_kitchen_knob1_on-v4")
