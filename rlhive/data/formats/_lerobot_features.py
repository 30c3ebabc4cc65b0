"""LeRobot's features: what a field of a version becomes in a frame, and how its values are stored and summarised."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from rlhive import keys
from rlhive.data._schema import Field, Schema
from rlhive.data._statistics import ColumnStatistics
from rlhive.data.formats._lerobot import DONE, IMAGES, STATE, SUCCESS
from rlhive.data.formats._lerobot_files import BOOKKEEPING
from rlhive.data.formats._pictures import encode_png
from rlhive.errors import UnsupportedFormatError


def build_features(schema: Schema, dtype: str | None) -> dict[str, dict[str, Any]]:
    """Return info.json's features: those of the fields, ``next.done``, and the bookkeeping columns.

    Args:
        schema: Schema of the version.
        dtype: Dtype that float64 fields are rounded to; None for no rounding.

    Raises:
        UnsupportedFormatError: A field cannot be a LeRobot feature.
    """
    features = {name: _build_feature(name, item, dtype) for item in schema.fields for name in name_features(item)}
    features[DONE] = _build_vector("bool", [1])
    return features | {name: _build_vector(dtype_name, [1]) for name, dtype_name in BOOKKEEPING.items()}


def name_features(item: Field) -> list[str]:
    """Return the names of the features that a field becomes; several cameras in one field become one each."""
    root, *inner = item.column.split(".")
    if item.column == keys.OBSERVATION:
        return [STATE]
    if item.column == keys.SUCCESS:
        return [SUCCESS]
    if root == keys.PIXELS:
        cameras = range(item.shape[0]) if len(item.shape) == 4 else [".".join(inner) or "camera"]
        return [f"{IMAGES}{camera}" for camera in cameras]
    return [item.column]


def _build_feature(name: str, item: Field, dtype: str | None) -> dict[str, Any]:
    if name.startswith(IMAGES):
        if item.dtype != "uint8" or len(item.shape) not in (3, 4) or item.shape[-1] != 3:
            msg = f"Key {item.column}: expected uint8 pictures [H, W, 3] or [camera, H, W, 3], got {item.describe()}."
            raise UnsupportedFormatError(msg)
        return {"dtype": "image", "shape": list(item.shape[-3:]), "names": ["height", "width", "channel"]}
    if len(item.shape) > 1:
        msg = f"Key {item.column}: LeRobot takes one dimension, got {item.describe()}. Drop the column before."
        raise UnsupportedFormatError(msg)
    return _build_vector(dtype if dtype and item.dtype == "float64" else item.dtype, list(item.shape) or [1])


def _build_vector(dtype: str, shape: list[int]) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "names": None}


def to_arrow(values: np.ndarray, feature: Mapping[str, Any]) -> pa.Array:
    """Return the values of a feature, ``[T, *shape]``, as LeRobot stores them; pictures as PNG."""
    if feature["dtype"] == "image":
        struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        return pa.array([{"bytes": encode_png(picture), "path": None} for picture in values], struct)
    if feature["dtype"] == "string":
        return pa.array(values.tolist(), pa.string())
    dtype = pa.bool_() if feature["dtype"] == "bool" else pa.from_numpy_dtype(feature["dtype"])
    flat = pa.array(np.ascontiguousarray(values).reshape(-1), dtype)
    width = feature["shape"][0]
    return flat if width == 1 else pa.FixedSizeListArray.from_arrays(flat, width)


def summarise_feature(values: np.ndarray, feature: Mapping[str, Any]) -> ColumnStatistics:
    """Return the moments and bounds of an episode's values, those of pictures by channel and scaled to 0 to 1."""
    is_picture = feature["dtype"] == "image"
    rows = values.reshape(-1, 3) if is_picture else values.reshape(len(values), -1)
    values64 = rows.astype(np.float64) / (255.0 if is_picture else 1.0)
    mean = values64.mean(axis=0)
    m2 = ((values64 - mean) ** 2).sum(axis=0)
    return ColumnStatistics(len(rows), mean, m2, values64.min(axis=0), values64.max(axis=0), np.zeros_like(mean), None)
