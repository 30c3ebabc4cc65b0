"""The verbs of the ``rlhive`` command that show a dataset as pictures: plot, video."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlhive.cli._terminal import Json, NameOrPath, Version, out

if TYPE_CHECKING:
    from rlhive import RoboHiveDataset

_Where = Annotated[str | None, typer.Option(help="Condition on the episodes, such as 'success and return > -40'.")]


def plot(
    name: NameOrPath,
    figures: Annotated[
        list[str] | None,
        typer.Option("--figure", help="returns, dimensions or coverage, repeatable; all three by default."),
    ] = None,
    episode: Annotated[int | None, typer.Option(help="Id of an episode to draw as well.")] = None,
    formats: Annotated[
        list[str] | None, typer.Option("--format", help="pdf, png or svg, repeatable; pdf and png by default.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the figures; NAME-plots by default.")] = None,
    split: Annotated[str | None, typer.Option(help="Splits to draw, such as expert+medium.")] = None,
    where: _Where = None,
    version: Version = None,
    json_: Json = False,
) -> None:
    """Draw a dataset's returns, dimensions, coverage or episodes. Never runs a recipe."""
    dataset = _find_dataset(name, split=split, where=where, version=version)
    names = figures if figures is not None else [] if episode is not None else ["returns", "dimensions", "coverage"]
    folder = output or Path(f"{dataset.name.rpartition('/')[2]}-plots")
    files = dataset.plot.save(folder, names, episode=episode, formats=formats or ["pdf", "png"])
    _print_files(files, json_=json_)


def video(
    name: NameOrPath,
    episode: Annotated[int, typer.Argument(help="Id of the episode.")],
    output: Annotated[
        Path | None, typer.Option(help="File named .mp4 or .gif; NAME-EPISODE.mp4 by default, or .rrd with --rerun.")
    ] = None,
    camera: Annotated[
        str | None, typer.Option(help="Camera of the simulator; by default the stored pictures, or the first camera.")
    ] = None,
    rerun: Annotated[
        bool, typer.Option("--rerun", help="Write pictures and numbers for the Rerun viewer instead: rerun FILE.")
    ] = False,
    version: Version = None,
    json_: Json = False,
) -> None:
    """Write a video of an episode. From its stored pictures, or its states rendered by the simulator."""
    dataset = _find_dataset(name, version=version)
    path = output or Path(f"{dataset.name.rpartition('/')[2]}-{episode}.{'rrd' if rerun else 'mp4'}")
    save = dataset.save_rerun if rerun else dataset.save_video
    _print_files([save(episode, path, camera=camera)], json_=json_)


def _find_dataset(
    name: str, *, split: str | None = None, where: str | None = None, version: str | None = None
) -> "RoboHiveDataset":
    from rlhive import RoboHiveDataset

    return RoboHiveDataset(name, split=split, where=where, version=version, generate=False)


def _print_files(files: list[Path], *, json_: bool) -> None:
    if json_:
        out.print_json(json.dumps({"files": [str(file) for file in files]}))
        return
    for file in files:
        out.print(f"Written: {file}", highlight=False, soft_wrap=True)
