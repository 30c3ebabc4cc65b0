"""Buffers, batches and configurations of the toy task for the tests of training."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

from rlhive.envs import Recipe, Task, get_task
from rlhive.envs._make import make_env, make_policy
from rlhive.rollouts import collect
from rlhive.rollouts._rollout import rollout_episode
from rlhive.sim_algos import make_config, train_on_buffer
from rlhive.sim_algos._preprocessing import ReturnStatistics, TrainingStatistics

QUICK = ["progress=false", "logger=null", "network.hidden_sizes=[64,64]", "network.dropout=0", "train.num_steps=1000"]
QUICK_SAC = [
    "progress=false",
    "logger=null",
    *(f"network.{name}hidden_sizes=[32]" for name in ("", "critic_", "scale_")),
    "train.batch_size=64",
    "collect.init_random_frames=40",
]


def collect_buffer(*levels: str, num_episodes: int = 8) -> TensorDictReplayBuffer:
    """Collect episodes of the toy task with policies of some levels."""
    env = make_env("toy_point")
    episodes = [
        rollout_episode(env, make_policy(env, level), seed=1000 * index + seed).transitions
        for index, level in enumerate(levels)
        for seed in range(num_episodes)
    ]
    return as_buffer(torch.cat(episodes))


def as_buffer(transitions: TensorDict) -> TensorDictReplayBuffer:
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(len(transitions)))
    buffer.extend(transitions)
    return buffer


def quick_config(model: str, *overrides: str) -> dict:
    return make_config(model, "toy_point", overrides=[*QUICK, *overrides])


def train_quickly(buffer, config, folder, **kwargs):
    return train_on_buffer(buffer, config, env_name="ToyPoint-v0", output_dir=folder, **kwargs)


def make_statistics(reward_std: float = 0.0, action_dim: int = 1) -> TrainingStatistics:
    returns = ReturnStatistics(mean=0.5, std=2.0, best=3.0)
    return TrainingStatistics(torch.zeros(2), torch.ones(2), reward_std, action_dim, returns=returns)


def make_row(*, reward: float, terminated: bool = False, truncated: bool = False, action: float = 0.0) -> TensorDict:
    """Return a batch of one transition."""
    flags = {"terminated": terminated, "truncated": truncated, "done": terminated or truncated}
    following = {name: torch.tensor([[flag]]) for name, flag in flags.items()}
    following |= {"observation": torch.tensor([[0.5, -1.0]]), "reward": torch.tensor([[reward]])}
    data = {"observation": torch.tensor([[0.25, 2.0]]), "action": torch.tensor([[action]]), "next": following}
    return TensorDict(data, batch_size=[1])


def run_command(*arguments: str, cwd: Path, store: Path) -> subprocess.CompletedProcess:
    """Run the command line of training in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "rlhive.sim_algos.run", *arguments],
        cwd=cwd,
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "HOME": str(cwd),
            "RLHIVE_DATASETS_PATH": str(store),
            "HF_HUB_OFFLINE": "1",
        },
        capture_output=True,
        text=True,
        timeout=250,  # 10 s on a quiet machine
        check=False,
    )


def sac_config(*overrides):
    config = make_config("sac", overrides=[*QUICK_SAC, *overrides])
    return {**config, "env": "toy_point"}


PIXEL_OPTIONS = [
    "encoder.channels=[8,16]",
    "encoder.kernel_sizes=[4,3]",
    "encoder.strides=[2,2]",
    "encoder.feature_dim=16",
]


def pixel_task(**recipe: int) -> Task:
    """Return the toy with pictures, the goal by name, and some episodes per level."""
    task = get_task("toy_point").with_pixels(image_size=(16, 32), obs_keys=("goal",))
    return replace(task, recipe=Recipe("1.0.0", recipe, "mit"))


def collect_pixels(store: Path, **recipe: int) -> Path:
    """Collect the toy with pictures as the dataset toy_pixels."""
    return collect(pixel_task(**recipe), name="toy_pixels", store=store, num_workers=1, progress=False)
