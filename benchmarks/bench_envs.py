"""Steps per second of RoboHive environments: raw gymnasium, RLHive's wrapper and TorchRL's wrapper, in one run.

    python benchmarks/bench_envs.py                                   # FK1_Knob1OnRandom-v4 and FrankaReachRandom-v0
    python benchmarks/bench_envs.py --env FK1_Knob1OnRandom-v4 --steps 500 --rounds 5

Each round runs every contender once, over whole episodes of random actions. A speed is the median over the rounds. A
ratio is computed within each round, because the speed of the machine drifts; the table shows the median ratio. After
the timing, the benchmark verifies that RLHive's observations and rewards equal raw RoboHive's bit for bit.

Writes benchmarks/results/envs.json.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import gymnasium
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torchrl.envs.libs.robohive import RoboHiveEnv as TorchRLRoboHiveEnv

from rlhive import RoboHiveEnv
from rlhive.envs._make import make_env, make_policy
from rlhive.rollouts._rollout import map_unordered, rollout_episode

RESULTS = Path(__file__).parent / "results" / "envs.json"


def main() -> None:
    """Measure the environments, compare their values, print the table and write the results."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--env", nargs="+", default=["FK1_Knob1OnRandom-v4", "FrankaReachRandom-v0"])
    parser.add_argument("--steps", type=int, default=400, help="steps of each contender in a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = {name: measure(name, options.steps, options.rounds) for name in options.env}
    report(rows)
    machine = {"platform": platform.platform(), "cores": torch.get_num_threads(), "python": platform.python_version()}
    versions = {name: version(name) for name in ("rlhive", "robohive", "mujoco", "gymnasium", "torch", "torchrl")}
    options.results.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "environments": rows,
        "machine": machine,
        "versions": versions,
        "options": vars(options) | {"results": ""},
    }
    options.results.write_text(json.dumps(content, indent=1) + "\n")


def measure(env_name: str, steps: int, rounds: int) -> dict[str, dict[str, float]]:
    """Return steps per second, ratios and build times of one environment."""
    RoboHiveEnv(env_name).close()  # imports RoboHive, which registers its ids
    builds = {name: [] for name in ("raw", "rlhive")}
    for _ in range(3):
        builds["raw"].append(measure_seconds(lambda: gymnasium.make(env_name).reset()))
        builds["rlhive"].append(measure_seconds(lambda: RoboHiveEnv(env_name).reset()))
    raw_env, rlhive_env, torchrl_env = gymnasium.make(env_name), RoboHiveEnv(env_name), TorchRLRoboHiveEnv(env_name)
    contenders: dict[str, Callable[[int], None]] = {
        "raw gym.make": lambda count: step_raw(raw_env, count),
        "RLHive step and reset": lambda count: step_torchrl(rlhive_env, count),
        "RLHive rollout": lambda count: roll_out(rlhive_env, count),
        "TorchRL step and reset": lambda count: step_torchrl(torchrl_env, count),
        "TorchRL rollout": lambda count: roll_out(torchrl_env, count),
    }
    speeds = {name: [] for name in contenders}
    for contender in contenders.values():
        contender(rlhive_env.horizon)  # warm up
    for _ in range(rounds):
        for name, contender in contenders.items():
            speeds[name].append(steps / measure_seconds(lambda run=contender: run(steps)))
    require_equal_values(env_name)
    row = {name: {"steps_per_s": statistics.median(values)} for name, values in speeds.items()}
    for name, values in speeds.items():
        ratios = [speed / raw_speed for speed, raw_speed in zip(values, speeds["raw gym.make"], strict=True)]
        row[name] |= {"of_raw": statistics.median(ratios), "of_raw_min": min(ratios), "of_raw_max": max(ratios)}
    row["build"] = {f"{name}_s": statistics.median(values) for name, values in builds.items()}
    row["workers"] = measure_workers(env_name)
    return row


def measure_workers(env_name: str, episodes: int = 24, repeats: int = 3) -> dict[str, float]:
    """Return episodes per second with one and with two worker processes, without their start-up time."""
    jobs = [(env_name, seed) for seed in range(episodes)]
    speeds = {}
    for count in (1, 2):
        list(
            map_unordered(run_episode, jobs[: 4 * count], num_workers=count)
        )  # start the workers and build their environments
        times = [
            measure_seconds(lambda n=count: list(map_unordered(run_episode, jobs, num_workers=n)))
            for _ in range(repeats)
        ]
        speeds[count] = episodes / statistics.median(times)
    return {"one_per_s": speeds[1], "two_per_s": speeds[2], "two_of_one": speeds[2] / speeds[1]}


_ENVS: dict[str, RoboHiveEnv] = {}


def run_episode(env_name: str, seed: int) -> int:
    """Run one random episode in a worker process; return its length."""
    if env_name not in _ENVS:
        _ENVS[env_name] = make_env(env_name)
    env = _ENVS[env_name]
    return len(rollout_episode(env, make_policy(env, "random"), seed=seed).transitions)


def step_raw(env: gymnasium.Env, count: int) -> None:
    """Take steps with uniform random actions; reset when an episode ends."""
    generator, ended = np.random.default_rng(0), True
    for _ in range(count):
        if ended:
            env.reset()
        _, _, terminated, truncated, _ = env.step(generator.uniform(-1, 1, env.action_space.shape).astype(np.float32))
        ended = terminated or truncated


def step_torchrl(env: RoboHiveEnv, count: int) -> None:
    """Take steps with uniform random actions through TorchRL's step() and reset()."""
    generator, td = np.random.default_rng(0), None
    for _ in range(count):
        if td is None:
            td = env.reset()
        td["action"] = torch.from_numpy(generator.uniform(-1, 1, env.action_spec.shape).astype(np.float32))
        stepped = env.step(td)["next"]
        td = None if stepped["done"].item() else stepped


def roll_out(env: RoboHiveEnv, count: int) -> None:
    """Take steps with uniform random actions through TorchRL's rollout()."""
    while count > 0:
        count -= len(env.rollout(min(count, 1000)))


def require_equal_values(env_name: str) -> None:
    """Raise ValueError unless RLHive's observations and rewards equal raw RoboHive's bit for bit."""
    raw_env, rlhive_env = gymnasium.make(env_name, seed=0), RoboHiveEnv(env_name)
    rlhive_env.set_seed(5)
    raw_env.unwrapped.seed(5)
    observation, td = raw_env.reset()[0], rlhive_env.reset()
    generator = np.random.default_rng(1)
    for _ in range(20):
        if not np.array_equal(observation, td["observation"].numpy()):
            msg = f"{env_name}: the observations differ from RoboHive's"
            raise ValueError(msg)
        action = generator.uniform(-1, 1, raw_env.action_space.shape).astype(np.float32)
        observation, reward, *_ = raw_env.step(action)
        td = rlhive_env.step(td.set("action", torch.from_numpy(action)))["next"]
        if float(reward) != td["reward"].item():
            msg = f"{env_name}: the rewards differ from RoboHive's"
            raise ValueError(msg)


def measure_seconds(function: Callable[[], object]) -> float:
    """Return the wall time of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def report(rows: dict[str, dict[str, dict[str, float]]]) -> None:
    """Print one table per environment."""
    for env_name, row in rows.items():
        table = Table("", "steps/s", "relative to raw", "range", title=env_name)
        for name, figures in row.items():
            if "of_raw" in figures:
                spread = f"{figures['of_raw_min']:.2f} to {figures['of_raw_max']:.2f}"
                table.add_row(name, f"{figures['steps_per_s']:.0f}", f"{figures['of_raw']:.2f}", spread)
        build, workers = row["build"], row["workers"]
        table.caption = (
            f"build time {build['rlhive_s']:.2f} s (gym.make {build['raw_s']:.2f} s); "
            f"two workers run {workers['two_of_one']:.2f} times the episodes of one"
        )
        Console().print(table)


if __name__ == "__main__":
    main()
