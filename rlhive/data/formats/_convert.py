"""From a neighbour's files to a dataset version and back: one entry for all formats."""

import contextlib
import importlib
import inspect
import logging
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from rlhive.data import _store
from rlhive.data._episodes import EpisodeRecord
from rlhive.data.formats._imported import Imported
from rlhive.data.versions import Manifest, export, read_records
from rlhive.errors import DatasetExists, RLHiveError, SchemaMismatch, UnsupportedFormat

logger = logging.getLogger(__name__)

#: Name of a format → the room that reads it, with a function ``read(source, **options) -> Source``.
READERS = {kind: f"rlhive.data.formats._{kind}" for kind in ("roboset", "d4rl", "minari", "lerobot", "rlds")}

#: Name of a format → the room that writes it, with a function ``write(manifest, records, target, **options)``.
WRITERS = {"minari": "rlhive.data.formats._minari", "lerobot": "rlhive.data.formats._lerobot_writer"}


def import_dataset(
    kind: str,
    source: str | Path,
    name: str,
    *,
    license: str,
    version: str | None = None,
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
        version: MAJOR.MINOR.PATCH; by default the right next one, and 1.0.0 for the first. Without it, and with nothing
            that differs from the newest version in the store, that version is returned.
        description: A sentence or two.
        env_name: Environment id, where the files do not say or say it wrongly.
        store: Folder of all datasets.
        progress: Whether to show a progress bar.
        **options: Passed to the format's reader.

    Returns:
        The version's folder.

    Raises:
        UnsupportedFormat: No such kind.
        SchemaMismatch: The files are not of that format, are damaged or ambiguous; the message names the place.
        CorruptDataset: A Parquet file is damaged; the message names it.
        DatasetExists: That version is there.
    """
    if (
        version and (folder := _store.version_dir(name, version, store=store)).exists()
    ):  # before the files are looked through, which may take a while
        msg = f"{folder}: expected no such folder, a version is never overwritten. Choose another version."
        raise DatasetExists(msg)
    with _heeding_interrupts() as heed:
        opened = open_source(kind, source, **options, **_progress(kind, progress))
        for note in opened.notes:
            logger.warning("%s: %s", source, note)

        def records() -> Iterator[EpisodeRecord]:
            return _counted(_naming_damage(opened.records(), kind, source), opened.num_episodes, name, progress, heed)

        return export(
            replace(opened, records=records),
            name,
            version=version,
            license=license,
            description=description or f"Imported from {kind} files.",
            env_name=env_name,
            store=store,
        )


def open_source(kind: str, source: str | Path, **options: Any) -> Imported:
    """Return the episodes of another library's files, without writing anything.

    Raises:
        UnsupportedFormat: No such kind; the message names those there are.
        SchemaMismatch, CorruptDataset: As for :func:`import_dataset`.
    """
    reader = _room(kind, READERS).read
    _require_options(kind, reader, options)
    try:
        return reader(source, **options)
    except Exception as error:
        raise _damaged(error, kind, source) from error


def export_to(kind: str, folder: Path, target: str | Path, *, progress: bool = True, **options: Any) -> Path:
    """Write a version in another library's format.

    Holds some row groups in memory at a time. The target appears complete or not at all.

    Args:
        kind: A key of WRITERS, for example "minari".
        folder: Of the version.
        target: Folder to make.
        progress: Whether to show a progress bar.
        **options: Passed to the format's writer.

    Returns:
        The target.

    Raises:
        UnsupportedFormat: No such kind, or it cannot hold this dataset.
        DatasetExists: The target is there.
        CorruptDataset: A file of the version is not what its manifest recorded.
    """
    writer, manifest = _room(kind, WRITERS), Manifest.read(Path(folder))
    _require_options(kind, writer.write, options)
    if Path(target).exists():
        msg = f"{target}: expected no such file or folder, got one. Choose another target, or remove it."
        raise DatasetExists(msg)
    records = read_records(Path(folder), manifest, list(manifest.splits))
    with _heeding_interrupts() as heed:
        counted = _counted(records, manifest.num_episodes, str(target), progress, heed)
        writer.write(manifest, counted, Path(target), **options)
    return Path(target)


def is_exported(kind: str, folder: Path, target: str | Path, **options: Any) -> bool:
    """Whether the target is what :func:`export_to` makes of that version with these options, and says so itself."""
    return _room(kind, WRITERS).is_written(Manifest.read(Path(folder)), Path(target), **options)


def tag_of(kind: str) -> str:
    """Return the git tag by which another library finds a dataset of its format on the Hub.

    Raises:
        UnsupportedFormat: It looks for none, so a dataset in that format cannot be pushed.
    """
    tag = getattr(_room(kind, WRITERS), "TAG", None)
    if tag is None:
        pushed = [name for name in WRITERS if hasattr(_room(name, WRITERS), "TAG")]
        msg = f"Format {kind} is not pushed: expected {' or '.join(pushed)}. Push the version itself: rlhive push"
        raise UnsupportedFormat(msg)
    return tag


def _progress(kind: str, progress: bool) -> dict[str, bool]:
    """Return the option of a reader that looks through the files first, which takes a while."""
    return {"progress": progress} if "progress" in inspect.signature(_room(kind, READERS).read).parameters else {}


def _require_options(kind: str, function: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Refuse an option that a format does not have."""
    known = inspect.signature(function).parameters
    unknown = [name for name in options if name not in known]
    if unknown:
        there = [name for name, option in known.items() if option.kind is option.KEYWORD_ONLY]
        msg = f"Format {kind} has no option {unknown[0]!r}: expected some of {', '.join(there) or 'none'}. Drop it."
        raise UnsupportedFormat(msg)


def _room(kind: str, rooms: dict[str, str]) -> Any:
    if kind not in rooms:
        msg = f"No format {kind!r}: expected one of {', '.join(rooms)}."
        raise UnsupportedFormat(msg)
    return importlib.import_module(rooms[kind])


def _naming_damage(records: Iterator[EpisodeRecord], kind: str, source: str | Path) -> Iterator[EpisodeRecord]:
    """Yield what a reader gives; whatever it did not foresee in files that others wrote becomes a sentence."""
    try:
        yield from records
    except Exception as error:
        raise _damaged(error, kind, source) from error


def _damaged(error: Exception, kind: str, source: str | Path) -> Exception:
    if isinstance(error, (RLHiveError, MemoryError)):
        return error
    said = " ".join(repr(error).split())
    return SchemaMismatch(f"{source}: expected whole files in the format {kind}, got: {said}. Fetch them again.")


def _counted(
    records: Iterator[EpisodeRecord], total: int, name: str, progress: bool, heed: Callable[[], None]
) -> Iterator[EpisodeRecord]:
    for record in tqdm(records, total=total, desc=name, unit="ep", disable=not progress):
        heed()
        yield record
    heed()


@contextlib.contextmanager
def _heeding_interrupts() -> Iterator[Callable[[], None]]:
    """Yield a function that raises the KeyboardInterrupt that Python dropped, if it did.

    One that is raised inside the callback of a weak reference is printed and forgotten. h5py spends so much time in
    those that one Ctrl-C in five was lost. Elsewhere than in the main thread nobody is interrupted.
    """
    before, came = signal.getsignal(signal.SIGINT), []

    def note(number: int, frame: Any) -> None:
        came.append(number)
        before(number, frame)

    def heed() -> None:
        if came:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield heed
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield heed
    finally:
        signal.signal(signal.SIGINT, before)
