"""Steps per second of one RoboHive environment: raw, RLHive's wrapper and TorchRL's, side by side in one run.

    python benchmarks/bench_envs.py                                   # FK1_Knob1OnRandom-v4 and FrankaReachRandom-v0
    python benchmarks/bench_envs.py --env FK1_Knob1OnRandom-v4 --steps 500 --rounds 5

Each round runs every contender once, in turn, over whole episodes of random actions. A speed is the median over the
rounds. A ratio is the median of the ratios within a round, because the speed of the machine drifts. After the timing
the values are compared: RLHive's observations and rewards must equal raw RoboHive's bit for bit.

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
    parser.add_argument("--steps", type=int, default=400, help="steps per round and contender")
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
    raw, ours, theirs = gymnasium.make(env_name), RoboHiveEnv(env_name), TorchRLRoboHiveEnv(env_name)
    contenders: dict[str, Callable[[int], None]] = {
        "raw gym.make": lambda count: step_raw(raw, count),
        "RLHive step and reset": lambda count: step_torchrl(ours, count),
        "RLHive rollout": lambda count: roll_out(ours, count),
        "TorchRL step and reset": lambda count: step_torchrl(theirs, count),
        "TorchRL rollout": lambda count: roll_out(theirs, count),
    }
    speeds = {name: [] for name in contenders}
    for contender in contenders.values():
        contender(ours.horizon)  # warm up
    for _ in range(rounds):
        for name, contender in contenders.items():
            speeds[name].append(steps / measure_seconds(lambda run=contender: run(steps)))
    require_equal_values(env_name)
    row = {name: {"steps_per_s": statistics.median(values)} for name, values in speeds.items()}
    for name, values in speeds.items():
        ratios = [mine / base for mine, base in zip(values, speeds["raw gym.make"], strict=True)]
        row[name] |= {"of_raw": statistics.median(ratios), "of_raw_min": min(ratios), "of_raw_max": max(ratios)}
    row["build"] = {f"{name}_s": statistics.median(values) for name, values in builds.items()}
    row["workers"] = measure_workers(env_name)
    return row


def measure_workers(env_name: str, episodes: int = 24, repeats: int = 3) -> dict[str, float]:
    """Return episodes per second with one and with two worker processes that have started before."""
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
    """Step through whole episodes of uniform actions."""
    generator, ended = np.random.default_rng(0), True
    for _ in range(count):
        if ended:
            env.reset()
        _, _, terminated, truncated, _ = env.step(generator.uniform(-1, 1, env.action_space.shape).astype(np.float32))
        ended = terminated or truncated


def step_torchrl(env: RoboHiveEnv, count: int) -> None:
    """Step through whole episodes of uniform actions with TorchRL's step and reset."""
    generator, td = np.random.default_rng(0), None
    for _ in range(count):
        if td is None:
            td = env.reset()
        td["action"] = torch.from_numpy(generator.uniform(-1, 1, env.action_spec.shape).astype(np.float32))
        stepped = env.step(td)["next"]
        td = None if stepped["done"].item() else stepped


def roll_out(env: RoboHiveEnv, count: int) -> None:
    """Step through whole episodes of uniform actions with TorchRL's rollout."""
    while count > 0:
        count -= len(env.rollout(min(count, 1000)))


def require_equal_values(env_name: str) -> None:
    """Raise ValueError unless RLHive's observations and rewards equal raw RoboHive's bit for bit."""
    raw, ours = gymnasium.make(env_name, seed=0), RoboHiveEnv(env_name)
    ours.set_seed(5)
    raw.unwrapped.seed(5)
    observation, td = raw.reset()[0], ours.reset()
    generator = np.random.default_rng(1)
    for _ in range(20):
        if not np.array_equal(observation, td["observation"].numpy()):
            msg = f"{env_name}: the observations differ from RoboHive's"
            raise ValueError(msg)
        action = generator.uniform(-1, 1, raw.action_space.shape).astype(np.float32)
        observation, reward, *_ = raw.step(action)
        td = ours.step(td.set("action", torch.from_numpy(action)))["next"]
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
        table = Table("", "steps/s", "of raw", "lowest to highest", title=env_name)
        for name, figures in row.items():
            if "of_raw" in figures:
                spread = f"{figures['of_raw_min']:.2f} to {figures['of_raw_max']:.2f}"
                table.add_row(name, f"{figures['steps_per_s']:.0f}", f"{figures['of_raw']:.2f}", spread)
        build, workers = row["build"], row["workers"]
        table.caption = (
            f"build {build['rlhive_s']:.2f} s, gym.make {build['raw_s']:.2f} s; "
            f"two workers {workers['two_of_one']:.2f} times one"
        )
        Console().print(table)


if __name__ == "__main__":
    main()
