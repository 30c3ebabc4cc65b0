"""The verbs of the ``rlhive`` command that make versions of what was recorded: collect, recover."""

import json
from dataclasses import asdict
from datetime import timedelta
from typing import Annotated, Any

import typer
from rich.table import Table

from rlhive.cli._terminal import Json, Workers, out


def collect(
    task: Annotated[str, typer.Argument(help="Name in the catalogue, for example kitchen_knob1.")],
    workers: Workers = None,
) -> None:
    """Make a task's dataset by running its recipe; an interrupted run goes on where it stopped."""
    from rlhive.dataset import RoboHiveDataset
    from rlhive.rollouts import collect as run_recipe

    out.print(repr(RoboHiveDataset(run_recipe(task, num_workers=workers))), highlight=False)


def recover(
    recording: Annotated[str, typer.Argument(help="Folder, its last part, or the dataset; if there are several.")] = "",
    commit: Annotated[bool, typer.Option("--commit", help="Make a version of its whole episodes.")] = False,
    discard: Annotated[bool, typer.Option("--discard", help="Remove it.")] = False,
    name: Annotated[str, typer.Option(help="Dataset that it becomes; by default what it was recorded for.")] = "",
    version: Annotated[str | None, typer.Option(help="MAJOR.MINOR.PATCH; by default the right next one.")] = None,
    license_: Annotated[str, typer.Option("--license", help="Identifier that the Hub knows; asked for.")] = "",
    json_: Json = False,
) -> None:
    """List recordings that no version holds yet; commit or discard one that nobody writes to."""
    from rlhive.data.recording import commit_recording, discard_recording, find_recording, recordings

    if commit == discard:
        if commit or recording or name or version or license_:
            msg = "say what to do with the recording: --commit or --discard, one of them"
            raise typer.BadParameter(msg)
        _list_recordings([one.summarize() for one in recordings()], json_)
        return
    chosen = find_recording(recording)
    if discard:
        discard_recording(chosen)
    elif not license_:
        msg = "a version needs a licence: --license cc-by-4.0, for example"
        raise typer.BadParameter(msg)
    done = str(chosen.path) if discard else str(commit_recording(chosen, name, version=version, license=license_))
    if json_:
        out.print_json(json.dumps({"discarded" if discard else "committed": done}))
    else:
        out.print(f"{'removed' if discard else 'made'} {done}", highlight=False, soft_wrap=True)


def _list_recordings(surveys: list[Any], json_: bool) -> None:
    if json_:
        out.print_json(json.dumps([asdict(survey) | {"path": str(survey.path)} for survey in surveys]))
        return
    if not surveys:
        out.print("No recordings: whatever was recorded is in a version, or was removed.", highlight=False)
        return
    table = Table("dataset", "episodes", "transitions", "unreadable", "last written", "in use")
    table.add_column("recording", overflow="fold")  # it is what one types next: never cut off
    for survey in surveys:
        table.add_row(
            survey.name,
            f"{survey.num_episodes:,}",
            f"{survey.num_transitions:,}",
            f"{survey.unreadable_bytes:,} B",
            f"{timedelta(seconds=round(survey.age_s))} ago",
            "yes" if survey.in_use else "no",
            survey.path.name,
        )
    out.print(table)
