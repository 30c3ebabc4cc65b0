"""TFRecord files and the tf.train.Example messages in them, without TensorFlow.

Checksums come from google-crc32c, messages from protobuf; the only room that knows these two packages::

    length uint64 | masked CRC-32C of length uint32 | content, length bytes | masked CRC-32C of content uint32 | …

Both sums are compared: a length that was damaged is found before anything is read by it.
"""

import functools
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rlhive.errors import MissingExtra, SchemaMismatch

_HEAD, _TAIL = struct.Struct("<QI"), struct.Struct("<I")
_MISSING = "TFRecord files need {}: pip install 'rlhive[formats]'"


def records(path: Path) -> Iterator[bytes]:
    """Yield the contents of a TFRecord file, one at a time.

    Raises:
        SchemaMismatch: The file is not there, ends inside a record, or a checksum is another; the message names the
            record and its first byte.
        MissingExtra: google-crc32c is not installed.
    """
    try:
        with path.open("rb") as file:
            size, number = os.fstat(file.fileno()).st_size, 0
            while (start := file.tell()) < size:
                yield _record(file, size, f"{path}, record {number} at byte {start}")
                number += 1
    except OSError as error:
        msg = f"{path}: expected a readable TFRecord file, got: {error}. Fetch it again."
        raise SchemaMismatch(msg) from error


def _record(file: Any, size: int, where: str) -> bytes:
    head = file.read(_HEAD.size)
    if len(head) == _HEAD.size:
        length, told = _HEAD.unpack(head)
        _require_sum(head[:8], told, f"{where}, length")
        if file.tell() + length + _TAIL.size <= size:
            content = file.read(length)
            _require_sum(content, _TAIL.unpack(file.read(_TAIL.size))[0], where)
            return content
    msg = f"{where}: expected a whole record, got the end of the file after {size} bytes. Fetch the file again."
    raise SchemaMismatch(msg)


def _require_sum(content: bytes, told: int, where: str) -> None:
    found = _masked(_crc32c(content))
    if found != told:
        msg = (
            f"{where}: expected the checksum {told:08x}, got {found:08x}. Fetch the file anew; it is no TFRecord else."
        )
        raise SchemaMismatch(msg)


def _masked(crc: int) -> int:
    """Return a checksum as the format stores it, so that one of data that hold their own checksum stays one."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@functools.cache
def _crc32c_function() -> Any:
    try:
        import google_crc32c
    except ImportError as error:
        raise MissingExtra(_MISSING.format("google-crc32c")) from error
    return google_crc32c.value


def _crc32c(content: bytes) -> int:
    return _crc32c_function()(content)


class Example:
    """A parsed tf.train.Example: lists of numbers or bytes by name.

    Args:
        content: The serialised message.
        where: Address for messages.

    Raises:
        SchemaMismatch: It is no such message.
        MissingExtra: protobuf is not installed.
    """

    def __init__(self, content: bytes, where: str):
        message, failure = _message()
        try:
            self._features = message.FromString(content).features.feature
        except failure as error:
            msg = f"{where}: expected a tf.train.Example, got {len(content)} bytes that are none. Fetch the file again."
            raise SchemaMismatch(msg) from error
        self.where = where

    def __contains__(self, name: str) -> bool:
        return name in self._features  # a plain look-up would add the name

    def numbers(self, name: str) -> np.ndarray:
        """Return a list of numbers, float32 or int64 ``[N]``; a copy.

        Raises:
            SchemaMismatch: There is no such name, or it holds bytes.
        """
        feature = self._feature(name)
        kind = feature.WhichOneof("kind")
        if kind == "bytes_list":
            msg = f"{self.where}: expected {name} to hold numbers, got bytes. features.json belongs to other files."
            raise SchemaMismatch(msg)
        if kind is None:  # an empty list of any kind
            return np.zeros(0, np.int64)
        return np.array(getattr(feature, kind).value, np.float32 if kind == "float_list" else np.int64)

    def texts(self, name: str) -> list[bytes]:
        """Return a list of bytes.

        Raises:
            SchemaMismatch: There is no such name, or it holds numbers.
        """
        feature = self._feature(name)
        if feature.WhichOneof("kind") not in ("bytes_list", None):
            msg = f"{self.where}: expected {name} to hold bytes, got numbers. features.json belongs to other files."
            raise SchemaMismatch(msg)
        return list(feature.bytes_list.value)

    def _feature(self, name: str) -> Any:
        if name not in self._features:
            msg = f"{self.where}: expected {name}, which features.json names, got none. Leave it out: drop={name!r}."
            raise SchemaMismatch(msg)
        return self._features[name]


@functools.cache
def _message() -> tuple[Any, type[Exception]]:
    """Return the class of tf.train.Example, and what it raises.

    Described here, in a pool of its own, since no package but TensorFlow's own ships the four messages as they are:
    tensorflow/core/example/example.proto and feature.proto.
    """
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory
    except ImportError as error:
        raise MissingExtra(_MISSING.format("protobuf")) from error
    kind = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="tensorflow", syntax="proto3")
    lists = {"bytes_list": kind.TYPE_BYTES, "float_list": kind.TYPE_FLOAT, "int64_list": kind.TYPE_INT64}
    feature = descriptor_pb2.DescriptorProto(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, (name, scalar) in enumerate(lists.items(), 1):
        title = name.title().replace("_", "")
        file.message_type.add(name=title).field.add(name="value", number=1, type=scalar, label=kind.LABEL_REPEATED)
        feature.field.add(name=name, number=number, type_name=f".tensorflow.{title}", oneof_index=0, **_SINGLE)
    file.message_type.append(feature)
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry", options=descriptor_pb2.MessageOptions(map_entry=True))
    entry.field.add(name="key", number=1, type=kind.TYPE_STRING, label=kind.LABEL_OPTIONAL)
    entry.field.add(name="value", number=2, type_name=".tensorflow.Feature", **_SINGLE)
    features.field.add(
        name="feature",
        number=1,
        type=kind.TYPE_MESSAGE,
        label=kind.LABEL_REPEATED,
        type_name=".tensorflow.Features.FeatureEntry",
    )
    example = file.message_type.add(name="Example")
    example.field.add(name="features", number=1, type_name=".tensorflow.Features", **_SINGLE)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example")), message.DecodeError


#: A field that is one message: FieldDescriptorProto's TYPE_MESSAGE and LABEL_OPTIONAL.
_SINGLE = {"type": 11, "label": 1}
