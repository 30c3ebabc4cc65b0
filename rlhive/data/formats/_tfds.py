"""A folder that TensorFlow Datasets wrote → records of named arrays, without TensorFlow and without its code.

::

    dataset_info.json                       name, fileFormat, splits with the number of records of each shard
    features.json                           a tree of features: dictionaries, sequences, tensors, pictures, texts
    <name>-<split>.tfrecord-00000-of-0000N  one tf.train.Example a record; or
    <name>-<split>.parquet-00000-of-0000N   the same messages in one binary column, "data"

    feature in the tree                in the message
    steps/observation/state            all rows one after the other, as float32 or int64; bool and small integers too
    a sequence in a sequence           …/ragged_flat_values and …/ragged_row_lengths_0
    a tensor with encoding=            bytes, one element a row; with several unknown sizes …/value and …/shape
    a picture                          PNG or JPEG, one element a row; float32 as four channels of 8 bits

features.json names Python classes, which TFDS imports; here the names only serve messages.
"""

import json
import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rlhive.data.formats._pictures import decoded
from rlhive.data.formats._tfrecord import Example, records
from rlhive.errors import SchemaMismatch

INFO, FEATURES = "dataset_info.json", "features.json"
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
#: What a feature is in a column: NumPy has no bfloat16, and a column no unsigned numbers but uint8; all of it exact.
_WIDENED = {"bfloat16": "float32", "uint16": "int32", "uint32": "int64"}
_TEXT = ("string", "str", "object")


@dataclass(frozen=True)
class Leaf:
    """One feature that holds values.

    Attributes:
        name: Its path in the tree, joined by "/".
        kind: "tensor", "picture", "text" or, where it cannot be read, the feature's class.
        dtype: As features.json names it; of what is stored.
        shape: Of one element; None where it is not known.
        encoding: Of a tensor "none", "bytes" or "zlib"; of a picture "png", "jpeg" or "".
        depth: Number of sequences around it.
    """

    name: str
    kind: str
    dtype: str
    shape: tuple[int | None, ...]
    encoding: str
    depth: int

    @property
    def path(self) -> tuple[str, ...]:
        """The keys that lead to it."""
        return tuple(self.name.split("/"))

    @property
    def column_dtype(self) -> str:
        """NumPy's name of the dtype that values are returned in; "object" for text."""
        return "object" if self.kind == "text" else _WIDENED.get(self.dtype, self.dtype)

    @property
    def is_rounded(self) -> bool:
        """Whether TFDS rounded float64 to float32 when it wrote the files."""
        return self.kind == "tensor" and self.dtype == "float64" and self.encoding == "none"


@dataclass(frozen=True)
class Shard:
    """One file: its split, its place, and the number of its records."""

    split: str
    path: Path
    num_records: int

    def records(self) -> Iterator[Example]:
        """Yield the parsed records, one at a time.

        Raises:
            SchemaMismatch: The file is damaged, or holds another number of records.
        """
        number = -1
        for number, content in enumerate(_contents(self.path)):
            yield Example(content, f"{self.path}, record {number}")
        if number + 1 != self.num_records:
            msg = (
                f"{self.path}: expected {self.num_records} records, as {INFO} says, got {number + 1}. "
                "Fetch the file again."
            )
            raise SchemaMismatch(msg)


class Folder:
    """A dataset that TFDS wrote.

    Args:
        source: The folder that holds dataset_info.json.

    Attributes:
        info: dataset_info.json.
        leaves: The features, by name.
        shards: The files, in order.

    Raises:
        SchemaMismatch: It is no such folder, a file of it is missing, or its file format is another.
    """

    def __init__(self, source: Path):
        self.root = source
        self.info = _json(source, INFO)
        tree = _json(source, FEATURES)
        try:
            self.leaves = {leaf.name: leaf for leaf in _leaves(tree, (), 0)}
            self.shards = tuple(_shards(source, self.info))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, SchemaMismatch):
                raise
            msg = (
                f"{source}: expected {INFO} and {FEATURES} as TFDS 4.6 and later write them, got something else "
                f"({error!r}). Let TFDS write them anew: tfds.builder_from_directory(…).info.write_to_directory(…)."
            )
            raise SchemaMismatch(msg) from error

    @property
    def file_format(self) -> str:
        """Either "tfrecord" or "parquet"."""
        return _format(self.info)

    @property
    def full_name(self) -> str:
        """Name, configuration and version as TFDS writes them, ``arm/closed:1.2.0`` for example."""
        parts = [self.info["name"], self.info.get("configName")]
        return "/".join(part for part in parts if part) + f":{self.info.get('version', '?')}"


def values(leaf: Leaf, example: Example) -> np.ndarray:
    """Return what a record holds of a feature that is in no sequence (depth 0) or in one (depth 1).

    Returns:
        ``[*shape]`` or ``[T, *shape]``, of ``leaf.column_dtype``; text as str objects. It owns its memory.

    Raises:
        SchemaMismatch: The record lacks it, or holds something else; the message names the record and the feature.
    """
    rows = _elements(leaf, leaf.name, example)
    if leaf.depth:
        return rows
    if len(rows) != 1:
        msg = f"{example.where}: expected one {leaf.name}, got {len(rows)}. features.json belongs to other files."
        raise SchemaMismatch(msg)
    return rows[0]


def ragged(leaf: Leaf, example: Example) -> tuple[np.ndarray, np.ndarray]:
    """Return what a record holds of a feature in two sequences: a sequence of its own at every step.

    Returns:
        All elements, ``[N, *shape]``, and how many belong to each step, int64 ``[T]``.

    Raises:
        SchemaMismatch: The record lacks it, or the lengths do not add up.
    """
    lengths = row_lengths(leaf, example)
    elements = _elements(leaf, f"{leaf.name}/ragged_flat_values", example)
    if len(elements) != lengths.sum():
        msg = f"{example.where}: expected {lengths.sum()} elements of {leaf.name}, got {len(elements)}. Fetch it again."
        raise SchemaMismatch(msg)
    return elements, lengths


def row_lengths(leaf: Leaf, example: Example) -> np.ndarray:
    """Return how many elements of a feature in two sequences each step has, int64 ``[T]``."""
    return example.numbers(f"{leaf.name}/ragged_row_lengths_0")


# --- the folder ---


def _json(source: Path, name: str) -> Any:
    path = source / name
    if not path.is_file():
        below = sorted(found.parent.relative_to(source).as_posix() for found in source.glob(f"**/{name}"))
        found = f"one below {', '.join(below[:5])}" if below else "none"
        msg = f"{source}: expected the folder of a TFDS version, with {name}, got {found}. Give that folder."
        raise SchemaMismatch(msg)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        msg = f"{path}: expected JSON, got: {error}. Fetch the file again."
        raise SchemaMismatch(msg) from error


def _format(info: Mapping[str, Any]) -> str:
    return info.get("fileFormat") or "tfrecord"


def _shards(root: Path, info: Mapping[str, Any]) -> Iterator[Shard]:
    kind = _format(info)
    if kind not in ("tfrecord", "parquet"):
        msg = f"{root}: expected files of the format tfrecord or parquet, got {kind}. Run: tfds convert_format."
        raise SchemaMismatch(msg)
    for split in info["splits"]:
        lengths = [int(length) for length in split["shardLengths"]]
        for index, length in enumerate(lengths):
            name = (split.get("filepathTemplate") or _TEMPLATE).format(
                DATASET=info["name"],
                SPLIT=split["name"],
                FILEFORMAT=kind,
                SHARD_INDEX=f"{index:05d}",
                NUM_SHARDS=f"{len(lengths):05d}",
                SHARD_X_OF_Y=f"{index:05d}-of-{len(lengths):05d}",
            )
            if Path(name).name != name or not (root / name).is_file():
                msg = f"{root}: expected the file {name}, which {INFO} names, got none there. Fetch it too."
                raise SchemaMismatch(msg)
            yield Shard(split["name"], root / name, length)


def _contents(path: Path) -> Iterator[bytes]:
    if ".parquet" not in path.name:
        yield from records(path)
        return
    try:
        with pq.ParquetFile(path, buffer_size=2**20, pre_buffer=False, page_checksum_verification=True) as file:
            for group in range(file.num_row_groups):  # all at once, their pages would be read ahead
                for batch in file.iter_batches(batch_size=1, row_groups=[group], columns=["data"]):
                    yield batch.column("data")[0].as_py()
    except (OSError, KeyError, pa.ArrowException) as error:
        said = " ".join(str(error).split())
        msg = f"{path}: expected Parquet with a column of records, got: {said}. Fetch the file again."
        raise SchemaMismatch(msg) from error


# --- the features ---


def _leaves(node: Mapping[str, Any], path: tuple[str, ...], depth: int) -> Iterator[Leaf]:
    """Yield the features of a tree as features.json has it: protobuf's JSON of TFDS's Feature message."""
    if "featuresDict" in node:
        for name, inner in node["featuresDict"].get("features", {}).items():
            yield from _leaves(inner, (*path, name), depth)
    elif "sequence" in node:
        yield from _leaves(node["sequence"]["feature"], path, depth + 1)
    else:
        yield _leaf(node, "/".join(path), depth)


def _leaf(node: Mapping[str, Any], name: str, depth: int) -> Leaf:
    kind = node["pythonClassName"].rpartition(".")[-1]
    if kind in ("Tensor", "Scalar") and "tensor" in node:
        tensor = node["tensor"]
        if tensor["dtype"] in _TEXT:
            return Leaf(name, "text", "string", _shape(tensor), "none", depth)
        return Leaf(name, "tensor", tensor["dtype"], _shape(tensor), tensor.get("encoding") or "none", depth)
    if kind == "Text":
        return Leaf(name, "text", "string", (), "none", depth)
    if kind == "ClassLabel":
        return Leaf(name, "tensor", "int64", (), "none", depth)
    if kind == "BBoxFeature":
        return Leaf(name, "tensor", "float32", (4,), "none", depth)
    if kind == "Image" and "image" in node:
        image = node["image"]
        dtype, encoding = image.get("dtype") or "uint8", image.get("encodingFormat") or ""
        return Leaf(name, "picture", dtype, _shape(image), encoding, depth)
    return Leaf(name, kind, "", (), "none", depth)


def _shape(node: Mapping[str, Any]) -> tuple[int | None, ...]:
    sizes = (int(size) for size in node.get("shape", {}).get("dimensions", ()))
    return tuple(None if size < 0 else size for size in sizes)


# --- the values ---


def _elements(leaf: Leaf, name: str, example: Example) -> np.ndarray:
    """Return the elements of a feature, ``[N, *shape]``."""
    try:
        if leaf.kind == "picture":
            return _stack([_picture(leaf, content, example.where) for content in example.texts(name)], leaf)
        if leaf.kind == "text":
            texts = [content.decode() for content in example.texts(name)]
            return np.array(texts, object).reshape(-1, *leaf.shape)
        if leaf.encoding == "none":
            return _plain(leaf, example.numbers(name))
        return _packed(leaf, name, example)
    except (ValueError, OSError, zlib.error) as error:
        if isinstance(error, SchemaMismatch):
            raise
        msg = (
            f"{example.where}: {leaf.name}: expected {leaf.dtype} {_said(leaf.shape)}, got: {error}. "
            f"Fetch the file again, or leave it out: drop={leaf.name!r}."
        )
        raise SchemaMismatch(msg) from error


def _plain(leaf: Leaf, flat: np.ndarray) -> np.ndarray:
    dtype = np.dtype(leaf.column_dtype)
    if None in leaf.shape:
        msg = "a size that features.json does not tell"
        raise ValueError(msg)
    rows = flat.astype(dtype).reshape(-1, *leaf.shape)
    if len(flat) and (flat.dtype.kind == "f") != (dtype.kind == "f"):
        msg = f"numbers stored as {flat.dtype}"
        raise ValueError(msg)
    if dtype.kind != "f" and not np.array_equal(rows.ravel(), flat):
        msg = f"numbers from {flat.min()} to {flat.max()}"
        raise ValueError(msg)
    return rows


def _packed(leaf: Leaf, name: str, example: Example) -> np.ndarray:
    """Return tensors that are stored as bytes, each with a shape of its own where it has several unknown sizes."""
    unknown = leaf.shape.count(None)
    contents = example.texts(f"{name}/value" if unknown > 1 else name)
    shapes = [[-1 if size is None else size for size in leaf.shape]] * len(contents)
    if unknown > 1:
        shapes = example.numbers(f"{name}/shape").reshape(len(contents), len(leaf.shape)).tolist()
    dtype = np.dtype(leaf.dtype).newbyteorder("<")
    rows = []
    for content, shape in zip(contents, shapes, strict=True):
        raw = content
        if leaf.encoding == "zlib":  # never more than the shape promises, whatever the content would unpack to
            limit = 0 if -1 in shape else math.prod(shape) * dtype.itemsize + 1
            raw = zlib.decompressobj().decompress(content, limit)
        rows.append(np.frombuffer(raw, dtype).reshape(shape).astype(leaf.column_dtype))
    return _stack(rows, leaf)


def _picture(leaf: Leaf, content: bytes, where: str) -> np.ndarray:
    picture = decoded(content, where=f"{where}: {leaf.name}")
    if leaf.dtype == "float32":
        picture = np.ascontiguousarray(picture).view("<f4")
    elif picture.dtype != leaf.dtype:
        msg = f"a picture of {picture.dtype}"
        raise ValueError(msg)
    picture = picture.reshape(*picture.shape[:2], -1)
    told = leaf.shape or picture.shape
    if len(told) != 3 or any(size not in (None, found) for size, found in zip(told, picture.shape, strict=True)):
        msg = f"a picture of {picture.shape}"
        raise ValueError(msg)
    return picture.astype(leaf.column_dtype, copy=False)


def _stack(rows: list[np.ndarray], leaf: Leaf) -> np.ndarray:
    """Return rows as one array; they must have one shape."""
    if rows:
        return np.stack(rows)
    return np.zeros((0, *(size or 0 for size in leaf.shape)), leaf.column_dtype)


def _said(shape: tuple[int | None, ...]) -> str:
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"
