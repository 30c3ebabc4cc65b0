"""The three storages of Minari: one episode as nested dictionaries of arrays."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from rlhive.data.formats._arrow_values import arrow_to_numpy
from rlhive.data.formats._foreign_arrow import read_foreign_arrow
from rlhive.data.formats._foreign_parquet import read_foreign_table
from rlhive.data.formats._hdf5 import open_hdf5
from rlhive.data.formats._source_files import list_source_files, require_source_file
from rlhive.errors import SchemaMismatchError

#: Arrays, or dictionaries of them by name.
Tree = Any

#: The file of the HDF5 storage.
HDF5_FILE = "main_data.hdf5"
#: Root of the columns of infos.
INFO = "info"

_PADDED = ("actions", "rewards", "terminations", "truncations")


def read_minari_episode(folder: Path, storage: str, episode: int) -> tuple[dict[str, Tree], dict[str, Any]]:
    """Read one episode; pictures stay encoded.

    Args:
        folder: The dataset's ``data`` folder.
        storage: "hdf5", "arrow" or "parquet".
        episode: Id of the episode.

    Returns:
        The arrays by Minari's names (observations, actions, …), and the episode's metadata.

    Raises:
        SchemaMismatchError: The storage is none of the three, or the file is damaged.
    """
    if storage == "hdf5":
        with open_hdf5(require_source_file(folder, folder / HDF5_FILE)) as h5:
            group = h5.group(f"episode_{episode}")
            group.require_bounded()
            return _read_group(group), _nest_attributes(dict(group.attrs))
    if storage not in ("arrow", "parquet"):
        msg = f"{folder}: expected a data_format of hdf5, arrow or parquet, got {storage!r}."
        raise SchemaMismatchError(msg)
    parts = list_source_files(folder, f"{episode}/part-*.{storage}")
    table = pa.concat_tables([_read_part(part) for part in parts]).combine_chunks()
    metadata = require_source_file(folder, folder / str(episode) / "metadata.json")
    attributes = json.loads(metadata.read_text(encoding="utf-8"))
    content = {name: _convert_array(table.column(name).combine_chunks()) for name in table.column_names}
    length = attributes["total_steps"]
    arrays = {name: _trim_padding(value, length) if name in _PADDED else value for name, value in content.items()}
    return arrays, attributes


def _read_part(path: Path) -> pa.Table:
    if path.suffix == ".parquet":
        return read_foreign_table(path)
    return read_foreign_arrow(path)


def _read_group(group: Any) -> dict[str, Tree]:
    return {
        name.removeprefix("_index_"): _read_group(item) if hasattr(item, "keys") else item[()]
        for name, item in group.items()
    }


def _convert_array(array: pa.Array, metadata: Mapping[bytes, bytes] | None = None) -> Tree:
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if pa.types.is_struct(array.type):
        parts = zip(array.type, array.flatten(), strict=True)
        return {field.name: _convert_array(part, field.metadata) for field, part in parts}
    values = arrow_to_numpy(array, context="Minari")
    if metadata and b"shape" in metadata and values.ndim == 2:
        # Only infos carry their shape; that of observations and actions is in their space.
        return values.reshape(len(values), *(int(size) for size in metadata[b"shape"].split(b",") if size))
    return values


def _trim_padding(tree: Tree, length: int) -> Tree:
    if isinstance(tree, dict):
        return {name: _trim_padding(value, length) for name, value in tree.items()}
    return tree[:length]


def _nest_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of an HDF5 group with names such as ``options/level`` as nested dictionaries."""
    nested: dict[str, Any] = {}
    for name, value in attributes.items():
        *parents, last = name.split("/")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value.tolist() if hasattr(value, "tolist") else value
    return nested
