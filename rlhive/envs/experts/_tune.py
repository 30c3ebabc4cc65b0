"""Tune the scripted expert of a task: ``python -m rlhive.envs.experts FK1_Knob1OnRandom-v4``.

The search uses the seeds from TUNING_SEED on and never the evaluation seeds. Its episodes are simulated in MuJoCo only;
the final check runs in the environment itself. Then the ``medium`` level is tuned. The result and its provenance are
written to experts.json. For a new task, first write a row by hand: any parameters with which the gripper touches the
object are enough.

``--otherwise 2`` keeps the plan and searches for two more, for the tuning seeds on which it fails; the expert rehearses
them in turn (:class:`rlhive.envs.experts._kitchen.RehearsedPolicy`).
"""

import argparse
import datetime
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlhive import keys
from rlhive.envs._robohive import RoboHiveEnv
from rlhive.envs._tasks import TUNING_SEED
from rlhive.envs.experts._experts import policy_class
from rlhive.envs.experts._kitchen import JointPolicy
from rlhive.envs.experts._scripted import ExpertPolicy
from rlhive.envs.experts._search import (
    VALIDATION_SEED,
    FastEnv,
    run_episode,
    search_further_plans,
    search_parameters,
    success_rate,
)
from rlhive.errors import SimulationDivergedError

EXPERTS = Path(__file__).parents[1] / "experts.json"

#: Probability with which the medium level gives an episode up.
MEDIUM_GIVE_UP = 0.3

#: Largest standard deviation of the medium level's noise.
MEDIUM_NOISE = 0.2

#: Success rate at which the medium level aims.
MEDIUM_SUCCESS = 0.45

_MEDIUM_SEED = TUNING_SEED + 600_000


def tune_medium_noise(
    env: RoboHiveEnv, row: Mapping[str, Any], *, episodes: int = 24
) -> tuple[dict[str, float], dict[float, float]]:
    """Tune the noise of the medium level by bisection; the probability to give up is fixed.

    Args:
        env: The environment.
        row: The row of experts.json with the expert to degrade.
        episodes: Number of tuning seeds.

    Returns:
        The degradation whose success rate is closest to MEDIUM_SUCCESS, and noise → success rate of all trials.
    """
    seeds = range(_MEDIUM_SEED, _MEDIUM_SEED + episodes)
    low, high = 0.0, MEDIUM_NOISE
    success: dict[float, float] = {}
    for _ in range(7):
        noise = round((low + high) / 2, 4)
        policy = policy_class(row)(env, "medium", row["expert"], noise=noise, give_up=MEDIUM_GIVE_UP)
        success[noise] = round(float(np.mean([_solves_episode(env, policy, seed) for seed in seeds])), 4)
        if abs(success[noise] - MEDIUM_SUCCESS) < 0.05:
            break
        low, high = (noise, high) if success[noise] > MEDIUM_SUCCESS else (low, noise)
    best = min(success, key=lambda noise: abs(success[noise] - MEDIUM_SUCCESS))
    return {"noise": best, "give_up": MEDIUM_GIVE_UP}, success


def tune_medium_give_up(
    env: RoboHiveEnv, row: Mapping[str, Any], *, noise: float = 0.02, episodes: int = 60
) -> tuple[dict[str, float], dict[str, float]]:
    """Tune the probability with which the medium level gives an episode up; the noise is fixed.

    Giving up does not change the steps before it, so one run per seed yields the success rate of every probability.

    Args:
        env: The environment.
        row: The row of experts.json with the expert to degrade.
        noise: Standard deviation of the noise on the actions.
        episodes: Number of tuning seeds.

    Returns:
        The degradation whose success rate is closest to MEDIUM_SUCCESS, and the success rates with and without it.
    """
    seeds = range(_MEDIUM_SEED, _MEDIUM_SEED + episodes)
    policy = _make_joint_policy(env, row, "medium", noise=noise)
    results = [(run_episode(env, policy, seed).solved_at or np.inf, *policy.draw_give_up()) for seed in seeds]
    solved_at, chance, time = np.array(results).T
    success = {}
    for give_up in np.arange(0.0, 1.01, 0.05):
        is_given_up = (chance < give_up) & (solved_at - 1 >= time * env.horizon)
        success[round(float(give_up), 2)] = round(float(np.mean(np.isfinite(solved_at) & ~is_given_up)), 4)
    best = min(success, key=lambda give_up: abs(success[give_up] - MEDIUM_SUCCESS))
    return {"noise": noise, "give_up": best}, {"without giving up": success[0.0], str(best): success[best]}


@torch.no_grad()
def _solves_episode(env: RoboHiveEnv, policy: ExpertPolicy, seed: int) -> bool:
    env.set_seed(seed)
    state = env.reset()
    policy.begin_episode(seed)
    try:
        for _ in range(env.horizon):
            if state[keys.SUCCESS]:
                return True
            state = env.step(policy(state))[keys.NEXT]
    except SimulationDivergedError:
        return False
    return bool(state[keys.SUCCESS])


def main() -> None:
    """Tune the expert of one task and rewrite its row in experts.json."""
    arguments = _parser().parse_args()
    torch.set_num_threads(1)
    row = json.loads(EXPERTS.read_text(encoding="utf-8"))["tasks"][arguments.env_name]
    env = FastEnv(RoboHiveEnv(arguments.env_name, seed=0))
    if arguments.medium:
        row["medium"], row["provenance"]["medium"] = tune_medium_give_up(env.env, row)
        _write_row(arguments.env_name, row)
        return
    start = row["expert"]
    first = {key: value for key, value in start.items() if key != "otherwise"}
    sizes = {name: getattr(arguments, name) for name in ("population", "episodes", "budget_s")}
    if arguments.otherwise:
        candidates = arguments.iterations * sizes.pop("population")
        further_plans, used = search_further_plans(
            env, first, plans=arguments.otherwise, candidates=candidates, **sizes
        )
        row |= {"strategy": "rehearsed", "expert": {**first, "otherwise": further_plans}}
    else:
        row["expert"], used = search_parameters(env, first, iterations=arguments.iterations, **sizes)
        if "otherwise" in start:
            del row["strategy"]  # the further plans belong to the previous first plan
    row["medium"], medium_success = tune_medium_noise(env.env, row)
    row["provenance"] = {
        "command": "python -m rlhive.envs.experts " + " ".join(sys.argv[1:]),
        "start": start,
        "tuning_seeds": [TUNING_SEED, TUNING_SEED + used - 1],
        "medium": medium_success,
        **validate_expert(env.env, row),
    }
    _write_row(arguments.env_name, row)


def _write_row(env_name: str, row: Mapping[str, Any]) -> None:
    # Read again: another process may have tuned another task in the meantime.
    content = json.loads(EXPERTS.read_text(encoding="utf-8"))
    content["tasks"][env_name] = row
    EXPERTS.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rlhive.envs.experts", description="Tune the scripted expert of a task."
    )
    parser.add_argument("env_name", help="environment id with a row in experts.json")
    parser.add_argument("--iterations", type=int, default=12)
    parser.add_argument("--population", type=int, default=18)
    parser.add_argument("--episodes", type=int, default=3, help="seeds per candidate; with --otherwise, all seeds")
    parser.add_argument("--budget-s", type=float, default=300.0, help="CPU time of the search")
    parser.add_argument("--otherwise", type=int, default=0, help="keep the plan and search for this many further plans")
    parser.add_argument(
        "--medium", action="store_true", help="keep the expert and tune how often the medium level gives up"
    )
    return parser


def validate_expert(env: RoboHiveEnv, row: Mapping[str, Any], *, episodes: int = 50) -> dict[str, Any]:
    """Measure the expert's success rate in the environment, on seeds that the search has not used."""
    seeds = range(VALIDATION_SEED + 1000, VALIDATION_SEED + 1000 + episodes)
    outcomes = [run_episode(env, _make_joint_policy(env, row, "expert"), seed) for seed in seeds]
    return {
        "date": datetime.date.today().isoformat(),
        "held_out_seeds": [seeds[0], seeds[-1]],
        "held_out_success": success_rate(outcomes),
    }


def _make_joint_policy(env: RoboHiveEnv, row: Mapping[str, Any], level: str, **degradation: float) -> JointPolicy:
    policy = policy_class(row)(env, level, row["expert"], **degradation)
    if not isinstance(policy, JointPolicy):
        msg = f"{env.env_name}: expected a strategy that moves a joint of the furniture, got {row.get('strategy')!r}."
        raise TypeError(msg)
    return policy
