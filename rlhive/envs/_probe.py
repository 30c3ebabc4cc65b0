"""Which environments can be built here: run by the set-up in a process where nothing is imported yet.

    python -m rlhive.envs FK1_Knob1OnRandom-v4 door-v1

prints one JSON object: the size of the observation by environment id, null where it cannot be built. The first id must
work; its error is this process's.
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
    """Return the same, or None where the environment cannot be built."""
    try:
        return observation_size(env_name)
    except Exception:  # whatever it is that fails there, the answer is no
        return None


if __name__ == "__main__":
    first, *others = sys.argv[1:]
    sizes = {first: observation_size(first)} | {name: observation_size_or_none(name) for name in others}
    sys.stdout.write(json.dumps(sizes) + "\n")
