"""Pictures of a column in Arrow: structs of a file's bytes, or of a video's path and the number of a frame in it.

The first are those of ``datasets.Image``. A row of several cameras is a fixed-size list of structs.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from rlhive.data import _pictures
from rlhive.data._dtypes import to_numpy_dtype
from rlhive.data._encoded_pictures import Cell, EncodedPictures, FrameRange, fill_frames
from rlhive.data._pictures import PICTURE_DIMS
from rlhive.data._schema import Field, Schema
from rlhive.data._video_files import Clip, VideoFile, VideoFolder
from rlhive.errors import CorruptDatasetError

#: Type of an encoded picture: that of ``datasets.Image``, nullable as it is there.
_PICTURE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
#: Type of a picture in a video: path of the file in the version, and number of the frame in it.
_FRAME = pa.struct({"path": pa.string(), "frame": pa.int64()})


def picture_type(field: Field) -> pa.DataType:
    """Return the Arrow type of a column of encoded pictures."""
    picture = _FRAME if field.is_video else _PICTURE
    return pa.list_(picture, count_pictures(field)) if _has_camera_dims(field) else picture


def picture_metadata(fields_by_column: Mapping[str, Field]) -> dict[str, str]:
    """Return the metadata of a table by which ``datasets`` knows which columns are pictures.

    Args:
        fields_by_column: Fields of picture files by column of the table.
    """
    if not fields_by_column:
        return {}
    features: dict[str, Any] = {}
    for column, field in fields_by_column.items():
        features[column] = {"_type": "Image"}
        if _has_camera_dims(field):
            features[column] = {"_type": "List", "feature": features[column], "length": count_pictures(field)}
    return {"huggingface": json.dumps({"info": {"features": features}})}


def count_pictures(field: Field) -> int:
    """Return the number of pictures in a row."""
    return math.prod(field.shape[:-PICTURE_DIMS])


def count_decoded_bytes(schema: Schema) -> int:
    """Return the size in memory of the decoded pictures of one row."""
    return sum(field.width * to_numpy_dtype(field.dtype).itemsize for field in schema.encoded)


def pictures_to_arrow(rows: np.ndarray, field: Field) -> pa.Array:
    """Encode rows ``[N, *shape]`` as PNG; return them as the column of a field."""
    contents = pa.array(_pictures.encode_rows(rows), pa.binary())
    pictures = pa.StructArray.from_arrays([contents, pa.nulls(len(contents), pa.string())], fields=list(_PICTURE))
    return _pictures_to_rows(pictures, field)


def cells_to_arrow(cells: Sequence[Cell], field: Field) -> pa.Array:
    """Return encoded pictures, in the order of the rows, as the column of a field."""
    return _pictures_to_rows(pa.array(cells, _FRAME if field.is_video else _PICTURE), field)


def read_cells(column: pa.Array | pa.ChunkedArray, field: Field) -> list[Cell]:
    """Return the encoded pictures of a column, in the order of the rows.

    Raises:
        CorruptDatasetError: A picture is missing.
    """
    cells: list[Cell] = []
    for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
        cells.extend((chunk.flatten() if pa.types.is_fixed_size_list(chunk.type) else chunk).to_pylist())
    needed = ("path", "frame") if field.is_video else ("bytes",)
    num_pictures = count_pictures(field)
    is_complete = all(cell is not None and all(cell[name] is not None for name in needed) for cell in cells)
    if not is_complete or len(cells) != len(column) * num_pictures:
        msg = (
            f"Column {field.column}: expected {num_pictures} pictures in every row, got fewer. Fetch the version again."
        )
        raise CorruptDatasetError(msg)
    return cells


def read_frame_numbers(column: pa.Array | pa.ChunkedArray, field: Field, files: Mapping[str, int]) -> np.ndarray:
    """Return where the pictures of a video column are.

    Args:
        column: The column, of transitions or of the episode table.
        field: The field.
        files: Number of each video file by its path.

    Returns:
        int64 ``[num_rows, num_pictures, 2]``: number of the file, and of the frame in it.

    Raises:
        CorruptDatasetError: A picture is missing, or names another file.
    """
    cells = read_cells(column, field)
    unknown = next((cell["path"] for cell in cells if cell["path"] not in files), None)
    if unknown is not None:
        msg = f"Column {field.column}: expected a video of the manifest, got {unknown}. Fetch the version again."
        raise CorruptDatasetError(msg)
    numbers = np.array([(files[cell["path"]], cell["frame"]) for cell in cells], np.int64)
    return numbers.reshape(len(column), count_pictures(field), 2)


def cells_to_pictures(cells: list[Cell], field: Field, length: int, videos: VideoFolder | None) -> EncodedPictures:
    """Return the encoded pictures of an episode.

    Args:
        cells: Those of its rows, then those of its final value if the field has one.
        field: The field.
        length: Number of rows.
        videos: Videos of the version, for a field in videos.

    Raises:
        CorruptDatasetError: The frames of a camera are not consecutive in one video.
    """
    num_pictures = count_pictures(field)
    pictures = EncodedPictures(str(field.storage), num_pictures, length)
    if not field.is_video:
        return replace(pictures, contents=tuple(cell["bytes"] for cell in cells))
    clips = []
    for camera in range(num_pictures):
        frames = cells[camera::num_pictures]
        if len(frames) > length and frames[-1] == frames[-2]:  # the final value repeats the last row
            frames = frames[:-1]
        path, first = frames[0]["path"], frames[0]["frame"]
        if frames != [{"path": path, "frame": first + index} for index in range(len(frames))]:
            msg = (
                f"Column {field.column}: expected consecutive frames of one video in an episode, got others of {path}."
            )
            raise CorruptDatasetError(msg)
        clips.append(Clip(_open_video(videos, path, field), first, len(frames), path, first))
    return pictures.with_clips(clips)


def arrow_to_pictures(column: pa.Array | pa.ChunkedArray, field: Field) -> np.ndarray:
    """Decode a column of PNG or JPEG files, ``[num_rows, *shape]``.

    Raises:
        CorruptDatasetError: A picture is missing or damaged, or has another size or other channels.
    """
    contents = [cell["bytes"] for cell in read_cells(column, field)]
    file_format = "JPEG" if field.is_lossy else "PNG"
    return _pictures.decode_rows(
        contents, field.dtype, field.shape, context=f"Column {field.column}", file_format=file_format
    )


def frames_to_numpy(
    column: pa.Array | pa.ChunkedArray, episodes: np.ndarray, field: Field, videos: VideoFolder | None
) -> np.ndarray:
    """Decode a column of frames in videos, ``[num_rows, *shape]``: runs of consecutive frames of one episode.

    Args:
        column: The column.
        episodes: Id of the episode of each row, for error messages too.
        field: The field.
        videos: Videos of the version.

    Raises:
        CorruptDatasetError: A frame is missing or cannot be decoded, or there is no such video.
    """
    cells = read_cells(column, field)
    rows = np.empty((len(episodes), *field.shape), field.dtype)
    layout = _pictures.find_layout(field.dtype, field.shape)
    if layout is not None and len(rows):
        cameras = layout.to_pictures(rows).reshape(len(rows), layout.num_pictures, *layout.frame_shape)
        ranges = []
        for camera in range(layout.num_pictures):
            frames = cells[camera :: layout.num_pictures]
            for start, stop in _find_runs(frames, episodes):
                video, first = _open_video(videos, frames[start]["path"], field), frames[start]["frame"]
                target, context = cameras[start:stop, camera], f"episode {episodes[start]}"
                ranges.append(FrameRange(video, first, first + stop - start, target, context))
        fill_frames(ranges, layout)
    rows.flags.writeable = False
    return rows


def _find_runs(frames: Sequence[Cell], episodes: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield the ranges of rows whose frames follow each other in one file and belong to one episode."""
    start = 0
    for row in range(1, len(frames)):
        before = frames[row - 1]
        expected = {"path": before["path"], "frame": before["frame"] + 1}
        if frames[row] != expected or episodes[row] != episodes[row - 1]:
            yield start, row
            start = row
    yield start, len(frames)


def _open_video(videos: VideoFolder | None, path: str, field: Field) -> VideoFile:
    if videos is None:
        msg = (
            f"Column {field.column} is stored as {field.storage}: expected the version's videos beside its rows, got "
            f"none. Make a version without videos: rlhive encode NAME --keys {field.column}=png"
        )
        raise CorruptDatasetError(msg)
    return videos.open(path, str(field.storage))


def _has_camera_dims(field: Field) -> bool:
    return len(field.shape) > PICTURE_DIMS


def _pictures_to_rows(pictures: pa.Array, field: Field) -> pa.Array:
    """Return pictures, in the order of the rows, as rows."""
    if not _has_camera_dims(field):
        return pictures
    return pa.FixedSizeListArray.from_arrays(pictures, type=picture_type(field))
