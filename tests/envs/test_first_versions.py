"""What the README of the first versions promised, under today's names.

Its collector and its R3M example at full length are examples/collect_async.py and r3m.py, see tests/test_examples.py.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torchrl.envs import (
    CatFrames,
    CatTensors,
    Compose,
    EnvCreator,
    GrayScale,
    ObservationNorm,
    ParallelEnv,
    R3MTransform,
    Resize,
    ToTensorImage,
    TransformedEnv,
    VIPTransform,
    check_env_specs,
)

from rlhive import keys
from rlhive.envs._visual import HISTORICAL
from rlhive.rl_envs import RoboHiveEnv

ROOT = Path(__file__).parents[2]
V2D = "FrankaReachRandom_v2d-v0"
SMALL = {"image_size": (16, 20), "render_quality": "fast"}
GROUPS = [list(HISTORICAL)[start : start + 3] for start in range(0, len(HISTORICAL), 3)]

pytestmark = pytest.mark.usefixtures("opengl")


@pytest.fixture
def parallel():
    """Build a ParallelEnv of environments, and end its processes after the test, passed or failed."""
    built = []

    def build(creators):
        built.append(ParallelEnv(len(creators), creators))
        return built[-1]

    yield build
    for env in built:
        env.close(raise_if_closed=False)


def creator(env_name, **kwargs):
    return EnvCreator(lambda: RoboHiveEnv(env_name=env_name, **SMALL, **kwargs))


def test_the_basic_usage_returns_pixels():
    env = RoboHiveEnv(env_name=V2D)
    states = RoboHiveEnv(env_name=V2D, from_pixels=False)

    assert env.from_pixels
    assert not states.from_pixels
    assert env.observation_spec["pixels"].shape == (3, 224, 224, 3)
    env.close()
    states.close()


def test_the_states_are_concatenated_without_pixels_and_success():
    """AgentHive concatenated all keys but the pixels; `success` is one of the keys today."""
    base_env = RoboHiveEnv("visual_kitchen_knob1_on-v3", obs_keys=["ee_pose"], **SMALL)
    names = [key for key in base_env.observation_spec if key not in (keys.PIXELS, keys.SUCCESS)]
    env = TransformedEnv(base_env, CatTensors(names, "observation_vector", del_keys=False))
    start = env.reset(seed=0)

    assert names == ["observation", "ee_pose"]
    assert torch.equal(start["observation_vector"], torch.cat([start["ee_pose"], start["observation"]]))
    assert start[keys.SUCCESS].dtype == torch.bool
    env.close()


@pytest.mark.slow
@pytest.mark.parametrize("env_names", GROUPS[:1], ids=lambda names: names[0])
def test_visual_ids_pass_check_env_specs_and_roll_out_in_parallel(parallel, env_names):
    alone = []
    for env_name in env_names:
        env = RoboHiveEnv(env_name, **SMALL)
        check_env_specs(env)
        alone.append(env.reset(seed=3))
        env.close()
    rollout = parallel([creator(env_name, seed=3) for env_name in env_names]).rollout(3)

    assert rollout.batch_size == (len(env_names), 3)
    for key in (keys.PIXELS, keys.OBSERVATION):
        assert torch.equal(rollout[key][:, 0], torch.stack([start[key] for start in alone]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("transform_class", "model", "file_name", "size"),
    [(R3MTransform, "resnet18", "r3m_18.pt", 512), (VIPTransform, "resnet50", "model.pt", 1024)],
)
def test_pictures_are_embedded_after_parallel_environments(parallel, tmp_path, transform_class, model, file_name, size):
    """With weights from a file, which TorchRL would otherwise download."""
    torch.manual_seed(0)
    network = transform_class(model, in_keys=["pixels"], out_keys=["pixels_embed"], size=64)[-1]
    weights = {f"module.convnet.{name}": value for name, value in network.convnet.state_dict().items()}
    torch.save({transform_class.__name__[:3].lower(): weights}, tmp_path / file_name)
    torch.manual_seed(1)
    transform = transform_class(
        model, in_keys=["pixels"], out_keys=["pixels_embed"], size=64, download=True, download_path=str(tmp_path)
    )
    rollout = TransformedEnv(parallel([creator(V2D)] * 2), transform).rollout(2)
    loaded = transform[-1].convnet.state_dict()

    assert all(torch.equal(loaded[name], value) for name, value in network.convnet.state_dict().items())
    assert rollout["pixels_embed"].shape == (2, 2, 3, size)
    assert rollout["pixels_embed"].std() > 0
    assert keys.PIXELS not in rollout


@pytest.mark.slow
def test_the_series_of_standard_transforms(parallel):
    pictures = Compose(
        ToTensorImage(),
        Resize(84, 84),
        GrayScale(),
        CatFrames(4, dim=-3, in_keys=["pixels"]),
        ObservationNorm(in_keys=["pixels"]),
    )
    env = TransformedEnv(parallel([creator("FrankaReachRandom-v0", from_pixels=True)] * 2), pictures)
    env.transform[-1].init_stats(reduce_dim=(0, 1), cat_dim=1, num_iter=4)
    rollout = env.rollout(3)

    assert rollout["pixels"].shape == (2, 3, 4, 4, 84, 84)
    assert rollout["pixels"].isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "command"),
    [
        ("examples", "basic.py --steps 3"),
        ("rlhive/sim_algos", "run.py +model=sac +exploration=gaussian +env=toy_point train.num_steps=40"),
    ],
)
def test_the_commands_run(tmp_path, folder, command):
    """With the backend that the first versions asked for."""
    options = [f"hydra.run.dir={tmp_path}"] if folder == "rlhive/sim_algos" else []
    done = subprocess.run(
        [sys.executable, *command.split(), *options],
        cwd=ROOT / folder,
        env={**os.environ, "sim_backend": "MUJOCO"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
