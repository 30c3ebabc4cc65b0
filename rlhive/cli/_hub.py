"""The verbs of the ``rlhive`` command that move versions: versions, pull, push, delete."""

import json
from typing import Annotated

import typer
from rich.table import Table

from rlhive.cli._terminal import Json, Name, Version, err, out


def versions(name: Name, json_: Json = False) -> None:
    """List the versions of a dataset, here and on the Hub."""
    from rlhive import dataset as datasets

    rows, said = datasets.versions(name)
    if said:
        err.print(f"[yellow]warning:[/] {said}", highlight=False, soft_wrap=True)
    if json_:
        out.print_json(json.dumps(rows))
        return
    table = Table("version", "on the Hub, commit")
    table.add_column("in the store", overflow="fold")  # a path is typed or copied: never cut off
    absent = "not known" if said else "no"  # what nobody could ask is not missing
    for version, row in rows.items():
        table.add_row(version, (row["commit"] or absent)[:12], row["path"] or "no")
    out.print(table)


def list_remote(namespace: str | None, *, json_: bool) -> None:
    """List the RLHive datasets on the Hub that the token may see."""
    from rlhive.data.hub import list_datasets

    rows = list_datasets(namespace)
    if json_:
        out.print_json(json.dumps(rows))
        return
    table = Table("dataset on the Hub", "last change")
    for name, day in rows.items():
        table.add_row(name, day)
    out.print(table)


def pull(
    name: Name,
    version: Version = None,
    split: Annotated[str | None, typer.Option(help="Only these splits, joined by +; all by default.")] = None,
    revision: Annotated[str | None, typer.Option(help="A tag, branch or commit instead of a version.")] = None,
    json_: Json = False,
) -> None:
    """Fetch a version from the Hub and verify every file; an interrupted pull goes on where it stopped."""
    from rlhive import dataset as datasets
    from rlhive.data import parse_splits
    from rlhive.dataset import RoboHiveDataset, describe

    splits = parse_splits(split) if split else None
    folder = datasets.pull(name, version=version, revision=revision, splits=splits)
    dataset = RoboHiveDataset(folder, split=split)
    if json_:
        out.print_json(json.dumps(describe(dataset)))
    else:
        out.print(repr(dataset), highlight=False, soft_wrap=True)


def push(
    name: Name,
    repo_id: Annotated[str, typer.Argument(help="Where to: org/name; the dataset's own name by default.")] = "",
    version: Version = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    license_: Annotated[
        str | None, typer.Option("--license", help="Licence to publish under, where the name is another.")
    ] = None,
    json_: Json = False,
) -> None:
    """Publish a version on the Hub under a tag that is never moved; what is there is not sent again."""
    from rlhive.dataset import RoboHiveDataset

    dataset = RoboHiveDataset(name, version=version, generate=False)
    done = dataset.push_to_hub(repo_id, private=private, license=license_, progress=not json_)
    if json_:
        out.print_json(json.dumps(vars(done)))
    else:
        said = f"{done.repo_id} {done.version} is commit {done.commit[:12]}: {done.url}"
        out.print(said, highlight=False, soft_wrap=True)


def delete(
    name: Name,
    version: Annotated[str, typer.Option(help="Which one; there is no default.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json_: Json = False,
) -> None:
    """Remove a version from the local store. What is on the Hub stays there."""
    from rlhive import dataset as datasets

    datasets.local_version(name, version)  # nothing is asked about one that is not there
    if not yes:
        typer.confirm(f"Remove {name} {version} from the local store?", abort=True, err=True)
    folder = datasets.delete(name, version)
    out.print_json(json.dumps({"deleted": str(folder)})) if json_ else out.print(f"deleted {folder}", soft_wrap=True)
