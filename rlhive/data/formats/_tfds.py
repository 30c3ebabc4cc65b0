"""A folder that TensorFlow Datasets wrote: its features and files, without TensorFlow and without TFDS's code.

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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhive.data.formats._foreign_parquet import read_foreign_batches
from rlhive.data.formats._source_files import expand_path_template, require_source_file
from rlhive.data.formats._tfrecord import Example, read_tfrecords
from rlhive.errors import CorruptDatasetError, SchemaMismatchError

INFO_FILE, FEATURES_FILE = "dataset_info.json", "features.json"
_FILE_NAME = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
#: Dtypes of columns that are wider than those of the files. Every value is represented exactly.
_WIDENED = {"bfloat16": "float32", "uint64": "int64"}
_TEXT = ("string", "str", "object")


@dataclass(frozen=True)
class Feature:
    """One feature that holds values.

    Attributes:
        name: Path in the tree, joined by "/".
        kind: "tensor", "picture" or "text"; the Python class of a feature that cannot be read.
        dtype: Dtype of the stored values, by features.json's name.
        shape: Shape of one element; None for an unknown size.
        encoding: "none", "bytes" or "zlib" of a tensor; "png", "jpeg" or "" of a picture.
        depth: Number of sequences around the feature.
    """

    name: str
    kind: str
    dtype: str
    shape: tuple[int | None, ...]
    encoding: str
    depth: int

    @property
    def path(self) -> tuple[str, ...]:
        """The keys of the tree that lead to the feature."""
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
class TfdsShard:
    """One file of a split.

    Attributes:
        split: Name of the split.
        path: Path of the file.
        num_records: Number of records that dataset_info.json promises.
    """

    split: str
    path: Path
    num_records: int

    def read_examples(self) -> Iterator[Example]:
        """Yield the parsed records, one at a time.

        Raises:
            SchemaMismatchError: The file is damaged, or holds another number of records.
        """
        count = 0
        for content in _read_contents(self.path):
            yield Example(content, f"{self.path}, record {count}")
            count += 1
        if count != self.num_records:
            msg = f"{self.path}: expected {self.num_records} records, as {INFO_FILE} says, got {count}."
            raise SchemaMismatchError(msg)


class TfdsFolder:
    """A dataset that TFDS wrote.

    Args:
        root: The folder that holds dataset_info.json.

    Attributes:
        root: The folder.
        info: Content of dataset_info.json.
        features: The features by name.
        shards: The files, in order.

    Raises:
        SchemaMismatchError: The folder holds no such dataset, a file is missing, or the file format cannot be read.
    """

    def __init__(self, root: Path):
        self.root = root
        self.info = _read_json(root, INFO_FILE)
        tree = _read_json(root, FEATURES_FILE)
        try:
            self.features = {feature.name: feature for feature in _list_features(tree, (), 0)}
            self.shards = tuple(_list_tfds_shards(root, self.info))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, SchemaMismatchError):
                raise
            msg = (
                f"{root}: expected {INFO_FILE} and {FEATURES_FILE} as TFDS 4.6 and later write them, got something "
                f"else ({error!r}). TFDS rewrites them: tfds.builder_from_directory(…).info.write_to_directory(…)."
            )
            raise SchemaMismatchError(msg) from error

    @property
    def file_format(self) -> str:
        """Either "tfrecord" or "parquet"."""
        return _get_file_format(self.info)

    @property
    def full_name(self) -> str:
        """Name, configuration and version as TFDS writes them, ``arm/closed:1.2.0`` for example."""
        parts = [self.info["name"], self.info.get("configName")]
        return "/".join(part for part in parts if part) + f":{self.info.get('version', '?')}"


def _read_json(root: Path, name: str) -> Any:
    path = root / name
    if not path.is_file():
        below = sorted(match.parent.relative_to(root).as_posix() for match in root.glob(f"**/{name}"))
        nested = f"one below {', '.join(below[:5])}" if below else "none"
        msg = f"{root}: expected the folder of a TFDS version, with {name}, got {nested}."
        raise SchemaMismatchError(msg)
    require_source_file(root, path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        msg = f"{path}: expected JSON, got: {error}."
        raise SchemaMismatchError(msg) from error


def _get_file_format(info: Mapping[str, Any]) -> str:
    return info.get("fileFormat") or "tfrecord"


def _list_tfds_shards(root: Path, info: Mapping[str, Any]) -> Iterator[TfdsShard]:
    file_format = _get_file_format(info)
    if file_format not in ("tfrecord", "parquet"):
        msg = f"{root}: expected files of the format tfrecord or parquet, got {file_format}. Run: tfds convert_format."
        raise SchemaMismatchError(msg)
    for split in info["splits"]:
        lengths = [int(length) for length in split["shardLengths"]]
        for index, length in enumerate(lengths):
            values = {
                "DATASET": info["name"],
                "SPLIT": split["name"],
                "FILEFORMAT": file_format,
                "SHARD_INDEX": f"{index:05d}",
                "NUM_SHARDS": f"{len(lengths):05d}",
                "SHARD_X_OF_Y": f"{index:05d}-of-{len(lengths):05d}",
            }
            template = split.get("filepathTemplate") or _FILE_NAME
            path = expand_path_template(root, template, values, context=f"{root}, {INFO_FILE}, filepathTemplate")
            if path.parent != root or not path.exists():
                msg = f"{root}: expected the file {path.name}, which {INFO_FILE} names, got no such file."
                raise SchemaMismatchError(msg)
            yield TfdsShard(split["name"], require_source_file(root, path), length)


def _read_contents(path: Path) -> Iterator[bytes]:
    """Yield the serialised records of a TFRecord or Parquet file."""
    if ".parquet" not in path.name:
        yield from read_tfrecords(path)
        return
    try:
        for batch in read_foreign_batches([path], ["data"]):
            for content in batch.column("data"):
                yield content.as_py()
    except (CorruptDatasetError, KeyError) as error:
        msg = f"{path}: expected Parquet with a column of records, got: {error}."
        raise SchemaMismatchError(msg) from error


def _list_features(node: Mapping[str, Any], path: tuple[str, ...], depth: int) -> Iterator[Feature]:
    """Yield the features of features.json: protobuf's JSON of TFDS's Feature message."""
    if "featuresDict" in node:
        for name, inner in node["featuresDict"].get("features", {}).items():
            yield from _list_features(inner, (*path, name), depth)
    elif "sequence" in node:
        yield from _list_features(node["sequence"]["feature"], path, depth + 1)
    else:
        yield _parse_feature(node, "/".join(path), depth)


def _parse_feature(node: Mapping[str, Any], name: str, depth: int) -> Feature:
    class_name = node["pythonClassName"].rpartition(".")[-1]
    if class_name in ("Tensor", "Scalar") and "tensor" in node:
        tensor = node["tensor"]
        if tensor["dtype"] in _TEXT:
            return Feature(name, "text", "string", _parse_shape(tensor), "none", depth)
        encoding = tensor.get("encoding") or "none"
        return Feature(name, "tensor", tensor["dtype"], _parse_shape(tensor), encoding, depth)
    if class_name == "Text":
        return Feature(name, "text", "string", (), "none", depth)
    if class_name == "ClassLabel":
        return Feature(name, "tensor", "int64", (), "none", depth)
    if class_name == "BBoxFeature":
        return Feature(name, "tensor", "float32", (4,), "none", depth)
    if class_name == "Image" and "image" in node:
        image = node["image"]
        dtype, encoding = image.get("dtype") or "uint8", image.get("encodingFormat") or ""
        return Feature(name, "picture", dtype, _parse_shape(image), encoding, depth)
    return Feature(name, class_name, "", (), "none", depth)


def _parse_shape(node: Mapping[str, Any]) -> tuple[int | None, ...]:
    sizes = (int(size) for size in node.get("shape", {}).get("dimensions", ()))
    return tuple(None if size < 0 else size for size in sizes)
