"""Zip archives of anyone: opened and read with RLHive's errors, and without members that unpack without bound."""

import zipfile
import zlib
from pathlib import Path

from rlhive.errors import SchemaMismatchError

#: What zipfile raises for an archive that is damaged or made to harm.
ZIP_DAMAGE = (
    zipfile.BadZipFile,  # no archive, or a wrong header or checksum
    zlib.error,  # deflated content that is damaged
    EOFError,  # a member that ends early
    OSError,  # an offset outside of the file
    ValueError,  # a negative offset, or a name that is no UTF-8
    RuntimeError,  # encryption; NotImplementedError, its subclass: another version or feature of the format
)
#: Compressions whose output is read piece by piece; zipfile unpacks the others without a bound.
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def open_zip(file: Path, expected: str) -> zipfile.ZipFile:
    """Open an archive for reading; the caller closes it, or uses it as a context manager.

    Args:
        file: The archive.
        expected: What the file should be, for messages.

    Raises:
        SchemaMismatchError: It is no zip archive, or is damaged.
    """
    try:
        return zipfile.ZipFile(file)
    except ZIP_DAMAGE as error:
        msg = f"{file}: expected {expected}, got: {error}."
        raise SchemaMismatchError(msg) from error


def require_compression(info: zipfile.ZipInfo, context: str) -> None:
    """Check that a member is stored or deflated.

    Raises:
        SchemaMismatchError: It is compressed in another way.
    """
    if info.compress_type not in _COMPRESSIONS:
        msg = f"{context}: expected a member that is stored or deflated, got compression {info.compress_type}."
        raise SchemaMismatchError(msg)


def read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Return the content of a member, which is no longer than its entry says.

    Raises:
        SchemaMismatchError: It is neither stored nor deflated, or is damaged.
    """
    context = f"{archive.filename}, {info.filename}"
    require_compression(info, context)
    try:
        with archive.open(info) as file:
            return file.read(info.file_size)
    except ZIP_DAMAGE as error:
        msg = f"{context}: expected a readable member of the archive, got: {error}."
        raise SchemaMismatchError(msg) from error
