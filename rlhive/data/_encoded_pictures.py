"""Pictures of one episode as they are in the files of a version: what copies of the episode keep, and what is hashed.

Pictures of a lossy storage are encoded once. A record that was read from a version carries the encoded pictures beside
the decoded ones, and a version that is derived from it holds the same bytes::

    record.columns["pixels"]   decoded, [T, *shape]           record.encoded["pixels"]   EncodedPictures
    record.final["pixels"]     decoded, [*shape]

The content hash of a lossy column is over the encoded bytes, since decoders differ in how they round; that of a
lossless column is over the values, whatever its storage.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from rlhive.data import _pictures
from rlhive.data._picture_codecs import PictureStorage, parse_storage
from rlhive.data._pictures import PictureLayout, find_layout
from rlhive.data._video_encoding import encode_clip
from rlhive.data._video_files import Clip, VideoFile

#: One picture in Arrow: ``{"bytes", "path"}`` of a file, or ``{"path", "frame"}`` of a frame in a video.
Cell = dict[str, Any]


@dataclass(frozen=True, eq=False)
class EncodedPictures:
    """The encoded pictures of a column of an episode: those of its rows, then those of the final value.

    Attributes:
        storage: The storage, in full.
        num_pictures: Number of pictures in a row.
        num_rows: Number of rows; the final value is not one of them.
        contents: A file per picture, in the order of the rows; empty for videos.
        clips: The frames of each camera; empty for files in Parquet. Where a clip has no more frames than rows, the
            last of them is the final value too: of an episode whose final observation was not recorded.
    """

    storage: str
    num_pictures: int
    num_rows: int
    contents: tuple[bytes, ...] = ()
    clips: tuple[Clip, ...] = ()

    @property
    def is_lossy(self) -> bool:
        """Whether the content hash is over the encoded pictures."""
        return parse_storage(self.storage).is_lossy

    def update_hash(self, digest: Any, kind: str, column: str) -> None:
        """Feed codec, number and bytes of the pictures of the rows (``"row"``) or of the final value to a hash."""
        parts = self._final_parts() if kind == "final" else self._row_parts()
        digest.update(f"{kind}\0{column}\0{parse_storage(self.storage).name}\0({len(parts)},)\0".encode())
        digest.update(np.array([len(part) for part in parts], dtype="<i8").tobytes())
        digest.update(b"".join(parts))

    def row_cells(self) -> list[Cell]:
        """Return the pictures of the rows as they are in Arrow, in the order of the rows."""
        return self._cells(0, self.num_rows)

    def final_cells(self) -> list[Cell]:
        """Return the pictures of the final value as they are in Arrow."""
        return self._cells(self.num_rows, self.num_rows + 1)

    def decode(self, dtype: str, shape: Sequence[int]) -> np.ndarray:
        """Return the rows, then the final value if there is one, ``[num_rows (+ 1), *shape]``, read-only."""
        if self.clips:
            ranges = [(clip.video, clip.first, clip.first + clip.count) for clip in self.clips]
            return decode_clips(ranges, dtype, shape)
        return _pictures.decode_rows(self.contents, dtype, shape, context="Encoded pictures", file_format="JPEG")

    def with_clips(self, clips: Sequence[Clip]) -> "EncodedPictures":
        """Return the same pictures at other places."""
        return replace(self, clips=tuple(clips))

    def _row_parts(self) -> list[bytes]:
        if not self.clips:
            return list(self.contents[: self.num_rows * self.num_pictures])
        return [
            part
            for clip in self.clips
            for part in (clip.video.header, *clip.packets(stop=min(self.num_rows, clip.count)))
        ]

    def _final_parts(self) -> list[bytes]:
        if not self.clips:
            return list(self.contents[self.num_rows * self.num_pictures :])
        return [part for clip in self.clips for part in clip.packets(min(self.num_rows, clip.count - 1))]

    def _cells(self, first: int, stop: int) -> list[Cell]:
        if not self.clips:
            contents = self.contents[first * self.num_pictures : stop * self.num_pictures]
            return [{"bytes": content, "path": None} for content in contents]
        return [
            {"path": clip.path, "frame": clip.frame + min(row, clip.count - 1)}
            for row in range(first, stop)
            for clip in self.clips
        ]


def encode_pictures(rows: np.ndarray, final: np.ndarray | None, storage: str) -> EncodedPictures:
    """Encode the pictures of a column of an episode.

    Args:
        rows: ``[T, *shape]``.
        final: The final value, ``[*shape]``; None for a column that has none.
        storage: A storage that is lossy or a video.

    Raises:
        MissingExtraError: PyAV, or its encoder, is not installed.
    """
    parsed = parse_storage(storage)
    layout = find_layout(rows.dtype.name, rows.shape[1:])
    if layout is None or parsed.codec is None:
        msg = f"expected rows of pictures for {storage}, got {rows.dtype.name} {list(rows.shape[1:])}"
        raise ValueError(msg)
    all_rows = rows if final is None else np.concatenate([rows, final[None]])
    encoded = EncodedPictures(storage, layout.num_pictures, len(rows))
    if not parsed.is_video:
        encode = partial(_pictures.encode_jpeg_picture, quality=dict(parsed.options)["quality"])
        return replace(encoded, contents=tuple(_pictures.encode_rows(all_rows, encode)))
    return replace(encoded, clips=tuple(_encode_cameras(all_rows, layout, parsed)))


def decode_clips(clips: Sequence[tuple[VideoFile, int, int]], dtype: str, shape: Sequence[int]) -> np.ndarray:
    """Decode the frames of each camera of a column, on all cores.

    Args:
        clips: Video, first frame and the frame after the last, of each camera; as many frames of each.
        dtype: Dtype of the column.
        shape: Shape of a row.

    Returns:
        ``[num_frames, *shape]``, read-only.

    Raises:
        CorruptDatasetError: A video has fewer frames or others than the column, or a frame cannot be decoded.
    """
    layout = find_layout(dtype, shape)
    if layout is None:
        msg = f"expected a column of pictures, got {dtype} {list(shape)}"
        raise ValueError(msg)
    num_frames = clips[0][2] - clips[0][1]
    rows = np.empty((num_frames, *shape), dtype)
    cameras = layout.to_pictures(rows).reshape(num_frames, layout.num_pictures, *layout.frame_shape)
    fill_frames([FrameRange(*clip, cameras[:, index]) for index, clip in enumerate(clips)], layout)
    rows.flags.writeable = False
    return rows


@dataclass(frozen=True, eq=False)
class FrameRange:
    """Consecutive frames of a video, and where their values go.

    Attributes:
        video: The video.
        first: The first frame.
        stop: The frame after the last.
        target: Array of the values, ``[stop - first, H, W, channels]``.
        context: What the frames belong to, for error messages.
    """

    video: VideoFile
    first: int
    stop: int
    target: np.ndarray
    context: str = ""


def fill_frames(ranges: Sequence[FrameRange], layout: PictureLayout) -> None:
    """Decode ranges of frames, on all cores.

    Raises:
        CorruptDatasetError: As :meth:`VideoFile.decode`.
    """
    tasks: list[FrameRange] = []
    for frames in ranges:
        frames.video.require_frames(frames.first, frames.stop)
        for first, stop in frames.video.split(frames.first, frames.stop):
            target = frames.target[first - frames.first : stop - frames.first]
            tasks.append(replace(frames, first=first, stop=stop, target=target))

    def decode(task: FrameRange) -> None:
        for index, picture in enumerate(task.video.decode(task.first, task.stop, layout, context=task.context)):
            task.target[index] = picture

    _pictures.map_on_cores(decode, tasks, min_items=2)


def _encode_cameras(rows: np.ndarray, layout: PictureLayout, storage: PictureStorage) -> list[Clip]:
    cameras = layout.to_pictures(rows).reshape(len(rows), layout.num_pictures, *layout.frame_shape)

    def encode(index: int) -> Clip:
        return encode_clip(cameras[:, index], layout, storage)

    return _pictures.map_on_cores(encode, range(layout.num_pictures), min_items=2)
