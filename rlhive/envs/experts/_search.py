"""Search for the parameters of an expert by the cross-entropy method (Rubinstein, 1999)."""

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from rlhive import keys
from rlhive.envs._robohive import RoboHiveEnv
from rlhive.envs._tasks import TUNING_SEED
from rlhive.envs.experts._kitchen import JointPolicy, KitchenPolicy
from rlhive.envs.experts._rehearsal import EpisodeSimulation, RehearsalOutcome, TaskProgress

#: First seed on which the finalists of a search and the final expert are compared.
VALIDATION_SEED = TUNING_SEED + 500_000

#: Tuned parameters, each with the initial standard deviations of the search. A row need not have all of them.
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

#: Smallest values of parameters: the arm does not move with a leash or an arrival of 0.
_MINIMUM = dict.fromkeys(("hurry", "lift", "hold"), 0.0) | {
    "leash": 0.05,
    "arrival": 0.01,
    "strict": 0.5,
    "haste": 0.001,
    "shut": 0.01,
}


@torch.no_grad()
def run_episode(env: RoboHiveEnv, policy: JointPolicy, seed: int) -> RehearsalOutcome:
    """Run an episode in the environment until the task is solved or the horizon is reached."""
    env.set_seed(seed)
    state = env.reset()
    policy.begin_episode(seed)
    progress = TaskProgress(env.unwrapped, policy.joint, env.unwrapped.sim.data.ptr.qpos)
    for step in range(env.horizon):
        state = env.step(policy(state))[keys.NEXT]
        progress.update()
        if state[keys.SUCCESS]:
            return RehearsalOutcome(step + 1, 1.0)
    return RehearsalOutcome(None, progress.progress)


class FastEnv:
    """Episodes of an environment simulated in MuJoCo only, without RoboHive's observations and rewards.

    Args:
        env: The environment.
    """

    def __init__(self, env: RoboHiveEnv) -> None:
        simulator = env.unwrapped.sim
        self.env = env
        self._data = simulator.data.ptr
        self._simulation = EpisodeSimulation(env, simulator.model.ptr, self._data)

    def run(self, policy: JointPolicy, seed: int) -> RehearsalOutcome:
        """Run an episode until the task is solved or the horizon is reached."""
        self.env.set_seed(seed)
        self.env.unwrapped.reset()
        policy.begin_episode(seed)
        return self._simulation.run(policy.act, TaskProgress(self.env.unwrapped, policy.joint, self._data.qpos))


def search_score(outcomes: Sequence[RehearsalOutcome], horizon: int) -> float:
    """Return the score that the search maximises: solved episodes, earlier if possible, and otherwise progress."""
    bonuses = [
        0.0 if outcome.solved_at is None else 1.5 + 0.7 * (1 - outcome.solved_at / horizon) for outcome in outcomes
    ]
    return float(np.mean([outcome.progress + bonus for outcome, bonus in zip(outcomes, bonuses, strict=True)]))


def success_rate(outcomes: Sequence[RehearsalOutcome]) -> float:
    """Return the fraction of solved episodes."""
    return float(np.mean([outcome.solved_at is not None for outcome in outcomes]))


def search_parameters(
    env: FastEnv, row: Mapping[str, Any], *, iterations: int, population: int, episodes: int, budget_s: float
) -> tuple[dict[str, Any], int]:
    """Search for the best parameters.

    All candidates of a round run on the same new seeds. The better third also runs on 5/3 as many further seeds.

    Args:
        env: The environment to solve.
        row: Parameters with which the search starts.
        iterations: Largest number of rounds; the search stops early at a success rate above 0.97.
        population: Candidates per round.
        episodes: Number of seeds on which each candidate runs.
        budget_s: CPU time in s after which no round starts.

    Returns:
        The best parameters, and the number of tuning seeds that were used.
    """
    random, mean = np.random.default_rng(0), to_vector(row)
    spread = np.concatenate([SPREAD[name] for name in _tuned_names(row)])
    floor, finalists = 0.15 * spread, [mean]
    used, started = 0, time.process_time()
    for _ in tqdm(range(iterations), unit="round", file=sys.stderr):
        seeds = range(TUNING_SEED + used, TUNING_SEED + used + episodes)
        more_seeds = range(seeds.stop, seeds.stop + 5 * episodes // 3)
        used = more_seeds.stop - TUNING_SEED
        candidates = [mean, *(mean + spread * random.normal(size=mean.size) for _ in range(population - 1))]
        best, solved = _select_candidates(env, row, candidates, seeds, more_seeds)
        mean = 0.3 * mean + 0.7 * np.mean(best, axis=0)
        spread = np.maximum(0.3 * spread + 0.7 * np.std(best, axis=0), floor)
        finalists = [finalists[0], *finalists[1:][-1:], best[0], mean]
        if solved > 0.97 or time.process_time() - started > budget_s:
            break
    held_out = range(VALIDATION_SEED, VALIDATION_SEED + 30)
    scores = [
        search_score(_run_candidate(env, row, finalist, held_out), env.env.horizon)
        for finalist in tqdm(finalists, desc="final")
    ]
    return to_row(row, finalists[int(np.argmax(scores))]), used


def search_further_plans(
    env: FastEnv, row: Mapping[str, Any], *, plans: int, candidates: int, episodes: int, budget_s: float
) -> tuple[list[dict[str, Any]], int]:
    """Search for further plans, each of which solves most of the seeds that the plans before it leave unsolved.

    Candidates are drawn around the row and around the best candidate so far, and run on the seeds that the row fails.

    Args:
        env: The environment to solve.
        row: Parameters of the first plan.
        plans: Largest number of further plans; fewer if no unsolved seed is left.
        candidates: Number of candidates.
        episodes: Number of tuning seeds.
        budget_s: CPU time in s after which no candidate runs.

    Returns:
        The parameters in which each further plan differs from the row, and the number of tuning seeds that were used.
    """
    seeds, random = range(TUNING_SEED, TUNING_SEED + episodes), np.random.default_rng(0)
    start, spread = to_vector(row), np.concatenate([SPREAD[name] for name in _tuned_names(row)])
    unsolved = set(seeds) - _solved_seeds(env, row, start, seeds)
    results, started = [(start, set[int]())], time.process_time()
    for _ in tqdm(range(candidates), unit="plan", file=sys.stderr):
        best, solved = max(results, key=lambda result: len(result[1]))
        centre, width = (best, 0.6) if solved and random.random() < 0.6 else (start, 1.0)
        candidate = centre + width * spread * random.normal(size=start.size)
        results.append((candidate, _solved_seeds(env, row, candidate, sorted(unsolved))))
        if time.process_time() - started > budget_s:
            break
    differences: list[dict[str, Any]] = []
    for _ in range(plans):
        best, solved = max(results, key=lambda result: len(result[1] & unsolved))
        if not solved & unsolved:
            break
        unsolved -= solved
        differences.append({name: value for name, value in to_row(row, best).items() if value != row[name]})
    return differences, episodes


def _solved_seeds(env: FastEnv, row: Mapping[str, Any], vector: np.ndarray, seeds: Sequence[int]) -> set[int]:
    """Return the seeds that a plan solves with a step to spare."""
    latest = env.env.horizon - 2
    outcomes = zip(seeds, _run_candidate(env, row, vector, seeds), strict=True)
    return {seed for seed, outcome in outcomes if outcome.solved_at is not None and outcome.solved_at <= latest}


def _select_candidates(
    env: FastEnv, row: Mapping[str, Any], candidates: list[np.ndarray], seeds: range, more_seeds: range
) -> tuple[list[np.ndarray], float]:
    """Return the best candidates, best first, and the fraction of episodes that they solved."""
    horizon = env.env.horizon
    outcomes = [_run_candidate(env, row, candidate, seeds) for candidate in candidates]
    order = np.argsort([-search_score(result, horizon) for result in outcomes])[: max(len(candidates) // 3, 4)]
    extended = {
        int(index): outcomes[index] + _run_candidate(env, row, candidates[index], more_seeds) for index in order
    }
    ranked = sorted(extended, key=lambda index: -search_score(extended[index], horizon))
    ranked = ranked[: max(len(candidates) // 5, 3)]
    return [candidates[index] for index in ranked], float(np.mean([success_rate(extended[index]) for index in ranked]))


def _run_candidate(
    env: FastEnv, row: Mapping[str, Any], vector: np.ndarray, seeds: Iterable[int]
) -> list[RehearsalOutcome]:
    policy = KitchenPolicy(env.env, "expert", to_row(row, vector))
    return [env.run(policy, seed) for seed in seeds]


def to_vector(row: Mapping[str, Any]) -> np.ndarray:
    """Return the tuned parameters of a row as one vector."""
    return np.concatenate([np.atleast_1d(row[name]).astype(float) for name in _tuned_names(row)])


def to_row(row: Mapping[str, Any], vector: np.ndarray) -> dict[str, Any]:
    """Return a copy of the row with the tuned parameters of a vector."""
    parameters, start = dict(row), 0
    for name in _tuned_names(row):
        size = len(SPREAD[name])
        values = [round(float(value), 5) for value in vector[start : start + size]]
        parameters[name] = values if size > 1 else max(values[0], _MINIMUM.get(name, -np.inf))
        start += size
    return parameters


def _tuned_names(row: Mapping[str, Any]) -> list[str]:
    return [name for name in SPREAD if row.get(name) is not None]
