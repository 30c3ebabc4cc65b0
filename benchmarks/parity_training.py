"""Policies that RLHive and d3rlpy learn from the same transitions, evaluated on the same held-out seeds.

    python -m benchmarks.parity_training kitchen_knob1 --split all --steps 10000 --seeds 5 --episodes 50
    python -m benchmarks.parity_training toy_point --steps 500 --seeds 2 --episodes 5 --algorithms bc iql

Both libraries get the same normalised observations and scaled rewards, hidden layers 2x256, batches of 256, learning
rate and hyperparameters. d3rlpy trains in its own environment; its weights come back in a file and are evaluated in the
network that RLHive's own policies have. What still differs is named in ``DIFFERENCES``.

Writes benchmarks/results/parity-DATASET.json and a Markdown table of the same name, with means over seeds and episodes
and two-level bootstrap intervals.
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
from benchmarks.peers.rounds import RESULTS, machine
from benchmarks.peers.updates.rlhive import list_overrides
from rlhive import RoboHiveDataset, evaluate, keys, train
from rlhive.policies import Normalizer, make_deployed_policy, make_network
from rlhive.rollouts import Evaluation
from rlhive.sim_algos import _preprocessing
from rlhive.sim_algos._bootstrap import bootstrap_interval

ALGORITHMS = ("bc", "iql", "td3_bc", "cql")
DIFFERENCES = {
    "iql": "d3rlpy's scale of the action begins at exp(-1.5), RLHive's at 1; d3rlpy's actor uses V after its step",
    "cql": "d3rlpy's mean and scale of the action share their hidden layers",
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
    """Train and evaluate, write the results, and return them."""
    options = _options(arguments)
    start = time.perf_counter()
    content: dict[str, Any] = {"machine": machine(), "dataset": options.dataset, "rows": [], "differences": DIFFERENCES}
    content |= {name: getattr(options, name) for name in ("split", "steps", "seeds", "episodes")}
    with tempfile.TemporaryDirectory(prefix="rlhive-parity-") as folder:
        dataset = RoboHiveDataset(options.dataset, split=None if options.split == "all" else options.split)
        data = Data(dataset, Path(folder) / "transitions.npz")
        content["fingerprint"] = dataset.fingerprint
        for algorithm in options.algorithms:
            for library, learn in (("rlhive", _train_rlhive), ("d3rlpy", _train_d3rlpy)):
                policies = learn(algorithm, data, options, Path(folder))
                runs = [_evaluate(policy, data.task, options) for policy in policies]
                content["rows"].append({"algorithm": algorithm, "library": library, **_summarise(runs)})
                print(_line(content["rows"][-1]), flush=True)
    content["seconds"] = round(time.perf_counter() - start)
    name = options.results or f"parity-{options.dataset.replace('/', '_')}"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (RESULTS / f"{name}.md").write_text(table(content), encoding="utf-8")
    print(table(content))
    return content


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("dataset", help="name of a dataset")
    parser.add_argument("--split", default="all", help="split, for example expert+medium")
    parser.add_argument("--algorithms", nargs="+", default=ALGORITHMS, choices=ALGORITHMS)
    parser.add_argument("--steps", type=int, default=10_000, help="gradient steps")
    parser.add_argument("--seeds", type=int, default=5, help="trainings of each library")
    parser.add_argument("--episodes", type=int, default=50, help="evaluated episodes of each training")
    parser.add_argument("--workers", type=int, help="processes of an evaluation; one per core by default")
    parser.add_argument("--results", help="name of the files in benchmarks/results")
    return parser.parse_args(arguments)


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
    policies = []
    for seed in range(options.seeds):
        path = folder / f"d3rlpy-{algorithm}-{seed}.npz"
        command = [str(PEERS["d3rlpy"].python), "-m", "benchmarks.peers.updates.d3rlpy", algorithm]
        command += [str(data.path), str(path), str(seed), str(options.steps)]
        subprocess.run(command, cwd=ROOT, check=True, env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
        arrays = np.load(path)
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
    head = ["algorithm", "library", "success", "return", "intervals overlap"]
    lines = [head, ["---"] * len(head)]
    for row in content["rows"]:
        other = next((one for one in content["rows"] if one["algorithm"] == row["algorithm"] and one is not row), None)
        overlap = (
            ""
            if other is None
            else " and ".join(
                f"{name}: {'yes' if _overlap(row[name]['interval'], other[name]['interval']) else 'no'}"
                for name in ("solved", "returns")
                if name in row and name in other
            )
        )
        lines.append([row["algorithm"], row["library"], _cell(row.get("solved")), _cell(row["returns"]), overlap])
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    notes = "\n".join(f"- {name}: {difference}." for name, difference in content["differences"].items())
    size = f"{content['seeds']} seeds, {content['steps']:,} gradient steps, {content['episodes']} episodes each"
    return f"{content['dataset']}, split {content['split']}: {size}.\n\n{text}\n\nWhat differs:\n\n{notes}\n"


def _overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] <= other[1] and other[0] <= one[1]


def _cell(figures: dict[str, Any] | None) -> str:
    if figures is None:
        return ""
    low, high = figures["interval"]
    return f"{figures['mean']:.2f} ({low:.2f} to {high:.2f})"


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['algorithm']:<8} {row['library']:<8} return {_cell(row['returns'])} success {_cell(row.get('solved'))}"
    )


if __name__ == "__main__":
    main()
