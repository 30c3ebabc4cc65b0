"""HDF5 files: opened for reading or writing, with errors of one sentence."""

from pathlib import Path
from types import ModuleType
from typing import Any

from rlhive.errors import MissingExtraError, SchemaMismatchError


def open_hdf5(file: Path) -> Any:
    """Open a file for reading; the caller closes it.

    Returns:
        An ``h5py.File``.

    Raises:
        MissingExtraError: h5py is not installed.
        SchemaMismatchError: The file does not exist or is not readable as HDF5.
    """
    h5py = _import_h5py()
    try:
        return h5py.File(file, "r")
    except OSError as error:
        msg = f"{file}: expected a readable HDF5 file, got: {error}."
        raise SchemaMismatchError(msg) from error


def create_hdf5(file: Path) -> Any:
    """Open a new file for writing; the caller closes it.

    Returns:
        An ``h5py.File``.

    Raises:
        MissingExtraError: h5py is not installed.
    """
    return _import_h5py().File(file, "w-", track_order=True)


def _import_h5py() -> ModuleType:
    try:
        import h5py
    except ImportError as error:
        msg = "HDF5 files need h5py: pip install 'rlhive[formats]'"
        raise MissingExtraError(msg) from error
    return h5py
