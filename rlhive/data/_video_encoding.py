"""Encoding of an episode's pictures as a clip, and clips joined to the video files of a version.

::

    pictures of an episode ─► encoder of its own ─► clip: packets, a key frame first
    clip, clip, clip ─► videos/<key>/chunk-000/file-<first episode>.mp4       the packets, one after the other
    clips that are all of a file, in its order ─► the file itself, by a link, where the writer may link
"""

import io
import os
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from rlhive.data import _store
from rlhive.data._picture_codecs import PictureStorage
from rlhive.data._pictures import PictureLayout
from rlhive.data._video_files import ARRAY_FORMATS, LOSSLESS_FORMATS, Clip, VideoFile, require_video_codecs
from rlhive.errors import MissingExtraError

#: PyAV's encoder of a codec.
_ENCODERS = {"av1": "libsvtav1", "h264": "libx264", "h265": "libx265", "ffv1": "ffv1"}
#: FFmpeg's pixel format of a lossy video.
_LOSSY_FORMAT = "yuv420p"
#: Nothing in the file names the release of FFmpeg.
_MUXER_OPTIONS = {"fflags": "+bitexact"}
#: Frames per second of an encoded clip before it gets its place in a file. Rate control by quality does not read it.
_RATE = 30


def encode_clip(pictures: np.ndarray, layout: PictureLayout, storage: PictureStorage) -> Clip:
    """Encode pictures as a video of their own, on one thread.

    Args:
        pictures: ``[N, H, W, channels]``, N >= 1.
        layout: Their layout.
        storage: Codec and options.

    Raises:
        MissingExtraError: PyAV, or its encoder, is not installed.
    """
    require_video_codecs()
    import av

    encoder = _require_encoder(storage.name)
    source = ARRAY_FORMATS[layout.mode]
    target = _LOSSY_FORMAT if storage.is_lossy else LOSSLESS_FORMATS[layout.mode]
    content = io.BytesIO()
    with av.open(content, "w", format="mp4", options=_MUXER_OPTIONS) as container:
        stream: Any = container.add_stream(encoder, rate=_RATE, options=_encoder_options(storage))
        stream.width, stream.height, stream.pix_fmt = layout.width, layout.height, target
        stream.codec_context.thread_count = 1
        stream.codec_context.gop_size = dict(storage.options).get("gop", 1)
        for number, picture in enumerate(pictures):
            values = np.ascontiguousarray(picture[:, :, 0] if layout.channels == 1 else picture)
            frame = av.VideoFrame.from_ndarray(values, format=source)
            frame = frame.reformat(format=target, threads=1) if target != source else frame
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return Clip(VideoFile(content.getvalue(), "an encoded clip"), 0, len(pictures))


class VideoWriter:
    """Writes the clips of one camera into files, one after the other.

    Args:
        folder: Folder of the version.
        key: Name of the folder below ``videos/``.
        fps: Frames per second.
        max_bytes: Size in bytes from which a new file is begun.
        may_link: Whether files of others, whose frames are all written in their order, are linked instead of copied.
    """

    def __init__(self, folder: Path, key: str, *, fps: float, max_bytes: int, may_link: bool = False):
        self._folder, self._key = folder, key
        self._rate = Fraction(fps).limit_denominator(1000)
        self._max_bytes = max_bytes
        self._path = ""
        self._header = b""
        self._num_frames = self._num_bytes = 0
        self._file: BinaryIO | None = None
        self._container: Any = None
        self._stream: Any = None
        self._may_link = may_link
        # The video whose first frames are those of the current file, until it is known whether it has others.
        self._linked: VideoFile | None = None
        self.paths: list[str] = []

    def add(self, clip: Clip, episode: int) -> Clip:
        """Append the clip of an episode; return it at its place in the file."""
        if self._may_link and clip.first == 0 and clip.video.path is not None:
            self._begin(episode)
            self._linked = clip.video
        elif self._linked is not None and not self._continues_linked(clip):
            self._finish_linked()
        if self._linked is not None:
            self._num_frames += clip.count
            return replace(clip, path=self._path, frame=clip.first)
        if self._container is None or self._num_bytes >= self._max_bytes or self._header != clip.video.header:
            self._begin(episode)
            self._open(clip.video)
        first = self._num_frames
        self._copy(clip)
        return replace(clip, path=self._path, frame=first)

    def close(self) -> None:
        """Finish the file at hand."""
        if self._linked is not None:
            self._finish_linked()
        if self._container is not None:
            self._container.close()
            self._file.close()  # type: ignore[union-attr]
            self._container = self._file = None

    def _begin(self, episode: int) -> None:
        """Finish the file at hand, and name the next one."""
        self.close()
        self._path = f"videos/{self._key}/chunk-000/file-{episode:03d}.mp4"
        self._num_frames = self._num_bytes = 0
        self.paths.append(self._path)

    def _continues_linked(self, clip: Clip) -> bool:
        return clip.video.path == self._linked.path and clip.first == self._num_frames  # type: ignore[union-attr]

    def _finish_linked(self) -> None:
        """Link the file whose frames were all written; of another one copy those that were."""
        video, num_frames = self._linked, self._num_frames
        assert video is not None
        assert video.path is not None
        self._linked = None
        if num_frames == len(video):
            _store.link_or_copy(video.path, self._folder / self._path)
        else:
            self._num_frames = 0
            self._open(video)
            self._copy(Clip(video, 0, num_frames))

    def _copy(self, clip: Clip) -> None:
        """Append the packets of a clip to the open file."""
        is_key = clip.video.is_key[clip.first : clip.first + clip.count]
        for packet, is_key_frame in zip(clip.packets(), is_key.tolist(), strict=True):
            self._container.mux(self._to_packet(packet, is_key=is_key_frame))
            self._num_frames += 1
            self._num_bytes += len(packet)

    def _open(self, video: VideoFile) -> None:
        """Open a file for packets like those of a video."""
        import av

        path = self._folder / self._path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("wb")
        self._container = av.open(self._file, "w", format="mp4", options=_MUXER_OPTIONS)
        with video.open_source() as source, video.open_container(source) as template:
            self._stream = self._container.add_stream_from_template(template.streams.video[0], opaque=True)
        self._stream.time_base = 1 / self._rate
        self._header = video.header

    def _to_packet(self, content: bytes, *, is_key: bool) -> Any:
        import av

        packet = av.Packet(content)
        packet.stream = self._stream
        packet.time_base = 1 / self._rate
        packet.pts = packet.dts = self._num_frames
        packet.duration = 1
        packet.is_keyframe = is_key
        return packet


@lru_cache(maxsize=8)
def _require_encoder(codec: str) -> str:
    import av

    encoder = _ENCODERS[codec]
    if encoder not in av.codecs_available:
        msg = (
            f"Storing pictures as {codec} needs the encoder {encoder}, which this av was built without: pip install av"
        )
        raise MissingExtraError(msg)
    if codec == "av1":
        os.environ.setdefault("SVT_LOG", "1")  # errors only; it prints its settings for every clip otherwise
    return encoder


def _encoder_options(storage: PictureStorage) -> dict[str, str]:
    """Return FFmpeg's options: frames in the order of time, and the same bytes on any number of cores."""
    values = {name: str(value) for name, value in storage.options if name != "gop"}
    if storage.name == "av1":
        return values | {"svtav1-params": "lp=1"}
    if storage.name == "h264":
        return values | {"bf": "0", "sc_threshold": "0"}
    if storage.name == "h265":
        return values | {"x265-params": "bframes=0:scenecut=0:pools=none:frame-threads=1:info=0:log-level=error:ctu=32"}
    return {"slices": "4", "slicecrc": "1"}
