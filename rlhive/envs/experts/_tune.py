"""Tune the scripted expert of a task: ``python -m rlhive.envs.experts FK1_Knob1OnRandom-v4``.

Cross-entropy method (Rubinstein, 1999) over :class:`rlhive.envs.experts.Parameters`, with the policy that ships, on
seeds from TUNING_SEED on; evaluation seeds are never touched. Episodes run in MuJoCo itself, without RoboHive's
observations and rewards (in a fifth less time; a joint differs by some 0.005 rad); the final check runs in the
environment that ships. Then the ``medium`` policy is weakened. The result and how it came about go into
experts.json. For a new task, first write a row there by hand: a guess that touches the object is enough.

``--otherwise 2`` leaves the plan as it is and looks for two more, for the tuning seeds on which it fails; the expert
rehearses them in turn (:class:`rlhive.envs.experts.RehearsedPolicy`).
"""

import argparse
import datetime
import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from rlhive import keys
from rlhive.envs._robohive import RoboHiveEnv
from rlhive.envs._tasks import TUNING_SEED
from rlhive.envs.experts._experts import of_strategy
from rlhive.envs.experts._kitchen import KitchenPolicy
from rlhive.envs.experts._rehearsal import Course, Outcome, Physics
from rlhive.envs.experts._scripted import ExpertPolicy
from rlhive.errors import SimulationDiverged

EXPERTS = Path(__file__).with_name("experts.json")

#: What is tuned where a row has it, with the standard deviation to begin with.
SPREAD = {
    "before": [0.012, 0.012, 0.012],
    "contact": [0.01, 0.01, 0.01],
    "rpy": [0.1, 0.1, 0.1],
    "lead": [0.2],
    "over": [0.15],
    "follow": [0.1],
    "leash": [0.03],
    "arrival": [0.015],
    "strict": [0.4],
    "haste": [0.015],
    "hurry": [0.05],
    "shut": [0.0015],
    "lift": [0.01],
    "hold": [0.003],
}

#: A leash or an arrival of nothing would leave the arm where it is; distances and widths are not negative.
_LEAST = dict.fromkeys(("hurry", "lift", "hold"), 0.0) | {
    "leash": 0.05,
    "arrival": 0.01,
    "strict": 0.5,
    "haste": 0.001,
    "shut": 0.01,
}

#: The medium policy gives up a part of the episodes; so much noise at most makes it solve its part of all of them.
MEDIUM_GIVE_UP = 0.3
MEDIUM_NOISE = 0.2
MEDIUM_SUCCESS = 0.45

_VALIDATION_SEED = TUNING_SEED + 500_000
_MEDIUM_SEED = TUNING_SEED + 600_000


@torch.no_grad()
def run_episode(env: RoboHiveEnv, policy: KitchenPolicy, seed: int) -> Outcome:
    """Run an episode in the environment itself until it is solved or over."""
    env.set_seed(seed)
    state = env.reset()
    policy.begin_episode(seed)
    course = Course(env.unwrapped, policy.job, env.unwrapped.sim.data.ptr.qpos)
    for step in range(env.horizon):
        state = env.step(policy(state))[keys.NEXT]
        course.update()
        if state[keys.SUCCESS]:
            return Outcome(step + 1, 1.0)
    return Outcome(None, course.progress)


class FastEnv:
    """The same episodes straight in MuJoCo."""

    def __init__(self, env: RoboHiveEnv) -> None:
        simulator = env.unwrapped.sim
        self.env, self._data = env, simulator.data.ptr
        self._physics = Physics(env, simulator.model.ptr, self._data)

    def run(self, policy: KitchenPolicy, seed: int) -> Outcome:
        """Run an episode until it is solved or over."""
        self.env.set_seed(seed)
        self.env.unwrapped.reset()
        policy.begin_episode(seed)
        return self._physics.run(policy.act, Course(self.env.unwrapped, policy.job, self._data.qpos))


def outcomes(env: FastEnv, policy: KitchenPolicy, seeds: Iterable[int]) -> list[Outcome]:
    """Return how the policy fares on each seed."""
    return [env.run(policy, seed) for seed in seeds]


def score(found: list[Outcome], horizon: int) -> float:
    """Return what the search maximises: solved episodes, sooner if possible, and otherwise progress."""
    solved = [0.0 if o.solved_at is None else 1.5 + 0.7 * (1 - o.solved_at / horizon) for o in found]
    return float(np.mean([o.progress + bonus for o, bonus in zip(found, solved, strict=True)]))


def rate(found: list[Outcome]) -> float:
    """Return the share of solved episodes."""
    return float(np.mean([o.solved_at is not None for o in found]))


def search(
    env: FastEnv, row: Mapping[str, Any], *, iterations: int, population: int, episodes: int, budget_s: float
) -> tuple[dict[str, Any], int]:
    """Return the best parameters found, starting from a row, and the number of tuning seeds used.

    All candidates of a round run on the same new seeds; the better third goes on to as many again and two thirds.

    Args:
        env: The environment that is to be solved.
        row: Parameters to begin with.
        iterations: Rounds of the search, fewer where nothing is left to gain.
        population: Candidates per round.
        episodes: Seeds that each candidate sees.
        budget_s: CPU time in s after which no round begins.
    """
    random, mean = np.random.default_rng(0), to_vector(row)
    spread = np.concatenate([SPREAD[name] for name in _tuned(row)])
    floor, finalists, used, began = 0.15 * spread, [mean], 0, time.process_time()
    for _ in tqdm(range(iterations), unit="round", file=sys.stderr):
        first = range(TUNING_SEED + used, TUNING_SEED + used + episodes)
        second = range(first.stop, first.stop + 5 * episodes // 3)
        used = second.stop - TUNING_SEED
        candidates = [mean, *(mean + spread * random.normal(size=mean.size) for _ in range(population - 1))]
        best, solved = _select(env, row, candidates, first, second)
        mean = 0.3 * mean + 0.7 * np.mean(best, axis=0)
        spread = np.maximum(0.3 * spread + 0.7 * np.std(best, axis=0), floor)
        finalists = [finalists[0], *finalists[1:][-1:], best[0], mean]
        if solved > 0.97 or time.process_time() - began > budget_s:
            break
    held_out = range(_VALIDATION_SEED, _VALIDATION_SEED + 30)
    scores = [score(_try(env, row, finalist, held_out), env.env.horizon) for finalist in tqdm(finalists, desc="final")]
    return to_row(row, finalists[int(np.argmax(scores))]), used


def complement(
    env: FastEnv, row: Mapping[str, Any], *, plans: int, candidates: int, episodes: int, budget_s: float
) -> tuple[list[dict[str, Any]], int]:
    """Return what differs in further plans, each of which solves most of what those before it leave unsolved.

    Candidates are drawn around the row, and around the best candidate so far, and tried where the row itself fails.

    Args:
        env: The environment that is to be solved.
        row: Parameters of the first plan.
        plans: Further plans at most, fewer where nothing is left.
        candidates: How many are tried.
        episodes: Tuning seeds to look for failures on.
        budget_s: CPU time in s after which no candidate is tried.
    """
    seeds, random = range(TUNING_SEED, TUNING_SEED + episodes), np.random.default_rng(0)
    start, spread = to_vector(row), np.concatenate([SPREAD[name] for name in _tuned(row)])
    left = set(seeds) - _solved(env, row, start, seeds)
    found, began = [(start, set[int]())], time.process_time()
    for _ in tqdm(range(candidates), unit="plan", file=sys.stderr):
        best, helps = max(found, key=lambda each: len(each[1]))
        near, width = (best, 0.6) if helps and random.random() < 0.6 else (start, 1.0)
        candidate = near + width * spread * random.normal(size=start.size)
        found.append((candidate, _solved(env, row, candidate, sorted(left))))
        if time.process_time() - began > budget_s:
            break
    chosen: list[dict[str, Any]] = []
    for _ in range(plans):
        best, helps = max(found, key=lambda each: len(each[1] & left))
        if not helps & left:
            break
        left -= helps
        chosen.append({name: value for name, value in to_row(row, best).items() if value != row[name]})
    return chosen, episodes


def _solved(env: FastEnv, row: Mapping[str, Any], vector: np.ndarray, seeds: Sequence[int]) -> set[int]:
    """Return the seeds that a plan solves, with a step to spare."""
    found = zip(seeds, _try(env, row, vector, seeds), strict=True)
    return {seed for seed, each in found if each.solved_at is not None and each.solved_at < env.env.horizon - 1}


def _select(
    env: FastEnv, row: Mapping[str, Any], candidates: list[np.ndarray], first: range, second: range
) -> tuple[list[np.ndarray], float]:
    """Return the best candidates, best first, and the share of episodes that they solved."""
    horizon = env.env.horizon
    found = [_try(env, row, candidate, first) for candidate in candidates]
    order = np.argsort([-score(result, horizon) for result in found])[: max(len(candidates) // 3, 4)]
    again = {int(index): found[index] + _try(env, row, candidates[index], second) for index in order}
    ranked = sorted(again, key=lambda index: -score(again[index], horizon))[: max(len(candidates) // 5, 3)]
    return [candidates[index] for index in ranked], float(np.mean([rate(again[index]) for index in ranked]))


def _try(env: FastEnv, row: Mapping[str, Any], vector: np.ndarray, seeds: Iterable[int]) -> list[Outcome]:
    return outcomes(env, KitchenPolicy(env.env, "expert", to_row(row, vector)), seeds)


def weaken(
    env: RoboHiveEnv, row: Mapping[str, Any], *, episodes: int = 24
) -> tuple[dict[str, float], dict[str, float]]:
    """Return what makes the medium policy solve about MEDIUM_SUCCESS, and the success of each noise that was tried.

    A part of the episodes is given up, and the noise is found by bisection.

    Args:
        env: The environment itself.
        row: The row of experts.json, whose "expert" is to be weakened.
        episodes: Tuning seeds to measure on.
    """
    seeds, policy = range(_MEDIUM_SEED, _MEDIUM_SEED + episodes), of_strategy(row)
    low, high, tried = 0.0, MEDIUM_NOISE, {}
    for _ in range(7):
        noise = round((low + high) / 2, 4)
        medium = policy(env, "medium", row["expert"], noise=noise, give_up=MEDIUM_GIVE_UP)
        tried[noise] = round(float(np.mean([_solves(env, medium, seed) for seed in seeds])), 4)
        if abs(tried[noise] - MEDIUM_SUCCESS) < 0.05:
            break
        low, high = (noise, high) if tried[noise] > MEDIUM_SUCCESS else (low, noise)
    best = min(tried, key=lambda noise: abs(tried[noise] - MEDIUM_SUCCESS))
    return {"noise": best, "give_up": MEDIUM_GIVE_UP}, tried


def discourage(
    env: RoboHiveEnv, row: Mapping[str, Any], *, noise: float = 0.02, episodes: int = 60
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the medium policy of a noise that gives up as often as makes it solve MEDIUM_SUCCESS, and what was found.

    An episode goes as it would until it is given up, so that one run tells the success of every chance to give up.

    Args:
        env: The environment itself.
        row: The row of experts.json, whose "expert" is to be weakened.
        noise: Standard deviation of the noise on the actions.
        episodes: Tuning seeds to measure on.
    """
    seeds, policy = range(_MEDIUM_SEED, _MEDIUM_SEED + episodes), of_strategy(row)
    medium = policy(env, "medium", row["expert"], noise=noise)
    found = [(run_episode(env, medium, seed).solved_at or np.inf, *medium.resolve()) for seed in seeds]
    solved, chance, when = np.array(found).T
    success = {}
    for give_up in np.arange(0.0, 1.01, 0.05):
        given_up = (chance < give_up) & (solved - 1 >= when * env.horizon)
        success[round(float(give_up), 2)] = round(float(np.mean(np.isfinite(solved) & ~given_up)), 4)
    best = min(success, key=lambda give_up: abs(success[give_up] - MEDIUM_SUCCESS))
    return {"noise": noise, "give_up": best}, {"without giving up": success[0.0], str(best): success[best]}


@torch.no_grad()
def _solves(env: RoboHiveEnv, policy: ExpertPolicy, seed: int) -> bool:
    env.set_seed(seed)
    state = env.reset()
    policy.begin_episode(seed)
    try:
        for _ in range(env.horizon):
            if state[keys.SUCCESS]:
                return True
            state = env.step(policy(state))[keys.NEXT]
    except SimulationDiverged:
        return False
    return bool(state[keys.SUCCESS])


def to_vector(row: Mapping[str, Any]) -> np.ndarray:
    """Return the tuned parameters of a row as one vector."""
    return np.concatenate([np.atleast_1d(row[name]).astype(float) for name in _tuned(row)])


def to_row(row: Mapping[str, Any], vector: np.ndarray) -> dict[str, Any]:
    """Return the row with its tuned parameters out of a vector."""
    new, at = dict(row), 0
    for name in _tuned(row):
        size = len(SPREAD[name])
        values = [round(float(value), 5) for value in vector[at : at + size]]
        new[name] = values if size > 1 else max(values[0], _LEAST.get(name, -np.inf))
        at += size
    return new


def _tuned(row: Mapping[str, Any]) -> list[str]:
    return [name for name in SPREAD if row.get(name) is not None]


def main() -> None:
    """Tune one task and rewrite its row of experts.json."""
    arguments = _parser().parse_args()
    torch.set_num_threads(1)
    row = json.loads(EXPERTS.read_text(encoding="utf-8"))["tasks"][arguments.env_name]
    env = FastEnv(RoboHiveEnv(arguments.env_name, seed=0))
    if arguments.medium:
        row["medium"], row["provenance"]["medium"] = discourage(env.env, row)
        _write(arguments.env_name, row)
        return
    start = row["expert"]
    first = {key: value for key, value in start.items() if key != "otherwise"}
    sizes = {name: getattr(arguments, name) for name in ("population", "episodes", "budget_s")}
    if arguments.otherwise:
        candidates = arguments.iterations * sizes.pop("population")
        others, used = complement(env, first, plans=arguments.otherwise, candidates=candidates, **sizes)
        row |= {"strategy": "rehearsed", "expert": {**first, "otherwise": others}}
    else:
        row["expert"], used = search(env, first, iterations=arguments.iterations, **sizes)
        if "otherwise" in start:
            del row["strategy"]  # the further plans were for what the old one left unsolved
    row["medium"], seen = weaken(env.env, row)
    row["provenance"] = {
        "command": "python -m rlhive.envs.experts " + " ".join(sys.argv[1:]),
        "start": start,
        "tuning_seeds": [TUNING_SEED, TUNING_SEED + used - 1],
        "medium": seen,
        **check(env.env, row),
    }
    _write(arguments.env_name, row)


def _write(env_name: str, row: Mapping[str, Any]) -> None:
    # Another task may have been tuned meanwhile.
    content = json.loads(EXPERTS.read_text(encoding="utf-8"))
    content["tasks"][env_name] = row
    EXPERTS.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("env_name", help="environment id with a row in experts.json")
    parser.add_argument("--iterations", type=int, default=12)
    parser.add_argument("--population", type=int, default=18)
    parser.add_argument("--episodes", type=int, default=3, help="per candidate; with --otherwise, to find failures on")
    parser.add_argument("--budget-s", type=float, default=300.0, help="CPU time of the search")
    parser.add_argument("--otherwise", type=int, default=0, help="keep the plan, and find so many for where it fails")
    parser.add_argument("--medium", action="store_true", help="keep the expert, and set how often medium gives up")
    return parser


def check(env: RoboHiveEnv, row: Mapping[str, Any], *, episodes: int = 50) -> dict[str, Any]:
    """Return how the expert fares in the environment itself, on seeds that the search has not seen."""
    seeds = range(_VALIDATION_SEED + 1000, _VALIDATION_SEED + 1000 + episodes)
    found = [run_episode(env, of_strategy(row)(env, "expert", row["expert"]), seed) for seed in seeds]
    return {
        "date": datetime.date.today().isoformat(),
        "held_out_seeds": [seeds[0], seeds[-1]],
        "held_out_success": rate(found),
    }


if __name__ == "__main__":
    main()
