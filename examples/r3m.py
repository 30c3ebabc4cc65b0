"""Pictures of several environments, embedded by R3M in one batch.

    python examples/r3m.py --weights path/to/folder      # a folder that holds r3m_18.pt
    python examples/r3m.py --download

The transform comes after the ParallelEnv: before it, every process would have a ResNet of its own. Without weights
TorchRL's R3MTransform is random and does not say so, hence one of the two arguments is required.
"""

import argparse
from pathlib import Path

from torchrl.envs import EnvCreator, ParallelEnv, R3MTransform, TransformedEnv

from rlhive.rl_envs import RoboHiveEnv


def main(weights: Path | None = None, num_envs: int = 3, steps: int = 10, render_quality: str = "fast") -> None:
    """Roll a random policy out and print the embeddings."""
    base_env = ParallelEnv(
        num_envs,
        EnvCreator(
            lambda: RoboHiveEnv(
                env_name="FrankaReachRandom-v0",
                from_pixels=True,
                cameras=["left_cam"],
                image_size=(224, 224),
                render_quality=render_quality,
            )
        ),
    )
    # download=True looks into the folder first, and only then at the network.
    r3m = R3MTransform(
        "resnet18", ["pixels"], ["pixels_embed"], size=224, download=True, download_path=weights and str(weights)
    )
    env = TransformedEnv(base_env, r3m)
    embedded = env.rollout(steps)["next", "pixels_embed"]
    print(f"embeddings {tuple(embedded.shape)} {embedded.dtype}: environment, step, camera, feature")
    env.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--weights", type=Path)
    source.add_argument("--download", action="store_true")
    parser.add_argument("--num-envs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--render-quality", default="fast")
    options = vars(parser.parse_args())
    options.pop("download")
    main(**options)
