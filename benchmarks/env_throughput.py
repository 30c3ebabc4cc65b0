"""Frames per second of several environments at once: threads, processes and one alone, in one run.

    python -m benchmarks.env_throughput                                 # a kitchen and the arm that reaches
    python -m benchmarks.env_throughput --env myoHandReachRandom-v0 --frames 400 --rounds 3

Each contender is a TorchRL collector of random actions, as a training has it: one RoboHiveEnv, RoboHiveVectorEnv with
2, 4 and 8 environments, ParallelEnv(2), and MultiAsyncCollector with two environments. A round runs every contender
once; the ratio to one environment is computed within each round, and the table shows its median over the rounds.

The table also has the CPU time of a frame in all processes together, which other processes on the machine disturb less
than the speed. A second table says what threads can give: the CPU time of a step of one environment, and MuJoCo's part,
which runs without Python's lock. A step by two threads takes at least the rest, and at least half of the whole.

Writes benchmarks/results/env_throughput.json.
"""

import argparse
import functools
import json
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torchrl.collectors import Collector, MultiAsyncCollector
from torchrl.envs import ParallelEnv
from torchrl.envs.utils import RandomPolicy

from rlhive.envs import RoboHiveEnv, RoboHiveVectorEnv

RESULTS = Path(__file__).parent / "results" / "env_throughput.json"

ONE = "one environment"
FRAMES_PER_BATCH = 80


def make_collectors(env_name: str) -> dict[str, Any]:
    """Return contender → endless collector."""
    create = functools.partial(RoboHiveEnv, env_name)
    spec = create().action_spec
    kwargs = {"frames_per_batch": FRAMES_PER_BATCH, "total_frames": -1}
    collectors = {ONE: Collector(create, RandomPolicy(spec), **kwargs)}
    for number in (2, 4, 8):
        vector = RoboHiveVectorEnv(env_name, number)
        collectors[f"RoboHiveVectorEnv({number})"] = Collector(vector, RandomPolicy(vector.action_spec), **kwargs)
    parallel = ParallelEnv(2, create)
    collectors["ParallelEnv(2)"] = Collector(parallel, RandomPolicy(parallel.action_spec), **kwargs)
    collectors["MultiAsyncCollector(2)"] = MultiAsyncCollector([create] * 2, RandomPolicy(spec), **kwargs)
    return collectors


def measure(env_name: str, frames: int, rounds: int) -> dict[str, dict[str, float]]:
    """Return frames per second, their ratio to one environment's, and CPU time per frame in ms, of each contender."""
    collectors = make_collectors(env_name)
    batches = {name: iter(collector) for name, collector in collectors.items()}
    for batch in batches.values():
        next(batch)  # warm up
    speeds: dict[str, list[float]] = {name: [] for name in collectors}
    cpu_ms: dict[str, list[float]] = {name: [] for name in collectors}
    for _ in range(rounds):
        for name, batch in batches.items():
            # An asynchronous collector works ahead while others are measured; what it has finished does not count.
            for _ in range(2 if name.startswith("MultiAsync") else 0):
                next(batch)
            speed, milliseconds = measure_frames(batch, frames)
            speeds[name].append(speed)
            cpu_ms[name].append(milliseconds)
    for collector in collectors.values():
        collector.shutdown()
    return {
        name: {
            "frames_per_s": statistics.median(speeds[name]),
            "of_one": statistics.median(a / b for a, b in zip(speeds[name], speeds[ONE], strict=True)),
            "cpu_ms": statistics.median(cpu_ms[name]),
        }
        for name in collectors
    }


def profile_step(env_name: str, num_steps: int = 150) -> dict[str, float]:
    """Return the CPU time of a step of one environment and of MuJoCo's part of it in ms, as medians."""
    env = RoboHiveEnv(env_name, max_episode_steps=10 * num_steps, seed=0)
    physics, in_mujoco = env.unwrapped.sim.sim, [0.0]
    for name in ("step", "forward"):
        setattr(physics, name, functools.partial(_run_timed, getattr(physics, name), in_mujoco))
    env.reset()
    totals, parts = [], []
    for _ in range(num_steps):
        tensordict = env.rand_action()
        in_mujoco[0], started = 0.0, time.thread_time()
        env.step(tensordict)
        totals.append(1000 * (time.thread_time() - started))
        parts.append(1000 * in_mujoco[0])
    env.close()
    return {"step_ms": statistics.median(totals), "mujoco_ms": statistics.median(parts)}


def _run_timed(function: Callable[..., None], seconds: list[float], *args: Any) -> None:
    started = time.thread_time()
    function(*args)
    seconds[0] += time.thread_time() - started


def measure_frames(batches: Iterator[Any], frames: int) -> tuple[float, float]:
    """Return frames per second and CPU time per frame in ms while a collector collects."""
    started, cpu_started, count = time.perf_counter(), cpu_seconds(), 0
    while count < frames:
        count += next(batches).numel()
    return count / (time.perf_counter() - started), 1000 * (cpu_seconds() - cpu_started) / count


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its living descendants in seconds, from /proc."""
    parents, ticks = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:  # the process has ended
            continue
        pid = int(path.parent.name)
        parents[pid], ticks[pid] = int(fields[1]), int(fields[11]) + int(fields[12])
    family = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return sum(ticks[pid] for pid in family) / os.sysconf("SC_CLK_TCK")


def format_table(rows: dict[str, dict[str, dict[str, float]]]) -> str:
    """Return a Markdown table of all environments."""
    lines = ["| environment | collector of | frames/s | of one | CPU per frame |", "|---|---|---|---|---|"]
    for env_name, row in rows.items():
        for name, figures in row.items():
            numbers = f"{figures['frames_per_s']:.0f} | {figures['of_one']:.2f} | {figures['cpu_ms']:.2f} ms"
            lines.append(f"| {env_name} | {name} | {numbers} |")
    return "\n".join(lines)


def format_profiles(profiles: dict[str, dict[str, float]]) -> str:
    """Return a Markdown table of the profiles, with the largest speed-up by two threads."""
    lines = ["| environment | CPU per step | of that MuJoCo | two threads at most |", "|---|---|---|---|"]
    for env_name, figures in profiles.items():
        total, mujoco = figures["step_ms"], figures["mujoco_ms"]
        limit = total / max(total - mujoco, total / 2)
        lines.append(f"| {env_name} | {total:.2f} ms | {mujoco / total:.0%} | {limit:.2f} times |")
    return "\n".join(lines)


def main() -> None:
    """Measure the environments, print the table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", nargs="+", default=["FK1_Knob1OnRandom-v4", "FrankaReachRandom-v0"])
    parser.add_argument("--frames", type=int, default=800, help="frames of each contender in a round")
    parser.add_argument("--rounds", type=int, default=5, help="0 for the profile only")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    profiles = {name: profile_step(name) for name in options.env}
    print(format_profiles(profiles), flush=True)
    rows = {name: measure(name, options.frames, options.rounds) for name in options.env if options.rounds}
    print(format_table(rows))
    load = os.getloadavg()[0]
    versions = {name: version(name) for name in ("rlhive", "mujoco", "torch", "torchrl")}
    content = {
        "profiles": profiles,
        "environments": rows,
        "cores": os.cpu_count(),
        "load_average": load,
        "versions": versions,
    }
    options.results.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
