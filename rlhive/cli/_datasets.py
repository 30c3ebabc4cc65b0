"""The verbs of the ``rlhive`` command that inspect versions: show, check, replay, list."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from rlhive._text import printable
from rlhive.cli._hub import list_remote
from rlhive.cli._tables import make_table, print_table
from rlhive.cli._terminal import Json, NameOrPath, Version, Workers, err, find_folder, labelled, out
from rlhive.errors import RLHiveError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from rlhive.data.checks import CheckReport
    from rlhive.dataset import SplitSummary

_STATUS_COLOURS = {"passed": "green", "failed": "bold red", "warned": "yellow", "skipped": "dim"}


def show(
    name: NameOrPath,
    version: Version = None,
    statistics: Annotated[bool, typer.Option("--statistics", help="Also print the range of every column.")] = False,
    json_: Json = False,
) -> None:
    """Print what a dataset holds and how its episodes went. Never runs a recipe."""
    from rlhive.data.versions import read_certificate
    from rlhive.dataset import describe_view, find_version, format_view, open_view, summarize_splits

    # Manifest and episode table are enough, so that no shard is fetched and torch is not imported.
    folder = find_version(name, version=version, splits=[], generate=False)
    view = open_view(folder, version=version, streaming=True)
    certificate = read_certificate(view.manifest.fingerprint)
    if json_:
        description = describe_view(view) | {"certificate": certificate.to_json() if certificate else None}
        description["outcome_fingerprint"] = view.compute_outcome_fingerprint()
        description["summary"] = [asdict(summary) for summary in summarize_splits(view)]
        if statistics:
            description["statistics"] = view.compute_statistics()
        out.print_json(json.dumps(description))
        return
    out.print(format_view(view), highlight=False, soft_wrap=True)
    out.print(f"  outcomes     {view.compute_outcome_fingerprint()[:16]}", highlight=False, soft_wrap=True)
    can_replay = bool(view.manifest.env_name) or any(run.get("env") for run in view.manifest.runs)
    advice = f"none; make it: rlhive replay {name}" if can_replay else "none: no environment was recorded"
    status = str(certificate) if certificate else advice
    out.print(f"  certificate  {status}", highlight=False, soft_wrap=True)
    print_table(_make_split_table(summarize_splits(view)))
    if statistics:
        print_table(_make_statistics_table(view.compute_statistics()))


def _make_split_table(summaries: "list[SplitSummary]") -> Table:
    table = make_table()
    table.add_column("split")
    for name in ("episodes", "success", "return", "min to max", "length", "min to max"):
        table.add_column(name, no_wrap=True, justify="right")
    for summary in summaries:
        success = "-" if summary.success_rate is None else f"{summary.success_rate:.0%}"
        returns, lengths = _format_range(summary.returns, ".4g"), _format_range(summary.lengths, ".0f")
        table.add_row(summary.split, f"{summary.num_episodes:,}", success, *returns, *lengths)
    return table


def _format_range(values: tuple[float, float, float] | None, spec: str) -> tuple[str, str]:
    if values is None:
        return "-", "-"
    mean, low, high = values
    return f"{mean:{spec}}", f"{low:{spec}} to {high:{spec}}"


def _make_statistics_table(statistics: "dict[str, dict[str, Any]]") -> Table:
    """Return for each column its number of elements, how many of them do not vary, and extremes over all of them."""
    table = make_table()
    table.add_column("column")
    for name in ("width", "constant", "min", "max", "std"):
        table.add_column(name, no_wrap=True, justify="right")
    for column, row in statistics.items():
        low, high, stds = (row.get(name) or [] for name in ("min", "max", "std"))
        constant = sum(value == 0 for value in stds)
        cells = _format_extremes(low, min), _format_extremes(high, max), _format_extremes(stds, min, max)
        table.add_row(column, str(len(stds)), str(constant), *cells)
    return table


def _format_extremes(values: "Sequence[float | None]", *choices: "Callable[[list[float]], float]") -> str:
    """Return the smallest, the largest or both of some numbers, equal ones once; "-" where there is none."""
    numbers = [value for value in values if value is not None]
    return "..".join(dict.fromkeys(f"{choose(numbers):.3g}" for choose in choices)) if numbers else "-"


def check(name: NameOrPath, version: Version = None, json_: Json = False) -> None:
    """Check that a version is intact and fit for training. Exit status 1 if a check fails."""
    from rlhive.rollouts import check as check_version

    report = check_version(find_folder(name, version))
    if json_:
        out.print_json(json.dumps(report.to_json()))
    else:
        out.print(str(report.path), highlight=False, soft_wrap=True)
        print_table(_make_report_table(report))
    raise typer.Exit(0 if report.ok else 1)


def replay(
    name: NameOrPath,
    version: Version = None,
    verify: Annotated[bool, typer.Option("--verify", help="Compare with the stored values; always on.")] = True,
    episodes: Annotated[int | None, typer.Option(min=1, help="Number of episodes, evenly spread; default all.")] = None,
    tolerance: Annotated[float, typer.Option(min=0, help="Largest difference that counts as equal.")] = 1e-6,
    workers: Workers = None,
    json_: Json = False,
) -> None:
    """Verify a version by stepping its actions again. A certificate is stored beside it.

    Exit status 1 if an episode diverges.
    """
    from rlhive.rollouts import replay as replay_version

    folder = find_folder(name, version)
    certificate = replay_version(
        folder, episodes=episodes, tolerance=tolerance, num_workers=workers, progress=not json_
    )
    for difference in certificate.differences:
        text = f"this environment is not the recorded one: {difference}"
        err.print(labelled("warning:", "yellow", text), soft_wrap=True)
    if json_:
        out.print_json(json.dumps(certificate.to_json()))
    else:
        out.print("\n".join([str(certificate), *certificate.notable]), highlight=False, soft_wrap=True)
    raise typer.Exit(0 if certificate.ok else 1)


def _make_report_table(report: "CheckReport") -> Table:
    table = Table("check", "", "")
    for result in report.results.values():
        lines = result.findings or [result.note or result.promise]
        if result.count > len(result.findings):
            lines = [*lines, f"and {result.count - len(result.findings)} more"]
        status = Text(result.status, style=_STATUS_COLOURS[result.status])
        table.add_row(result.name, status, "\n".join(lines))
    return table


def list_(
    remote: Annotated[bool, typer.Option("--remote", help="List the datasets on the Hub instead.")] = False,
    namespace: Annotated[str | None, typer.Option(help="Only datasets of this user or organization.")] = None,
    json_: Json = False,
) -> None:
    """List the datasets in the store and those of the catalogue."""
    from rlhive.data import describe_store
    from rlhive.data.versions import list_all_versions
    from rlhive.envs import catalogue

    if remote:
        list_remote(namespace, json_=json_)
        return
    versions_by_name = list_all_versions()
    for task in catalogue().values():
        if task.recipe is not None:
            versions_by_name.setdefault(f"robohive/{task.name}", {})
    if namespace is not None:
        versions_by_name = {
            name: versions for name, versions in versions_by_name.items() if name.startswith(f"{namespace}/")
        }
    if json_:
        out.print_json(json.dumps({name: list(versions) for name, versions in versions_by_name.items()}))
        return
    stored = {name: versions for name, versions in sorted(versions_by_name.items()) if versions}
    if stored:
        print_table(_make_store_table(stored))
    else:
        content = f"no dataset of {namespace}" if namespace else "no dataset yet"
        out.print(f"{describe_store()} holds {content}.", highlight=False, soft_wrap=True)
    recipes = [name.split("/")[-1] for name in sorted(versions_by_name) if name not in stored]
    if recipes:
        out.print(f"rlhive collect NAME makes one of: {', '.join(recipes)}", highlight=False)


def _make_store_table(stored: "Mapping[str, Mapping[str, Path]]") -> Table:
    """Return the newest version of each dataset, with its size and the success rate of each split."""
    from rlhive.data import store_url

    table = make_table()
    table.add_column("dataset", no_wrap=True)
    table.add_column("version")
    for name in ("episodes", "size"):
        table.add_column(name, no_wrap=True, justify="right")
    table.add_column("success")
    newest = {name: list(versions.values())[-1] for name, versions in stored.items()}
    if store_url() is not None:
        from rlhive.data.versions import fetch_stored_manifests

        fetch_stored_manifests(newest.values())
    for name, versions in stored.items():
        earlier = f" and {len(versions) - 1} earlier" if len(versions) > 1 else ""
        short_name = name.removeprefix("robohive/")  # the namespace that a name may leave out
        folder = newest[name]
        table.add_row(short_name, f"{folder.name}{earlier}", *_describe_stored_version(folder))
    return table


def _describe_stored_version(folder: "Path") -> tuple[str, str, str]:
    """Return number of episodes, size and success rates of a stored version as text."""
    from rlhive.data.versions import read_summary

    try:
        summary = read_summary(folder)
        success_rates = summary.success_rates or _summarize_success(folder)
    except RLHiveError:
        return "", "", "cannot be read; see rlhive check"
    rates = [f"{printable(split)} {rate:.0%}" for split, rate in success_rates.items() if rate is not None]
    lines = [", ".join(rates[start : start + 2]) for start in range(0, len(rates), 2)]  # a rate beside its split's name
    return f"{summary.num_episodes:,}", _format_bytes(summary.num_bytes), ",\n".join(lines) or "not recorded"


def _summarize_success(folder: "Path") -> "dict[str, float | None]":
    """Return the success rate of each split of a version whose manifest does not say it, from its episode table."""
    from rlhive.data.versions import fetch_stored_version
    from rlhive.dataset import open_view, summarize_splits

    fetch_stored_version(folder, ())
    return {summary.split: summary.success_rate for summary in summarize_splits(open_view(folder, streaming=True))}


def _format_bytes(count: int) -> str:
    """Return a number of bytes with two or three digits, such as "5.8 MB"."""
    value, unit = count / 1e6, "MB"
    for larger in ("GB", "TB"):
        if value >= 1000:
            value, unit = value / 1000, larger
    return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
