"""The verbs of the ``rlhive`` command that write versions of recorded episodes: collect, recover."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from rlhive.cli._tables import make_table, print_table
from rlhive.cli._terminal import Json, Storage, Workers, out, parse_storages, print_dataset
from rlhive.errors import InvalidOptionError

if TYPE_CHECKING:
    from rlhive.data.recording import RecordingSummary


def collect(
    task: Annotated[str, typer.Argument(help="Task of the catalogue, for example kitchen_knob1.")],
    workers: Workers = None,
    backend: Annotated[
        str, typer.Option(help="processes, of this machine; or ray, a cluster whose machines share the store.")
    ] = "processes",
    address: Annotated[
        str | None,
        typer.Option(help="HOST:PORT of the Ray cluster; by default $RAY_ADDRESS, the one here, or a new one."),
    ] = None,
    provenance: Annotated[
        str, typer.Option(help="full: also record the command line, the machine and absolute paths.")
    ] = "minimal",
    name: Annotated[
        str, typer.Option(help="Name of the dataset; the task's by default, with _pixels if it has pictures.")
    ] = "",
    pixels: Annotated[bool, typer.Option("--pixels", help="Also record pictures. Needs OpenGL.")] = False,
    camera: Annotated[
        list[str] | None, typer.Option(help="Camera of the pictures, repeatable; all by default.")
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Height and width of the pictures; 84 by default.")] = None,
    render_quality: Annotated[
        str, typer.Option(help="fast, shadows or robohive (docs/visual.md); fast by default.")
    ] = "",
    obs_key: Annotated[
        list[str] | None,
        typer.Option(help="Part of the observation to record by name too, like robot_jnt; repeatable."),
    ] = None,
    storage: Storage = "",
) -> None:
    """Make a task's dataset by running its recipe. An interrupted run is resumed."""
    from rlhive.dataset import RoboHiveDataset
    from rlhive.envs import get_task
    from rlhive.rollouts import collect as run_recipe

    collected = get_task(task)
    options = {"--camera": camera, "--image-size": image_size, "--render-quality": render_quality, "--obs-key": obs_key}
    named = [option for option, value in options.items() if value]
    if named and not pixels:
        msg = f"{', '.join(named)}: expected --pixels with options of pictures, got none"
        raise InvalidOptionError(msg)
    if pixels:
        size = image_size or 84
        collected = collected.with_pixels(
            cameras=camera, image_size=(size, size), render_quality=render_quality or "fast", obs_keys=obs_key or ()
        )
        name = name or f"{collected.name}_pixels"
    folder = run_recipe(
        collected,
        name=name or None,
        num_workers=workers,
        backend=backend,
        address=address,
        provenance=provenance,
        storage=parse_storages(storage) if storage else None,
    )
    print_dataset(RoboHiveDataset(folder), json_=False)


def recover(
    recording: Annotated[
        str,
        typer.Argument(
            help="Recording: its folder, the folder's name, or its dataset. Optional if there is only one recording."
        ),
    ] = "",
    commit: Annotated[bool, typer.Option("--commit", help="Write its complete episodes as a version.")] = False,
    append: Annotated[
        bool, typer.Option("--append", help="As --commit, after the episodes of the newest version.")
    ] = False,
    discard: Annotated[bool, typer.Option("--discard", help="Remove the recording.")] = False,
    name: Annotated[str, typer.Option(help="Dataset to write; by default the one it was recorded for.")] = "",
    version: Annotated[str | None, typer.Option(help="MAJOR.MINOR.PATCH; by default the next one.")] = None,
    license_: Annotated[str, typer.Option("--license", help="Licence id of the Hub; required, except to append.")] = "",
    fps: Annotated[float | None, typer.Option(help="Rate in frames per second; by default the recorded one.")] = None,
    storage: Storage = "",
    json_: Json = False,
) -> None:
    """List, commit or discard recordings that are not in a version.

    A recording that a process still writes to is neither committed nor discarded.
    """
    from rlhive.data.recording import commit_recording, discard_recording, find_recording, recordings

    commit = commit or append
    if commit == discard:
        if commit or recording or name or version or license_ or fps or storage:
            msg = "expected one of --commit and --discard"
            raise typer.BadParameter(msg)
        _list_recordings([item.summarize() for item in recordings()], json_)
        return
    selected = find_recording(recording)
    if discard:
        discard_recording(selected)
        path = str(selected.path)
    else:
        if not license_ and not append:
            msg = "a version needs a licence: --license cc-by-4.0, for example"
            raise typer.BadParameter(msg)
        storages = parse_storages(storage) if storage else None
        path = str(
            commit_recording(
                selected, name, version=version, license=license_, append=append, fps=fps, storage=storages
            )
        )
    if json_:
        out.print_json(json.dumps({"discarded" if discard else "committed": path}))
    else:
        out.print(f"{'removed' if discard else 'made'} {path}", highlight=False, soft_wrap=True)


def _list_recordings(summaries: Sequence["RecordingSummary"], json_: bool) -> None:
    if json_:
        out.print_json(json.dumps([asdict(summary) | {"path": str(summary.path)} for summary in summaries]))
        return
    if not summaries:
        out.print("No recordings: all recorded episodes are in a version, or were removed.", highlight=False)
        return
    table = make_table()
    for name in ("dataset", "episodes", "transitions", "unreadable", "last written", "in use", "recording"):
        table.add_column(name, no_wrap=True)
    for summary in summaries:
        table.add_row(
            summary.name,
            f"{summary.num_episodes:,}",
            f"{summary.num_transitions:,}",
            f"{summary.unreadable_bytes:,} B",
            f"{timedelta(seconds=round(summary.age_s))} ago",
            "yes" if summary.in_use else "no",
            summary.path.name,
        )
    print_table(table)
    for summary in summaries:
        if summary.num_interrupted:
            text = (
                f"{summary.path.name}: and what was saved of interrupted episodes ({summary.num_interrupted:,} with "
                f"{summary.interrupted_transitions:,} transitions), which a commit records"
            )
            out.print(text, highlight=False, markup=False, soft_wrap=True)
