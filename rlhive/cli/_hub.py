"""The verbs of the ``rlhive`` command that move versions: versions, pull, push, scrub, delete."""

import json
from typing import Annotated

import typer
from rich.table import Table

from rlhive.cli._tables import print_table
from rlhive.cli._terminal import Json, Name, Version, err, labelled, out, print_dataset


def versions(name: Name, json_: Json = False) -> None:
    """List the versions of a dataset in the store and on the Hub."""
    from rlhive.dataset import versions as list_all_versions

    rows, warning = list_all_versions(name)
    if warning:
        err.print(labelled("warning:", "yellow", warning), highlight=False, soft_wrap=True)
    if json_:
        out.print_json(json.dumps(rows))
        return
    table = Table("version", "on the Hub, commit", "in the store")
    absent = "not known" if warning else "no"
    for version, row in rows.items():
        table.add_row(version, (row["commit"] or absent)[:12], "yes" if row["path"] else "no")
    print_table(table)
    folders = dict.fromkeys(row["path"].rpartition("/")[0] for row in rows.values() if row["path"])
    for folder in folders:  # below the table, where a long path stays in one piece
        out.print(f"store: {folder}", highlight=False, soft_wrap=True)


def list_remote(namespace: str | None, *, json_: bool) -> None:
    """List the RLHive datasets on the Hub that the token has access to."""
    from rlhive.data.hub import list_datasets

    rows = list_datasets(namespace)
    if json_:
        out.print_json(json.dumps(rows))
        return
    table = Table("dataset on the Hub", "last change")
    for name, day in rows.items():
        table.add_row(name, day)
    print_table(table)


def pull(
    name: Name,
    version: Version = None,
    split: Annotated[str | None, typer.Option(help="Only these splits, joined by +; all by default.")] = None,
    revision: Annotated[str | None, typer.Option(help="Tag, branch or commit instead of a version.")] = None,
    json_: Json = False,
) -> None:
    """Fetch a version from the Hub and verify every file. An interrupted pull is resumed."""
    from rlhive.data import parse_splits
    from rlhive.dataset import RoboHiveDataset, pull as pull_version

    splits = parse_splits(split) if split else None
    folder = pull_version(name, version=version, revision=revision, splits=splits)
    print_dataset(RoboHiveDataset(folder, split=split), json_=json_)


def push(
    name: Name,
    repo_id: Annotated[str, typer.Argument(help="Repository, org/name; the dataset's own name by default.")] = "",
    version: Version = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    license_: Annotated[
        str | None, typer.Option("--license", help="Licence to publish under, if the repository has another name.")
    ] = None,
    unrelated: Annotated[
        bool, typer.Option("--unrelated", help="Also into a repository that holds another dataset.")
    ] = False,
    json_: Json = False,
) -> None:
    """Publish a version on the Hub under a tag that never moves. An interrupted push is resumed."""
    from rlhive.dataset import RoboHiveDataset

    dataset = RoboHiveDataset(name, version=version, generate=False)
    published = dataset.push_to_hub(repo_id, private=private, license=license_, unrelated=unrelated, progress=not json_)
    if json_:
        out.print_json(json.dumps(vars(published)))
        return
    text = f"{published.repo_id} {published.version} is commit {published.commit[:12]}: {published.url}"
    out.print(text, highlight=False, soft_wrap=True)


def scrub(
    name: Name,
    version: Version = None,
    json_: Json = False,
) -> None:
    """Write a version without personal paths, hosts and secrets. As the next PATCH, without command lines too."""
    from rlhive.dataset import RoboHiveDataset, describe

    dataset = RoboHiveDataset(name, version=version, generate=False).scrub()
    if json_:
        out.print_json(json.dumps(describe(dataset)))
    else:
        out.print(f"made {dataset.path}", highlight=False, soft_wrap=True)


def delete(
    name: Name,
    version: Annotated[str, typer.Option(help="Version to remove; there is no default.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    json_: Json = False,
) -> None:
    """Remove a version from the store. Published versions stay on the Hub."""
    from rlhive.data import describe_store
    from rlhive.data.versions import ObjectAddress
    from rlhive.dataset import delete as delete_version, find_deletable

    find_deletable(name, version)  # a missing version is an error before the confirmation
    if not yes:
        typer.confirm(f"Remove {name} {version} from {describe_store()}?", abort=True, err=True)
    folder = delete_version(name, version)
    address = str(ObjectAddress.of(folder) or folder)
    if json_:
        out.print_json(json.dumps({"deleted": address}))
    else:
        out.print(f"deleted {address}", soft_wrap=True)
