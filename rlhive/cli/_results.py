"""The verb of the ``rlhive`` command that gathers the runs of a sweep: results."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from rlhive.cli._tables import make_table, print_table
from rlhive.cli._terminal import Json, out

if TYPE_CHECKING:
    from rlhive.sim_algos import MetricPoint, RunGroup

#: Folders that are left out and named; more are only counted.
_MAX_NAMED = 5


def results(
    folders: Annotated[list[Path], typer.Argument(help="Folders of sweeps or runs, such as outputs/sweep_….")],
    output: Annotated[
        Path | None, typer.Option(help="Folder for results.json, curves and bars as PDF and PNG.")
    ] = None,
    json_: Json = False,
) -> None:
    """Gather the runs of a sweep into a table and figures. By configuration, with intervals over seeds."""
    from rlhive.sim_algos import gather_results

    sweep = gather_results(folders)
    files = [] if output is None else sweep.save(output)
    if json_:
        out.print_json(json.dumps(sweep.to_dict()))
        return
    datasets = {group.dataset for group in sweep.groups}
    if datasets != {""}:
        out.print(", ".join(sorted(filter(None, datasets))), highlight=False, soft_wrap=True)
    print_table(_make_results_table(sweep.groups))
    covers = {point.covers for group in sweep.groups for point in group.final.values() if point.covers}
    if covers:
        out.print(f"below a mean: 95 % interval over {'; or '.join(sorted(covers, reverse=True))}", highlight=False)
    if any(len(group.seeds) == 1 and group.final for group in sweep.groups):
        out.print("A single seed says nothing about other seeds: its interval covers its episodes alone.")
    for count, reason in (
        (len(sweep.skipped), "left out"),
        (len(sweep.repeated), "left out, since another run has their configuration and seed"),
    ):
        if count:
            out.print(f"{count} {'folder' if count == 1 else 'folders'} {reason}:", highlight=False)
            rows = [f"{row.folder}: {row.reason}" for row in sweep.skipped] if reason == "left out" else sweep.repeated
            for row in rows[:_MAX_NAMED]:
                out.print(f"  {row}", highlight=False, soft_wrap=True)
    if output is not None and not any(group.final for group in sweep.groups):
        out.print("No figures: no run holds an evaluation.", highlight=False)
    elif files and not any(file.stem == "curves" for file in files):
        out.print("No learning curves: expected at least two evaluations during a training.", highlight=False)
    for file in files:
        out.print(f"Written: {file}", highlight=False, soft_wrap=True)


def _make_results_table(groups: "tuple[RunGroup, ...]") -> Table:
    table = make_table()
    table.add_column("configuration")
    for name in ("seeds", "success", "return", "IQM of return", "steps", "seconds"):
        table.add_column(name, no_wrap=True, justify="right")
    for group in groups:
        fewest, most = group.steps
        table.add_row(
            group.name,
            str(len(group.seeds)),
            _format_point(group.final.get("success"), ".0%"),
            _format_point(group.final.get("return"), ".1f"),
            f"{group.iqm['return']:.1f}" if "return" in group.iqm else "-",
            f"{most}" if fewest == most else f"{fewest} to {most}",
            f"{group.seconds:.0f}",
        )
    return table


def _format_point(point: "MetricPoint | None", spec: str) -> str:
    """Return a mean and, below it, its interval."""
    if point is None:
        return "-"
    if point.interval is None:
        return f"{point.mean:{spec}}"
    return "{}\n{} to {}".format(*(f"{value:{spec}}" for value in (point.mean, *point.interval)))
