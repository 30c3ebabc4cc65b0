"""The verbs of the ``rlhive`` command that look at versions: show, check, replay, list."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from rlhive.cli._hub import list_remote
from rlhive.cli._terminal import Json, Workers, err, out


def show(
    name: Annotated[str, typer.Argument(help="Dataset name, or the path of a version's folder.")],
    version: Annotated[str | None, typer.Option(help="MAJOR.MINOR.PATCH; the newest by default.")] = None,
    json_: Json = False,
) -> None:
    """Say what a dataset is. Runs no recipe."""
    from rlhive.data.versions import read_certificate
    from rlhive.dataset import RoboHiveDataset, describe

    # To say what it is, the manifest is enough: no shard is fetched for it.
    dataset = RoboHiveDataset(name, version=version, generate=False, streaming=True)
    certificate = read_certificate(dataset.fingerprint)
    if json_:
        kept = certificate.to_json() if certificate else None
        out.print_json(json.dumps({**describe(dataset), "certificate": kept}))
    else:
        out.print(repr(dataset), highlight=False)
        out.print(
            f"  certificate  {certificate or f'none; make it: rlhive replay {name}'}", highlight=False, soft_wrap=True
        )


def check(
    name: Annotated[str, typer.Argument(help="Dataset name, or the path of a version's folder.")],
    version: Annotated[str | None, typer.Option(help="MAJOR.MINOR.PATCH; the newest by default.")] = None,
    json_: Json = False,
) -> None:
    """Check that a version is whole, consistent and fit to learn from; status 1 where a check fails."""
    from rlhive.rollouts import check as check_version

    report = check_version(_folder_of(name, version))
    if json_:
        out.print_json(json.dumps(report.to_json()))
    else:
        out.print(_check_table(report))
    raise typer.Exit(0 if report.ok else 1)


def replay(
    name: Annotated[str, typer.Argument(help="Dataset name, or the path of a version's folder.")],
    version: Annotated[str | None, typer.Option(help="MAJOR.MINOR.PATCH; the newest by default.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Compare with what was stored; always done.")] = True,
    episodes: Annotated[int | None, typer.Option(min=1, help="How many, evenly spread; all by default.")] = None,
    tolerance: Annotated[float, typer.Option(min=0, help="Largest difference that counts as none.")] = 1e-6,
    workers: Workers = None,
    json_: Json = False,
) -> None:
    """Step a dataset's actions in its environment, compare, and keep a certificate; status 1 where it diverges."""
    from rlhive.rollouts import replay as replay_version

    folder = _folder_of(name, version)
    certificate = replay_version(
        folder, episodes=episodes, tolerance=tolerance, num_workers=workers, progress=not json_
    )
    for difference in certificate.differences:
        err.print(f"[yellow]warning:[/] this environment is not the recorded one: {escape(difference)}", soft_wrap=True)
    if json_:
        out.print_json(json.dumps(certificate.to_json()))
    else:
        out.print("\n".join([str(certificate), *certificate.notable]), highlight=False, soft_wrap=True)
    raise typer.Exit(0 if certificate.ok else 1)


def _folder_of(name: str, version: str | None) -> Path:
    """Return the folder of a version without opening it: it may be damaged."""
    from rlhive.data import as_path
    from rlhive.data.versions import list_local_versions
    from rlhive.dataset import RoboHiveDataset

    path = as_path(name)
    if path is not None:
        return path
    versions = list_local_versions(name)
    if versions and version in (None, *versions):
        return versions[version or list(versions)[-1]]
    return RoboHiveDataset(name, version=version, generate=False).path


def _check_table(report: Any) -> Table:
    colours = {"passed": "green", "failed": "bold red", "warned": "yellow", "skipped": "dim"}
    table = Table("check", "", "", title=str(report.path))
    for outcome in report.results.values():
        more = [f"and {outcome.count - len(outcome.findings)} more"] if outcome.count > len(outcome.findings) else []
        said = [*outcome.findings, *more] or [outcome.note or outcome.promise]
        colour = colours[outcome.status]
        table.add_row(outcome.name, f"[{colour}]{outcome.status}", escape("\n".join(said)))
    return table


def list_(
    remote: Annotated[bool, typer.Option("--remote", help="Those on the Hub instead.")] = False,
    namespace: Annotated[str | None, typer.Option(help="Only those of this user or organization.")] = None,
    json_: Json = False,
) -> None:
    """List the datasets of the local store and those that the catalogue can make, or those on the Hub."""
    from rlhive.data import store_dir
    from rlhive.data.versions import list_local_datasets, list_local_versions
    from rlhive.envs import catalogue

    if remote:
        list_remote(namespace, json_=json_)
        return

    rows = {name: list(list_local_versions(name)) for name in list_local_datasets()}
    for task in catalogue().values():
        if task.recipe is not None:
            rows.setdefault(f"robohive/{task.name}", [])
    if namespace is not None:
        rows = {name: found for name, found in rows.items() if name.startswith(f"{namespace}/")}
    if json_:
        out.print_json(json.dumps(rows))
        return
    made = {name: ", ".join(versions) for name, versions in sorted(rows.items()) if versions}
    if made:
        table = Table("dataset", "versions in the store")
        for row in made.items():
            table.add_row(*row)
        out.print(table)
    else:
        what = f"no dataset of {namespace}" if namespace else "no dataset yet"
        out.print(f"{store_dir()} holds {what}.", highlight=False, soft_wrap=True)
    others = [name.split("/")[-1] for name in sorted(rows) if name not in made]
    if others:
        out.print(f"rlhive collect NAME makes one of: {', '.join(others)}", highlight=False)
