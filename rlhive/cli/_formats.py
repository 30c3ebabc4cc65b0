"""The verbs of the ``rlhive`` command that speak other libraries' formats: import, export-to; docs/formats.md."""

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from rlhive.cli._terminal import Json, Name, Version, out


def _readers(incomplete: str) -> Iterator[str]:
    """Yield the formats that a shell may offer to read."""
    yield from (kind for kind in ("roboset", "d4rl", "minari", "lerobot", "rlds") if kind.startswith(incomplete))


def _writers(incomplete: str) -> Iterator[str]:
    """Yield the formats that a shell may offer to write."""
    yield from (kind for kind in ("minari", "lerobot") if kind.startswith(incomplete))


def import_(
    kind: Annotated[
        str, typer.Argument(help="Format: roboset, d4rl, minari, lerobot or rlds.", autocompletion=_readers)
    ],
    source: Annotated[str, typer.Argument(help="File or folder.")],
    name: Annotated[str, typer.Argument(help="namespace/name of the new dataset.")],
    license: Annotated[str, typer.Option(help="Identifier of the licence of the data, for example cc-by-4.0.")],
    version: Annotated[str | None, typer.Option(help="MAJOR.MINOR.PATCH; by default the right next one.")] = None,
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
    json_: Json = False,
) -> None:
    """Bring another library's files in as a dataset version."""
    from rlhive.data.formats import import_dataset
    from rlhive.dataset import RoboHiveDataset, describe

    options = _given(alignment=alignment, breaks=breaks, horizon=horizon)
    options |= _given(last_step=last_step, drop=drop or None, split=split)
    known = {"license": license, "version": version, "env_name": env, "progress": not json_}
    dataset = RoboHiveDataset(import_dataset(kind, source, name, **known, **options))
    if json_:
        out.print_json(json.dumps(describe(dataset)))
    else:
        out.print(repr(dataset), highlight=False, soft_wrap=True)


def export_to(
    kind: Annotated[str, typer.Argument(help="Format to write: minari or lerobot.", autocompletion=_writers)],
    name: Name,
    target: Annotated[Path | None, typer.Argument(help="Folder to make; with --push it may be left out.")] = None,
    version: Version = None,
    fps: Annotated[int | None, typer.Option(help="lerobot: frames a second; the environment's by default.")] = None,
    task: Annotated[str | None, typer.Option(help="lerobot: the instruction, where episodes have none.")] = None,
    dtype: Annotated[str | None, typer.Option(help="lerobot: float32 rounds float64 to what policies take.")] = None,
    push: Annotated[str | None, typer.Option(help="lerobot: publish it too, as org/name with LeRobot's tag.")] = None,
    private: Annotated[bool, typer.Option("--private", help="With --push: make a new repository private.")] = False,
    json_: Json = False,
) -> None:
    """Write a dataset version in another library's format, and publish it if asked."""
    from rlhive.data.formats import tag_of
    from rlhive.data.hub import push_folder
    from rlhive.dataset import RoboHiveDataset

    if target is None and push is None:
        msg = "where to? Name a folder, or a repository: --push org/name"
        raise typer.BadParameter(msg)
    tag = tag_of(kind) if push else ""
    dataset = RoboHiveDataset(name, version=version, generate=False)
    with contextlib.ExitStack() as stack:
        folder = target or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rlhive-export-"))) / "dataset"
        _write(
            kind, dataset.path, folder, again=bool(push), progress=not json_, **_given(fps=fps, task=task, dtype=dtype)
        )
        done = None
        if push:
            told = {"version": dataset.version, "tag": tag, "private": private}
            done = push_folder(folder, push, **told, progress=not json_)
    if json_:
        out.print_json(json.dumps({"target": str(target) if target else None, "pushed": vars(done) if done else None}))
        return
    if target:
        out.print(f"made {target}", highlight=False, soft_wrap=True)
    if done:
        out.print(f"{done.repo_id} {tag} is commit {done.commit[:12]}: {done.url}", highlight=False, soft_wrap=True)


def _write(kind: str, folder: Path, target: Path, *, again: bool, progress: bool, **options: Any) -> None:
    """Write the target, unless it is there already, of the same version and options, and a push goes on."""
    from rlhive.data import formats

    if not (again and target.exists() and formats.is_exported(kind, folder, target, **options)):
        formats.export_to(kind, folder, target, progress=progress, **options)


def _given(**options: object) -> dict[str, object]:
    return {option: value for option, value in options.items() if value is not None}
