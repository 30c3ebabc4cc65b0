"""TFRecord files and the tf.train.Example messages in them, without TensorFlow.

Checksums come from google-crc32c, messages from protobuf; the only module that imports these two packages::

    length uint64 | masked CRC-32C of length uint32 | content, length bytes | masked CRC-32C of content uint32 | …

Both checksums are compared: a damaged length is found before anything of that length is read.
"""

import functools
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from rlhive._extras import require_extra
from rlhive.errors import SchemaMismatchError

_HEAD, _TAIL = struct.Struct("<QI"), struct.Struct("<I")
_MISSING = "TFRecord files need {}: pip install 'rlhive[formats]'"


def read_tfrecords(path: Path) -> Iterator[bytes]:
    """Yield the contents of a TFRecord file, one at a time.

    Raises:
        SchemaMismatchError: The file is missing, ends inside a record, or a checksum differs; the message names the
            record and its first byte.
        MissingExtraError: google-crc32c is not installed.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            number = 0
            while file.tell() < size:
                yield _read_tfrecord(file, size, f"{path}, record {number} at byte {file.tell()}")
                number += 1
    except OSError as error:
        msg = f"{path}: expected a readable TFRecord file, got: {error}."
        raise SchemaMismatchError(msg) from error


def _read_tfrecord(file: BinaryIO, size: int, context: str) -> bytes:
    head = file.read(_HEAD.size)
    if len(head) == _HEAD.size:
        length, checksum = _HEAD.unpack(head)
        _require_checksum(head[:8], checksum, f"{context}, length")
        if file.tell() + length + _TAIL.size <= size:
            content = file.read(length)
            _require_checksum(content, _TAIL.unpack(file.read(_TAIL.size))[0], context)
            return content
    msg = f"{context}: expected a whole record, got the end of the file after {size} bytes."
    raise SchemaMismatchError(msg)


def _require_checksum(content: bytes, expected: int, context: str) -> None:
    actual = mask_checksum(_load_crc32c()(content))
    if actual != expected:
        msg = f"{context}: expected the checksum {expected:08x}, got {actual:08x}: damaged, or no TFRecord file."
        raise SchemaMismatchError(msg)


def mask_checksum(crc: int) -> int:
    """Return a checksum as the format stores it: rotated and shifted, for data that hold checksums themselves."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@functools.cache
def _load_crc32c() -> Callable[[bytes], int]:
    with require_extra(_MISSING.format("google-crc32c")):
        import google_crc32c
    return google_crc32c.value


class Example:
    """A parsed tf.train.Example: lists of numbers or bytes by name.

    Args:
        content: The serialised message.
        context: Address for messages.

    Raises:
        SchemaMismatchError: The content is no such message.
        MissingExtraError: protobuf is not installed.
    """

    def __init__(self, content: bytes, context: str):
        message_class, decode_error = build_example_class()
        try:
            self._features = message_class.FromString(content).features.feature
        except decode_error as error:
            msg = f"{context}: expected a tf.train.Example, got {len(content)} other bytes."
            raise SchemaMismatchError(msg) from error
        self.context = context

    def __contains__(self, name: str) -> bool:
        return name in self._features  # a look-up by index would add the name

    def names(self) -> Iterator[str]:
        """Yield the names of the lists."""
        yield from self._features

    def numbers(self, name: str) -> np.ndarray:
        """Return a list of numbers, float32 or int64 ``[N]``; a copy.

        Raises:
            SchemaMismatchError: No list has that name, or it holds bytes.
        """
        feature = self._find(name)
        kind = feature.WhichOneof("kind")
        if kind == "bytes_list":
            msg = f"{self.context}: expected {name} to hold numbers, got bytes. features.json belongs to other files."
            raise SchemaMismatchError(msg)
        if kind is None:  # an empty list of any kind
            return np.zeros(0, np.int64)
        return np.array(getattr(feature, kind).value, np.float32 if kind == "float_list" else np.int64)

    def texts(self, name: str) -> list[bytes]:
        """Return a list of bytes.

        Raises:
            SchemaMismatchError: No list has that name, or it holds numbers.
        """
        feature = self._find(name)
        if feature.WhichOneof("kind") not in ("bytes_list", None):
            msg = f"{self.context}: expected {name} to hold bytes, got numbers. features.json belongs to other files."
            raise SchemaMismatchError(msg)
        return list(feature.bytes_list.value)

    def _find(self, name: str) -> Any:
        if name not in self._features:
            msg = f"{self.context}: expected {name}, which features.json names, got none. drop={name!r} leaves it out."
            raise SchemaMismatchError(msg)
        return self._features[name]


@functools.cache
def build_example_class() -> tuple[Any, type[Exception]]:
    """Return the class of tf.train.Example, and the exception that it raises.

    The four messages of tensorflow/core/example/example.proto and feature.proto are described here, in a pool of their
    own, since no package except TensorFlow ships them.
    """
    with require_extra(_MISSING.format("protobuf")):
        from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory
    field_class = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="tensorflow", syntax="proto3")
    lists = {
        "bytes_list": field_class.TYPE_BYTES,
        "float_list": field_class.TYPE_FLOAT,
        "int64_list": field_class.TYPE_INT64,
    }
    feature = descriptor_pb2.DescriptorProto(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, (name, scalar) in enumerate(lists.items(), 1):
        title = name.title().replace("_", "")
        values = file.message_type.add(name=title)
        values.field.add(name="value", number=1, type=scalar, label=field_class.LABEL_REPEATED)
        feature.field.add(name=name, number=number, type_name=f".tensorflow.{title}", oneof_index=0, **_SINGLE)
    file.message_type.append(feature)
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry", options=descriptor_pb2.MessageOptions(map_entry=True))
    entry.field.add(name="key", number=1, type=field_class.TYPE_STRING, label=field_class.LABEL_OPTIONAL)
    entry.field.add(name="value", number=2, type_name=".tensorflow.Feature", **_SINGLE)
    features.field.add(
        name="feature",
        number=1,
        type=field_class.TYPE_MESSAGE,
        label=field_class.LABEL_REPEATED,
        type_name=".tensorflow.Features.FeatureEntry",
    )
    example = file.message_type.add(name="Example")
    example.field.add(name="features", number=1, type_name=".tensorflow.Features", **_SINGLE)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example")), message.DecodeError


#: Describes a field that holds one message: FieldDescriptorProto's TYPE_MESSAGE and LABEL_OPTIONAL.
_SINGLE = {"type": 11, "label": 1}
