"""How many planted bad episodes the episode scores find, and how many good ones they accuse.

    python -m benchmarks.score_recall reach kitchen_knob1 --good 200 --bad 12

Every episode is stepped in the simulator. Good ones are the scripted expert's with a little noise of its own in each;
bad ones have one of five defects. An episode counts as found if ``outlier`` is not empty.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDictBase

from rlhive import Recorder, RoboHiveDataset, keys, make_env, make_policy
from rlhive.rollouts import rollout_episode

KINDS = ("jerky", "idle", "saturated", "off-distribution", "duplicated")
#: Standard deviation of the Gaussian noise on the good episodes' actions: the smallest and the largest.
GOOD_NOISE = (0.01, 0.05)
#: Standard deviation of the noise that is added to the numbers of a copied episode, relative to each one's own.
COPY_NOISE = 1e-4

Act = Callable[[TensorDictBase], TensorDictBase]
Defect = Callable[[np.ndarray, int], np.ndarray]


def main() -> None:
    """Print a row of a Markdown table for each task and kind."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tasks", nargs="+")
    parser.add_argument("--good", type=int, default=200, help="good episodes")
    parser.add_argument("--bad", type=int, default=12, help="bad episodes of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", type=Path, help="keeps the datasets; a temporary folder by default")
    options = parser.parse_args()
    print("| task | episodes | found | what named them |")
    print("|---|---|---:|---|")
    with tempfile.TemporaryDirectory() as temporary:
        store = options.store or Path(temporary)
        for task in options.tasks:
            folder = plant(task, store, good=options.good, bad=options.bad, seed=options.seed)
            for row in summarize(RoboHiveDataset(folder, store=store)):
                print(f"| {task} | {' | '.join(row)} |", flush=True)


def plant(task: str, store: Path, *, good: int, bad: int, seed: int = 0) -> Path:
    """Record good and bad episodes in random order; the metadata ``kind`` says which is which.

    Args:
        task: Task with a scripted expert.
        store: Folder of all datasets.
        good: Number of good episodes.
        bad: Number of bad ones of each of :data:`KINDS`.
        seed: Seed of the first episode, of the order and of the defects.

    Returns:
        The version's folder.
    """
    generator = np.random.default_rng(seed)
    kinds = generator.permutation(["good"] * good + [kind for kind in KINDS if kind != "duplicated"] * bad)
    env = make_env(task)
    expert = make_policy(env, "expert")
    episodes: list[tuple[str, Any, int]] = []
    for index, kind in enumerate(kinds):
        defect = DEFECTS[kind](np.random.default_rng([seed, index]), env.horizon)
        policy = _Defective(expert, defect)
        episodes.append((str(kind), rollout_episode(env, policy, seed=seed + index), seed + index))
    copied = generator.choice(np.flatnonzero(kinds == "good"), bad, replace=False)
    episodes += [("duplicated", _copy(episodes[index][1], generator), episodes[index][2]) for index in copied]
    with Recorder(f"planted/{task}", env=env, policy="expert", store=store) as recorder:
        for kind, rollout, episode_seed in episodes:
            recorder.add_episode(rollout.transitions, seed=episode_seed, metadata={"kind": kind})
    env.close()
    return recorder.commit(license="cc-by-4.0")


class _Defective:
    """A policy whose actions pass through a defect."""

    def __init__(self, policy: Any, defect: Defect) -> None:
        self._policy, self._defect = policy, defect
        self._step = 0

    def begin_episode(self, seed: int) -> None:
        """Start an episode."""
        self._step = 0
        self._policy.begin_episode(seed)

    def __call__(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the action."""
        tensordict = self._policy(tensordict)
        action = tensordict[keys.ACTION]
        changed = self._defect(action.numpy().astype(np.float64), self._step)
        self._step += 1
        return tensordict.set(keys.ACTION, torch.as_tensor(np.clip(changed, -1, 1), dtype=action.dtype))


def _good(generator: np.random.Generator, horizon: int) -> Defect:
    """A little noise, of another size in each episode."""
    std = generator.uniform(*GOOD_NOISE)
    return lambda action, step: action + std * generator.normal(size=action.shape)


def _jerky(generator: np.random.Generator, horizon: int) -> Defect:
    """Strong noise on every action."""
    return lambda action, step: action + 0.25 * generator.normal(size=action.shape)


def _idle(generator: np.random.Generator, horizon: int) -> Defect:
    """The command stays as it is in half of the steps."""
    first = generator.integers(2, horizon // 2)
    held: list[np.ndarray] = []

    def hold(action: np.ndarray, step: int) -> np.ndarray:
        if not first <= step < first + horizon // 2:
            return action
        held.append(action)
        return held[0]

    return hold


def _saturated(generator: np.random.Generator, horizon: int) -> Defect:
    """The gain is far too large in half of the steps, so that the command is at its limits."""
    first = generator.integers(0, horizon // 2)
    return lambda action, step: 50 * action if first <= step < first + horizon // 2 else action


def _off_distribution(generator: np.random.Generator, horizon: int) -> Defect:
    """The arm moves smoothly, but to some posture of its own choice."""
    target = generator.uniform(-0.8, 0.8, 16)
    return lambda action, step: action + min(1.0, step / (horizon / 2)) * (target[: len(action)] - action)


DEFECTS: dict[str, Callable[[np.random.Generator, int], Defect]] = {
    "good": _good,
    "jerky": _jerky,
    "idle": _idle,
    "saturated": _saturated,
    "off-distribution": _off_distribution,
}


def _copy(rollout: Any, generator: np.random.Generator) -> Any:
    """Return an episode whose observations and actions differ from another one's by the last digits."""
    from dataclasses import replace

    transitions = rollout.transitions.clone()
    for key in (keys.ACTION, keys.OBSERVATION):
        values = transitions[key]
        noise = COPY_NOISE * values.std(0) * torch.as_tensor(generator.normal(size=values.shape))
        transitions[key] = (values + noise).to(values.dtype)
        if key == keys.OBSERVATION:
            transitions["next", key][:-1] = transitions[key][1:]
    return replace(rollout, transitions=transitions)


def summarize(dataset: RoboHiveDataset) -> Iterator[list[str]]:
    """Yield the cells of a row for each kind of episode."""
    import collections
    import json

    rows = dataset.score().to_pylist()
    kinds = [json.loads(row)["kind"] for row in dataset.episodes["metadata"].to_pylist()]
    for kind in ("good", *KINDS):
        outliers = [row["outlier"] for row, name in zip(rows, kinds, strict=True) if name == kind]
        found = sum(bool(outlier) for outlier in outliers)
        names = collections.Counter(name for outlier in outliers for name in outlier.split(", ") if name)
        named = ", ".join(f"{name} {count}" for name, count in names.most_common())
        yield [f"{len(outliers)} {kind}", f"{found} ({found / len(outliers):.1%})", named]


if __name__ == "__main__":
    main()
