"""LeRobot's features: what a field of a version becomes in a frame, and how its values are stored and summarised."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from rlhive import keys
from rlhive.data._pictures import encode_png
from rlhive.data._schema import Field, Schema
from rlhive.data._statistics import ColumnStatistics
from rlhive.data._timing import TIMESTAMP
from rlhive.data.formats._lerobot import DONE, IMAGES, STATE, SUCCESS
from rlhive.data.formats._lerobot_files import BOOKKEEPING
from rlhive.data.formats._lerobot_videos import describe_video
from rlhive.errors import UnsupportedFormatError

#: The value of the option ``state`` by which no column becomes ``observation.state``.
NO_STATE = "none"
#: Names that LeRobot gives to what it makes of a frame, and the names of features in their place.
_OTHER_NAMES = {"task": "task_text", TIMESTAMP: "recorded_timestamp"}


def build_features(
    fields: Mapping[str, Field], dtype: str | None, videos: Mapping[str, str], fps: int
) -> dict[str, dict[str, Any]]:
    """Return info.json's features: those of the fields, ``next.done``, and the bookkeeping columns.

    Args:
        fields: Field of every feature.
        dtype: Dtype that float64 fields are rounded to; None for no rounding.
        videos: Storage of the features that are videos.
        fps: Frames per second.

    Raises:
        UnsupportedFormatError: A field cannot be a LeRobot feature.
    """
    features = {name: _build_feature(name, item, dtype) for name, item in fields.items()}
    features |= {name: describe_video(fields[name].shape[-3:], storage, fps) for name, storage in videos.items()}
    features[DONE] = _build_vector("bool", [1])
    return features | {name: _build_vector(dtype_name, [1]) for name, dtype_name in BOOKKEEPING.items()}


def name_fields(schema: Schema, state: str | None) -> dict[str, Field]:
    """Return the field of every feature, by the feature's name; several cameras in one field become one feature each.

    Args:
        schema: Schema of the version.
        state: Column that becomes ``observation.state``; None for ``observation``, "none" for none.

    Raises:
        UnsupportedFormatError: No column of numbers has the name of the state, or two columns would be one feature.
    """
    if state not in (None, NO_STATE):
        _require_state(schema, str(state))
    fields: dict[str, Field] = {}
    for item in schema.fields:
        for name in _name_features(item, state or keys.OBSERVATION):
            if name in fields:
                msg = f"Key {item.column}: would be {name}, as {fields[name].column} is. Rename or drop one of them."
                raise UnsupportedFormatError(msg)
            fields[name] = item
    return fields


def _require_state(schema: Schema, state: str) -> None:
    vectors = [
        item.column
        for item in schema.tensors
        if len(item.shape) < 2 and item.column.split(".")[0] not in (keys.ACTION, keys.NEXT, keys.SUCCESS)
    ]
    if state not in vectors:
        expected = ", ".join(vectors) or "no column of this dataset"
        msg = f"state={state!r}: expected a column of numbers of one dimension: {expected}; or {NO_STATE}."
        raise UnsupportedFormatError(msg)


def _name_features(item: Field, state: str) -> list[str]:
    root, *inner = item.column.split(".")
    if item.column == state:
        return [STATE]
    if item.column == keys.SUCCESS:
        return [SUCCESS]
    if item.column in _OTHER_NAMES:
        return [_OTHER_NAMES[item.column]]
    if root == keys.PIXELS:
        if len(item.shape) != 4:
            return [f"{IMAGES}{'.'.join(inner) or 'camera'}"]
        return [IMAGES + ".".join([*inner, str(camera)]) for camera in range(item.shape[0])]
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
        return pa.array([{"bytes": encode_png(picture, level=1), "path": None} for picture in values], struct)
    if feature["dtype"] == "string":
        return pa.array(values.tolist(), pa.string())
    dtype = pa.bool_() if feature["dtype"] == "bool" else pa.from_numpy_dtype(feature["dtype"])
    flat = pa.array(np.ascontiguousarray(values).reshape(-1), dtype)
    width = feature["shape"][0]
    return flat if width == 1 else pa.FixedSizeListArray.from_arrays(flat, width)


def summarise_feature(values: np.ndarray, feature: Mapping[str, Any]) -> ColumnStatistics:
    """Return the moments and bounds of an episode's values, those of pictures by channel and scaled to 0 to 1."""
    is_picture = feature["dtype"] in ("image", "video")
    rows = values.reshape(-1, 3) if is_picture else values.reshape(len(values), -1)
    values64 = rows.astype(np.float64) / (255.0 if is_picture else 1.0)
    mean = values64.mean(axis=0)
    m2 = ((values64 - mean) ** 2).sum(axis=0)
    return ColumnStatistics(len(rows), mean, m2, values64.min(axis=0), values64.max(axis=0), np.zeros_like(mean), None)
