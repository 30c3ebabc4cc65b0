"""Videos, and pictures that Pillow cannot decode, as arrays, and videos of arrays. The only module that imports PyAV.

FFmpeg recognises hundreds of formats by content. Among them are playlists, which name other files and addresses of the
network. Here the first bytes choose one of the few containers that hold their own data, and the container is read from
an open file: no path and no protocol reaches FFmpeg.
"""

import contextlib
import errno
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from rlhive._extras import require_extra
from rlhive.data.formats._memory_limits import FREE_BYTES, VIDEO_EXPANSION, require_memory
from rlhive.errors import SchemaMismatchError

#: FFmpeg's name of a container, by its first bytes and their offset.
_CONTAINERS = {
    **{(4, box): "mp4" for box in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")},
    (0, b"\x1aE\xdf\xa3"): "matroska",
}


def require_av() -> None:
    """Raise MissingExtraError unless PyAV is installed."""
    with require_extra("Videos need av: pip install 'rlhive[formats]'"):
        import av  # noqa: F401


@contextlib.contextmanager
def write_video(path: Path, *, fps: float) -> Iterator[Callable[[np.ndarray], None]]:
    """Write an MP4 file frame by frame: H.264, or MPEG-4 where PyAV was built without libx264.

    The file appears when the block ends. After an error in the block it does not, and an older file is kept.

    Args:
        path: File of the video; its folder exists.
        fps: Frames per second.

    Returns:
        Context manager with the function that appends a frame, uint8 ``[H, W, 3]``, RGB, all of one size. The last row
        or column of an odd number is left out, which players need.

    Raises:
        MissingExtraError: PyAV is not installed.
    """
    require_av()
    import av

    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    partial = path.with_name(f".{path.name}.partial")
    try:
        with av.open(str(partial), "w", format="mp4") as container:
            stream: Any = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1000))
            stream.pix_fmt, stream.codec_context.thread_count = "yuv420p", 1

            def append(frame: np.ndarray) -> None:
                height, width = (side - side % 2 for side in frame.shape[:2])
                if not stream.codec_context.is_open:
                    stream.height, stream.width = height, width
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame[:height, :width]), format="rgb24")
                container.mux(stream.encode(picture))

            yield append
            container.mux(stream.encode(None))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def decode_video_frames(
    path: Path, *, start_s: float, count: int, fps: float, context: str = "", is_whole: bool = False
) -> np.ndarray:
    """Decode consecutive frames of a video.

    Args:
        path: File of the video.
        start_s: Time of the first frame in seconds; frames are ``1 / fps`` apart.
        count: Number of frames.
        fps: Frames per second.
        context: What the frames belong to, for messages: ``"episode 3"``.
        is_whole: Whether these frames are all that the video has.

    Returns:
        uint8 ``[count, H, W, 3]``, RGB.

    Raises:
        SchemaMismatchError: The file is no MP4, QuickTime, Matroska or WebM video, is damaged, or has another number of
            frames or frames at other times; the message has the frame's number.
        MissingExtraError: PyAV is not installed.
    """
    require_av()
    import av

    subject = f"{path}, {context}" if context else str(path)
    frames: list[np.ndarray] = []
    try:
        for index, (frame_s, picture) in enumerate(_iterate_frames(path, start_s, fps)):
            if index == count:
                if is_whole:
                    msg = f"{subject}: expected {count} frames, got more."
                    raise SchemaMismatchError(msg)
                break
            if abs(frame_s - (start_s + index / fps)) > 0.5 / fps:
                msg = f"{subject}, frame {index}: expected it at {start_s + index / fps:.3f} s, got {frame_s:.3f} s."
                raise SchemaMismatchError(msg)
            num_bytes = (index + 1) * picture.nbytes
            require_memory(num_bytes, path.stat().st_size, str(path), expansion=VIDEO_EXPANSION)
            frames.append(picture)
    except av.FFmpegError as error:
        if error.errno == errno.ENOMEM:
            msg = f"{path}: {error.strerror}"
            raise MemoryError(msg) from error
        msg = f"{subject}, frame {len(frames)}: expected a readable video, got: {error.strerror}."
        raise SchemaMismatchError(msg) from error
    if len(frames) < count:
        msg = f"{subject}: expected {count} frames from {start_s:.3f} s on, got {len(frames)}."
        raise SchemaMismatchError(msg)
    return np.stack(frames)


def _iterate_frames(path: Path, start_s: float, fps: float) -> Iterator[tuple[float, np.ndarray]]:
    """Yield the times in seconds and the pictures of the frames from a time on."""
    import av

    with path.open("rb") as file:
        container_format = _detect_container(path, file.read(16))
        file.seek(0)
        with av.open(file, "r", format=container_format) as container:
            for stream in container.streams.video:  # a frame beyond these pixels is not decoded
                stream.codec_context.options = {"max_pixels": str(FREE_BYTES // 3)}
            if start_s > 0:
                container.seek(int(start_s * 1_000_000))  # to the key frame before the first frame; in microseconds
            for frame in container.decode(video=0):
                if frame.time > start_s - 0.5 / fps:
                    require_memory(
                        frame.width * frame.height * 3, path.stat().st_size, str(path), expansion=VIDEO_EXPANSION
                    )
                    # FFmpeg 8 waits for ever for conversion threads that a memory limit kept from starting.
                    yield float(frame.time), frame.to_ndarray(format="rgb24", threads=1)


def decode_deep_png(content: bytes) -> np.ndarray:
    """Decode a PNG of 16 bits for each of several channels, of which Pillow drops half.

    Returns:
        uint16 ``[H, W, channels]``: grey and alpha, three colours, or colours and alpha.

    Raises:
        ValueError: It is damaged, or another picture.
        MissingExtraError: PyAV is not installed.
    """
    with require_extra("PNG of 16 bits a channel needs av: pip install 'rlhive[formats]'"):
        import av
    layouts = {"rgb48": 3, "rgba64": 4, "ya16": 2}
    try:
        codec = av.CodecContext.create("png", "r")
        frames = [*codec.decode(av.Packet(content)), *codec.decode(None)]
    except av.FFmpegError as error:
        raise ValueError(str(error)) from error
    name = frames[0].format.name if frames else "nothing"
    if name.removesuffix("be").removesuffix("le") not in layouts:
        msg = f"pixels of the kind {name}"
        raise ValueError(msg)
    plane = frames[0].planes[0]
    channels = layouts[name.removesuffix("be").removesuffix("le")]
    dtype = ">u2" if name.endswith("be") else "<u2"
    rows = np.frombuffer(bytes(plane), np.uint8).reshape(frames[0].height, plane.line_size)
    used = np.ascontiguousarray(rows[:, : frames[0].width * channels * 2])
    return used.view(dtype).reshape(frames[0].height, frames[0].width, channels).astype(np.uint16)


def _detect_container(path: Path, head: bytes) -> str:
    for (offset, magic), name in _CONTAINERS.items():
        if head[offset:].startswith(magic):
            return name
    msg = f"{path}: expected an MP4, QuickTime, Matroska or WebM video, got a file that begins with {head!r}."
    raise SchemaMismatchError(msg)
