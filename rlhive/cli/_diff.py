"""The verb ``rlhive diff``: what differs between two versions, as tables or JSON."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from rlhive.cli._terminal import Json, known_names, out

if TYPE_CHECKING:
    from rlhive.data.versions import Diff

_SHOWN = 8

Which = Annotated[
    str, typer.Argument(help="name, name@1.0.0, or the path of a version's folder.", autocompletion=known_names)
]


def diff(before: Which, after: Which, json_: Json = False) -> None:
    """Say what differs between two versions: episodes, columns, statistics, provenance. Reads no transitions."""
    from rlhive.data.versions import diff as compare

    found = compare(_folder(before), _folder(after))
    if json_:
        out.print_json(json.dumps(found.to_json()))
        return
    names = [f"{row['name']} {row['version']}" for row in (found.before, found.after)]
    if not found:
        out.print(f"{names[0]} and {names[1]} hold the same.", highlight=False)
        return
    table = Table("", *map(escape, names), title="what differs", title_justify="left")
    for label, old, new in _rows(found):
        table.add_row(label, escape(_said(old)), escape(_said(new)))
    out.print(table)
    if not found.comparable:
        said = "The columns differ, so content hashes do not: episodes of one id, length and seed count as the same."
        out.print(said, highlight=False, soft_wrap=True)


def _rows(found: "Diff") -> list[tuple[str, Any, Any]]:
    before, after = found.before, found.after
    rows = [("fingerprint", before["fingerprint"][:16], after["fingerprint"][:16])]
    rows += [(f"split {name}", *map(_counts, pair)) for name, pair in found.splits.items()]
    rows += [(f"episodes {name}", *pair) for name, pair in _episodes(found).items()]
    columns = found.columns
    rows += [(f"column {name}", None, said) for name, said in columns["added"].items()]
    rows += [(f"column {name}", said, None) for name, said in columns["dropped"].items()]
    rows += [(f"column {name}", *pair) for name, pair in columns["changed"].items()]
    rows += [(f"statistics of {name}", None, _moved(row)) for name, row in found.statistics.items()]
    return rows + [(name, *pair) for name, pair in found.provenance.items()]


def _episodes(found: "Diff") -> dict[str, tuple[Any, Any]]:
    moved = [f"{episode}: {', '.join(about)}" for episode, about in found.moved.items()]
    told = {
        "the same": (found.num_same, found.num_same),
        "added": (None, _some(found.added)),
        "dropped": (_some(found.dropped), None),
        "changed": (None, _some(found.changed)),
        "described otherwise": (None, _some(moved)),
        "renumbered": (None, _some([f"{old} → {new}" for old, new in found.renumbered])),
    }
    return {name: pair for name, pair in told.items() if any(value is not None for value in pair)}


def _some(items: list[Any]) -> str | None:
    if not items:
        return None
    more = ", …" if len(items) > _SHOWN else ""
    return f"{len(items):,} ({', '.join(map(str, items[:_SHOWN]))}{more})"


def _counts(split: dict[str, int] | None) -> str | None:
    return split and f"{split['num_episodes']:,} episodes, {split['num_transitions']:,} transitions"


def _moved(row: dict[str, Any]) -> str:
    shift, factors = row["mean_shift_in_std"], row["std_factor"]
    mean = "mean without bound" if shift is None else f"mean moved by up to {shift:.2g} std"
    spread = " to ".join("∞" if factor is None else f"{factor:.2f}" for factor in dict.fromkeys(factors))
    return f"{mean}, std times {spread}" + (", other extremes" if row["extremes"] else "")


def _said(value: Any) -> str:
    if value is None or value == "":
        return "-"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _folder(which: str) -> Path:
    """Return the folder of a version, without torch where it is in the local store."""
    from rlhive.data import as_path
    from rlhive.data.versions import list_local_versions

    path = as_path(which)
    if path is not None:
        return path
    name, _, version = which.partition("@")
    local = list_local_versions(name)
    if local and version in ("", *local):
        return local[version or list(local)[-1]]
    from rlhive.dataset import RoboHiveDataset

    return RoboHiveDataset(name, version=version or None, generate=False).path
