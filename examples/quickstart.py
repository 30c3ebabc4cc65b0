"""The whole flow on a RoboHive kitchen: collect expert episodes, open the dataset, train offline, evaluate, compare.

    python examples/quickstart.py

Every step is one public call. Cloning and IQL learn from the same episodes, and cloning from the experts alone beside
them, each with three training seeds. The trainings take a third of the algorithms' usual gradient steps. What to type
next is printed at the end.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from rlhive import Evaluation, RoboHiveDataset, collect, evaluate, train
from rlhive._figures import COLORS, DASHES, FONT_SIZE, make_figure, save_figure
from rlhive.sim_algos import MetricPoint, gather_results

TASK = "kitchen_knob1"
RESULTS = Path("quickstart-results")

#: Training seeds of every learned policy, and the episodes in which each of them is evaluated.
NUM_SEEDS = 3
EPISODES = 20
#: First seed of the evaluations; no dataset holds it.
FIRST_SEED = 1_000_000

COLOR_BY_NAME = dict(zip(("expert", "medium", "bc", "iql", "bc on experts", "", "random"), COLORS, strict=True))


@dataclass(frozen=True)
class Run:
    """A training: its algorithm, its data and its number of gradient steps."""

    model: str
    split: str | None
    num_steps: int

    @property
    def folder(self) -> Path:
        """Folder of the trained policies, one of each seed."""
        return RESULTS / f"{self.model}_{self.split or 'all'}"


RUNS = {
    "bc on experts": Run("bc", "expert", 4000),
    "bc": Run("bc", None, 4000),
    "iql": Run("iql", None, 2500),
}


@dataclass(frozen=True)
class Row:
    """A line of the comparison: success rate and return with 95 % intervals, and the success rate of each seed."""

    data: str
    success: float
    success_interval: tuple[float, float]
    episode_return: float
    return_interval: tuple[float, float]
    seed_success: tuple[float, ...] = ()


def main() -> None:
    """Run the flow and print its results."""
    out = Console()
    seconds: dict[str, float] = {}

    out.rule("1  collect: scripted policies act in MuJoCo")
    with timed(seconds, "collect"):
        collect(TASK)

    out.rule("2  dataset: a version on disk, served as a TorchRL replay buffer")
    dataset = RoboHiveDataset(TASK)
    buffer = dataset.as_replay_buffer(batch_size=256, seed=0)
    outcomes = f"  outcomes     {dataset.outcome_fingerprint[:16]}"
    out.print(repr(dataset), outcomes, sep="\n", highlight=False, soft_wrap=True)
    samples_per_s = measure_sampling(buffer)

    out.rule(f"3  train offline: {NUM_SEEDS} seeds each, as one batch of networks")
    learned = {}
    for name, run in RUNS.items():
        with timed(seconds, f"train {name}"):
            learned[name] = learn(run)

    out.rule("4  compare on seeds that the dataset does not hold")
    untrained = {}
    for name in ("random", "expert"):
        with timed(seconds, f"evaluate {name}"):
            untrained[name] = to_row(evaluate(name, TASK, num_episodes=NUM_SEEDS * EPISODES, seed=FIRST_SEED))
    rows = {"random": untrained["random"], **learned, "expert": untrained["expert"]}

    files = draw(dataset, rows, RESULTS / "quickstart")
    report(out, dataset, seconds, samples_per_s, rows)
    out.print(
        f"policies     {', '.join(str(run.folder) for run in RUNS.values())}",
        f"picture      {', '.join(map(str, files))}",
        "",
        "Look at it:",
        f"  rlhive view {TASK}           # in a browser",
        f"  rlhive show {TASK}           # success, returns, lengths",
        f"  rlhive plot {TASK}           # figures",
        f"  rlhive video {TASK} 0        # an episode",
        f"  rlhive results {RESULTS}   # the trainings",
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


def learn(run: Run) -> Row:
    """Train the seeds of a run, evaluate each after its last step, and return the mean with intervals."""
    overrides = [
        f"split={run.split or 'null'}",
        f"train.num_steps={run.num_steps}",
        f"train.eval_every={run.num_steps}",
        "+evaluation=heldout",
        f"evaluation.episodes={EPISODES}",
        f"evaluation.seed={FIRST_SEED}",
    ]
    train(run.model, TASK, num_seeds=NUM_SEEDS, overrides=overrides, output_dir=run.folder)
    (group,) = gather_results([run.folder]).groups
    num_episodes = RoboHiveDataset(TASK, split=run.split).episodes.num_rows
    return make_row(f"{num_episodes} {run.split or 'episode'}s", group.final["success"], group.final["return"])


def make_row(data: str, success: MetricPoint, episode_return: MetricPoint) -> Row:
    """Return the row of a training; its intervals are over seeds and episodes."""
    return Row(data, success.mean, success.interval, episode_return.mean, episode_return.interval, success.seed_means)


def to_row(evaluation: Evaluation) -> Row:
    """Return the row of a policy that was not trained; its intervals are over episodes."""
    return Row(
        "-",
        evaluation.success_rate,
        evaluation.success_interval,
        evaluation.return_mean,
        evaluation.return_interval,
    )


def report(
    out: Console, dataset: RoboHiveDataset, seconds: dict[str, float], samples_per_s: float, rows: dict[str, Row]
) -> None:
    """Print two tables: dataset and times, and the success of each policy."""
    summary = Table("", "", show_header=False, box=SIMPLE_HEAD)
    summary.add_row("size on disk", f"{dataset.manifest.num_bytes / 1e6:.1f} MB")
    summary.add_row("sampling", f"{samples_per_s:,.0f} transitions/s in batches of 256")
    for name, value in seconds.items():
        summary.add_row(name, f"{value:.1f} s")
    summary.add_row("all together", f"{sum(seconds.values()):.0f} s")
    out.print(summary)
    caption = f"{NUM_SEEDS} training seeds in {EPISODES} episodes each; random and expert in {NUM_SEEDS * EPISODES}"
    headers = ("policy", "learned from", "solved", "return")
    scores = Table(*headers, title="mean (95 % interval)", caption=caption, box=SIMPLE_HEAD)
    for name, row in rows.items():
        scores.add_row(
            name,
            row.data,
            "{:.0%} ({:.0%} to {:.0%})".format(row.success, *row.success_interval),
            "{:.1f} ({:.1f} to {:.1f})".format(row.episode_return, *row.return_interval),
        )
    out.print(scores)


def draw(dataset: RoboHiveDataset, rows: dict[str, Row], path: Path) -> list[Path]:
    """Draw the returns of each split and the success rate of each policy, as PDF and PNG, and return the files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure, axes = make_figure(1, 2, height=2.2)
    figure.get_layout_engine().set(wspace=0.06)
    draw_returns(axes[0, 0], dataset)
    draw_success(axes[0, 1], rows)
    return save_figure(figure, path)


def draw_returns(axis, dataset: RoboHiveDataset) -> None:
    """Draw one histogram per split, with the same bins."""
    episodes = dataset.episodes.select(["split", "return"]).to_pandas()
    bins = np.histogram_bin_edges(episodes["return"], 30)
    for (split, rows), style in zip(episodes.groupby("split"), DASHES, strict=False):
        color = COLOR_BY_NAME[split]
        axis.hist(rows["return"], bins, histtype="step", label=split, color=color, linestyle=style, linewidth=1.3)
        axis.hist(rows["return"], bins, color=color, alpha=0.15)
    axis.set(xlabel="return of an episode in the dataset", ylabel="episodes")
    axis.legend(frameon=False, fontsize=FONT_SIZE - 1)


def draw_success(axis, rows: dict[str, Row]) -> None:
    """Draw the success rate of each policy with its interval, and a point for each training seed."""
    for position, (name, row) in enumerate(rows.items()):
        color = COLOR_BY_NAME[name]
        low, high = row.success_interval
        error = [[max(0, row.success - low)], [max(0, high - row.success)]]
        axis.barh(position, row.success, height=0.62, color=color, alpha=0.45, linewidth=0)
        axis.errorbar(row.success, position, xerr=error, color="black", linewidth=0.9, capsize=2.5)
        offsets = np.linspace(-0.17, 0.17, len(row.seed_success))
        axis.scatter(row.seed_success, position + offsets, s=9, color=color, edgecolor="white", linewidth=0.4, zorder=3)
    axis.set_yticks(range(len(rows)), rows)
    axis.set_ylim(len(rows) - 0.4, -0.6)  # the first policy on top
    axis.set(xlim=(0, 1.02), xlabel="success rate on unseen seeds")
    axis.tick_params(axis="y", length=0)
    axis.grid(visible=False, axis="y")


if __name__ == "__main__":
    main()
