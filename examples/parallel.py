"""Several RoboHive environments in processes of their own, stepped together.

python examples/parallel.py
"""

import argparse

from torchrl.envs import EnvCreator, ParallelEnv

from rlhive.rl_envs import RoboHiveEnv


def main(num_envs: int = 3, steps: int = 50) -> None:
    """Roll a random policy out in all of them."""
    env = ParallelEnv(num_envs, EnvCreator(lambda: RoboHiveEnv(env_name="FrankaReachRandom-v0")))
    env.set_seed(0)
    rollout = env.rollout(steps)
    print(rollout)
    env.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--num-envs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=50)
    main(**vars(parser.parse_args()))
