"""Paths inside a source folder: a foreign file, link or template must not lead to other files of this machine."""

import re
import string
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from rlhive.errors import SchemaMismatchError

#: A number's width, zero-padded or not, as in ``{episode_index:06d}``.
_FORMAT_SPEC = re.compile(r"0?[0-9]{0,2}d?")


def require_source_file(root: Path, path: Path) -> Path:
    """Return a path below a source folder, after checking that it is a regular file inside that folder.

    Symbolic links may stay inside the folder. A snapshot of the Hugging Face cache may link to the cache's own blobs.

    Args:
        root: The source folder.
        path: A path that begins with it.

    Raises:
        SchemaMismatchError: There is no such file, or a link leads out of the folder; the message names its target.
    """
    target = path.resolve()
    if not any(target.is_relative_to(folder) for folder in _list_allowed_folders(root)):
        msg = (
            f"{path}: expected a file inside {root}, got a link to {str(target)!r}. Only what the folder itself holds "
            "is read; copy the file into it."
        )
        raise SchemaMismatchError(msg)
    if not target.is_file():
        actual = "a file of another kind" if target.exists() else "none"
        msg = f"{path}: expected a file, got {actual}."
        raise SchemaMismatchError(msg)
    return path


def list_source_files(root: Path, pattern: str) -> list[Path]:
    """Return the files below a source folder that match a pattern, in the order of their relative paths.

    Raises:
        SchemaMismatchError: As :func:`require_source_file`, for any of them.
    """
    paths = sorted(root.glob(pattern), key=lambda path: path.relative_to(root).as_posix())
    return [require_source_file(root, path) for path in paths]


def _list_allowed_folders(root: Path) -> Iterator[Path]:
    folder = root.resolve()
    yield folder
    if folder.parent.name == "snapshots":  # <repository>/snapshots/<revision>/… are links to <repository>/blobs/…
        blobs = folder.parent.parent / "blobs"
        if not blobs.is_symlink():
            yield blobs


def expand_path_template(root: Path, template: Any, values: Mapping[str, str | int], *, context: str) -> Path:
    """Return the path that a foreign template such as ``videos/{video_key}/file-{file_index:03d}.mp4`` gives.

    Fields are plain names, numbers may have a width of two digits; the language of ``str.format``, which reads
    attributes of objects, is not available to the template.

    Args:
        root: The source folder.
        template: Path relative to the folder.
        values: The value of each field.
        context: Address for messages, the file that holds the template and the template's name in it.

    Raises:
        SchemaMismatchError: The template has other fields, or the path is absolute or climbs out of the folder.
    """
    if not isinstance(template, str):
        msg = f"{context}: expected a template of a path, got {type(template).__name__}."
        raise SchemaMismatchError(msg)
    try:
        text = "".join(_expand_parts(template, values))
    except ValueError as error:
        msg = f"{context}: expected a path with the fields {', '.join(values)}, got {template[:200]!r}: {error}."
        raise SchemaMismatchError(msg) from error
    if not _is_plain_path(text):
        msg = f"{context}: expected a path inside {root}, got {text[:200]!r}, which is absolute or leaves the folder."
        raise SchemaMismatchError(msg)
    return root / text


def _expand_parts(template: Any, values: Mapping[str, str | int]) -> Iterator[str]:
    for literal, field, spec, conversion in string.Formatter().parse(template):
        yield literal
        if field is None:
            continue
        if field not in values or conversion or not _FORMAT_SPEC.fullmatch(spec or ""):
            msg = f"{{{field}{'!' + conversion if conversion else ''}{':' + spec if spec else ''}}} is not one of them"
            raise ValueError(msg)
        yield format(values[field], spec or "")


def _is_plain_path(text: str) -> bool:
    """Return whether a text is a relative path without a step up, a backslash or control characters."""
    parts = PurePosixPath(text).parts
    is_plain = bool(parts) and text.isprintable() and "\\" not in text
    return is_plain and not text.startswith("/") and ".." not in parts
