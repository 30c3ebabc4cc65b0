"""The verbs of the ``rlhive`` command that read and write other libraries' formats: import, export-to."""

import contextlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand
from typer.models import OptionInfo

from rlhive.cli._terminal import Json, Name, Version, out, print_dataset
from rlhive.data.formats import BUILT_IN, COMMON_OPTIONS, Format, Option, available_formats, get_format

if TYPE_CHECKING:
    from rlhive.data.hub import PublishedVersion

_READABLE = ", ".join(BUILT_IN)
_WRITABLE = ", ".join(name for name, item in BUILT_IN.items() if item.can_write)


def _complete_readable(incomplete: str) -> Iterator[str]:
    """Yield the formats that a shell may offer for import."""
    yield from (name for name in available_formats() if name.startswith(incomplete))


def _complete_writable(incomplete: str) -> Iterator[str]:
    """Yield the formats that a shell may offer for export-to."""
    yield from (name for name, item in available_formats().items() if item.can_write and name.startswith(incomplete))


def _read_option(name: str) -> OptionInfo:
    return _build_option(name, {"": COMMON_OPTIONS} | {item.name: item.read_options for item in BUILT_IN.values()})


def _write_option(name: str) -> OptionInfo:
    return _build_option(name, {item.name: item.write_options for item in BUILT_IN.values()})


def _build_option(name: str, declared: dict[str, tuple[Option, ...]]) -> OptionInfo:
    """Return a command-line option with the help that the formats declare for it."""
    formats_by_help: dict[str, list[str]] = {}
    for kind, options in declared.items():
        for option in options:
            if option.name == name:
                formats_by_help.setdefault(option.help, []).append(kind)
    help = " ".join(f"{', '.join(kinds)}: {text}".removeprefix(": ") for text, kinds in formats_by_help.items())
    info: OptionInfo = typer.Option(f"--{name.replace('_', '-')}", help=help)
    return info


_RENAME_HELP = (
    "Columns by their names in the files: actions=action state=observation. The usual names of other libraries are "
    "recognised without it."
)


class ImportCommand(TyperCommand):
    """A command whose ``--rename`` takes all the NAME=COLUMN pairs that follow it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # typer and click each have a class Context
        """Repeat the option before every pair, and parse the arguments."""
        expanded: list[str] = []
        for word in args:
            is_pair = "=" in word and not word.startswith("-")
            follows_pair = len(expanded) > 1 and expanded[-2] == "--rename" and "=" in expanded[-1]
            expanded += ["--rename", word] if is_pair and follows_pair else [word]
        return super().parse_args(ctx, expanded)


_Extra = Annotated[
    list[str] | None, typer.Option("--option", help="key=value, an option of an installed format; repeatable.")
]


def import_(
    kind: Annotated[str, typer.Argument(help=f"Format: {_READABLE}.", autocompletion=_complete_readable)],
    source: Annotated[str, typer.Argument(help="File or folder.")],
    name: Annotated[str, typer.Argument(help="namespace/name of the new dataset.")],
    license: Annotated[str, typer.Option(help="Identifier of the licence of the data, for example cc-by-4.0.")],
    version: Annotated[str | None, typer.Option(help="MAJOR.MINOR.PATCH; by default the next one.")] = None,
    env: Annotated[str, typer.Option(help="Environment id, where the files have none.")] = "",
    alignment: Annotated[str | None, _read_option("alignment")] = None,
    breaks: Annotated[str | None, _read_option("breaks")] = None,
    horizon: Annotated[int | None, _read_option("horizon")] = None,
    last_step: Annotated[str | None, _read_option("last_step")] = None,
    drop: Annotated[list[str] | None, _read_option("drop")] = None,
    skip_episode: Annotated[list[int] | None, _read_option("skip_episode")] = None,
    on_nan: Annotated[str | None, _read_option("on_nan")] = None,
    rename: Annotated[list[str] | None, typer.Option("--rename", help=_RENAME_HELP)] = None,
    reward: Annotated[str | None, _read_option("reward")] = None,
    success: Annotated[str | None, _read_option("success")] = None,
    split: Annotated[str | None, _read_option("split")] = None,
    episode: Annotated[str | None, _read_option("episode")] = None,
    split_masks: Annotated[list[str] | None, _read_option("split_masks")] = None,
    swap_colours: Annotated[bool | None, _read_option("swap_colours")] = None,
    append: Annotated[bool, typer.Option("--append", help="After the episodes of the newest version.")] = False,
    option: _Extra = None,
    json_: Json = False,
) -> None:
    """Write another library's files as a dataset version."""
    from rlhive.data.formats import import_dataset
    from rlhive.dataset import RoboHiveDataset

    item = get_format(kind)
    options = _drop_missing(
        alignment=alignment,
        breaks=breaks,
        horizon=horizon,
        last_step=last_step,
        drop=drop or None,
        skip_episode=skip_episode or None,
        on_nan=on_nan,
        rename=_parse_pairs(rename),
        reward=reward,
        success=success,
        split=split,
        episode=episode,
        split_masks=split_masks or None,
        swap_colours=swap_colours,
    )
    options |= _parse_extra(option or [], item, item.read_options)
    folder = import_dataset(
        item,
        source,
        name,
        license=license,
        version=version,
        env_name=env,
        append=append,
        progress=not json_,
        **options,
    )
    print_dataset(RoboHiveDataset(folder), json_=json_)


def export_to(
    kind: Annotated[str, typer.Argument(help=f"Format: {_WRITABLE}.", autocompletion=_complete_writable)],
    name: Name,
    target: Annotated[Path | None, typer.Argument(help="Folder to create; optional with --push.")] = None,
    version: Version = None,
    fps: Annotated[int | None, _write_option("fps")] = None,
    task: Annotated[str | None, _write_option("task")] = None,
    task_from: Annotated[str | None, _write_option("task_from")] = None,
    state: Annotated[str | None, _write_option("state")] = None,
    dtype: Annotated[str | None, _write_option("dtype")] = None,
    robot_type: Annotated[str | None, _write_option("robot_type")] = None,
    video: Annotated[bool | None, _write_option("video")] = None,
    dataset_id: Annotated[str | None, _write_option("dataset_id")] = None,
    option: _Extra = None,
    push: Annotated[str | None, typer.Option(help="lerobot: also publish it as org/name with LeRobot's tag.")] = None,
    private: Annotated[bool, typer.Option("--private", help="With --push: make a new repository private.")] = False,
    json_: Json = False,
) -> None:
    """Write a version in another library's format. Optionally publish it."""
    from rlhive.data.formats import get_hub_tag
    from rlhive.data.hub import push_folder
    from rlhive.dataset import RoboHiveDataset

    if target is None and push is None:
        msg = "expected a target folder, or a repository: --push org/name"
        raise typer.BadParameter(msg)
    item = get_format(kind, for_writing=True)
    tag = get_hub_tag(item) if push else ""
    options = _drop_missing(
        fps=fps,
        task=task,
        task_from=task_from,
        state=state,
        dtype=dtype,
        robot_type=robot_type,
        video=video,
        dataset_id=dataset_id,
    )
    options |= _parse_extra(option or [], item, item.write_options)
    dataset = RoboHiveDataset(name, version=version, generate=False)
    pushed = None
    with contextlib.ExitStack() as stack:
        folder = target or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rlhive-export-"))) / "dataset"
        _export_unless_done(item, dataset.path, folder, reuse=bool(push), progress=not json_, options=options)
        if push:
            pushed = push_folder(folder, push, version=dataset.version, tag=tag, private=private, progress=not json_)
    _report_export(target, pushed, tag, json_)


def _export_unless_done(
    item: Format, folder: Path, target: Path, *, reuse: bool, progress: bool, options: dict[str, Any]
) -> None:
    """Write the target; a push goes on with one that exists and holds the same version and options."""
    from rlhive.data import formats

    if not (reuse and target.exists() and formats.is_exported(item, folder, target, **options)):
        formats.export_to(item, folder, target, progress=progress, **options)


def _report_export(target: Path | None, pushed: "PublishedVersion | None", tag: str, json_: bool) -> None:
    if json_:
        report = {"target": str(target) if target else None, "pushed": vars(pushed) if pushed else None}
        out.print_json(json.dumps(report))
        return
    if target:
        out.print(f"made {target}", highlight=False, soft_wrap=True)
    if pushed:
        text = f"{pushed.repo_id} {tag} is commit {pushed.commit[:12]}: {pushed.url}"
        out.print(text, highlight=False, soft_wrap=True)


def _parse_pairs(texts: Sequence[str] | None) -> dict[str, str] | None:
    """Return the pairs of ``--rename``, NAME=COLUMN each."""
    pairs = [pair.partition("=") for text in texts or [] for pair in text.split()]
    wrong = next((name for name, separator, column in pairs if not (name and separator and column)), None)
    if wrong is not None:
        msg = f"--rename {wrong}: expected NAME=COLUMN, for example actions=action"
        raise typer.BadParameter(msg)
    return {name: column for name, _, column in pairs} or None


def _parse_extra(pairs: Sequence[str], item: Format, declared: Sequence[Option]) -> dict[str, Any]:
    """Return ``--option key=value`` pairs as options; values of the declared types, several for a repeated key."""
    by_name = {option.name: option for option in declared}
    options: dict[str, Any] = {}
    for pair in pairs:
        key, separator, text = pair.partition("=")
        if not separator:
            msg = f"--option {pair}: expected key=value for the format {item.name}"
            raise typer.BadParameter(msg)
        option = by_name.get(key)
        value = option.parse(text) if option else text  # an unknown option is refused with all others
        if option and option.repeatable:
            options.setdefault(key, []).append(value)
        else:
            options[key] = value
    return options


def _drop_missing(**options: object) -> dict[str, Any]:
    return {option: value for option, value in options.items() if value is not None}
