"""Seeds, checkpoints and replays of RoboHive's environments, bit for bit: every state id, or those that are named.

    python -m benchmarks.env_conformance [--workers 2] [--ids myoHandReachRandom-v0 door-v1 …]

prints one row per family. Without ``--ids`` it takes about half an hour on one core with all assets, writes
benchmarks/results/env_conformance.json and puts the table into docs/robohive.md. For each id, in episodes of 20 steps:

    seeds       the episodes of seeds 7, 8 and 7 in one environment, and of 7 in a fresh one: all of 7 are equal
    checkpoint  the state after step 8, restored in another environment: equal observation, and 12 equal steps
    replay      three recorded episodes, replayed from the seed alone and from the start state alone: bit-exact

An outcome is "exact", or what differs, or "assets" where the simulation assets are not installed.
"""

import argparse
import json
import multiprocessing
import sys
import warnings
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from tqdm import tqdm

from benchmarks.env_coverage import ENCODERS, family, write_docs
from rlhive import keys
from rlhive.data import EpisodeRecord, Schema, pack
from rlhive.errors import RLHiveError, RoboHiveMissingError

RESULTS = Path(__file__).parent / "results" / "env_conformance.json"

HORIZON = 20
CHECKPOINT_STEP = 8
EXACT = "exact"

#: Parts of the checks, which are also the columns of the table.
CHECKS = ("seeds", "checkpoint", "replay")


@dataclass(frozen=True)
class Outcome:
    """Outcome of the checks of one id: "exact", what differs, or "assets".

    Attributes:
        env_name: Environment id.
        seeds: Whether a seed gives the same episode, whatever ran before.
        checkpoint: Whether an episode goes on from a checkpoint.
        replay: Whether recorded episodes can be replayed.
    """

    env_name: str
    seeds: str = EXACT
    checkpoint: str = EXACT
    replay: str = EXACT

    @property
    def is_exact(self) -> bool:
        """Whether all checks passed."""
        return all(getattr(self, check) == EXACT for check in CHECKS)


def check_env(env_name: str) -> Outcome:
    """Run all checks of one id."""
    warnings.simplefilter("ignore")
    from rlhive.envs import RoboHiveEnv

    try:
        env, other = (RoboHiveEnv(env_name, seed=seed, max_episode_steps=HORIZON) for seed in (1, 2))
    except RoboHiveMissingError:
        return Outcome(env_name, "assets", "assets", "assets")
    outcome = Outcome(env_name)
    for name, check in (("seeds", check_seeds), ("checkpoint", check_checkpoint), ("replay", check_replay)):
        try:
            result = check(env, other)
        except RLHiveError as error:
            result = f"{type(error).__name__}: {error}"
        outcome = replace(outcome, **{name: result})
    env.close()
    other.close()
    return outcome


def check_seeds(env: Any, fresh: Any) -> str:
    """Compare episodes of one seed; ``fresh`` has run none."""
    first, between, again = (run_episode(env, seed=seed) for seed in (7, 8, 7))
    del between
    for name, episode in (("again", again), ("fresh", run_episode(fresh, seed=7))):
        if difference := find_difference(first, episode):
            return f"{name}: {difference}"
    return EXACT


def check_checkpoint(env: Any, other: Any) -> str:
    """Go on from a state of ``env`` in another environment, which is within an episode of its own."""
    actions = random_actions(env)
    env.reset(seed=7)
    before = run_steps(env, actions[:CHECKPOINT_STEP])
    state = env.get_state()
    expected = run_steps(env, actions[CHECKPOINT_STEP:])
    other.reset(seed=9)
    run_steps(other, actions[:3])
    restored = other.set_state(state)
    if not torch.equal(restored[keys.OBSERVATION], before[-1][keys.OBSERVATION]):
        return "the observation of the restored state differs"
    return find_difference(expected, run_steps(other, actions[CHECKPOINT_STEP:])) or EXACT


def check_replay(env: Any, other: Any) -> str:
    """Replay three episodes from their seed alone and from their start state alone."""
    from rlhive.rollouts import replay_episode

    for seed in (3, 4, 5):
        record = record_episode(env, seed=seed)
        for source, stripped in (("seed", replace(record, start_state={})), ("state", replace(record, seed=None))):
            result = replay_episode(other, stripped)
            if result.verdict != "bit-exact":
                return f"from the {source}: {result}"
    return EXACT


def record_episode(env: Any, *, seed: int) -> EpisodeRecord:
    """Run and record an episode of random actions."""
    from rlhive.rollouts import rollout_episode

    def act(tensordict: TensorDictBase) -> TensorDictBase:
        return tensordict.set(keys.ACTION, env.action_spec.rand())

    rollout = rollout_episode(env, act, seed=seed)
    columns, final = pack(rollout.transitions, Schema.from_tensordict(rollout.transitions), context=env.env_name)
    return EpisodeRecord(seed, "random", columns, final, seed, rollout.start_state)


def random_actions(env: Any) -> torch.Tensor:
    """Return the actions of an episode, float32 [HORIZON, n]."""
    size = (HORIZON, *env.action_spec.shape)
    return torch.as_tensor(np.random.default_rng(5).uniform(-1, 1, size), dtype=torch.float32)


def run_episode(env: Any, *, seed: int) -> list[TensorDictBase]:
    """Return the TensorDicts of a reset and of an episode's steps."""
    return [env.reset(seed=seed), *run_steps(env, random_actions(env))]


def run_steps(env: Any, actions: torch.Tensor) -> list[TensorDictBase]:
    """Return the TensorDict of each step."""
    return [env.step(TensorDict({keys.ACTION: action}, []))[keys.NEXT] for action in actions]


def find_difference(expected: list[TensorDictBase], got: list[TensorDictBase]) -> str:
    """Return where two episodes differ; empty where they do not."""
    for step, (left, right) in enumerate(zip(expected, got, strict=True)):
        for key in (keys.OBSERVATION, keys.REWARD, keys.SUCCESS, keys.TERMINATED):
            if key in left and not torch.equal(left[key], right[key]):
                return f"{key} differs at step {step}"
    return ""


def state_ids() -> list[str]:
    """Return RoboHive's ids that observe states: those without encoders and pictures."""
    from rlhive.envs._loading import registered_specs

    return [name for name in registered_specs() if not (ENCODERS.search(name) or "_v2d" in name or "_vflat" in name)]


def format_table(outcomes: Iterable[Outcome]) -> str:
    """Return a Markdown table: per family the ids whose outcome is exact, of those whose assets are installed."""
    rows: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        rows.setdefault(family(outcome.env_name), []).append(outcome)
    lines = ["| family | ids | same seed, same episode | checkpoint | replay |", "|---|---|---|---|---|"]
    for name, of_family in rows.items():
        installed = [outcome for outcome in of_family if outcome.seeds != "assets"]
        counts = [sum(getattr(outcome, check) == EXACT for outcome in installed) for check in CHECKS]
        cells = [f"{count} of {len(installed)}" if installed else "no assets" for count in counts]
        lines.append(f"| {name} | {len(of_family)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Check the ids and print the table; write it where all were checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ids", nargs="+", default=[], help="environment ids; all state ids by default")
    parser.add_argument("--workers", type=int, default=1, help="worker processes")
    options = parser.parse_args()
    names = options.ids or state_ids()
    with ProcessPoolExecutor(options.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        outcomes = list(tqdm(pool.map(check_env, names), total=len(names), unit="id"))
    table = format_table(outcomes)
    print(table)
    for outcome in outcomes:
        if not outcome.is_exact and outcome.seeds != "assets":
            print(json.dumps(asdict(outcome)))
    if not options.ids:
        RESULTS.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1) + "\n", encoding="utf-8")
        write_docs("env_conformance", table)
    sys.exit(any(not outcome.is_exact and outcome.seeds != "assets" for outcome in outcomes))


if __name__ == "__main__":
    main()
