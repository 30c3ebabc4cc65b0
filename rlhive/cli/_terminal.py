"""What the verbs of the ``rlhive`` command share: where they print, and the arguments that several of them take."""

from collections.abc import Iterator
from typing import Annotated

import typer
from rich.console import Console

out = Console()
err = Console(stderr=True)


def known_names(incomplete: str) -> Iterator[str]:
    """Yield the names that a shell may offer: of the local store and of the catalogue. Imports nothing heavy."""
    from rlhive.data import DEFAULT_NAMESPACE, store_dir
    from rlhive.envs import catalogue

    local = {path.parts[-4:-2] for path in store_dir().glob("[!.]*/[!.]*/*/rlhive.json")}
    names = {bare if namespace == DEFAULT_NAMESPACE else f"{namespace}/{bare}" for namespace, bare in local}
    names |= {task.name for task in catalogue().values() if task.recipe is not None}
    yield from sorted(name for name in names if name.startswith(incomplete))


Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Name = Annotated[str, typer.Argument(help="Dataset name: kitchen_knob1 or org/name.", autocompletion=known_names)]
Version = Annotated[str | None, typer.Option(help="MAJOR.MINOR.PATCH; the newest by default.")]
Workers = Annotated[int | None, typer.Option("--workers", help="Worker processes; one per core by default.")]
