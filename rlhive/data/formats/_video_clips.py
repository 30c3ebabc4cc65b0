"""Videos of other libraries whose packets a version can keep as they are, so that nothing more is lost.

A version holds lossy video as packets of one frame each, in the order of time, that begin with a key frame
(:mod:`rlhive.data._video_files`). MP4 files of AV1, and of H.264 and H.265 without B-frames, have them.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from rlhive.data._picture_codecs import CODECS, require_storage
from rlhive.data._pictures import find_layout
from rlhive.data._video_files import Clip, VideoFile
from rlhive.errors import CorruptDatasetError, InvalidOptionError

_LOSSY = tuple(name for name, codec in CODECS.items() if codec.is_video and codec.is_lossy)
#: Videos that stay open for their next episode: several cameras.
_OPEN_VIDEOS = 16


def find_clip(path: Path, pictures: np.ndarray, *, start_s: float, fps: float) -> Clip | None:
    """Return the packets of consecutive frames; None where a version cannot keep them.

    Args:
        path: File of the video.
        pictures: The decoded frames, uint8 ``[T, H, W, 3]``.
        start_s: Time of the first frame in seconds.
        fps: Frames per second.
    """
    status = path.stat()
    opened = _open_timed_video(path, status.st_size, status.st_mtime_ns)
    layout = find_layout(pictures.dtype.name, pictures.shape[1:])
    if opened is None or layout is None:
        return None
    video, times = opened
    first, count = int(np.searchsorted(times, start_s - 0.5 / fps)), len(pictures)
    expected = start_s + np.arange(count) / fps
    frame_times = times[first : first + count]
    if len(frame_times) != count or not video.is_key[first] or (np.abs(frame_times - expected) > 0.5 / fps).any():
        return None
    try:  # decoders that differ, in the colours that they take the container to name, would show in every frame
        decoded = next(video.decode(first, first + 1, layout))
    except CorruptDatasetError:
        return None
    return Clip(video, first, count) if np.array_equal(decoded, pictures[0]) else None


@lru_cache(maxsize=_OPEN_VIDEOS)
def _open_timed_video(path: Path, num_bytes: int, mtime_ns: int) -> tuple[VideoFile, np.ndarray] | None:
    """Return a video and the time of each frame in seconds; None where its packets are of another kind."""
    try:
        video = VideoFile(path, str(path))
        require_storage(video.codec, "uint8", (video.height, video.width, 3), column="video")
    except (CorruptDatasetError, InvalidOptionError):  # packets, or a size, that a version cannot have
        return None
    if video.codec not in _LOSSY:
        return None
    times = _read_times(video)
    is_ordered = len(times) == len(video) and len(times) > 0 and (np.diff(times) > 0).all()
    return (video, np.array(times)) if is_ordered else None


def _read_times(video: VideoFile) -> Sequence[float]:
    """Return the time at which each packet is shown, in the order of the file."""
    import av

    try:
        with video.open_source() as file, video.open_container(file) as container:
            packets = (packet for packet in container.demux(video=0) if packet.size)
            return [float(packet.pts * packet.time_base) for packet in packets if packet.pts is not None]
    except av.FFmpegError:
        return []
