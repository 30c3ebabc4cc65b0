"""The results of a sweep: runs grouped by configuration and dataset version, with intervals over seeds and episodes.

The number of a group is that of its last evaluation: no best one is chosen, which would favour noisy algorithms.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlhive.errors import CheckpointMismatchError, StoreNotWritableError
from rlhive.sim_algos._bootstrap import NUM_RESAMPLES, bootstrap_interval, interquartile_mean
from rlhive.sim_algos._run_folders import METRICS, SkippedFolder, TrainingRun, find_runs

#: A curve has dozens of points, whose intervals are only looked at.
_NUM_CURVE_RESAMPLES = 1000

METHOD = (
    f"mean over seeds of each seed's last evaluation; 95 % percentile interval of {NUM_RESAMPLES} two-level bootstrap "
    "resamples of seeds and, within each, episodes (Davison and Hinkley 1997; Agarwal et al. 2021); for one seed, of "
    "its episodes alone"
)


@dataclass(frozen=True)
class MetricPoint:
    """A metric at one step of a group.

    Attributes:
        step: Number of gradient steps.
        mean: Mean over the seeds.
        interval: 95 % interval; None for a single number.
        seed_means: Mean of each seed, in the order of the seeds.
        covers: What the interval covers: "seeds and episodes", "seeds", "episodes" or "" without an interval.
    """

    step: int
    mean: float
    interval: tuple[float, float] | None
    seed_means: tuple[float, ...]
    covers: str


@dataclass(frozen=True)
class RunGroup:
    """The runs of one configuration.

    Attributes:
        name: What differs from the other groups, as on Hydra's command line: "model=iql optim.lr=0.001".
        algorithm: Name of the algorithm.
        dataset: Dataset as ``name@version``; empty without one.
        config: The flat configuration.
        seeds: Seeds in rising order.
        folders: Folder of each seed's run.
        steps: Fewest and most gradient steps of the runs.
        seconds: Mean wall time of a run.
        final: Metric → its value after the last evaluation of each run.
        iqm: Metric → interquartile mean of the seeds.
        curves: Metric → its values at the steps that all seeds have.
    """

    name: str
    algorithm: str
    dataset: str
    config: Mapping[str, str]
    seeds: tuple[int, ...]
    folders: tuple[str, ...]
    steps: tuple[int, int]
    seconds: float
    final: Mapping[str, MetricPoint]
    iqm: Mapping[str, float]
    curves: Mapping[str, tuple[MetricPoint, ...]]


@dataclass(frozen=True)
class SweepResults:
    """What :func:`gather_results` found.

    Attributes:
        groups: The groups, in the order of their names.
        skipped: Folders that are no complete runs.
        repeated: Runs that another run of the same configuration and seed with at least as many steps stands for.
    """

    groups: tuple[RunGroup, ...]
    skipped: tuple[SkippedFolder, ...]
    repeated: tuple[Path, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able values, with the method of the intervals."""
        return {
            "method": METHOD,
            "groups": [asdict(group) for group in self.groups],
            "skipped": [{"folder": str(row.folder), "reason": row.reason} for row in self.skipped],
            "repeated": [str(folder) for folder in self.repeated],
        }

    def save(self, folder: str | Path) -> list[Path]:
        """Write ``results.json``, and ``curves`` and ``bars`` as PDF and PNG where there are evaluations.

        Returns:
            The files.

        Raises:
            StoreNotWritableError: The folder cannot be written.
            MissingExtraError: Matplotlib is not installed.
        """
        from rlhive._figures import require_matplotlib, save_figure
        from rlhive.sim_algos._figures import draw_bars, draw_curves

        require_matplotlib()
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / "results.json"
            path.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")
            files = [path]
            for name, draw in (("curves", draw_curves), ("bars", draw_bars)):
                files += save_figure(draw(self.groups), folder / name)
        except OSError as error:
            msg = f"No results can be written to {folder}: {error.strerror}. Choose another folder."
            raise StoreNotWritableError(msg) from error
        return files


def gather_results(folders: Sequence[str | Path]) -> SweepResults:
    """Read the runs in some folders and below them, and group them by everything but the seed.

    Args:
        folders: Folders of runs or sweeps, such as Hydra's ``outputs/sweep_…``.

    Raises:
        CheckpointMismatchError: A folder does not exist, or none holds a complete run.
    """
    runs: list[TrainingRun] = []
    skipped: list[SkippedFolder] = []
    for folder in dict.fromkeys(Path(folder).resolve() for folder in folders):
        if not folder.is_dir():
            msg = f"No folder {folder}: expected the folder of a sweep or of a run."
            raise CheckpointMismatchError(msg)
        for found in find_runs(folder):
            (runs if isinstance(found, TrainingRun) else skipped).append(found)  # type: ignore[arg-type]
    runs = list({run.folder: run for run in runs}.values())
    if not runs:
        first = f"; {skipped[0].folder}: {skipped[0].reason}" if skipped else ""
        msg = f"No finished run in {', '.join(map(str, folders))}: {len(skipped)} folders were left out{first}"
        raise CheckpointMismatchError(msg)
    by_group: dict[tuple[Any, ...], dict[int, TrainingRun]] = {}
    repeated = []
    for run in sorted(runs, key=lambda run: -run.steps):
        key = (run.algorithm, run.dataset, *sorted(run.config.items()))
        if by_group.setdefault(key, {}).setdefault(run.seed, run) is not run:
            repeated.append(run.folder)
    grouped = [_drop_unevaluated([by_seed[seed] for seed in sorted(by_seed)], skipped) for by_seed in by_group.values()]
    names = _name_groups([group[0] for group in grouped])
    groups = sorted(map(_make_group, names, grouped), key=lambda group: group.name)
    return SweepResults(tuple(groups), tuple(skipped), tuple(sorted(repeated)))


def _drop_unevaluated(runs: list[TrainingRun], skipped: list[SkippedFolder]) -> list[TrainingRun]:
    """Return the runs of a group that were evaluated; all if none was."""
    evaluated = [run for run in runs if any(_values_by_step(run, metric) for metric in METRICS)]
    if not evaluated:
        return runs
    reason = "no evaluation, which other runs of its configuration have"
    skipped += [SkippedFolder(run.folder, reason) for run in runs if run not in evaluated]
    return evaluated


def _name_groups(runs: Sequence[TrainingRun]) -> list[str]:
    """Return a name for each group, of which one run is given: what differs, as on Hydra's command line.

    Options that differ between algorithms only are their defaults, and go without saying.
    """
    has_datasets = len({run.dataset for run in runs}) > 1
    show_fingerprint = len({run.dataset for run in runs}) > len({run.dataset.split(" ")[0] for run in runs})
    names = []
    for run in runs:
        siblings = [other.config for other in runs if other.algorithm == run.algorithm]
        options = dict.fromkeys(name for config in siblings for name in config)
        words = [f"model={run.algorithm}"]
        if has_datasets:
            dataset = run.dataset if show_fingerprint else run.dataset.split(" ")[0]
            words.append(f"dataset={dataset or 'null'}")
        for option in sorted(options, key=lambda option: ("." in option, option)):
            if len({config.get(option) for config in siblings}) > 1:
                words.append(f"{option}={run.config[option]}" if option in run.config else f"~{option}")
        names.append(" ".join(words))
    return names


def _make_group(name: str, runs: Sequence[TrainingRun]) -> RunGroup:
    values = {metric: [_values_by_step(run, metric) for run in runs] for metric in METRICS}
    values = {metric: by_run for metric, by_run in values.items() if all(by_run)}
    final = {
        metric: _make_point(max(map(max, by_run)), [by_step[max(by_step)] for by_step in by_run], NUM_RESAMPLES)
        for metric, by_run in values.items()
    }
    curves = {}
    for metric, by_run in values.items():
        steps = sorted(set.intersection(*map(set, by_run)))
        curves[metric] = tuple(
            _make_point(step, [by_step[step] for by_step in by_run], _NUM_CURVE_RESAMPLES) for step in steps
        )
    return RunGroup(
        name=name,
        algorithm=runs[0].algorithm,
        dataset=runs[0].dataset,
        config=dict(runs[0].config),
        seeds=tuple(run.seed for run in runs),
        folders=tuple(str(run.folder) for run in runs),
        steps=(min(run.steps for run in runs), max(run.steps for run in runs)),
        seconds=sum(run.seconds for run in runs) / len(runs),
        final=final,
        iqm={metric: interquartile_mean(point.seed_means) for metric, point in final.items()},
        curves=curves,
    )


def _values_by_step(run: TrainingRun, metric: str) -> dict[int, tuple[float, ...]]:
    """Return the values of the episodes by step, or the mean alone where the episodes were not written."""
    by_step: dict[int, tuple[float, ...]] = {}
    for name in METRICS[metric]:
        if name in run.curve:
            by_step = {step: (value,) for step, value in run.curve[name].items()}
            break
    for evaluation in run.evaluations:
        episodes = evaluation.returns if metric == "return" else evaluation.successes
        if episodes is not None:
            by_step[evaluation.step] = tuple(map(float, episodes))
    return by_step


def _make_point(step: int, runs: Sequence[tuple[float, ...]], num_resamples: int) -> MetricPoint:
    seed_means = tuple(sum(values) / len(values) for values in runs)
    levels = ["seeds"] if len(runs) > 1 else []
    levels += ["episodes"] if any(len(values) > 1 for values in runs) else []
    interval = bootstrap_interval(runs, num_resamples=num_resamples) if levels else None
    return MetricPoint(step, sum(seed_means) / len(seed_means), interval, seed_means, " and ".join(levels))
