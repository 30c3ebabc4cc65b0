"""The verbs of the ``rlhive`` command that speak other libraries' formats: import, export-to; docs/formats.md."""

from pathlib import Path
from typing import Annotated

import typer

from rlhive.cli.terminal import Name, Version, out


def import_(
    kind: Annotated[str, typer.Argument(help="Format of the files: roboset, d4rl, minari, lerobot or rlds.")],
    source: Annotated[str, typer.Argument(help="File or folder.")],
    name: Annotated[str, typer.Argument(help="namespace/name of the new dataset.")],
    license: Annotated[str, typer.Option(help="Identifier of the licence of the data, for example cc-by-4.0.")],
    version: Annotated[str, typer.Option(help="MAJOR.MINOR.PATCH.")] = "1.0.0",
    env: Annotated[str, typer.Option(help="Environment id, where the files do not say.")] = "",
    alignment: Annotated[
        str | None, typer.Option(help="If unsure, whose reward a row holds: its state's (state), its action's (path).")
    ] = None,
    breaks: Annotated[
        str | None, typer.Option(help="d4rl: take ends as marked, or as found in the observations, if they differ.")
    ] = None,
    horizon: Annotated[int | None, typer.Option(help="d4rl: longest episode, if no time-outs are marked.")] = None,
    last_step: Annotated[
        str | None, typer.Option(help="rlds: what an episode's last step is: observation, transition, or each.")
    ] = None,
    drop: Annotated[
        list[str] | None, typer.Option(help="rlds: feature to leave out, observation/wrist_image; repeatable.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="rlds: the only split to read; all by default.")] = None,
) -> None:
    """Bring another library's files in as a dataset version."""
    from rlhive.data.convert import import_dataset
    from rlhive.dataset import RoboHiveDataset

    options = _given(alignment=alignment, breaks=breaks, horizon=horizon)
    options |= _given(last_step=last_step, drop=drop or None, split=split)
    folder = import_dataset(kind, source, name, license=license, version=version, env_name=env, **options)
    out.print(repr(RoboHiveDataset(folder)), highlight=False)


def export_to(
    kind: Annotated[str, typer.Argument(help="Format to write: minari or lerobot.")],
    name: Name,
    target: Annotated[Path, typer.Argument(help="Folder to make.")],
    version: Version = None,
    fps: Annotated[int | None, typer.Option(help="lerobot: frames a second; the environment's by default.")] = None,
    task: Annotated[str | None, typer.Option(help="lerobot: the instruction, where episodes have none.")] = None,
    dtype: Annotated[str | None, typer.Option(help="lerobot: float32 rounds float64 to what policies take.")] = None,
) -> None:
    """Write a dataset version in another library's format."""
    from rlhive.data.convert import export_to as write
    from rlhive.dataset import RoboHiveDataset

    folder = RoboHiveDataset(name, version=version, generate=False).path
    out.print(str(write(kind, folder, target, **_given(fps=fps, task=task, dtype=dtype))), highlight=False)


def _given(**options: object) -> dict[str, object]:
    return {option: value for option, value in options.items() if value is not None}
