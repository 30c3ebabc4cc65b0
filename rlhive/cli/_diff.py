"""The verb ``rlhive diff``: differences between two versions, as a table or JSON."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer
from rich.table import Table

from rlhive.cli._tables import print_table
from rlhive.cli._terminal import Json, complete_names, find_folder, out

if TYPE_CHECKING:
    from rlhive.data.versions import Diff

#: Number of ids that a row of the table lists.
_MAX_LISTED = 8

VersionAddress = Annotated[
    str, typer.Argument(help="name, name@1.0.0, or the path of a version's folder.", autocompletion=complete_names)
]

#: A row of the table: label, value before, value after.
_DiffRow: TypeAlias = tuple[str, Any, Any]


def diff(before: VersionAddress, after: VersionAddress, json_: Json = False) -> None:
    """Print the differences between two versions. Episodes, columns, statistics, provenance; reads no transitions."""
    from rlhive.data.versions import diff as compare_versions

    difference = compare_versions(find_address(before), find_address(after))
    if json_:
        out.print_json(json.dumps(difference.to_json()))
        return
    _print_difference(difference)


def _print_difference(difference: "Diff") -> None:
    names = [f"{version['name']} {version['version']}" for version in (difference.before, difference.after)]
    if not difference:
        out.print(f"{names[0]} and {names[1]} hold the same.", highlight=False)
        return
    out.print(f"before: {names[0]}\nafter:  {names[1]}", highlight=False, soft_wrap=True)
    table = Table("what differs", "before", "after")
    for label, old, new in _make_diff_rows(difference):
        table.add_row(label, _format_value(old), _format_value(new))
    print_table(table)
    if not difference.related:
        note = "They are unrelated: no episode, recording run or parent is in both, and equal ids mean nothing."
        out.print(note, highlight=False)
    if not difference.comparable:
        note = (
            "The columns differ, so content hashes are not comparable: episodes with the same id, length and seed "
            "count as the same."
        )
        out.print(note, highlight=False)


def find_address(address: str) -> Path:
    """Return the folder of ``name``, ``name@1.0.0`` or a path."""
    from rlhive.data import as_path

    path = as_path(address)
    if path is not None:
        return path
    name, _, version = address.partition("@")
    return find_folder(name, version or None)


def _make_diff_rows(difference: "Diff") -> Iterator[_DiffRow]:
    before, after = difference.before, difference.after
    yield "fingerprint", before["fingerprint"][:16], after["fingerprint"][:16]
    for name, (old_counts, new_counts) in difference.splits.items():
        yield f"split {name}", _format_counts(old_counts), _format_counts(new_counts)
    yield from _make_episode_rows(difference)
    columns = difference.columns
    for name, description in columns["added"].items():
        yield f"column {name}", None, description
    for name, description in columns["dropped"].items():
        yield f"column {name}", description, None
    for name, (old, new) in columns["changed"].items():
        yield f"column {name}", old, new
    for name, shift in difference.statistics.items():
        yield f"statistics of {name}", None, _format_shift(shift)
    for name, (old, new) in difference.provenance.items():
        yield name, old, new


def _make_episode_rows(difference: "Diff") -> Iterator[_DiffRow]:
    """Yield a row for each kind of difference that some episode has."""
    redescribed = [f"{episode}: {', '.join(fields)}" for episode, fields in difference.moved.items()]
    renumbered = [f"{old} → {new}" for old, new in difference.renumbered]
    yield "episodes the same", difference.num_same, difference.num_same
    if difference.added:
        yield "episodes added", None, _list_some(difference.added)
    if difference.dropped:
        yield "episodes dropped", _list_some(difference.dropped), None
    if difference.changed:
        yield "episodes changed", None, _list_some(difference.changed)
    if difference.outcomes:
        yield from _make_outcome_rows(difference.outcomes)
    if redescribed:
        yield "episodes with other metadata", None, _list_some(redescribed)
    if renumbered:
        yield "episodes renumbered", None, _list_some(renumbered)


def _make_outcome_rows(outcomes: dict[str, Any]) -> Iterator[_DiffRow]:
    """Yield whether the episodes came out the same although their content differs, as on another processor."""
    old, new = outcomes["fingerprint"]
    yield "outcomes", old[:16], new[:16]
    if outcomes["different"]:
        yield "episodes with another outcome", None, _list_some(outcomes["different"])
    error, unequal = outcomes["return_error"], outcomes["unequal_returns"]
    verdict = f"other returns in {_list_some(unequal)}" if unequal else "equal within 1e-06"
    yield "returns", None, verdict if error is None else f"{verdict}, differ by up to {error:.2g}"


def _list_some(items: Sequence[object]) -> str:
    """Return the number of items and the first few of them."""
    ellipsis = ", …" if len(items) > _MAX_LISTED else ""
    return f"{len(items):,} ({', '.join(map(str, items[:_MAX_LISTED]))}{ellipsis})"


def _format_counts(counts: dict[str, int] | None) -> str | None:
    if not counts:
        return None
    return f"{counts['num_episodes']:,} episodes, {counts['num_transitions']:,} transitions"


def _format_shift(shift: dict[str, Any]) -> str:
    """Return how far a column's statistics moved, in words."""
    mean_shift, std_factors = shift["mean_shift_in_std"], dict.fromkeys(shift["std_factor"])
    mean = "mean moved without bound" if mean_shift is None else f"mean moved by up to {mean_shift:.2g} std"
    factors = " to ".join("∞" if factor is None else f"{factor:.2f}" for factor in std_factors)
    return f"{mean}, std times {factors}" + (", other extremes" if shift["extremes"] else "")


def _format_value(value: Any) -> str:
    if value is None or value == "":
        return "-"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
