"""From another library's files to a dataset version and back, for every format."""

import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from rlhive._text import printable
from rlhive.data import _store
from rlhive.data._dtypes import BFLOAT16_NAME, to_numbers
from rlhive.data._episodes import Columns, EpisodeRecord
from rlhive.data._schema import Schema
from rlhive.data.formats._episode_source import EpisodeSource
from rlhive.data.formats._format import COMMON_NAMES, Format
from rlhive.data.formats._import_pass import FormsChangedError, ImportPass, describe_unforeseen
from rlhive.data.formats._import_rules import ImportRules
from rlhive.data.formats._interrupts import detect_interrupts
from rlhive.data.formats._registry import available_formats, get_format
from rlhive.data.formats._success_rewards import RewardOption, SuccessOption
from rlhive.data.versions import Manifest, export, list_local_versions, read_records
from rlhive.errors import DatasetExistsError, RLHiveError, UnsupportedFormatError

logger = logging.getLogger(__name__)


def import_dataset(
    kind: str | Format,
    source: str | Path,
    name: str,
    *,
    license: str,
    version: str | None = None,
    description: str = "",
    env_name: str = "",
    store: Path | None = None,
    drop: str | Sequence[str] | None = None,
    skip_episode: int | Sequence[int] | None = None,
    on_nan: str | None = None,
    rename: Mapping[str, str] | None = None,
    reward: RewardOption | None = None,
    success: SuccessOption | None = None,
    append: bool = False,
    link_videos: bool = False,
    progress: bool = True,
    **options: Any,
) -> Path:
    """Read another library's files and write them as a version of a dataset.

    Holds one episode in memory at a time. An interrupt or an error leaves nothing. What was renamed, converted and left
    out is logged. Where episodes differ in the dtype of a column, all are read once more before the first is written.

    Args:
        kind: Name of a format, for example "roboset", or a Format.
        source: File or folder in that format.
        name: ``name`` or ``namespace/name`` of the new dataset.
        license: Identifier of the licence of the data; required, since no file format records it reliably.
        version: MAJOR.MINOR.PATCH; by default the next one by the version rule, and 1.0.0 for the first. Without it,
            and with content equal to the newest version in the store, that version is returned.
        description: A sentence or two.
        env_name: Environment id, where the files have none or a wrong one.
        store: Folder of all datasets.
        drop: Columns, or groups of columns, that are left out unread, by their name in the files or in RLHive.
        skip_episode: Ids of episodes that are left out unread.
        on_nan: "keep" keeps values that are NaN, "skip" leaves their episode out, "refuse" raises. By default they are
            kept, but refused in observations, actions, rewards and success.
        rename: Columns by their names in the files: ``{"state": "observation", "actions": "action"}``. Without it the
            usual names of other libraries are recognised, such as state, actions, reward and done.
        reward: "sparse" is 1 where the action of the row led to a solved state, by ``success`` or the success of the
            files; where there is neither, at the end of every episode that is not recorded as cut off. Or the name of a
            column, or a function of an episode's columns, ``[T, …]`` by name, that returns a number for each row. By
            default that of the files.
        success: "all": every episode ends in a solved state, as demonstrations do. Or the name of a column or a
            function: for each row, whether its action led to a solved state; a function may return one flag, that of
            the episode's end. An episode that ends in a solved state is terminated. By default that of the files.
        append: Whether the version begins with the episodes of the newest version in the store, if there is one.
        link_videos: Whether the version gets video files of which it keeps every frame by a hard link, where the file
            system has them, instead of a copy. For files that nobody writes into; one that is replaced stays as it was.
        progress: Whether to show a progress bar.
        **options: Options of the format's reader, as ``Format.read_options`` declares them.

    Returns:
        The version's folder.

    Raises:
        UnsupportedFormatError: No such format, or it has no such option.
        SchemaMismatchError: The files are missing, damaged, ambiguous or of another format, or a value is NaN; the
            message has the address and the option that helps.
        CorruptDatasetError: A Parquet file is damaged; the message names it.
        DatasetExistsError: The version exists.
    """
    if version:  # checked before the files are read, which may take a while
        _store.parse_version(version)
        if version in list_local_versions(name, store=store):
            msg = f"{name} {version}: {_store.describe_store(store)} has it, and a version is never overwritten."
            raise DatasetExistsError(msg)
    item = get_format(kind)
    common: dict[str, Any] = {"drop": drop, "skip_episode": skip_episode, "on_nan": on_nan, "rename": rename}
    common |= {"reward": reward, "success": success}
    with detect_interrupts() as raise_if_interrupted:
        opened, episodes = _open(item, source, {**options, **_drop_default(common)}, progress)
        _log(opened.notes, source)

        def write(*, strict: bool) -> Path:
            def records() -> Iterator[EpisodeRecord]:
                read = episodes.records(strict=strict)
                return _show_progress(read, opened.num_episodes, name, progress, raise_if_interrupted)

            return export(
                replace(opened, schema=episodes.schema, records=records, may_link_videos=link_videos),
                name,
                version=version,
                license=license,
                description=description or ("" if append else f"Imported from {item.name} files."),
                env_name=env_name,
                store=store,
                append=append,
                storage=None if append else episodes.storages,
            )

        episodes.look_at_first()
        try:
            folder = write(strict=True)
        except FormsChangedError:
            logger.warning(
                "%s: columns differ between episodes: all are read once more before they are written", source
            )
            episodes.look_at_all(raise_if_interrupted)
            folder = write(strict=False)
        _log(episodes.notes(), source)
        return folder


def open_source(kind: str | Format, source: str | Path, **options: Any) -> EpisodeSource:
    """Return the episodes of another library's files; nothing is written.

    All episodes are read once, so that the schema and the notes are those of the whole source.

    Args:
        kind: Name of a format, or a Format.
        source: File or folder in that format.
        **options: As for :func:`import_dataset`.

    Raises:
        UnsupportedFormatError: No such format, or it has no such option.
        SchemaMismatchError, CorruptDatasetError: As for :func:`import_dataset`.
    """
    progress = bool(options.pop("progress", False))
    opened, episodes = _open(get_format(kind), source, options, progress)
    episodes.look_at_all()
    return replace(
        opened,
        schema=episodes.schema,
        records=episodes.records,
        pending=None,
        num_episodes=episodes.num_episodes,
        notes=(*opened.notes, *episodes.notes()),
    )


def export_to(kind: str | Format, folder: Path, target: str | Path, *, progress: bool = True, **options: Any) -> Path:
    """Write a version in another library's format.

    Holds some row groups in memory at a time. The target appears complete or not at all.

    Args:
        kind: Name of a format that can be written, for example "minari", or a Format.
        folder: The version's folder.
        target: Folder to create.
        progress: Whether to show a progress bar.
        **options: Options of the format's writer, as ``Format.write_options`` declares them.

    Returns:
        The target.

    Raises:
        UnsupportedFormatError: No such format, it has no such option, or it cannot hold this dataset.
        DatasetExistsError: The target exists.
        CorruptDatasetError: A file of the version differs from what its manifest recorded.
    """
    item, folder, target = get_format(kind, for_writing=True), Path(folder), Path(target)
    item.require_write_options(options)
    manifest = Manifest.read(folder)
    if target.exists():
        msg = f"{target} exists: expected the path of a new folder."
        raise DatasetExistsError(msg)
    records = read_records(folder, manifest, list(manifest.splits))
    advice = f"{item.name} has no column for them: drop_column() makes a version without."
    manifest.schema.require_equal_lengths(manifest.schema.columns, advice=advice)
    manifest, records = _widen_bfloat16(manifest, records, item.name)
    with detect_interrupts() as raise_if_interrupted:
        counted = _show_progress(records, manifest.num_episodes, str(target), progress, raise_if_interrupted)
        item.write(manifest, counted, target, **options)
    return target


def is_exported(kind: str | Format, folder: Path, target: str | Path, **options: Any) -> bool:
    """Return whether :func:`export_to` made the target from this version with these options."""
    return get_format(kind, for_writing=True).is_exported(Manifest.read(Path(folder)), Path(target), **options)


def get_hub_tag(kind: str | Format) -> str:
    """Return the git tag by which another library finds a dataset of its format on the Hub.

    Raises:
        UnsupportedFormatError: The library looks for no tag, so a dataset in that format cannot be pushed.
    """
    item = get_format(kind, for_writing=True)
    if item.hub_tag is None:
        tagged = [name for name, other in available_formats().items() if other.hub_tag is not None]
        msg = (
            f"Format {item.name} cannot be pushed: expected {' or '.join(tagged)}. The version itself can be: "
            "rlhive push"
        )
        raise UnsupportedFormatError(msg)
    return item.hub_tag


def _open(
    item: Format, source: str | Path, options: Mapping[str, Any], progress: bool
) -> tuple[EpisodeSource, ImportPass]:
    """Check the options and return the reader's source, and its episodes as the common options give them."""
    declared = {option.name for option in item.read_options}
    common = {name: value for name, value in options.items() if name in COMMON_NAMES and name not in declared}
    read_options = {name: value for name, value in options.items() if name not in common}
    item.require_read_options(read_options)
    rules = ImportRules.create(**common, format_name=item.name)
    path = Path(source).expanduser()
    if "progress" in inspect.signature(item.read).parameters:  # it looks through all files first, which takes a while
        read_options["progress"] = progress
    try:
        opened = item.read(path, **read_options)
    except (RLHiveError, MemoryError):
        raise
    except Exception as error:
        raise describe_unforeseen(error, str(source), item.name) from error
    return opened, ImportPass(opened, rules, str(source))


def _widen_bfloat16(
    manifest: Manifest, records: Iterator[EpisodeRecord], format_name: str
) -> tuple[Manifest, Iterator[EpisodeRecord]]:
    """Return a version with bfloat16 as float32, which holds the same numbers: no other library's files have it."""
    columns = [field.column for field in manifest.schema.fields if field.dtype == BFLOAT16_NAME]
    if not columns:
        return manifest, records
    logger.warning("%s has no bfloat16: written as float32, the same numbers: %s", format_name, ", ".join(columns))

    def widen(arrays: Columns) -> Columns:
        return {name: to_numbers(values) for name, values in arrays.items()}

    fields = (replace(field, dtype="float32") if field.column in columns else field for field in manifest.schema.fields)
    widened = (replace(record, columns=widen(record.columns), final=widen(record.final)) for record in records)
    return replace(manifest, schema=Schema(tuple(fields))), widened


def _log(notes: Iterable[str], source: str | Path) -> None:
    for note in notes:
        logger.warning("%s: %s", source, note)


def _drop_default(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _show_progress(
    records: Iterator[EpisodeRecord], total: int, name: str, progress: bool, raise_if_interrupted: Callable[[], None]
) -> Iterator[EpisodeRecord]:
    for record in tqdm(records, total=total, desc=printable(name), unit="ep", disable=not progress):
        raise_if_interrupted()
        yield record
    raise_if_interrupted()
