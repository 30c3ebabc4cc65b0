"""Pictures of an episode as JPEG: those that are stored, or its states as the simulator renders them.

Stored pictures are encoded when they are asked for. Rendering is slow, so it goes on in one thread, which owns the
simulator: a reader waits for the pictures that it asked for and not for the others. An episode that nobody looks at any
more is no longer rendered, and the oldest pictures are forgotten.
"""

import base64
import contextlib
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhive import keys
from rlhive.data.formats import encode_jpeg
from rlhive.errors import ReplayRefusedError, RLHiveError

if TYPE_CHECKING:
    from rlhive.data import EpisodeRecord

#: Widest picture in pixels; wider ones are reduced.
MAX_WIDTH = 480
#: Name of the camera of rendered pictures.
RENDERED = "rendered from the states"
#: Pictures of one answer.
MAX_FRAMES = 64
#: Rendered pictures that are kept.
CACHE_BYTES = 128 * 2**20
#: Episodes that are rendered at the same time: one for each side of a comparison.
_WANTED = 2
_WAIT_S = 120.0
#: The one thread that uses the simulator and OpenGL, for all datasets.
_SIMULATOR = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rlhive-simulator")


def stored_cameras(record: "EpisodeRecord", columns: list[str]) -> dict[str, np.ndarray]:
    """Return the stored pictures uint8 ``[T or T + 1, H, W, C]`` by camera.

    Args:
        record: The episode.
        columns: Columns of pictures ``[…, H, W, C]`` or ``[…, C, H, W]``.
    """
    cameras = {}
    for name in columns:
        values = record.columns.get(name)
        if values is None or name.startswith(f"{keys.NEXT}."):
            continue
        if name in record.final:
            values = np.concatenate([values, record.final[name][None]])
        if values.shape[-1] not in (1, 3) and values.shape[-3] in (1, 3):
            values = np.moveaxis(values, -3, -1)  # channels first
        if values.shape[-1] not in (1, 3):
            continue
        frames = values.reshape(len(values), -1, *values.shape[-3:])
        for index in range(frames.shape[1]):
            cameras[name if frames.shape[1] == 1 else f"{name} {index + 1}"] = frames[:, index]
    return cameras


def encode_frames(frames: Iterable[np.ndarray], *, max_width: int = MAX_WIDTH, quality: int = 80) -> list[str]:
    """Return pictures uint8 ``[H, W, C]`` as JPEG in base64."""
    return [_encode_base64(frame, max_width=max_width, quality=quality) for frame in frames]


def _encode_base64(frame: np.ndarray, *, max_width: int = MAX_WIDTH, quality: int = 80) -> str:
    content = encode_jpeg(np.ascontiguousarray(frame), max_width=max_width, quality=quality)
    return base64.b64encode(content).decode()


class _Rendering:
    """The pictures of one episode, which a thread appends."""

    def __init__(self) -> None:
        self.frames: list[str] = []
        self.error: str | None = None
        self.is_done = False
        self.is_complete = False
        self.is_dropped = threading.Event()
        self.changed = threading.Condition()

    @property
    def num_bytes(self) -> int:
        return sum(map(len, self.frames))

    def append(self, frame: str) -> None:
        with self.changed:
            self.frames.append(frame)
            self.changed.notify_all()

    def finish(self, error: str | None) -> None:
        with self.changed:
            self.error, self.is_done = error, True
            self.changed.notify_all()

    def read(self, start: int, stop: int) -> list[str]:
        """Return pictures when the last one of them is there.

        Raises:
            ReplayRefusedError: The episode cannot be rendered, or not in time.
        """
        with self.changed:
            is_there = self.changed.wait_for(lambda: self.is_done or len(self.frames) >= stop, timeout=_WAIT_S)
            if self.error is not None and len(self.frames) <= start:
                raise ReplayRefusedError(self.error)
            if len(self.frames) <= start:
                reason = "another one was asked for" if is_there else f"it takes longer than {_WAIT_S:.0f} s"
                msg = f"The pictures of this episode are not rendered: {reason}. Open it again."
                raise ReplayRefusedError(msg)
            return self.frames[start:stop]


class Renderer:
    """Renders episodes in the simulator's thread and keeps their pictures.

    Args:
        render: Function from a record to its pictures uint8 ``[H, W, 3]``, one after the other.
    """

    def __init__(self, render: Callable[["EpisodeRecord"], Generator[np.ndarray, None, None]]) -> None:
        self._render = render
        self._renderings: dict[int, _Rendering] = {}
        self._lock = threading.Lock()

    def read(self, record: "EpisodeRecord", start: int, stop: int) -> list[str]:
        """Return the pictures ``start`` to ``stop`` of an episode as JPEG in base64."""
        return self._find(record).read(start, min(stop, record.length + 1))

    def run(self, compute: Callable[[], Any]) -> Any:
        """Return what a function returns that uses the simulator, after the episodes that are being rendered."""
        return _SIMULATOR.submit(compute).result()

    def close(self) -> None:
        """Give up the episodes that are being rendered, and wait until the simulator has left them."""
        for rendering in self._renderings.values():
            rendering.is_dropped.set()
        self.run(lambda: None)

    def _find(self, record: "EpisodeRecord") -> _Rendering:
        """Return the pictures of an episode; begin to render them unless they are there or on their way."""
        with self._lock:
            rendering = self._renderings.pop(record.episode, None)
            if rendering is None or (rendering.is_dropped.is_set() and not rendering.is_complete):
                rendering = _Rendering()
                _SIMULATOR.submit(self._fill, rendering, record)
            self._renderings[record.episode] = rendering  # the last one is the one that was asked for last
            for older in list(self._renderings.values())[:-_WANTED]:
                older.is_dropped.set()
            self._forget_oldest()
        return rendering

    def _forget_oldest(self) -> None:
        while len(self._renderings) > _WANTED and sum(r.num_bytes for r in self._renderings.values()) > CACHE_BYTES:
            self._renderings.pop(next(iter(self._renderings)))

    def _fill(self, rendering: _Rendering, record: "EpisodeRecord") -> None:
        error = None
        try:
            for frame in self._wanted_frames(rendering, record):
                rendering.append(_encode_base64(frame))
        except RLHiveError as failure:
            error = str(failure)
        except Exception as failure:  # a simulator raises anything for the states of a stranger
            error = f"Episode {record.episode} cannot be rendered: {type(failure).__name__}"
        rendering.finish(error)

    def _wanted_frames(self, rendering: _Rendering, record: "EpisodeRecord") -> Iterator[np.ndarray]:
        with contextlib.closing(self._render(record)) as frames:
            while not rendering.is_dropped.is_set():
                frame = next(frames, None)
                if frame is None:
                    rendering.is_complete = True
                    return
                yield frame
