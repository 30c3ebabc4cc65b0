"""The verb ``rlhive release``."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from rlhive.cli._terminal import Json, NameOrPath, Version, out


def release(
    name: NameOrPath,
    answers: Annotated[
        Path | None,
        typer.Option(
            "--answers",
            help="YAML file with the texts intended_use, limitations and personal_information; they are kept.",
        ),
    ] = None,
    version: Version = None,
    json_: Json = False,
) -> None:
    """Write Croissant metadata, a datasheet and checksums. Beside the version; a push publishes them.

    On a terminal, answers that are missing are asked for.
    """
    from rlhive.data.release import RELEASE_FILES
    from rlhive.dataset import release as release_version

    folder = release_version(name, answers, version=version, ask=_ask if _is_terminal() else None)
    if json_:
        out.print_json(json.dumps({"path": str(folder), "files": list(RELEASE_FILES)}))
        return
    out.print(f"made {folder}: {', '.join(RELEASE_FILES)}", highlight=False, soft_wrap=True)


def _ask(name: str, question: str) -> str:
    answer: str = typer.prompt(f"{question}\n{name}", err=True)
    return answer


def _is_terminal() -> bool:
    return sys.stdin.isatty()
