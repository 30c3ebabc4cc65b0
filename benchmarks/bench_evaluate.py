"""CPU time of evaluating a learned policy, beside RoboHive alone stepping the same actions, in one process.

    python benchmarks/bench_evaluate.py                       # 50 episodes of kitchen_knob1, a perceptron of 2 x 256
    python benchmarks/bench_evaluate.py --task reach --episodes 20

Every episode runs once by each contender before the next one starts, because the speed of the machine drifts. RoboHive
runs without TorchRL and RLHive: gymnasium's environment, unwrapped, with its seed, reset and steps. The returns of all
contenders are compared. Writes benchmarks/results/evaluate.json.
"""

import argparse
import json
import math
import platform
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import gymnasium
import numpy as np
import torch

from rlhive import keys
from rlhive.envs import get_task, make_env
from rlhive.normalization import Normalizer
from rlhive.policies import load_policy, make_actor, make_deployed_policy, save_checkpoint
from rlhive.rollouts import evaluate, rollout_episode

RESULTS = Path(__file__).parent / "results" / "evaluate.json"
NETWORK = {"hidden_sizes": [256, 256], "activation": "relu", "dropout": 0.0}
FIRST_SEED = 1_000_000


def main() -> None:
    """Measure the contenders, print milliseconds per step and ratios, and write the results."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--task", default="kitchen_knob1")
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        times = measure(options.task, options.episodes, save_perceptron(options.task, Path(folder)))
    steps = options.episodes * get_task(options.task).horizon
    rows = {}
    for name, seconds in times.items():
        paired = np.array(seconds) / np.array(times["robohive"])
        rows[name] = {"ms_per_step": 1e3 * sum(seconds) / steps, "ratio_of_sums": sum(seconds) / sum(times["robohive"])}
        rows[name]["median_ratio"] = float(np.median(paired))
        print(f"{name:16s}", *(f"{key} {value:.3f}" for key, value in rows[name].items()), sep="  ")
    versions = {name: version(name) for name in ("rlhive", "robohive", "mujoco", "torch", "torchrl")}
    content = {"task": options.task, "episodes": options.episodes, "contenders": rows, "versions": versions}
    options.results.parent.mkdir(parents=True, exist_ok=True)
    options.results.write_text(json.dumps({**content, "platform": platform.platform()}, indent=1) + "\n")


def save_perceptron(task: str, folder: Path) -> Path:
    """Save a checkpoint of a perceptron with random weights."""
    env = make_env(task)
    dim, action_dim = env.observation_spec[keys.OBSERVATION].shape[-1], env.action_spec.shape[-1]
    torch.manual_seed(0)
    actor = make_actor(dim, action_dim, NETWORK)
    policy = make_deployed_policy(Normalizer(torch.zeros(dim), torch.ones(dim)), actor, env_name=env.env_name)
    record = {"env_name": env.env_name, "observation_dim": dim, "action_dim": action_dim, "network": NETWORK}
    env.close()
    return save_checkpoint(folder, policy, record, [])


def measure(task: str, num_episodes: int, checkpoint: Path) -> dict[str, list[float]]:
    """Return the CPU seconds of each episode by contender."""
    env = make_env(task)
    policy = load_policy(checkpoint, env=env)
    robohive = gymnasium.make(env.env_name).unwrapped
    actions: list[np.ndarray] = []

    def rollout(seed: int) -> float:
        transitions = rollout_episode(env, policy, seed=seed).transitions
        actions[:] = transitions[keys.ACTION].numpy()
        return math.fsum(transitions[keys.NEXT_REWARD].flatten().tolist())

    def evaluation(seed: int) -> float:
        return evaluate(checkpoint, task, num_episodes=1, seed=seed, num_workers=1, progress=False).return_mean

    def simulator(seed: int) -> float:
        robohive.seed(seed)
        robohive.robot.np_random = robohive.np_random
        robohive.reset()
        return math.fsum(float(robohive.step(action)[1]) for action in actions)

    contenders: dict[str, Callable[[int], float]] = {
        "EnvBase.rollout": rollout,
        "evaluate": evaluation,
        "robohive": simulator,
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for name in contenders:
        contenders[name](0)  # builds and loads what is cached afterwards
    for seed in range(FIRST_SEED, FIRST_SEED + num_episodes):
        returns = []
        for name, run in contenders.items():
            started = time.process_time()
            returns.append(run(seed))
            times[name].append(time.process_time() - started)
        assert len(set(returns)) == 1, f"seed {seed}: expected equal returns, got {returns}"
    return times


if __name__ == "__main__":
    main()
