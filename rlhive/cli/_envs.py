"""The verbs of the ``rlhive`` command about what can be simulated here: setup, envs."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from rlhive.cli._terminal import Json, out

if TYPE_CHECKING:
    from rlhive.envs import PolicyResult, Task

#: A terminal of so many columns has room for the environments' ids.
_WIDE = 110


def setup(
    assets: Annotated[
        str, typer.Option(help="Where the simulation assets come from: pypi, git, or a folder that holds them.")
    ] = "pypi",
) -> None:
    """Install RoboHive and its simulation assets; safe to interrupt and to repeat."""
    from rlhive.envs import setup as setup_robohive

    report = setup_robohive(assets)
    known = "a hash that RLHive recorded" if report.assets.known else "a hash that RLHive does not know"
    out.print(f"robohive {report.robohive_version}, assets from {report.assets.source} with {known}", highlight=False)
    table = Table("environments", "available", "")
    for family in report.families:
        table.add_row(family.name, "[green]yes" if family.available else "[red]no", family.note)
    out.print(table)


def envs(json_: Json = False) -> None:
    """List the tasks of the catalogue: what is installed, which policies there are, and what they reach."""
    from rlhive.envs import LEVELS, catalogue, missing_requirements

    rows = [(task, missing_requirements(task)) for task in catalogue().values()]
    if json_:
        out.print_json(json.dumps({task.name: _described(task, lacks) for task, lacks in rows}))
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    ids = ["environment"] if out.width >= _WIDE else []
    for name in ("task", *ids, "policies", "steps", "expert solves", "return", "random"):
        right = name in ("steps", "expert solves", "return", "random")
        table.add_column(name, no_wrap=True, justify="right" if right else "left")
    for task, lacks in rows:
        levels = "[red]not here" if lacks else "all" if task.levels == LEVELS else ", ".join(task.levels)
        table.add_row(task.name, *([task.env_name] if ids else []), levels, str(task.horizon), *_reached(task))
    out.print(table)
    out.print(
        f"policies: all are {', '.join(LEVELS)}. expert solves, return: of 100 unseen seeds, with the 95 % interval. "
        "random: what uniform actions return.",
        highlight=False,
    )
    for lacks in sorted({lacks for _, lacks in rows if lacks}):
        out.print(f"[red]not here:[/] {escape(lacks)}", highlight=False, soft_wrap=True)


def _reached(task: "Task") -> tuple[str, str, str]:
    """Return how often the expert solves a task and the mean returns, each with its 95 % interval."""
    if task.reference is None:
        return "", "", ""
    expert, random = task.reference.expert, task.reference.random
    solves = ""
    if expert is not None and expert.success_interval is not None:
        low, high = (100 * bound for bound in expert.success_interval)
        solves = f"{expert.success_rate:.0%} ({low:.0f}-{high:.0f})"
    return solves, f"{expert.return_mean:.1f}{_half(expert)}" if expert else "", f"{random.return_mean:.1f}"


def _half(mean: "PolicyResult") -> str:
    if mean.return_interval is None:
        return ""
    return f" ± {(mean.return_interval[1] - mean.return_interval[0]) / 2:.1f}"


def _described(task: "Task", lacks: str) -> dict[str, Any]:
    recipe = task.recipe and {"version": task.recipe.version, "episodes": dict(task.recipe.episodes)}
    return {
        "env_name": task.env_name,
        "backend": task.backend,
        "horizon": task.horizon,
        "description": task.description,
        "levels": list(task.levels),
        "recipe": recipe,
        "missing": lacks or None,
        "reference": task.reference and asdict(task.reference),
    }
