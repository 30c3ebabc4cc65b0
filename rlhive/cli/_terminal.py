"""What the verbs of the ``rlhive`` command share: consoles, arguments that several verbs take, and the path look-up."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from rlhive._text import printable
from rlhive.errors import InvalidOptionError

if TYPE_CHECKING:
    from rlhive.dataset import RoboHiveDataset


class _PlainConsole(Console):
    """A console that shows strings as they are: no markup, no emoji codes, control characters escaped.

    Every string that is printed or put into a table passes through here; what is coloured is a rich Text.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a string as a Text."""
        return super().render_str(printable(text, multiline=True), **options)

    def print_json(self, json: str | None = None, **options: Any) -> None:
        """Print JSON in ASCII, in which every control character is escaped."""
        super().print_json(json, **{"ensure_ascii": True, **options})


out = _PlainConsole()
err = _PlainConsole(stderr=True)


def labelled(label: str, style: str, text: object) -> Text:
    """Return text after a coloured label."""
    return Text.assemble((label, style), f" {printable(text, multiline=True)}")


def print_dataset(dataset: "RoboHiveDataset", *, json_: bool) -> None:
    """Print what a dataset holds: as text, or as one JSON object."""
    from rlhive.dataset import describe

    if json_:
        out.print_json(json.dumps(describe(dataset)))
    else:
        out.print(repr(dataset), highlight=False, soft_wrap=True)


def complete_names(incomplete: str) -> Iterator[str]:
    """Yield dataset names for shell completion: those of the local store and of the catalogue. Imports no torch."""
    from rlhive.data import DEFAULT_NAMESPACE, store_dir
    from rlhive.envs import catalogue

    local = {path.parts[-4:-2] for path in store_dir().glob("[!.]*/[!.]*/*/rlhive.json")}
    names = {name if namespace == DEFAULT_NAMESPACE else f"{namespace}/{name}" for namespace, name in local}
    names |= {task.name for task in catalogue().values() if task.recipe is not None}
    yield from sorted(name for name in names if name.startswith(incomplete))


def find_folder(name: str, version: str | None) -> Path:
    """Return the folder of a version without opening it, since it may be damaged.

    For a version in the store neither torch nor the Hub's client is imported.

    Args:
        name: Dataset name, or the path of a version's folder.
        version: MAJOR.MINOR.PATCH; the newest by default.
    """
    from rlhive.data import as_path
    from rlhive.data.versions import find_stored_version

    path = as_path(name)
    if path is not None:
        return path
    folder = find_stored_version(name, version)
    if folder is not None:
        return folder
    from rlhive.dataset import find_version

    return find_version(name, version=version, generate=False)


Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Name = Annotated[str, typer.Argument(help="Dataset name: kitchen_knob1 or org/name.", autocompletion=complete_names)]
NameOrPath = Annotated[
    str, typer.Argument(help="Dataset name, or the path of a version's folder.", autocompletion=complete_names)
]
Version = Annotated[str | None, typer.Option(help="MAJOR.MINOR.PATCH; the newest by default.")]
Workers = Annotated[int | None, typer.Option("--workers", help="Worker processes; one per core by default.")]
Storage = Annotated[
    str,
    typer.Option(
        help="How pictures are stored, by column: pixels=av1:crf=20,depth=ffv1. png, ffv1 and raw lose nothing; jpeg, "
        "av1, h264 and h265 do."
    ),
]


def parse_pair(text: str, expected: str) -> tuple[str, str]:
    """Return name and value of ``name=value``; ``expected`` is for the message.

    Raises:
        InvalidOptionError: The text has another form.
    """
    name, separator, value = text.strip().partition("=")
    if not (name and separator):
        msg = f"{text!r}: expected {expected}"
        raise InvalidOptionError(msg)
    return name, value


def parse_storages(text: str) -> dict[str, str]:
    """Return the storage of each column of ``column=storage,column=storage``.

    Raises:
        InvalidOptionError: The text has another form.
    """
    return dict(parse_pair(pair, "COLUMN=STORAGE, pixels=png for example") for pair in text.split(","))
