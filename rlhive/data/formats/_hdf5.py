"""HDF5 files of anyone, opened for reading. The only module that imports h5py.

A file can name other files of the machine: by external links, virtual datasets and external storage. Groups and
datasets are therefore reached only through :class:`Hdf5Group` and :class:`Hdf5Dataset`, which look at every link and
every dataset before HDF5 follows it, and at the size of what is read before it is read.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Self

from rlhive._extras import require_extra
from rlhive.data.formats._hdf5_dataset import Hdf5Dataset, refuse_reference
from rlhive.data.formats._memory_limits import MemoryBudget, require_memory
from rlhive.errors import SchemaMismatchError

#: Soft links that may lead to one another.
_MAX_LINKS = 16
#: Groups that may lie in one another.
_MAX_DEPTH = 32
#: Datasets whose checks are remembered; each keeps some 10 kB in HDF5.
_CACHED_DATASETS = 64
#: Memory of an object of the file besides its data, for the sum over a group.
_OBJECT_BYTES = 1024


def open_hdf5(file: Path) -> "Hdf5File":
    """Open a file for reading; the caller closes it, or uses it as a context manager.

    Raises:
        MissingExtraError: h5py is not installed.
        SchemaMismatchError: The file does not exist or is not readable as HDF5.
    """
    h5py = import_h5py()
    if file.exists() and not file.is_file():  # a named pipe would block for ever
        msg = f"{file}: expected a readable HDF5 file, got no regular file."
        raise SchemaMismatchError(msg)
    try:
        return Hdf5File(h5py.File(file, "r"), file)
    except OSError as error:
        msg = f"{file}: expected a readable HDF5 file, got: {error}."
        raise SchemaMismatchError(msg) from error


def import_h5py() -> ModuleType:
    """Return the module h5py.

    Raises:
        MissingExtraError: It is not installed.
    """
    with require_extra("HDF5 files need h5py: pip install 'rlhive[formats]'"):
        import h5py
    return h5py


class Hdf5Group(Mapping[str, Any]):
    """A group: the groups and datasets in it by name or path, as in h5py.

    A soft link is followed inside the file. Iteration yields all names; an entry that lies in another file is refused
    when it is looked up, also by ``in``.

    Args:
        h5: The ``h5py.Group``.
        root: The file; None for the file itself.
    """

    def __init__(self, h5: Any, root: "Hdf5File | None" = None):
        self._h5 = h5
        self._root = root

    @property
    def file(self) -> "Hdf5File":
        """The file that holds the group."""
        assert self._root is not None
        return self._root

    @property
    def name(self) -> str:
        """Path of the group in the file."""
        return str(self._h5.name)

    @property
    def context(self) -> str:
        """Address for messages."""
        return f"{self.file.path}, {self.name}"

    @property
    def attrs(self) -> dict[str, Any]:
        """The attributes by name.

        Raises:
            SchemaMismatchError: An attribute would take more memory than the file accounts for.
        """
        return {name: self._read_attribute(name) for name in self._h5.attrs}

    def __iter__(self) -> Iterator[str]:
        return iter(self._h5)

    def __len__(self) -> int:
        return len(self._h5)

    def __getitem__(self, path: str) -> "Hdf5Group | Hdf5Dataset":
        """Return a group or dataset.

        Raises:
            KeyError: There is none of that name.
            SchemaMismatchError: It lies in another file.
        """
        return self._find(path, 0)

    def group(self, path: str) -> "Hdf5Group":
        """Return a group.

        Raises:
            KeyError: There is nothing of that name.
            SchemaMismatchError: It is a dataset, or lies in another file.
        """
        item = self[path]
        if not isinstance(item, Hdf5Group):
            msg = f"{item.context}: expected a group, got a dataset."
            raise SchemaMismatchError(msg)
        return item

    def __contains__(self, path: object) -> bool:
        try:
            self[str(path)]
        except KeyError:
            return False
        return True

    def visititems(self, visit: Callable[[str, "Hdf5Group | Hdf5Dataset"], Any]) -> None:
        """Call a function with the relative path and the object of everything below the group."""
        for path, item in self.walk():
            visit(path, item)

    def walk(self) -> Iterator[tuple[str, "Hdf5Group | Hdf5Dataset"]]:
        """Yield the relative path and the object of everything below the group.

        Raises:
            SchemaMismatchError: The group has more entries or levels than a file can hold without links in circles.
        """
        budget = MemoryBudget(self.context)
        pending: list[tuple[str, Hdf5Group]] = [("", self)]
        while pending:
            prefix, group = pending.pop()
            for name in group:
                budget.add(_OBJECT_BYTES, 0)
                item = group.get(name)
                if item is None:  # a soft link to nothing
                    continue
                yield f"{prefix}{name}", item
                if isinstance(item, Hdf5Group):
                    if prefix.count("/") >= _MAX_DEPTH:
                        msg = f"{self.context}: expected at most {_MAX_DEPTH} groups in one another, got more."
                        raise SchemaMismatchError(msg)
                    pending.append((f"{prefix}{name}/", item))

    def find_datasets(self) -> dict[str, "Hdf5Dataset"]:
        """Return every dataset below the group by its relative path."""
        return {path: item for path, item in self.walk() if isinstance(item, Hdf5Dataset)}

    def require_bounded(self) -> None:
        """Check the size of all data below the group before they are read.

        Raises:
            SchemaMismatchError: They would take more memory than the file accounts for.
        """
        budget, stored = MemoryBudget(self.context), 0
        for _, item in self.walk():
            if isinstance(item, Hdf5Dataset):
                available = self.file.num_bytes - stored
                budget.add(item.num_bytes, min(item.stored_bytes, available))
                stored += min(item.stored_bytes, available)

    def _find(self, path: str, num_links: int) -> "Hdf5Group | Hdf5Dataset":
        item: Hdf5Group | Hdf5Dataset = self.file if path.startswith("/") else self
        for name in path.split("/"):
            if name in ("", "."):
                continue
            if not isinstance(item, Hdf5Group):
                raise KeyError(path)
            item = item._follow(name, num_links)
        return item

    def _follow(self, name: str, num_links: int) -> "Hdf5Group | Hdf5Dataset":
        """Return the object of one link, which HDF5 opens only if it is a hard link."""
        h5l = import_h5py().h5l
        links, key = self._h5.id.links, name.encode("utf-8", "surrogateescape")
        if not links.exists(key):
            raise KeyError(name)
        kind = links.get_info(key).type
        if kind == h5l.TYPE_HARD:
            return self.file.wrap(self._h5[name])
        if kind == h5l.TYPE_SOFT:
            if num_links >= _MAX_LINKS:
                msg = f"{self.context}: expected an object at {name!r}, got more than {_MAX_LINKS} links in a row."
                raise SchemaMismatchError(msg)
            return self._find(links.get_val(key).decode("utf-8", "surrogateescape"), num_links + 1)
        target = ""
        if kind == h5l.TYPE_EXTERNAL:
            file, inner = (part.decode("utf-8", "replace") for part in links.get_val(key))
            target = f" to {inner!r} in {file!r}"
        address = f"{self.context}, {name!r}"
        raise refuse_reference(address, f"an external link{target}")

    def _read_attribute(self, name: str) -> Any:
        attribute = self._h5.attrs.get_id(name)
        size, context = math.prod(attribute.shape), f"{self.context}, attribute {name!r}"
        if attribute.dtype.hasobject:  # each element may be any text of the file, all of them the same one
            require_memory(size * self.file.num_bytes, self.file.num_bytes, context, expansion=1)
        else:
            require_memory(size * attribute.dtype.itemsize, self.file.num_bytes, context)
        return self._h5.attrs[name]


class Hdf5File(Hdf5Group):
    """An open file, and its root group.

    Args:
        h5: The ``h5py.File``.
        path: Its path.

    Attributes:
        path: Its path.
        num_bytes: Its size.
    """

    def __init__(self, h5: Any, path: Path):
        super().__init__(h5)
        self.path = path
        self.num_bytes = path.stat().st_size
        self._datasets: dict[Any, Hdf5Dataset] = {}
        self._source_names: list[str] = []  # of the virtual datasets that are being checked

    @property
    def file(self) -> "Hdf5File":
        """The file itself."""
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._datasets.clear()  # they refer to the file: the circle would stay until Python collects garbage
        self._h5.close()

    def wrap(self, item: Any) -> "Hdf5Group | Hdf5Dataset":
        """Return the wrapper of an h5py object.

        Raises:
            SchemaMismatchError: The object is neither group nor dataset, or its values lie in another file.
        """
        h5py = import_h5py()
        if isinstance(item, h5py.Group):
            return Hdf5Group(item, self)
        if not isinstance(item, h5py.Dataset):
            msg = f"{self.path}, {item.name}: expected a group or a dataset, got a {type(item).__name__}."
            raise SchemaMismatchError(msg)
        if item.id not in self._datasets:  # a dataset is checked once, also if it is read in many pieces
            if len(self._datasets) >= _CACHED_DATASETS:
                del self._datasets[next(iter(self._datasets))]
            self._datasets[item.id] = Hdf5Dataset(item, self)
        return self._datasets[item.id]

    def find_source(self, name: str) -> "Hdf5Dataset | None":
        """Return a dataset that a virtual one is composed of; None if it is none, or is composed of itself."""
        if name in self._source_names:
            return None
        self._source_names.append(name)
        item = self.get(name)
        self._source_names.pop()
        return item if isinstance(item, Hdf5Dataset) else None
