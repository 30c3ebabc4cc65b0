"""Collectors in processes of their own, on several GPUs, one or none, fill a replay buffer of preprocessed pictures.

python examples/collect_async.py --frames 1000000
"""

import argparse
import functools

import torch
import tqdm
from torchrl.collectors import MultiAsyncCollector
from torchrl.data import LazyMemmapStorage, TensorDictReplayBuffer
from torchrl.envs import (
    CatFrames,
    Compose,
    EnvCreator,
    GrayScale,
    ObservationNorm,
    ParallelEnv,
    Resize,
    ToTensorImage,
    TransformedEnv,
)
from torchrl.envs.utils import RandomPolicy

from rlhive.rl_envs import RoboHiveEnv


def make_env(device: str, num_envs: int, norm: dict[str, torch.Tensor] | None = None) -> TransformedEnv:
    """Build parallel environments whose pictures are small, grey, four frames deep and normalised."""
    create = EnvCreator(
        functools.partial(
            RoboHiveEnv,
            env_name="FrankaReachRandom-v0",
            device=device,
            from_pixels=True,
            cameras=["left_cam"],
            render_quality="fast",
        )
    )
    pictures = Compose(
        ToTensorImage(),
        Resize(84, 84),
        GrayScale(),
        CatFrames(4, dim=-3, in_keys=["pixels"]),
        ObservationNorm(in_keys=["pixels"], **(norm or {})),
    )
    return TransformedEnv(ParallelEnv(num_envs, create), pictures)


def measure_norm(device: str, num_envs: int, num_iter: int) -> dict[str, torch.Tensor]:
    """Return loc and scale of the pictures, once, for all collectors."""
    env = make_env(device, num_envs)
    norm = env.transform[-1]
    norm.init_stats(reduce_dim=(0, 1), cat_dim=1, num_iter=num_iter)
    env.close()
    return {"loc": norm.loc.cpu(), "scale": norm.scale.cpu()}


def main(frames: int = 1_000_000, num_envs: int = 4, frames_per_batch: int = 400, norm_iter: int = 1000) -> int:
    """Collect, store, and return the number of stored frames."""
    devices = [f"cuda:{index}" for index in range(torch.cuda.device_count())] or ["cpu"]
    norm = measure_norm(devices[0], num_envs, norm_iter)
    makers = [functools.partial(make_env, device, num_envs, norm) for device in devices]
    sample = makers[0]()
    policy = RandomPolicy(sample.action_spec)
    sample.close(raise_if_closed=False)  # its processes were never started
    buffer = TensorDictReplayBuffer(storage=LazyMemmapStorage(frames), batch_size=32)
    collector = MultiAsyncCollector(
        makers,
        policy,
        frames_per_batch=frames_per_batch,
        max_frames_per_traj=1000,
        total_frames=frames,
        device=devices,
        storing_device="cpu",
    )
    with tqdm.tqdm(total=frames, unit="frame") as bar:
        for data in collector:
            buffer.extend(data.reshape(-1).cpu())
            bar.update(data.numel())
    collector.shutdown()
    print(f"{len(buffer)} frames; a batch of pictures is {tuple(buffer.sample()['pixels'].shape)}")
    return len(buffer)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--num-envs", type=int, default=4)
    parser.add_argument("--frames-per-batch", type=int, default=400)
    parser.add_argument("--norm-iter", type=int, default=1000)
    main(**vars(parser.parse_args()))
