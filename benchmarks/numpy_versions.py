"""Episodes of every family of RoboHive under two versions of NumPy, compared bit for bit.

    python benchmarks/numpy_versions.py OTHER_PYTHON [ANOTHER_PYTHON …]

Run it in an environment with one version of NumPy; each OTHER_PYTHON is the interpreter of an environment with another.
Both need RoboHive with all assets (`rlhive setup --assets git`); NumPy 2 is installed against the pin of `[robohive]`,
and RLHive's refusal of it is switched off here. The table has one row per task: SHA-256 of states, of observations with
actions and rewards, and of pictures, over all its episodes. The exit status is 1 if any differ. It takes about 3
minutes for each environment.
"""

import hashlib
import json
import random
import subprocess
import sys
import warnings
from importlib.metadata import version

import numpy as np

#: Tasks of all families of `rlhive setup`. The expert solves the kitchen, so that its bonus (np.product) is not 0.
TASKS = {
    "FK1_Knob1OnRandom-v4": "expert",
    "franka_slide_random-v3": "random",
    "FrankaReachRandom-v0": "random",
    "rpFrankaRobotiqData-v0": "random",
    "TrifingerReachRandom-v0": "random",
    "baoding-v1": "random",
    "door-v1": "random",
    "FetchReachRandom-v0": "random",
    "DKittyWalkRandom-v0": "random",
    "myoHandReachRandom-v0": "random",
}
EPISODES, STEPS, PICTURES = 2, 50, 5
PARTS = ("states", "rewards", "pixels")


def digests(env_name: str, level: str) -> dict[str, str]:
    """Return part → SHA-256 over the episodes of a task, or why there is none."""
    result = {part: hashlib.sha256() for part in PARTS}
    solved = _roll(env_name, level, STEPS, result)
    hashes = {part: result[part].hexdigest()[:12] for part in ("states", "rewards")}
    try:
        _roll(env_name, "random", PICTURES, result, pixels=True)
        hashes["pixels"] = result["pixels"].hexdigest()[:12]
    except Exception as error:  # the table says which task does not render here
        hashes["pixels"] = type(error).__name__
    return {**hashes, "solved": solved}


def _roll(env_name: str, level: str, steps: int, result: dict, pixels: bool = False) -> int:
    """Add seeded episodes to the hashes; return in how many the task was solved."""
    from rlhive import RoboHiveEnv
    from rlhive.envs import make_policy

    # D'Kitty draws from the global generators while it is built.
    random.seed(0)
    np.random.seed(0)
    options = {"from_pixels": True, "image_size": (64, 64), "render_quality": "fast"} if pixels else {}
    env = RoboHiveEnv(env_name, seed=0, state=True, **options)
    policy = make_policy(env, level)
    solved = 0
    for seed in range(EPISODES):
        env.set_seed(seed)
        policy.begin_episode(seed)
        rollout = env.rollout(steps, policy)
        for key in ("state", ("next", "state")):
            for value in _leaves(rollout[key]):
                result["states"].update(value.contiguous().numpy().tobytes())
        for key in ("observation", "action", ("next", "observation"), ("next", "reward"), ("next", "success")):
            result["rewards"].update(rollout[key].contiguous().numpy().tobytes())
        if pixels:
            result["pixels"].update(rollout["next", "pixels"].contiguous().numpy().tobytes())
        solved += bool(rollout["next", "success"].any())
    env.close()
    return solved


def _leaves(state):
    """Return the tensors of a state in the order of their names; a state is one tensor or a TensorDict of them."""
    if not hasattr(state, "keys"):
        return [state]
    return [state[key] for key in sorted(state.keys(True, True), key=str)]


def measure() -> dict:
    """Return the versions of this environment and the digests of every task."""
    warnings.simplefilter("ignore")
    from rlhive.envs import _loading

    _loading._require_whole_arrays = lambda: None
    names = {name: version(name) for name in ("numpy", "scipy", "torch", "mujoco", "robohive")}
    tasks = {name: digests(name, level) for name, level in TASKS.items()}
    return {"python": sys.version.split()[0], "versions": names, "tasks": tasks}


def main(interpreters: list[str]) -> None:
    """Measure in every environment, one after another, and print the table."""
    command = [__file__, "--measure"]
    runs = []
    for python in [sys.executable, *interpreters]:
        ran = subprocess.run([python, *command], stdout=subprocess.PIPE, text=True, check=True)
        runs.append(json.loads(ran.stdout.splitlines()[-1]))
    for run in runs:
        print(f"Python {run['python']}:", ", ".join(f"{name} {number}" for name, number in run["versions"].items()))
    print(f"\n{'task':26}{'policy':8}{'solved':>7}  " + "".join(f"{part:14}" for part in PARTS) + "equal")
    different = 0
    for name, level in TASKS.items():
        first, *others = (run["tasks"][name] for run in runs)
        equal = all(other == first for other in others)
        different += not equal
        print(
            f"{name:26}{level:8}{first['solved']:>5}/{EPISODES}  "
            + "".join(f"{first[p]:14}" for p in PARTS)
            + str(equal)
        )
        for run, other in zip(runs[1:], others, strict=True):
            if other != first:
                print(f"{'  numpy ' + run['versions']['numpy']:41}  " + "".join(f"{other[p]:14}" for p in PARTS))
    print(f"\n{len(TASKS) - different} of {len(TASKS)} tasks are equal bit for bit.")
    sys.exit(different > 0)


if __name__ == "__main__":
    if sys.argv[1:] == ["--measure"]:
        print(json.dumps(measure()))
    else:
        main(sys.argv[1:])
