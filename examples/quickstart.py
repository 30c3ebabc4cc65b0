"""The whole flow on a RoboHive kitchen: collect expert episodes, open the dataset, train offline, evaluate.

    python examples/quickstart.py

Every step is one public call. The paths of its results are printed at the end.
"""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from rlhive import Evaluation, RoboHiveDataset, TrainResult, collect, evaluate, train

TASK = "kitchen_knob1"
RESULTS = Path("quickstart-results")
EPISODES = 50
COLOURS = {"expert": "#1b7837", "medium": "#e08214", "random": "#7f7f7f", "bc": "#2166ac", "iql": "#762a83"}

NAMES = {"bc": "BC", "iql": "IQL"}


def main() -> None:
    """Run the flow and print its results."""
    out = Console()
    seconds: dict[str, float] = {}

    out.rule("1  collect: scripted policies act in MuJoCo")
    with timed(seconds, "collect"):
        collect(TASK)

    out.rule("2  dataset: a version on disk, served as a TorchRL replay buffer")
    with timed(seconds, "open"):
        dataset = RoboHiveDataset(TASK)
        buffer = dataset.as_replay_buffer(batch_size=256, seed=0)
        buffer.sample()
    out.print(repr(dataset), highlight=False)
    samples_per_s = measure_sampling(buffer)

    out.rule("3  train: behaviour cloning and IQL, offline")
    results: dict[str, TrainResult] = {}
    for model in ("bc", "iql"):
        with timed(seconds, f"train {model}"):
            results[model] = train(model, TASK, output_dir=RESULTS / model)

    out.rule(f"4  evaluate: {EPISODES} episodes each, on seeds that the dataset does not hold")
    checkpoints = {model: result.checkpoint for model, result in results.items()}
    policies = {"random": "random", **checkpoints, "expert": "expert"}
    evaluations = {}
    for name, policy in policies.items():
        with timed(seconds, f"evaluate {name}"):
            evaluations[name] = evaluate(policy, TASK, num_episodes=EPISODES)

    picture = RESULTS / "quickstart.png"
    draw(dataset, results, evaluations, picture)
    report(out, dataset, seconds, samples_per_s, evaluations)
    out.print(
        f"dataset      {dataset.path}",
        *(f"checkpoint   {checkpoint}" for checkpoint in checkpoints.values()),
        f"picture      {picture}",
        sep="\n",
        highlight=False,
        soft_wrap=True,
    )


@contextlib.contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Measure the wall time of a block."""
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start


def measure_sampling(buffer, batches: int = 2000) -> float:
    """Return transitions per second of `buffer.sample()`."""
    start = time.perf_counter()
    for _ in tqdm(range(batches), desc="sample", unit="batch"):
        buffer.sample()
    return batches * buffer.batch_size / (time.perf_counter() - start)


def report(
    out: Console,
    dataset: RoboHiveDataset,
    seconds: dict[str, float],
    samples_per_s: float,
    evaluations: dict[str, Evaluation],
) -> None:
    """Print two tables: dataset and times, and the success of each policy."""
    summary = Table("", "", title=f"{dataset.name} {dataset.version}", show_header=False)
    summary.add_row("episodes", f"{dataset.manifest.num_episodes:,}")
    summary.add_row("transitions", f"{len(dataset):,}")
    summary.add_row("size on disk", f"{dataset.manifest.num_bytes / 1e6:.1f} MB")
    summary.add_row("sampling", f"{samples_per_s:,.0f} transitions/s in batches of 256")
    for name, value in seconds.items():
        summary.add_row(name, f"{value:.1f} s")
    summary.add_row("all together", f"{sum(seconds.values()):.0f} s")
    out.print(summary)
    scores = Table("policy", "solved", "95 % interval", "return", "95 % interval", title=f"{EPISODES} unseen seeds")
    for name, row in evaluations.items():
        low, high = row.success_interval
        worst, best = row.return_interval
        scores.add_row(
            name,
            f"{row.success_rate:.0%}",
            f"{low:.0%} to {high:.0%}",
            f"{row.return_mean:.1f}",
            f"{worst:.1f} to {best:.1f}",
        )
    out.print(scores)


def draw(
    dataset: RoboHiveDataset, results: dict[str, TrainResult], evaluations: dict[str, Evaluation], path: Path
) -> None:
    """Draw the returns of each split, the success rate of each policy, and the learning curves."""
    figure, axes = plt.subplots(2, 2, figsize=(11, 7.5), constrained_layout=True)
    figure.suptitle(f"{dataset.name} {dataset.version}: {dataset.env_name}", fontweight="bold")
    draw_returns(axes[0, 0], dataset)
    draw_success(axes[0, 1], evaluations)
    draw_curve(axes[1, 0], "Behaviour cloning", results["bc"], {"loss": "absolute error of the action"})
    losses = {"loss_qvalue": "Q", "loss_value": "value", "loss_actor": "actor"}
    draw_curve(axes[1, 1], "IQL", results["iql"], losses)
    axes[1, 1].set_yscale("symlog", linthresh=0.01)  # the actor's loss, a log-likelihood, changes its sign
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def draw_returns(axis: plt.Axes, dataset: RoboHiveDataset) -> None:
    """Draw one histogram per split, with the same bins."""
    episodes = dataset.episodes.select(["split", "return"]).to_pandas()
    bins = np.linspace(episodes["return"].min(), episodes["return"].max(), 40)
    for split, rows in episodes.groupby("split", sort=False):
        label = f"{split}, {len(rows)} episodes"
        axis.hist(rows["return"], bins, histtype="stepfilled", alpha=0.6, label=label, color=COLOURS[split])
    axis.set(title="Returns in the dataset", xlabel="return of an episode", ylabel="episodes")
    axis.legend(frameon=False)


def draw_success(axis: plt.Axes, evaluations: dict[str, Evaluation]) -> None:
    """Draw the success rate of each policy with its interval."""
    for position, (name, row) in enumerate(evaluations.items()):
        low, high = row.success_interval
        rate = row.success_rate
        error = [[rate - low], [high - rate]]
        axis.bar(position, rate, color=COLOURS[name], yerr=error, capsize=5, width=0.65)
        axis.text(position, high + 0.02, f"{rate:.0%}", ha="center")
    axis.set(title=f"Solved on {EPISODES} unseen seeds, 95 % interval", ylim=(0, 1.12), ylabel="success rate")
    axis.set_xticks(range(len(evaluations)), [NAMES.get(name, name) for name in evaluations])


def draw_curve(axis: plt.Axes, title: str, result: TrainResult, losses: dict[str, str]) -> None:
    """Draw losses over gradient steps."""
    steps = [row["step"] for row in result.curve]
    for (key, label), style in zip(losses.items(), ("-", "--", ":"), strict=False):
        axis.plot(steps, [row[key] for row in result.curve], style, label=label, color=COLOURS[result.algorithm])
    axis.set(title=f"{title}, learning curve", xlabel="gradient step", ylabel="loss", yscale="log")
    axis.legend(frameon=False)


if __name__ == "__main__":
    main()
