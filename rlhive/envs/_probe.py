"""Find out which environments can be built; `rlhive setup` runs this module in a new process.

    python -m rlhive.envs._probe FK1_Knob1OnRandom-v4 door-v1

prints one JSON object: environment id → length of the observation vector, or null if the environment cannot be built.
If the first environment cannot be built, the process fails with its error.
"""

import json
import sys

from rlhive.envs._robohive import RoboHiveEnv


def observation_size(env_name: str) -> int:
    """Build an environment, reset it and return the length of its observation vector."""
    env = RoboHiveEnv(env_name, seed=0)
    size = env.reset()["observation"].numel()
    env.close()
    return size


def observation_size_or_none(env_name: str) -> int | None:
    """Return the length of an environment's observation vector, None if the environment cannot be built."""
    try:
        return observation_size(env_name)
    except Exception:  # any failure means that the environment is not available
        return None


if __name__ == "__main__":
    first, *others = sys.argv[1:]
    sizes = {first: observation_size(first)} | {name: observation_size_or_none(name) for name in others}
    sys.stdout.write(json.dumps(sizes) + "\n")
