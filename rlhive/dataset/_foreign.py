"""Datasets of other libraries, opened by an address: ``lerobot:org/name``, ``lerobot:/folder``, ``aloha:/folder``.

What an address names is imported into the store once, as versions of a dataset whose name holds a hash of source and
options. Opening it again finds the version by the state of the source: the commit on the Hub, or the paths, sizes and
times of the files::

    <store>/lerobot/<name>-<hash>/
      1.0.0/                    the first import
      2.0.0/                    the source had changed
      .source-<state>.json      the version that was made of a state
"""

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from rlhive.data import as_path, hub, parse_name, store_dir
from rlhive.data.versions import find_stored_version
from rlhive.errors import DatasetNotFoundError, HubUnreachableError, InvalidOptionError

logger = logging.getLogger(__name__)

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9_-]+):(.+)")
_LICENSE = re.compile(r"^license:\s*([A-Za-z0-9.-]+)\s*$", re.MULTILINE)
_MAX_CARD_BYTES = 2**20
#: The folders of a LeRobot dataset's repository.
_HUB_FOLDERS = ("meta", "data", "videos")


@dataclass(frozen=True)
class ForeignAddress:
    """Where a dataset of another library lies.

    Attributes:
        kind: Name of the format.
        place: Path of the files, or the repository's id on the Hub.
    """

    kind: str
    place: str

    @classmethod
    def parse(cls, name: str | Path) -> "ForeignAddress | None":
        """Return the address that a name is; None for any other name."""
        match = None if isinstance(name, Path) else _ADDRESS.fullmatch(name)
        return None if match is None or as_path(name) is not None else cls(match[1], match[2])

    @property
    def path(self) -> Path | None:
        """Absolute path of the files; None for a repository on the Hub."""
        return as_path(self.place)


def open_foreign(
    address: ForeignAddress,
    *,
    revision: str | None = None,
    store: Path | None = None,
    **options: Any,
) -> Path:
    """Return the version that holds what an address names, imported if no version does.

    Args:
        address: The address.
        revision: Tag, branch or commit on the Hub; the main branch by default.
        store: Folder of all datasets.
        **options: Options of the import: reward, success, rename. None counts as not given.

    Raises:
        UnsupportedFormatError: No such format.
        InvalidOptionError: A revision is given for files on this machine.
        DatasetNotFoundError: No such files, or no such repository.
        HubUnreachableError, HubAccessDeniedError: The Hub does not answer or denies access, and the store has no
            version of that repository.
        SchemaMismatchError: The files are damaged or of another format; the message has the address.
    """
    from rlhive.data.formats import get_format

    kind = get_format(address.kind).name
    options = {name: value for name, value in options.items() if value is not None}
    if address.path is not None:
        if revision is not None:
            msg = f"revision={revision!r}: expected none for {address.path}, which is no repository on the Hub."
            raise InvalidOptionError(msg)
        source, state = address.path, _hash_file_times(address.path)
        name = _name_dataset(kind, address.path.name, [str(address.path)], options)
        return _find_imported(name, state, store) or _import(kind, source, name, state, str(source), options, store)
    return _open_from_hub(kind, address.place, revision, options, store)


def _open_from_hub(kind: str, place: str, revision: str | None, options: Mapping[str, Any], store: Path | None) -> Path:
    from rlhive.data.formats import get_hub_tag

    get_hub_tag(kind)  # refuses a format whose datasets are not found on the Hub
    repo_id = "/".join(parse_name(place))
    name = _name_dataset(kind, place.rpartition("/")[2], ["hub", repo_id], options)
    try:
        commit = hub.resolve_revision(repo_id, revision or "main")
    except HubUnreachableError:
        newest = find_stored_version(name, store=store)
        if revision is not None or newest is None:
            raise
        logger.warning("%s: the Hub cannot be reached: the newest import in the store is opened: %s", place, newest)
        return newest
    folder = _find_imported(name, commit, store)
    if folder is None:
        source = hub.fetch_foreign_files(repo_id, commit, _HUB_FOLDERS)
        folder = _import(kind, source, name, commit, f"{repo_id}@{commit}", options, store)
    return folder


def _import(
    kind: str, source: Path, name: str, state: str, origin: str, options: Mapping[str, Any], store: Path | None
) -> Path:
    from rlhive.data import write_atomically
    from rlhive.data.formats import import_dataset

    logger.warning("%s:%s is imported into the store as %s", kind, origin, name)
    description = f"Imported by RLHive from {origin}."
    license = _read_license(source)
    folder = import_dataset(
        kind, source, name, license=license, description=description, store=store, link_videos=True, **options
    )
    note = json.dumps({"version": folder.name, "source": origin})
    write_atomically(_note_path(name, state, store), note.encode())
    return folder


def _find_imported(name: str, state: str, store: Path | None) -> Path | None:
    """Return the version that was made of a state; None if the store has none."""
    try:
        note = json.loads(_note_path(name, state, store).read_text(encoding="utf-8"))
        version = note["version"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return find_stored_version(name, version, store=store)


def _note_path(name: str, state: str, store: Path | None) -> Path:
    digest = hashlib.sha256(state.encode()).hexdigest()[:16]
    return (store or store_dir()) / name / f".source-{digest}.json"


def _name_dataset(kind: str, title: str, source: list[str], options: Mapping[str, Any]) -> str:
    """Return ``namespace/name`` of the dataset that holds the imports of a source with these options."""
    described = {name: _describe_value(value) for name, value in sorted(options.items())}
    digest = hashlib.sha256(json.dumps([kind, *source, described], sort_keys=True).encode()).hexdigest()[:8]
    plain = re.sub(r"[^A-Za-z0-9_]+", "_", title).strip("_")[:48] or "dataset"
    return f"{kind}/{plain}-{digest}"


def _hash_file_times(source: Path) -> str:
    """Return a hash of the paths, sizes and times of the files of a source.

    Raises:
        DatasetNotFoundError: There is no such file or folder.
    """
    if not source.exists():
        msg = f"{source}: expected a file or folder of another library's dataset, got none."
        raise DatasetNotFoundError(msg)
    files = sorted(source.rglob("*")) if source.is_dir() else [source]
    rows = [
        (file.relative_to(source).as_posix(), status.st_size, status.st_mtime_ns)
        for file in files
        if file.is_file()
        for status in [file.stat()]
    ]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _read_license(source: Path) -> str:
    """Return the licence in the front matter of a dataset's card, ``other`` where there is none."""
    card = source / "README.md"
    if not card.is_file() or card.stat().st_size > _MAX_CARD_BYTES:
        return "other"
    parts = card.read_text(encoding="utf-8", errors="replace").split("---\n")
    match = _LICENSE.search(parts[1]) if len(parts) > 2 and not parts[0] else None
    return match[1] if match else "other"


def _describe_value(value: Any, described: set[int] | None = None) -> Any:
    """Return a value of an option, or one that a function uses, as JSON that differs where the imports could.

    A function is described by its code and the values that it uses, an array or tensor by its numbers.

    Args:
        value: The value.
        described: Ids of the functions that are described already; a function may call itself.
    """
    described = set() if described is None else described
    if isinstance(value, Mapping):
        return {str(name): _describe_value(item, described) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [type(value).__name__, *(_describe_value(item, described) for item in value)]
    if isinstance(value, set | frozenset):
        return [type(value).__name__, *_sort_members(value)]
    if isinstance(value, MethodType):
        return [_describe_value(value.__self__, described), _describe_value(value.__func__, described)]
    if isinstance(value, FunctionType) and id(value) not in described:
        described.add(id(value))
        return _describe_function(value, described)
    if isinstance(value, ModuleType):
        return value.__name__
    if hasattr(value, "__qualname__"):  # a class, or a function that is not written in Python
        return f"{value.__module__}.{value.__qualname__}"
    if hasattr(value, "tolist"):  # their repr is shortened and rounded
        return [type(value).__name__, str(getattr(value, "dtype", "")), repr(value.tolist())]
    return value if isinstance(value, str) else repr(value)


def _describe_function(function: FunctionType, described: set[int]) -> list[Any]:
    """Return a function's code, defaults, closure and globals; functions of other modules are named only."""
    cells = [_describe_value(_read_cell(cell), described) for cell in function.__closure__ or ()]
    defaults = [_describe_value(item, described) for item in (function.__defaults__, function.__kwdefaults__)]
    values = {name: function.__globals__.get(name) for name in _list_names(function.__code__)}
    used = {
        name: f"{value.__module__}.{value.__qualname__}"
        if isinstance(value, FunctionType) and value.__module__ != function.__module__
        else _describe_value(value, described)
        for name, value in values.items()
    }
    return [_describe_code(function.__code__), cells, defaults, used]


def _read_cell(cell: CellType) -> Any:
    """Return what a cell of a closure holds; None for a name without a value yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _list_names(code: CodeType) -> list[str]:
    """Return the names of globals and attributes that a function and those inside of it use, sorted."""
    inner = (item for item in code.co_consts if isinstance(item, CodeType))
    return sorted({*code.co_names, *(name for item in inner for name in _list_names(item))})


def _describe_code(code: CodeType) -> list[Any]:
    return [code.co_code.hex(), [_describe_constant(item) for item in code.co_consts], list(code.co_names)]


def _describe_constant(constant: Any) -> Any:
    if isinstance(constant, CodeType):
        return _describe_code(constant)
    return _sort_members(constant) if isinstance(constant, frozenset) else repr(constant)


def _sort_members(values: Set[Any]) -> list[str]:
    """Return the members of a set as text, sorted: their order in it differs between processes."""
    return sorted(map(repr, values))
