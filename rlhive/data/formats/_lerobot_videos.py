"""The videos of a LeRobot dataset that is written: LeRobot's defaults, or those that the version holds, as they are.

::

    pictures of an episode ─► AV1, crf 30, a key frame every 2, yuv420p ─┐
    video of a version, av1, h264 or h265 ─► its packets ────────────────┴─► videos/<feature>/chunk-000/file-<n>.mp4
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rlhive.data._episodes import EpisodeRecord
from rlhive.data._picture_codecs import parse_storage, require_storage
from rlhive.data._pictures import find_layout, map_on_cores
from rlhive.data._schema import Field
from rlhive.data._video_encoding import VideoWriter, encode_clip
from rlhive.data._video_files import Clip
from rlhive.data.formats._lerobot import IMAGES
from rlhive.errors import InvalidOptionError, UnsupportedFormatError

#: What LeRobot encodes by default: crf 30 and a key frame every 2 frames are also this storage's defaults.
DEFAULT_STORAGE = "av1"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
VIDEO_FILE_MB = 200
#: FFmpeg's name of a codec where it is not ours; LeRobot records FFmpeg's.
_CODEC_NAMES = {"h265": "hevc"}


def choose_videos(fields: Mapping[str, Field], *, video: bool | None) -> dict[str, str]:
    """Return the storage of every feature that is written as video.

    Args:
        fields: Field of every feature.
        video: Whether pictures become videos; None for those that are lossy videos in the version.

    Raises:
        UnsupportedFormatError: A picture has an odd side, or another number of channels than 3.
    """
    videos: dict[str, str] = {}
    for name, item in fields.items():
        is_copied = item.is_video and item.is_lossy
        if not name.startswith(IMAGES) or not (is_copied if video is None else video):
            continue
        storage = str(item.storage) if is_copied else DEFAULT_STORAGE
        try:
            videos[name] = require_storage(storage, item.dtype, item.shape[-3:], column=item.column)
        except InvalidOptionError as error:
            msg = f"Key {item.column}: cannot be a video: {error}. Export it without the option video."
            raise UnsupportedFormatError(msg) from error
    return videos


def describe_video(shape: tuple[int, ...], storage: str, fps: int) -> dict[str, Any]:
    """Return LeRobot's feature of a video of pictures ``[H, W, 3]``."""
    height, width, channels = shape
    codec = parse_storage(storage).name
    info = {"height": height, "width": width, "codec": _CODEC_NAMES.get(codec, codec), "pix_fmt": "yuv420p"}
    info |= {"is_depth_map": False, "fps": fps, "channels": channels}
    described = {f"video.{name}": value for name, value in info.items()} | {"has_audio": False}
    return {"dtype": "video", "shape": list(shape), "names": ["height", "width", "channels"], "info": described}


class LeRobotVideos:
    """The video files of a dataset, written episode by episode.

    Args:
        folder: The dataset's folder.
        fields: Field of every feature.
        storages: Storage of every feature that is a video.
        fps: Frames per second.
    """

    def __init__(self, folder: Path, fields: Mapping[str, Field], storages: Mapping[str, str], fps: int):
        self._fields = fields
        self._storages = storages
        self._fps = fps
        max_bytes = VIDEO_FILE_MB * 2**20
        self._writers = {name: VideoWriter(folder, name, fps=fps, max_bytes=max_bytes) for name in storages}

    def add(self, index: int, record: EpisodeRecord, pictures: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Append the pictures of an episode; return the columns of LeRobot's row that say where they are.

        Args:
            index: LeRobot's number of the episode.
            record: The episode.
            pictures: ``[T, H, W, 3]`` by feature.
        """
        names = list(self._storages)

        def encode(name: str) -> Clip:
            return self._find_clip(name, record) or self._encode(name, pictures[name])

        columns: dict[str, Any] = {}
        for name, clip in zip(names, map_on_cores(encode, names, min_items=2), strict=True):
            placed = self._writers[name].add(clip, index)
            columns |= {
                f"videos/{name}/chunk_index": 0,
                f"videos/{name}/file_index": int(Path(placed.path).stem.rpartition("-")[2]),
                f"videos/{name}/from_timestamp": placed.frame / self._fps,
                f"videos/{name}/to_timestamp": (placed.frame + placed.count) / self._fps,
            }
        return columns

    def finish(self) -> None:
        """Finish the files."""
        for writer in self._writers.values():
            writer.close()

    def _find_clip(self, name: str, record: EpisodeRecord) -> Clip | None:
        """Return the encoded frames of the rows where the version holds the video that is written."""
        item = self._fields[name]
        encoded = record.encoded.get(item.column)
        if encoded is None or not encoded.clips or item.storage != self._storages[name]:
            return None
        camera = int(name.rpartition(".")[2]) if len(item.shape) == 4 else 0
        return replace(encoded.clips[camera], count=record.length)

    def _encode(self, name: str, pictures: np.ndarray) -> Clip:
        layout = find_layout(pictures.dtype.name, pictures.shape[1:])
        assert layout is not None  # choose_videos accepted the pictures
        return encode_clip(pictures, layout, parse_storage(self._storages[name]))
