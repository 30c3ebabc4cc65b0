"""From a neighbour's files to a dataset version: one entry for all formats."""

import importlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from rlhive.data.episodes import EpisodeRecord
from rlhive.data.export import export
from rlhive.data.formats.source import Source
from rlhive.errors import UnsupportedFormat

logger = logging.getLogger(__name__)

#: Name of a format → the room that reads it, with a function ``read(source, **options) -> Source``.
READERS = {kind: f"rlhive.data.formats.{kind}" for kind in ("roboset", "d4rl")}


def import_dataset(
    kind: str,
    source: str | Path,
    name: str,
    *,
    license: str,
    version: str = "1.0.0",
    description: str = "",
    env_name: str = "",
    store: Path | None = None,
    progress: bool = True,
    **options: Any,
) -> Path:
    """Read another library's files and write them as a version of a dataset.

    Holds one episode in memory at a time. An interrupt or an error leaves nothing.

    Args:
        kind: A key of READERS, for example "roboset".
        source: File or folder in that format.
        name: ``name`` or ``namespace/name`` of the new dataset.
        license: Identifier of the licence of the data; asked for, never guessed.
        version: MAJOR.MINOR.PATCH.
        description: A sentence or two.
        env_name: Environment id, where the files do not say or say it wrongly.
        store: Folder of all datasets.
        progress: Whether to show a progress bar.
        **options: Passed to the format's reader.

    Returns:
        The version's folder.

    Raises:
        UnsupportedFormat: No such kind.
        SchemaMismatch: The files are not of that format, or are ambiguous; the message names the file and the place.
        DatasetExists: That version is there.
    """
    opened = open_source(kind, source, **options)
    for note in opened.notes:
        logger.warning("%s: %s", source, note)
    return export(
        _counted(opened, name, progress),
        name,
        version=version,
        schema=opened.schema,
        license=license,
        description=description or f"Imported from {kind} files.",
        env_name=env_name or opened.env_name,
        runs=opened.runs,
        store=store,
    )


def open_source(kind: str, source: str | Path, **options: Any) -> Source:
    """Return the episodes of another library's files, without writing anything.

    Raises:
        UnsupportedFormat: No such kind; the message names those there are.
    """
    if kind not in READERS:
        msg = f"No format {kind!r}: expected one of {', '.join(READERS)}."
        raise UnsupportedFormat(msg)
    return importlib.import_module(READERS[kind]).read(source, **options)


def _counted(source: Source, name: str, progress: bool) -> Iterator[EpisodeRecord]:
    yield from tqdm(source.records(), total=source.num_episodes, desc=name, unit="ep", disable=not progress)
