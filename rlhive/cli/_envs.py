"""The verbs of the ``rlhive`` command about environments and their installation: setup, envs."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from rlhive.cli._tables import make_table, print_table
from rlhive.cli._terminal import Json, labelled, out

if TYPE_CHECKING:
    from rlhive.envs import PolicyResult, Task

#: Terminal width from which on the table has a column of environment ids.
_WIDE = 110


def setup(
    assets: Annotated[
        str, typer.Option(help="Source of the simulation assets: pypi, git, or a folder that contains them.")
    ] = "pypi",
) -> None:
    """Install RoboHive and its simulation assets. Can be interrupted and repeated."""
    from rlhive.envs import setup as setup_robohive

    report = setup_robohive(assets)
    hash_text = "a hash that RLHive knows" if report.assets.known else "a hash that RLHive does not know"
    out.print(
        f"robohive {report.robohive_version}, assets from {report.assets.source} with {hash_text}", highlight=False
    )
    table = Table("environments", "available", "")
    for family in report.families:
        table.add_row(family.name, Text("yes", "green") if family.available else Text("no", "red"), family.note)
    print_table(table)


def envs(json_: Json = False) -> None:
    """List the catalogue's tasks, policies and reference returns."""
    from rlhive.envs import LEVELS, catalogue, missing_requirements

    missing_by_task = {task.name: missing_requirements(task) for task in catalogue().values()}
    if json_:
        rows = {task.name: _describe_task(task, missing_by_task[task.name]) for task in catalogue().values()}
        out.print_json(json.dumps(rows))
        return
    print_table(_make_task_table(missing_by_task), console=out)
    out.print(
        f"policies: all are {', '.join(LEVELS)}. expert solves, return: over 100 unseen seeds, with the 95 % interval. "
        "random: return of uniform actions.",
        highlight=False,
    )
    for missing in sorted({missing for missing in missing_by_task.values() if missing}):
        out.print(labelled("missing:", "red", missing), highlight=False, soft_wrap=True)


def _make_task_table(missing_by_task: dict[str, str]) -> Table:
    """Return the catalogue as a table, with environment ids if the terminal is wide."""
    from rlhive.envs import LEVELS, catalogue

    is_wide = out.width >= _WIDE
    text_columns = ["task", "environment", "policies"] if is_wide else ["task", "policies"]
    table = make_table()
    for name in text_columns:
        table.add_column(name, no_wrap=True)
    for name in ("steps", "expert solves", "return", "random"):
        table.add_column(name, no_wrap=True, justify="right")
    for task in catalogue().values():
        levels = Text("all" if task.levels == LEVELS else ", ".join(task.levels))
        if missing_by_task[task.name]:
            levels = Text("missing", "red")
        names = [task.name, task.env_name] if is_wide else [task.name]
        table.add_row(*names, levels, str(task.horizon), *_format_reference(task))
    return table


def _format_reference(task: "Task") -> tuple[str, str, str]:
    """Return the expert's success rate and the mean returns of expert and random, with their 95 % intervals."""
    if task.reference is None:
        return "", "", ""
    expert, random = task.reference.expert, task.reference.random
    success = ""
    if expert is not None and expert.success_rate is not None and expert.success_interval is not None:
        low, high = (100 * bound for bound in expert.success_interval)
        success = f"{expert.success_rate:.0%} ({low:.0f}-{high:.0f})"
    return success, _format_return(expert) if expert else "", f"{random.return_mean:.1f}"


def _format_return(result: "PolicyResult") -> str:
    if result.return_interval is None:
        return f"{result.return_mean:.1f}"
    low, high = result.return_interval
    return f"{result.return_mean:.1f} ± {(high - low) / 2:.1f}"


def _describe_task(task: "Task", missing: str) -> dict[str, Any]:
    recipe = task.recipe and {"version": task.recipe.version, "episodes": dict(task.recipe.episodes)}
    return {
        "env_name": task.env_name,
        "backend": task.backend,
        "horizon": task.horizon,
        "description": task.description,
        "levels": list(task.levels),
        "recipe": recipe,
        "missing": missing or None,
        "reference": task.reference and asdict(task.reference),
    }
