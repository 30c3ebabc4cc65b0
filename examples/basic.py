"""A RoboHive environment as a TorchRL one: seeded, with named observations.

python examples/basic.py
"""

import argparse

from rlhive.rl_envs import RoboHiveEnv


def main(env_name: str = "FrankaReachRandom-v0", steps: int = 50) -> None:
    """Roll a random policy out twice with one seed and say that both are the same."""
    env = RoboHiveEnv(env_name=env_name, obs_keys=["reach_err"])
    env.set_seed(0)
    rollout = env.rollout(steps)
    print(rollout)
    print(
        f"return {rollout['next', 'reward'].sum():.2f}, closest {rollout['next', 'reach_err'].norm(dim=-1).min():.3f} m"
    )
    env.set_seed(0)
    assert (env.reset()["observation"] == rollout["observation"][0]).all()
    env.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--env-name", default="FrankaReachRandom-v0")
    parser.add_argument("--steps", type=int, default=50)
    main(**vars(parser.parse_args()))
