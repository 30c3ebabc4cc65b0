"""Policies that RLHive and d3rlpy learn from the same transitions, evaluated on the same held-out seeds.

    python -m benchmarks.parity_training kitchen_knob1 --split all --steps 10000 --seeds 5 --episodes 50
    python -m benchmarks.parity_training kitchen_knob1 --algorithms cql --steps 2000   # adds rows to these results
    python -m benchmarks.parity_training toy_point --steps 500 --seeds 2 --episodes 5

Both libraries get the same normalised observations and scaled rewards, hidden layers 2x256, batches of 256, learning
rate and hyperparameters. d3rlpy trains in its own environment; its weights come back in a file and are evaluated in the
network that RLHive's own policies have. What still differs is named in ``DIFFERENCES``.

Writes benchmarks/results/parity-DATASET.json after every algorithm of a library, with means over seeds and episodes and
two-level bootstrap intervals; the same command goes on after an interrupt. At the end the table between the markers
``parity-DATASET`` in docs/parity.md is replaced.
"""

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.peers.environments import PEERS, ROOT
from benchmarks.peers.rounds import RESULTS, machine, write_results
from benchmarks.peers.updates.rlhive import list_overrides
from benchmarks.report import replace_section
from rlhive import RoboHiveDataset, evaluate, keys, train
from rlhive.policies import Normalizer, make_deployed_policy, make_network
from rlhive.rollouts import Evaluation
from rlhive.sim_algos import _preprocessing
from rlhive.sim_algos._bootstrap import bootstrap_interval

DOCUMENT = ROOT / "docs" / "parity.md"
ALGORITHMS = ("bc", "iql", "td3_bc", "cql")
LIBRARIES = ("rlhive", "d3rlpy")
DIFFERENCES = {
    "iql": "d3rlpy's scale of the action begins at exp(-1.5), RLHive's at 1; d3rlpy's actor uses V after its step",
    "cql": "d3rlpy's mean and scale of the action share their hidden layers, and its targets take the policy's mean "
    "action where RLHive's, as the authors' code, take a sample",
}
NETWORK = {"kind": "mlp", "hidden_sizes": [256, 256], "activation": "relu", "dropout": 0.0, "layer_norm": False}
_DATA_KEYS = {
    "observation": keys.OBSERVATION,
    "action": keys.ACTION,
    "reward": keys.NEXT_REWARD,
    "next_observation": (keys.NEXT, keys.OBSERVATION),
    "terminated": keys.NEXT_TERMINATED,
}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Train and evaluate what the results lack, write them, and return them."""
    options = _options(arguments)
    name = options.results or f"parity-{options.dataset.replace('/', '_')}"
    dataset = RoboHiveDataset(options.dataset, split=None if options.split == "all" else options.split)
    settings = {key: getattr(options, key) for key in ("dataset", "split", "seeds", "episodes")}
    settings["fingerprint"] = dataset.fingerprint
    content = _read_results(name, settings)
    with tempfile.TemporaryDirectory(prefix="rlhive-parity-") as folder:
        data = Data(dataset, Path(folder) / "transitions.npz")
        for algorithm in options.algorithms:
            for library in options.libraries:
                key = {"algorithm": algorithm, "library": library, "steps": options.steps}
                if any(key.items() <= row.items() for row in content["rows"]):
                    continue
                start = time.perf_counter()
                learn = _train_rlhive if library == "rlhive" else _train_d3rlpy
                policies = learn(algorithm, data, options, Path(folder))
                runs = [_evaluate(policy, data.task, options) for policy in policies]
                seconds = round(time.perf_counter() - start)
                content = _read_results(name, settings)  # another process may have compared other algorithms meanwhile
                row = {**key, "seconds": seconds, **_summarise(runs)}
                _add(content["rows"], row)
                write_results(name, content)
                print(_line(row), flush=True)
    print(table(content))
    replace_section(DOCUMENT, name, table(content))
    return content


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("dataset", help="name of a dataset")
    parser.add_argument("--split", default="all", help="split, for example expert+medium")
    parser.add_argument("--algorithms", nargs="+", default=ALGORITHMS, choices=ALGORITHMS)
    parser.add_argument("--libraries", nargs="+", default=LIBRARIES, choices=LIBRARIES)
    parser.add_argument("--steps", type=int, default=10_000, help="gradient steps")
    parser.add_argument("--seeds", type=int, default=5, help="trainings of each library")
    parser.add_argument("--episodes", type=int, default=50, help="evaluated episodes of each training")
    parser.add_argument("--workers", type=int, help="processes of an evaluation; one per core by default")
    parser.add_argument("--results", help="name of the file in benchmarks/results")
    return parser.parse_args(arguments)


def _read_results(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the results of earlier runs with the same settings, or empty ones; rows may differ in their steps."""
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        return {"machine": machine(), **settings, "rows": [], "differences": DIFFERENCES}
    content = {**json.loads(path.read_text(encoding="utf-8")), "differences": DIFFERENCES}
    different = [
        f"{name}={content.get(name)}, not {value}" for name, value in settings.items() if content[name] != value
    ]
    if different:
        msg = f"{path} has results of {'; '.join(different)}. Choose another file with --results, or remove it"
        raise SystemExit(msg)
    return content


def _add(rows: list[dict[str, Any]], row: dict[str, Any]) -> None:
    """Add a row, in the table's order; one of the same algorithm and library with other steps is replaced."""
    others = [one for one in rows if (one["algorithm"], one["library"]) != (row["algorithm"], row["library"])]
    rows[:] = sorted([*others, row], key=_position)


def _position(row: dict[str, Any]) -> tuple[int, int]:
    return ALGORITHMS.index(row["algorithm"]), LIBRARIES.index(row["library"])


class Data:
    """Transitions of a dataset, as both libraries learn from them.

    Args:
        dataset: The dataset.
        path: File that gets the normalised transitions.
    """

    def __init__(self, dataset: RoboHiveDataset, path: Path):
        self.dataset, self.path, self.task = dataset, path, dataset.task_name or dataset.env_name
        buffer = dataset.as_replay_buffer(batch_size=256, normalize=True)
        self.statistics = _preprocessing.compute_training_statistics(buffer, _preprocessing.TRANSITION_KEYS)
        self.reward_scale = _preprocessing.resolve_reward_scale("auto", self.task, self.statistics.reward_std)
        rows = buffer[:]
        arrays = {name: rows[key].to(torch.float32).numpy() for name, key in _DATA_KEYS.items()}
        np.savez(path, **{**arrays, "reward": self.reward_scale * arrays["reward"]})

    def make_policy(self, layers: Sequence[tuple[np.ndarray, np.ndarray]]) -> torch.nn.Module:
        """Return the policy tanh(MLP(normalised observation)) with some weights, as a training of RLHive deploys it."""
        network = make_network(self.statistics.observation_dim, self.statistics.action_dim, NETWORK)
        linears = [module for module in network.modules() if isinstance(module, torch.nn.Linear)]
        for linear, (weight, bias) in zip(linears, layers, strict=True):
            linear.load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})
        normalizer = Normalizer(self.statistics.mean, self.statistics.std)
        return make_deployed_policy(normalizer, network, env_name=self.dataset.env_name).requires_grad_(False)


def _train_rlhive(algorithm: str, data: Data, options: argparse.Namespace, folder: Path) -> list[Path]:
    overrides = [*list_overrides(algorithm), f"train.num_steps={options.steps}"]
    if algorithm != "bc":
        overrides.append(f"loss.reward_scale={data.reward_scale!r}")
    if options.split == "all":
        overrides.append("split=null")  # bc's own default is the split expert
    result = train(
        algorithm,
        options.dataset,
        split=None if options.split == "all" else options.split,
        num_seeds=options.seeds,
        overrides=overrides,
        output_dir=folder / f"rlhive-{algorithm}",
        progress=False,
    )
    return list(result.checkpoints)


def _train_d3rlpy(algorithm: str, data: Data, options: argparse.Namespace, folder: Path) -> list[torch.nn.Module]:
    output = folder / f"d3rlpy-{algorithm}"
    output.mkdir()
    command = [str(PEERS["d3rlpy"].python), "-m", "benchmarks.peers.updates.d3rlpy", algorithm]
    command += [str(data.path), str(output), str(options.seeds), str(options.steps)]
    environ = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=ROOT, check=True, env=environ, stderr=subprocess.DEVNULL)
    policies = []
    for seed in range(options.seeds):
        arrays = np.load(output / f"{seed}.npz")
        policies.append(data.make_policy([(arrays[f"weight_{k}"], arrays[f"bias_{k}"]) for k in range(3)]))
    return policies


def _evaluate(policy: Path | torch.nn.Module, task: str, options: argparse.Namespace) -> Evaluation:
    return evaluate(policy, task, num_episodes=options.episodes, num_workers=options.workers, progress=False)


def _summarise(runs: Sequence[Evaluation]) -> dict[str, Any]:
    """Return the values of each episode, their mean and the interval over seeds and episodes."""
    values = {"returns": [list(run.returns) for run in runs]}
    if all(run.solved is not None for run in runs):
        values["solved"] = [[float(is_solved) for is_solved in run.solved] for run in runs]
    summary: dict[str, Any] = {"episodes": values}
    for name, by_run in values.items():
        summary[name] = {
            "mean": float(np.mean([np.mean(run) for run in by_run])),
            "interval": bootstrap_interval(by_run),
        }
    return summary


def table(content: dict[str, Any]) -> str:
    """Return a Markdown table of the means and intervals, and whether the libraries' intervals overlap."""
    head = ["algorithm", "steps", "library", "success", "return", "intervals overlap"]
    lines = [head, ["---"] * len(head)]
    for row in content["rows"]:
        others = [
            one
            for one in content["rows"]
            if (one["algorithm"], one["steps"]) == (row["algorithm"], row["steps"]) and one is not row
        ]
        cells = [row["algorithm"], f"{row['steps']:,}", row["library"], _cell(row.get("solved")), _cell(row["returns"])]
        lines.append([*cells, _overlaps(row, others[0]) if others else ""])
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    compared = {row["algorithm"] for row in content["rows"]}
    notes = "\n".join(f"- {name}: {what}." for name, what in content["differences"].items() if name in compared)
    size = f"{content['seeds']} seeds, {content['episodes']} episodes each"
    text = f"{content['dataset']}, split {content['split']}: {size}.\n\n{text}"
    return f"{text}\n\nWhat differs:\n\n{notes}" if notes else text


def _overlaps(row: dict[str, Any], other: dict[str, Any]) -> str:
    """Return which of the measured values have intervals that overlap, in words."""
    labels = {"solved": "success", "returns": "return"}
    common = [name for name in labels if name in row and name in other]
    return ", ".join(
        f"{labels[name]} {'yes' if _overlap(row[name]['interval'], other[name]['interval']) else 'no'}"
        for name in common
    )


def _overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] <= other[1] and other[0] <= one[1]


def _cell(figures: dict[str, Any] | None) -> str:
    if figures is None:
        return ""
    low, high = figures["interval"]
    return f"{figures['mean']:.2f} ({low:.2f} to {high:.2f})"


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['algorithm']:<8} {row['library']:<8} {row['seconds']:5} s  return {_cell(row['returns'])} "
        f"success {_cell(row.get('solved'))}"
    )


if __name__ == "__main__":
    main()
