"""The verbs of the ``rlhive`` command that derive a version: from select to encode."""

from typing import TYPE_CHECKING, Annotated

import typer

from rlhive.cli._terminal import (
    Json,
    Name,
    NameOrPath,
    Version,
    Workers,
    complete_names,
    parse_pair,
    parse_storages,
    print_dataset,
)
from rlhive.errors import InvalidOptionError

if TYPE_CHECKING:
    from rlhive.dataset import RoboHiveDataset

Into = Annotated[
    str, typer.Option("--into", help="Name of the new dataset, or of an existing one for its next version.")
]
OtherName = Annotated[str, typer.Option("--into", help="Name of a new dataset; the next version by default.")]
License = Annotated[str, typer.Option("--license", help="Licence of the version; the parents' by default.")]
Where = Annotated[str, typer.Option("--where", help="Condition on the episodes: success and return > -40.")]


def select(
    name: NameOrPath,
    into: Into,
    where: Where = "",
    split: Annotated[str | None, typer.Option(help="Only these splits, joined by +.")] = None,
    version: Version = None,
    license_: License = "",
    json_: Json = False,
) -> None:
    """Write the episodes that meet a condition as a version."""
    print_dataset(_open_stored(name, version, split=split, where=where).save(into, license=license_), json_=json_)


def split(
    name: NameOrPath,
    parts: Annotated[list[str], typer.Argument(help="Share of the episodes by split: train=0.9 test=0.1.")],
    into: Into,
    seed: Annotated[int, typer.Option(help="Seed of the random assignment.")] = 0,
    version: Version = None,
    license_: License = "",
    json_: Json = False,
) -> None:
    """Write a version with the episodes drawn into other splits. At random, by shares."""
    pairs = [parse_pair(part, "SPLIT=SHARE, train=0.9 for example") for part in parts]
    shares = {part: _parse_share(part, share) for part, share in pairs}
    print_dataset(_open_stored(name, version).split(shares, seed=seed).save(into, license=license_), json_=json_)


def merge(
    names: Annotated[
        list[str], typer.Argument(help="Datasets, or paths of versions; at least two.", autocompletion=complete_names)
    ],
    into: Into,
    license_: License = "",
    json_: Json = False,
) -> None:
    """Write the episodes of several datasets as one version. Equal episodes are written once."""
    first, *others = [_open_stored(name, None) for name in names]
    if not others:
        msg = f"merge: expected at least two datasets, got {names[0]}. Write a copy of it: rlhive select"
        raise InvalidOptionError(msg)
    print_dataset(first.merge(*others, name=into, license=license_), json_=json_)


def append(
    name: Name,
    source: Annotated[str, typer.Argument(help="Dataset, or path of a version.", autocompletion=complete_names)],
    where: Where = "",
    split: Annotated[str | None, typer.Option(help="Only these splits of the source, joined by +.")] = None,
    license_: License = "",
    json_: Json = False,
) -> None:
    """Append another dataset's episodes, as the next version."""
    further = _open_stored(source, None, split=split, where=where)
    print_dataset(_open_stored(name, None).append(further, license=license_), json_=json_)


def rename(
    name: Name,
    old: Annotated[str, typer.Argument(help="Column, next.reward for example.")],
    new: Annotated[str, typer.Argument(help="Its new name.")],
    into: OtherName = "",
    version: Version = None,
    json_: Json = False,
) -> None:
    """Write a version in which a column has another name."""
    dataset = _open_stored(name, version)
    print_dataset(dataset.rename_column(old, new, name=into or dataset.name), json_=json_)


def drop(
    name: Name,
    columns: Annotated[list[str], typer.Argument(help="Columns to leave out.")],
    into: OtherName = "",
    version: Version = None,
    json_: Json = False,
) -> None:
    """Write a version without some columns."""
    dataset = _open_stored(name, version)
    print_dataset(dataset.drop_column(*columns, name=into or dataset.name), json_=json_)


def embed(
    name: Name,
    encoder: Annotated[str, typer.Option(help="r3m, vip or torchvision.")] = "r3m",
    weights: Annotated[str, typer.Option(help="File of the weights, download, or random.")] = "",
    model: Annotated[str, typer.Option(help="torchvision's name; resnet18 by default, resnet50 for vip.")] = "",
    resize: Annotated[int | None, typer.Option(help="Size in pixels to which pictures are resized.")] = None,
    column: Annotated[str, typer.Option(help="Column of the pictures.")] = "pixels",
    device: Annotated[str, typer.Option(help="Device of the encoder: cpu, cuda, cuda:1, …")] = "cpu",
    batch_size: Annotated[int, typer.Option(help="Observations that are encoded together.")] = 64,
    threads: Annotated[int, typer.Option(help="Threads of torch; more help where no other process is busy.")] = 1,
    into: OtherName = "",
    version: Version = None,
    json_: Json = False,
) -> None:
    """Write a version with embeddings of its pictures. By a pretrained encoder; an interrupted run is resumed."""
    from rlhive.dataset import embed as embed_pictures

    embedded = embed_pictures(
        _open_stored(name, version),
        encoder,
        weights=weights or None,
        model=model or None,
        resize=resize,
        column=column,
        name=into or None,
        device=device,
        batch_size=batch_size,
        num_threads=threads,
    )
    print_dataset(embedded, json_=json_)


def render(
    name: Name,
    camera: Annotated[
        list[str] | None, typer.Option(help="Camera of the model; once per camera; all by default.")
    ] = None,
    image_size: Annotated[int, typer.Option(help="Height and width of the pictures.")] = 84,
    depth: Annotated[bool, typer.Option("--depth", help="Also the distance in metres.")] = False,
    segmentation: Annotated[
        bool, typer.Option("--segmentation", help="Also number and type of the object that each pixel shows.")
    ] = False,
    render_quality: Annotated[str, typer.Option(help="fast, or robohive for RoboHive's own.")] = "fast",
    column: Annotated[str, typer.Option(help="Column of the pictures.")] = "pixels",
    force: Annotated[
        bool, typer.Option("--force", help="Accept another compiled model than the recorded one.")
    ] = False,
    workers: Workers = None,
    into: OtherName = "",
    version: Version = None,
    json_: Json = False,
) -> None:
    """Write a version with pictures rendered from its states. An interrupted run is resumed."""
    rendered = _open_stored(name, version).render(
        cameras=camera or None,
        image_size=(image_size, image_size),
        depth=depth,
        segmentation=segmentation,
        render_quality=render_quality,
        column=column,
        name=into,
        force=force,
        num_workers=workers,
    )
    print_dataset(rendered, json_=json_)


def encode(
    name: Name,
    keys: Annotated[
        str,
        typer.Option(
            "--keys",
            help="Storage by column: pixels=av1:crf=20,depth=ffv1. png, ffv1 and raw lose nothing; jpeg, av1, h264 and "
            "h265 do.",
        ),
    ],
    into: OtherName = "",
    version: Version = None,
    json_: Json = False,
) -> None:
    """Write a version with columns stored as pictures or videos. A loss is asked for by name."""
    print_dataset(_open_stored(name, version).encode(parse_storages(keys), name=into), json_=json_)


def _open_stored(name: str, version: str | None, *, split: str | None = None, where: str = "") -> "RoboHiveDataset":
    from rlhive.dataset import RoboHiveDataset

    return RoboHiveDataset(name, version=version, split=split, where=where or None, generate=False)


def _parse_share(split: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        msg = f"{split}={text}: expected a share of the episodes, 0.9 for example"
        raise InvalidOptionError(msg) from None
