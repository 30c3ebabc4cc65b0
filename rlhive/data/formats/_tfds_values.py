"""The values of one feature in one record of a TFDS dataset."""

import math
import zlib
from collections.abc import Iterator

import numpy as np

from rlhive.data._dtypes import cast_array, to_numpy_dtype
from rlhive.data.formats._column_values import to_text
from rlhive.data.formats._memory_limits import FREE_BYTES, PICTURE_EXPANSION, MemoryBudget
from rlhive.data.formats._pictures import decode_picture
from rlhive.data.formats._tfds import Feature
from rlhive.data.formats._tfrecord import Example
from rlhive.errors import SchemaMismatchError


def read_feature(feature: Feature, example: Example) -> np.ndarray:
    """Return the values of a feature that is in no sequence (depth 0) or in one (depth 1).

    Returns:
        ``[*shape]`` or ``[T, *shape]`` of ``feature.column_dtype``; text as str objects. The caller owns the memory.

    Raises:
        SchemaMismatchError: The record lacks the feature, or holds other values; the message names record and feature.
    """
    rows = _read_elements(feature, feature.name, example)
    if feature.depth:
        return rows
    if len(rows) != 1:
        msg = f"{example.context}: expected one {feature.name}, got {len(rows)}. features.json belongs to other files."
        raise SchemaMismatchError(msg)
    return rows[0]


def read_ragged(feature: Feature, example: Example) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of a feature in two sequences: every step has a sequence.

    Returns:
        All elements, ``[N, *shape]``, and the number of elements of each step, int64 ``[T]``.

    Raises:
        SchemaMismatchError: The record lacks the feature, or the lengths do not add up.
    """
    lengths = read_sequence_lengths(feature, example)
    elements = _read_elements(feature, f"{feature.name}/ragged_flat_values", example)
    if len(elements) != lengths.sum():
        msg = f"{example.context}: expected {lengths.sum()} elements of {feature.name}, got {len(elements)}."
        raise SchemaMismatchError(msg)
    return elements, lengths


def read_sequence_lengths(feature: Feature, example: Example) -> np.ndarray:
    """Return the number of elements of each step of a feature in two sequences, int64 ``[T]``."""
    return example.numbers(f"{feature.name}/ragged_row_lengths_0")


def _read_elements(feature: Feature, name: str, example: Example) -> np.ndarray:
    """Return the elements of a feature, ``[N, *shape]``."""
    try:
        if feature.kind == "picture":
            pictures = list(_decode_feature_pictures(feature, example.texts(name), example.context))
            return _stack_rows(pictures, feature)
        if feature.kind == "text":
            texts = [to_text(content) for content in example.texts(name)]
            return np.array(texts, object).reshape(-1, *feature.shape)
        if feature.encoding == "none":
            return _convert_numbers(feature, example.numbers(name))
        return _decode_tensors(feature, name, example)
    except (ValueError, OSError, zlib.error) as error:
        if isinstance(error, SchemaMismatchError):
            raise
        msg = (
            f"{example.context}: {feature.name}: expected {feature.dtype} {_describe_shape(feature.shape)}, "
            f"got: {error}. drop={feature.name!r} leaves it out."
        )
        raise SchemaMismatchError(msg) from error


def _convert_numbers(feature: Feature, flat: np.ndarray) -> np.ndarray:
    """Return a list of numbers as rows; raise ValueError where a number does not fit the dtype."""
    dtype = np.dtype(feature.column_dtype)
    if None in feature.shape:
        msg = "a size that features.json does not name"
        raise ValueError(msg)
    rows = flat.astype(dtype).reshape(-1, *feature.shape)
    if len(flat) and (flat.dtype.kind == "f") != (dtype.kind == "f"):
        msg = f"numbers stored as {flat.dtype}"
        raise ValueError(msg)
    if dtype.kind != "f" and not np.array_equal(rows.ravel(), flat):
        msg = f"numbers from {flat.min()} to {flat.max()}"
        raise ValueError(msg)
    return rows


def _decode_tensors(feature: Feature, name: str, example: Example) -> np.ndarray:
    """Return tensors that are stored as bytes; with several unknown sizes the record has the shape of each."""
    num_unknown = feature.shape.count(None)
    contents = example.texts(f"{name}/value" if num_unknown > 1 else name)
    shapes = [[-1 if size is None else size for size in feature.shape]] * len(contents)
    if num_unknown > 1:
        shapes = example.numbers(f"{name}/shape").reshape(len(contents), len(feature.shape)).tolist()
    dtype = to_numpy_dtype(feature.dtype).newbyteorder("<")
    rows, budget = [], MemoryBudget(f"{example.context}: {feature.name}")
    for content, shape in zip(contents, shapes, strict=True):
        raw = content
        if feature.encoding == "zlib":  # at most what the shape promises, against decompression bombs
            limit = FREE_BYTES if -1 in shape else math.prod(shape) * dtype.itemsize
            budget.add(0 if -1 in shape else limit, len(content))
            raw = zlib.decompressobj().decompress(content, limit + 1)
            if -1 in shape:
                budget.add(len(raw), 0)
        rows.append(_widen(np.frombuffer(raw, dtype).reshape(shape), feature))
    return _stack_rows(rows, feature)


def _widen(values: np.ndarray, feature: Feature) -> np.ndarray:
    """Return numbers in the dtype of the column; raise ValueError where one does not fit."""
    if feature.dtype == "uint64" and values.size and values.max() >= 2**63:
        msg = f"numbers up to {values.max()}"
        raise ValueError(msg)
    return cast_array(values, np.dtype(feature.column_dtype))


def _decode_feature_pictures(feature: Feature, contents: list[bytes], context: str) -> Iterator[np.ndarray]:
    budget = MemoryBudget(f"{context}: {feature.name}")
    for content in contents:
        picture = _decode_feature_picture(feature, content, context)
        budget.add(picture.nbytes, len(content), expansion=PICTURE_EXPANSION)
        yield picture


def _decode_feature_picture(feature: Feature, content: bytes, context: str) -> np.ndarray:
    """Return a picture, ``[H, W, channels]``; raise ValueError where its dtype or shape differs from the feature's."""
    picture = decode_picture(content, context=f"{context}: {feature.name}")
    if feature.dtype == "float32":
        picture = np.ascontiguousarray(picture).view("<f4")
    elif picture.dtype != feature.dtype:
        msg = f"a picture of {picture.dtype}"
        raise ValueError(msg)
    picture = picture.reshape(*picture.shape[:2], -1)
    expected = feature.shape or picture.shape
    picture = _match_channels(picture, expected[-1])
    if len(expected) != 3 or any(
        size not in (None, actual) for size, actual in zip(expected, picture.shape, strict=True)
    ):
        msg = f"a picture of {picture.shape}"
        raise ValueError(msg)
    return picture.astype(feature.column_dtype, copy=False)


def _match_channels(picture: np.ndarray, num_channels: int | None) -> np.ndarray:
    """Return a picture with the channels that features.json names, as TFDS decodes it: without alpha, grey repeated."""
    colours = picture[:, :, :-1] if picture.shape[2] in (2, 4) and num_channels in (1, 3) else picture
    return np.repeat(colours, 3, axis=2) if colours.shape[2] == 1 and num_channels == 3 else colours


def _stack_rows(rows: list[np.ndarray], feature: Feature) -> np.ndarray:
    """Return rows of one shape as one array; an empty array for no rows."""
    if rows:
        return np.stack(rows)
    return np.zeros((0, *(size or 0 for size in feature.shape)), feature.column_dtype)


def _describe_shape(shape: tuple[int | None, ...]) -> str:
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"
