"""HDF5 files, opened or refused in a sentence."""

import hashlib
from pathlib import Path
from typing import Any

from rlhive.errors import MissingExtra, SchemaMismatch


def open_hdf5(file: Path) -> Any:
    """Open a file for reading; the caller closes it.

    Returns:
        An ``h5py.File``.

    Raises:
        MissingExtra: h5py is not installed.
        SchemaMismatch: There is no such file, or it is not readable as HDF5.
    """
    h5py = _h5py()
    try:
        return h5py.File(file, "r")
    except OSError as error:
        msg = f"{file}: expected a readable HDF5 file, got: {error}. Copy it again."
        raise SchemaMismatch(msg) from error


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def create_hdf5(file: Path) -> Any:
    """Open a new file for writing; the caller closes it.

    Raises:
        MissingExtra: h5py is not installed.
    """
    return _h5py().File(file, "w-", track_order=True)


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        msg = "HDF5 files need h5py: pip install 'rlhive[formats]'"
        raise MissingExtra(msg) from error
    return h5py
