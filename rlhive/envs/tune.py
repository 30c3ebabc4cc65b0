"""Tune the scripted expert of a task: ``python -m rlhive.envs.tune FK1_Knob1OnRandom-v4``.

Cross-entropy method (Rubinstein, 1999) over :class:`rlhive.envs.kinematics.Parameters`, in the environment and with
the policy that ship, on seeds from TUNING_SEED on; evaluation seeds are never touched. Then the noise of the
``medium`` policy is chosen. The result and how it came about go into experts.json. For a new task, first write a
row there by hand: a guess that touches the object is enough.
"""

import argparse
import copy
import datetime
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from rlhive import keys
from rlhive.envs.experts import KitchenPolicy
from rlhive.envs.robohive import RoboHiveEnv
from rlhive.envs.tasks import TUNING_SEED

EXPERTS = Path(__file__).with_name("experts.json")

#: What is tuned, with the standard deviation to begin with.
SPREAD = {
    "before": [0.012, 0.012, 0.012],
    "contact": [0.01, 0.01, 0.01],
    "rpy": [0.1, 0.1, 0.1],
    "lead": [0.2],
    "over": [0.15],
    "follow": [0.1],
    "leash": [0.02],
    "arrival": [0.015],
}

MEDIUM_GIVE_UP = 0.3
MEDIUM_NOISES = (0.02, 0.03, 0.035, 0.04, 0.05, 0.07, 0.1, 0.14, 0.2)
MEDIUM_SUCCESS = 0.45

_VALIDATION_SEED = TUNING_SEED + 500_000
_MEDIUM_SEED = TUNING_SEED + 600_000


@dataclass(frozen=True)
class Outcome:
    """How one episode went.

    Attributes:
        solved_at: The first step after which the task was solved, or None.
        progress: Largest part of the way that the object went, 0 to 1.
    """

    solved_at: int | None
    progress: float


@torch.no_grad()
def run_episode(env: RoboHiveEnv, policy: KitchenPolicy, seed: int) -> Outcome:
    """Run an episode until it is solved or over."""
    env.set_seed(seed)
    state = env.reset()
    policy.begin_episode(seed)
    job, qpos, progress = policy.job, env.unwrapped.sim.data.ptr.qpos, 0.0
    for step in range(env.horizon):
        state = env.step(policy(state))[keys.NEXT]
        progress = max(progress, (qpos[job.address] - job.start) / (job.goal - job.start))
        if state[keys.SUCCESS]:
            return Outcome(step + 1, 1.0)
    return Outcome(None, min(progress, 1.0))


def success_rate(env: RoboHiveEnv, policy: KitchenPolicy, seeds: Iterable[int]) -> float:
    """Return the share of the seeds that the policy solves."""
    return float(np.mean([run_episode(env, policy, seed).solved_at is not None for seed in seeds]))


def score(env: RoboHiveEnv, row: Mapping[str, Any], seeds: Iterable[int]) -> float:
    """Return what the search maximises: solved episodes, sooner if possible, and otherwise progress."""
    policy = KitchenPolicy(env, "expert", row)
    total = []
    for seed in seeds:
        outcome = run_episode(env, policy, seed)
        solved = 0.0 if outcome.solved_at is None else 1.5 + 0.7 * (1 - outcome.solved_at / env.horizon)
        total.append(outcome.progress + solved)
    return float(np.mean(total))


def search(env: RoboHiveEnv, row: Mapping[str, Any], *, iterations: int, population: int, episodes: int) -> dict:
    """Return the best parameters found, starting from a row.

    Args:
        env: The environment that is to be solved.
        row: Parameters to begin with.
        iterations: Rounds of the search.
        population: Candidates per round, of which a quarter survives.
        episodes: Seeds per candidate, new ones in each round and the same for all candidates.
    """
    random, start = np.random.default_rng(0), _vector(row)
    mean, spread = start.copy(), np.concatenate([SPREAD[name] for name in SPREAD])
    floor, elite = 0.15 * spread, population // 4
    finalists = [start]
    with tqdm(total=iterations * population, unit="candidate", file=sys.stderr) as bar:
        for round_ in range(iterations):
            seeds = range(TUNING_SEED + round_ * episodes, TUNING_SEED + (round_ + 1) * episodes)
            candidates = [mean, *(mean + spread * random.normal(size=mean.size) for _ in range(population - 1))]
            scores = []
            for candidate in candidates:
                scores.append(score(env, _row(row, candidate), seeds))
                bar.update()
            best = [candidates[index] for index in np.argsort(scores)[::-1][:elite]]
            mean = 0.3 * mean + 0.7 * np.mean(best, axis=0)
            spread = np.maximum(0.3 * spread + 0.7 * np.std(best, axis=0), floor)
            finalists = [start, mean, *finalists[1:2], best[0]]
            bar.set_postfix(best=f"{max(scores):.2f}", mean=f"{scores[0]:.2f}")
    held_out = range(_VALIDATION_SEED, _VALIDATION_SEED + 40)
    values = [score(env, _row(row, finalist), held_out) for finalist in tqdm(finalists, desc="validate")]
    return _row(row, finalists[int(np.argmax(values))])


def choose_noise(env: RoboHiveEnv, row: Mapping[str, Any]) -> tuple[float, dict[str, float]]:
    """Return the noise whose success is nearest to MEDIUM_SUCCESS, and the success of each noise that was tried."""
    seeds = range(_MEDIUM_SEED, _MEDIUM_SEED + 80)
    rates = {}
    for noise in tqdm(MEDIUM_NOISES, desc="noise"):
        rates[noise] = success_rate(env, KitchenPolicy(env, "medium", row, noise=noise, give_up=MEDIUM_GIVE_UP), seeds)
        if rates[noise] < MEDIUM_SUCCESS - 0.15:
            break
    noise = min(rates, key=lambda noise: abs(rates[noise] - MEDIUM_SUCCESS))
    return noise, {str(noise): rate for noise, rate in rates.items()}


def _vector(row: Mapping[str, Any]) -> np.ndarray:
    return np.concatenate([np.atleast_1d(row[name]).astype(float) for name in SPREAD])


def _row(row: Mapping[str, Any], vector: np.ndarray) -> dict[str, Any]:
    new, at = dict(row), 0
    for name, spread in SPREAD.items():
        values = [round(float(value), 5) for value in vector[at : at + len(spread)]]
        new[name] = values if len(spread) > 1 else values[0]
        at += len(spread)
    # A leash or an arrival of nothing would leave the arm where it is.
    return {**new, "leash": max(new["leash"], 0.05), "arrival": max(new["arrival"], 0.01)}


def main() -> None:
    """Tune one task and rewrite its row of experts.json."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("env_name", help="environment id with a row in experts.json")
    parser.add_argument("--iterations", type=int, default=12)
    parser.add_argument("--population", type=int, default=20)
    parser.add_argument("--episodes", type=int, default=6)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    content = json.loads(EXPERTS.read_text(encoding="utf-8"))
    row = copy.deepcopy(content["tasks"][arguments.env_name])
    env = RoboHiveEnv(arguments.env_name, seed=0)
    sizes = {"iterations": arguments.iterations, "population": arguments.population, "episodes": arguments.episodes}
    start, row["expert"] = row["expert"], search(env, row["expert"], **sizes)
    noise, rates = choose_noise(env, row["expert"])
    row["medium"] = {"noise": noise, "give_up": MEDIUM_GIVE_UP}
    held_out = range(_VALIDATION_SEED + 1000, _VALIDATION_SEED + 1050)
    row["provenance"] = {
        "previous": row.get("provenance"),
        "command": "python -m rlhive.envs.tune " + " ".join(sys.argv[1:]),
        "date": datetime.date.today().isoformat(),
        "start": start,
        **sizes,
        "tuning_seeds": [TUNING_SEED, TUNING_SEED + arguments.iterations * arguments.episodes - 1],
        "held_out_seeds": [held_out[0], held_out[-1]],
        "held_out_success": success_rate(env, KitchenPolicy(env, "expert", row["expert"]), held_out),
        "medium_success_by_noise": rates,
    }
    content["tasks"][arguments.env_name] = row
    EXPERTS.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
