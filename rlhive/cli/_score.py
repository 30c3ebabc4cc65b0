"""The verb ``rlhive score``: numbers of each episode by which bad ones are found."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from rlhive.cli._tables import make_table, print_table
from rlhive.cli._terminal import Json, NameOrPath, Version, out

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def score(
    name: NameOrPath,
    split: Annotated[str | None, typer.Option(help="Only these splits, joined by +.")] = None,
    where: Annotated[
        str | None, typer.Option(help="Condition on episodes and scores: idle > 0.3 and not duplicate.")
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="Number of episodes that stand out to print.")] = 20,
    force: Annotated[bool, typer.Option("--force", help="Compute again what was computed before.")] = False,
    version: Version = None,
    json_: Json = False,
) -> None:
    """Score the episodes by quality, for --where. Jerk, idle share, saturation, isolation, duplicates and others.

    Scores are kept beside the dataset. Never runs a recipe.
    """
    from rlhive.dataset import find_version, open_view

    view = open_view(find_version(name, version=version, generate=False), split=split, version=version)
    if force:
        view.read_scores(force=True)
    view = view.narrow(split=None, where=where)
    rows = view.read_scores().to_pylist()
    if json_:
        out.print_json(json.dumps(rows))
        return
    title = f"{view.manifest.name} {view.manifest.version}: {len(rows):,} episodes"
    out.print(title, highlight=False, soft_wrap=True)
    if rows:
        print_table(_make_summary(rows))
        _print_outliers(name, rows, limit)


def _print_outliers(name: str, rows: "Sequence[Mapping[str, Any]]", limit: int) -> None:
    outliers = [row for row in rows if row["outlier"]]
    if not outliers:
        out.print("No episode stands out.", highlight=False)
        return
    table = make_table()
    table.add_column("episode", justify="right", no_wrap=True)
    table.add_column("split")
    table.add_column("stands out by")
    for row in outliers[:limit]:
        table.add_row(str(row["episode"]), row["split"], row["outlier"])
    if limit:
        print_table(table)
    rest = f", the first {limit} of them above" if limit < len(outliers) else ""
    text = f"{len(outliers):,} of {len(rows):,} episodes stand out{rest}."
    out.print(text, highlight=False, soft_wrap=True)
    out.print(f"Look at them: rlhive view {name} --where \"outlier != ''\"", highlight=False, soft_wrap=True)


def _make_summary(rows: "Sequence[Mapping[str, Any]]") -> Table:
    """Return a table with the distribution of each score, and how many episodes stand out by it."""
    import numpy as np

    from rlhive.data.versions import SCORE_COLUMNS

    table = make_table()
    table.add_column("score")
    for heading in ("median", "5 % to 95 %", "largest", "stand out"):
        table.add_column(heading, justify="right", no_wrap=True)
    outliers = [row["outlier"].split(", ") for row in rows]
    for name in SCORE_COLUMNS:
        if name == "outlier":  # the names themselves
            continue
        stand_out = "" if name == "duplicate_distance" else str(sum(name in names for names in outliers))
        values = np.array([row[name] for row in rows if row[name] is not None], float)
        if name == "duplicate":
            cells = ["", "", ""]
        elif not len(values):
            cells, stand_out = ["-", "not known", "-"], ""
        else:
            low, median, high, largest = np.percentile(values, [5, 50, 95, 100])
            cells = [f"{median:.3g}", f"{low:.3g} to {high:.3g}", f"{largest:.3g}"]
        table.add_row(name, *cells, stand_out)
    return table
