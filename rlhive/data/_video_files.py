"""Video files of a version, decoded from any frame on.

::

    frame f ─► the key frame before it … f, decoded       one packet is one frame

Each packet holds exactly one frame, and the packets lie in the order of time, so that a frame has a number in the file
and a clip can be copied into another file as it is (:mod:`rlhive.data._video_encoding`). Files may come from anywhere:
only MP4 is opened, from an open file, so that no path or address inside it is followed; its boxes are compared before
FFmpeg reads them (:mod:`rlhive.data._video_boxes`); size and codec are compared before a packet is decoded, and no
larger frame is decoded.
"""

import io
import math
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from rlhive._extras import require_extra
from rlhive.data._picture_codecs import parse_storage
from rlhive.data._pictures import PictureLayout
from rlhive.data._video_boxes import require_usual_boxes
from rlhive.errors import CorruptDatasetError

#: PyAV's decoder of a codec.
_DECODERS = {"av1": "libdav1d", "h264": "h264", "h265": "hevc", "ffv1": "ffv1"}
#: FFmpeg's name of a codec where it is not ours.
_CODEC_NAMES = {"hevc": "h265"}
#: FFmpeg's pixel formats by Pillow's mode: of the arrays, and of a lossless video.
ARRAY_FORMATS = {"L": "gray", "RGB": "rgb24", "RGBA": "rgba", "I;16": "gray16le"}
LOSSLESS_FORMATS = {"L": "gray", "RGB": "bgr0", "RGBA": "bgra", "I;16": "gray16le"}
#: Codecs fill sides up to a multiple of their largest block, in pixels.
_CODED_BLOCK = 128
#: Frames that one thread decodes at a time.
_FRAMES_PER_TASK = 32


class VideoFile:
    """The packets of a video, found without reading or decoding them.

    Args:
        source: The file, or its content.
        address: Address for error messages.

    Attributes:
        codec: Name of the codec.
        width: Width in pixels.
        height: Height in pixels.
        header: What a decoder has to know before the first packet.
        is_key: Whether each frame can be decoded without those before it, ``[N]``.

    Raises:
        CorruptDatasetError: The file is no MP4 with one video, is damaged, or its index does not fit its size.
        MissingExtraError: PyAV is not installed.
    """

    def __init__(self, source: Path | bytes, address: str):
        require_video_codecs()
        self._source, self._address = source, address
        with _open_source(source) as file:
            num_bytes = file.seek(0, os.SEEK_END)
            file.seek(0)
            if file.read(8)[4:] != b"ftyp":
                got = "another kind of file"
                raise self._unreadable(got)
            try:
                require_usual_boxes(file, num_bytes)
            except ValueError as error:
                raise self._unreadable(str(error)) from error
            file.seek(0)
            self._read_index(file)
        self._key_frames = np.maximum.accumulate(np.where(self.is_key, np.arange(len(self.is_key)), -1))
        self._handle = -1
        if isinstance(source, Path):
            self._handle = os.open(source, os.O_RDONLY)
            weakref.finalize(self, os.close, self._handle)
        stops = self._starts + self._sizes
        if (self._sizes <= 0).any() or (self._starts < 0).any() or (stops > num_bytes).any():
            got = "an index of frames that lie outside of the file"
            raise self._unreadable(got)
        if int(self._sizes.sum()) > num_bytes:
            got = "an index of frames that overlap"
            raise self._unreadable(got)

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def path(self) -> Path | None:
        """Path of the file; None for content in memory."""
        return self._source if isinstance(self._source, Path) else None

    def __reduce__(self) -> tuple[Any, ...]:
        return VideoFile, (self._source, self._address)

    def find_key_frames(self, frames: np.ndarray) -> np.ndarray:
        """Return the key frame from which each of some frames is decoded, int64; -1 for none."""
        return self._key_frames[frames]

    def read(self, first: int, stop: int) -> list[bytes]:
        """Return the packets of some frames.

        Raises:
            CorruptDatasetError: The video has fewer frames.
        """
        self.require_frames(first, stop)
        places = zip(self._starts[first:stop].tolist(), self._sizes[first:stop].tolist(), strict=True)
        if isinstance(self._source, bytes):
            return [self._source[start : start + size] for start, size in places]
        return [os.pread(self._handle, size, start) for start, size in places]

    def decode(
        self,
        first: int,
        stop: int,
        layout: PictureLayout,
        *,
        context: str = "",
        decoder: "FrameDecoder | None" = None,
    ) -> Iterator[np.ndarray]:
        """Yield some frames, each ``[H, W, channels]`` of the layout's kind.

        Args:
            first: The first frame.
            stop: The frame after the last.
            layout: Layout of the pictures.
            context: What the frames belong to, for error messages.
            decoder: A decoder of this video that no other thread uses, which saves opening one; all frames must be
                taken then.

        Raises:
            CorruptDatasetError: The video has fewer frames, another size, or a frame cannot be decoded, which the
                message names.
        """
        import av

        self.require_size(layout)
        self.require_frames(first, stop)
        start = int(self._key_frames[first])
        if start < 0:
            raise self._undecodable(first, "no key frame before it", context)
        decoder = decoder or FrameDecoder(self)
        frame = start
        try:
            for packet in [*map(av.Packet, self.read(start, stop)), None]:
                for picture in decoder.decode(packet):
                    if first <= frame < stop:
                        yield self._to_array(picture, decoder, layout, frame, context)
                    frame += 1
        except av.FFmpegError as error:
            raise self._undecodable(frame, str(error.strerror), context) from error
        if frame != stop:
            got = f"{frame - start} pictures from {stop - start} packets"
            raise self._undecodable(min(frame, stop), got, context)

    def split(self, first: int, stop: int) -> list[tuple[int, int]]:
        """Return ranges of frames that together are one range, each from a key frame on, to be decoded in parallel."""
        key_frames = np.flatnonzero(self.is_key[first:stop]) + first
        bounds = [first]
        for frame in key_frames.tolist():
            if frame - bounds[-1] >= _FRAMES_PER_TASK:
                bounds.append(frame)
        return list(zip(bounds, [*bounds[1:], stop], strict=True))

    def open_container(self, file: BinaryIO) -> Any:
        """Return PyAV's container of an open file of the same content."""
        import av

        return av.open(file, "r", format="mp4")

    def open_source(self) -> BinaryIO:
        """Return the open file."""
        return _open_source(self._source)

    def require_frames(self, first: int, stop: int) -> None:
        """Raise CorruptDatasetError unless the video has some frames."""
        if not 0 <= first <= stop <= len(self):
            msg = (
                f"{self._address}: expected {stop} frames or more, as the table says, got {len(self)}. Fetch or make "
                "the version again."
            )
            raise CorruptDatasetError(msg)

    def require_codec(self, storage: str) -> None:
        """Raise CorruptDatasetError unless the video has the codec of a storage."""
        if parse_storage(storage).name != self.codec:
            got = f"a video of the codec {self.codec}, not {storage}"
            raise self._unreadable(got)

    def _read_index(self, file: BinaryIO) -> None:
        import av

        try:
            with self.open_container(file) as container:
                if len(container.streams) != 1 or not container.streams.video:
                    got = f"{len(container.streams)} streams"
                    raise self._unreadable(got)
                stream = container.streams.video[0]
                context = stream.codec_context
                name = context.codec.canonical_name
                self.codec: str = _CODEC_NAMES.get(name, name)
                self.width, self.height = int(context.width), int(context.height)
                self.header = bytes(context.extradata or b"")
                index = [(entry.pos, entry.size, entry.is_keyframe) for entry in stream.index_entries]
        except av.FFmpegError as error:
            raise self._unreadable(str(error.strerror)) from error
        self._starts = np.array([entry[0] for entry in index], np.int64)
        self._sizes = np.array([entry[1] for entry in index], np.int64)
        self.is_key = np.array([entry[2] for entry in index], bool)

    def require_size(self, layout: PictureLayout) -> None:
        """Raise CorruptDatasetError unless the pictures have the size of a layout."""
        if (self.width, self.height) != (layout.width, layout.height) or self.codec not in _DECODERS:
            got = f"{self.codec} of {self.width} x {self.height} pixels, not {layout.width} x {layout.height}"
            raise self._unreadable(got)

    def _to_array(
        self, picture: Any, decoder: "FrameDecoder", layout: PictureLayout, frame: int, context: str
    ) -> np.ndarray:
        is_lossless = self.codec == "ffv1"
        expected = LOSSLESS_FORMATS[layout.mode] if is_lossless else picture.format.name
        if (picture.width, picture.height, picture.format.name) != (layout.width, layout.height, expected):
            got = f"{picture.format.name} of {picture.width} x {picture.height} pixels"
            raise self._undecodable(frame, got, context)
        values = decoder.to_array(picture, ARRAY_FORMATS[layout.mode])
        return values.reshape(layout.height, layout.width, layout.channels)

    def _unreadable(self, got: str) -> CorruptDatasetError:
        return CorruptDatasetError(
            f"{self._address}: expected an MP4 file of one video, got {got}. Fetch or make the version again."
        )

    def _undecodable(self, frame: int, got: str, context: str) -> CorruptDatasetError:
        owner = f" of {context}" if context else ""
        msg = f"{self._address}, frame {frame}{owner}: expected a picture, got {got}. Fetch or make the version again."
        return CorruptDatasetError(msg)


class FrameDecoder:
    """A decoder of one video, for one thread; frames can be decoded from any key frame on, again and again."""

    def __init__(self, video: VideoFile):
        import av
        from av.video.reformatter import VideoReformatter

        decoder: Any = av.CodecContext.create(_DECODERS[video.codec], "r")
        decoder.extradata = video.header
        decoder.width, decoder.height = video.width, video.height
        decoder.thread_count = 1
        coded_sides = (-(-side // _CODED_BLOCK) * _CODED_BLOCK for side in (video.width, video.height))
        decoder.options = {"max_pixels": str(math.prod(coded_sides))}  # a larger frame is not decoded
        self._decoder = decoder
        # One for all frames: it keeps the tables of the conversion, which take longer to make than to use.
        self._reformatter = VideoReformatter()

    def decode(self, packet: Any) -> list[Any]:
        """Return the pictures that a packet completes; None ends the sequence."""
        pictures: list[Any] = self._decoder.decode(packet)
        if packet is None:
            self._decoder.flush_buffers()
        return pictures

    def to_array(self, picture: Any, pixel_format: str) -> np.ndarray:
        """Return a picture in a pixel format of FFmpeg."""
        # FFmpeg 8 waits for ever for conversion threads that a memory limit kept from starting.
        converted: Any = self._reformatter.reformat(picture, format=pixel_format, threads=1)
        values: np.ndarray = converted.to_ndarray()
        return values


@dataclass(frozen=True, eq=False)
class Clip:
    """The frames of one camera in one episode.

    Attributes:
        video: The video that holds them.
        first: First frame in the video.
        count: Number of frames.
        path: Path, in the version that they belong to, of the video that holds them; empty for one of no version.
        frame: Number of the first frame in that video.
    """

    video: VideoFile
    first: int
    count: int
    path: str = ""
    frame: int = 0

    def packets(self, start: int = 0, stop: int | None = None) -> list[bytes]:
        """Return the encoded frames from ``start`` up to ``stop``, numbered within the clip; by default all."""
        return self.video.read(self.first + start, self.first + (self.count if stop is None else stop))


class VideoFolder:
    """The videos of a version, each opened when it is first needed; usable by several threads.

    Args:
        folder: Folder of the version.
        verify: Raises CorruptDatasetError unless a path names a file of the version that is as its manifest says.
    """

    def __init__(self, folder: Path, verify: Callable[[str], None]):
        self._folder = folder
        self._verify = verify
        self._videos: dict[str, VideoFile] = {}
        self._lock = threading.Lock()

    def open(self, path: str, storage: str) -> VideoFile:
        """Return the video of a path.

        Raises:
            CorruptDatasetError: The version has no such file, or another video than the storage says.
        """
        with self._lock:
            if path not in self._videos:
                self._verify(path)
                self._videos[path] = VideoFile(self._folder / path, str(self._folder / path))
            video = self._videos[path]
        video.require_codec(storage)
        return video


def require_video_codecs() -> None:
    """Raise MissingExtraError unless PyAV is installed."""
    with require_extra("Videos need av: pip install 'rlhive[formats]'"):
        import av  # noqa: F401


def _open_source(source: Path | bytes) -> BinaryIO:
    return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
