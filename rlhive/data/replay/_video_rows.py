"""Pictures that stay in their videos: how a cache without pictures reads the rows of a wide field.

::

    wide-0.idx      int64 per frame: number of its video, number of the frame in it
    wide-0-0.mp4    the version's videos under other names, links where the disk has them

A row has one frame per camera. Reading a row decodes its frames from the key frame before each, frames of one key frame
together.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from rlhive.data import _pictures
from rlhive.data._schema import Field
from rlhive.data._video_files import FrameDecoder, VideoFile
from rlhive.data.replay._checksums import damaged_cache_error
from rlhive.data.replay._frames import RowReader, map_in_threads, num_threads

_WORD = 8


class VideoRows(RowReader):
    """Rows of a picture column, decoded from videos when they are read.

    Args:
        folder: Folder of the cache.
        name: Name of the block.
        item: The column.
        num_rows: Number of rows.
        videos: Names of the video files; those that no row of the column names are not opened.

    Raises:
        CorruptDatasetError: A file is missing or no such video, or the index has the wrong size.
    """

    def __init__(self, folder: Path, name: str, item: Field, num_rows: int, videos: Sequence[str]):
        layout = _pictures.find_layout(item.dtype, item.shape)
        path = folder / f"{name}.idx"
        size = path.stat().st_size if path.is_file() else 0
        expected = 0 if layout is None else num_rows * layout.num_pictures * 2 * _WORD
        if layout is None or size != expected:
            raise damaged_cache_error(folder, f"{path.name}: expected {expected} bytes, got {size}")
        self._item, self._layout, self._num_rows, self._folder = item, layout, num_rows, folder
        self._index = np.fromfile(path, np.int64).reshape(num_rows, layout.num_pictures, 2)
        numbers, frames = self._index[..., 0], self._index[..., 1]
        self._videos: dict[int, VideoFile] = {}
        for number in np.unique(numbers).tolist():
            if not 0 <= number < len(videos):
                raise damaged_cache_error(folder, f"{path.name}: there is no video {number}")
            video = self._videos[number] = VideoFile(folder / videos[number], str(folder / videos[number]))
            video.require_codec(str(item.storage))
            video.require_size(layout)
            used = frames[numbers == number]
            video.require_frames(int(used.min()), int(used.max()) + 1)
        self._row_bytes = -(-item.width * np.dtype(item.dtype).itemsize // _WORD) * _WORD

    def __len__(self) -> int:
        return self._num_rows

    def take(self, rows: torch.Tensor) -> torch.Tensor:
        """Decode rows on all threads; a repeated row is decoded once.

        Args:
            rows: Row numbers, int64 ``[n]``.

        Returns:
            int64 ``[n, row_bytes // 8]`` in new memory; the bytes after the last frame of a row are undefined.

        Raises:
            CorruptDatasetError: A frame cannot be decoded.
        """
        unique, inverse = np.unique(rows.numpy(), return_inverse=True)
        decoded = torch.empty(len(unique), self._row_bytes // _WORD, dtype=torch.int64, device="cpu")
        values = decoded.numpy().view(np.uint8)[:, : self._item.width * np.dtype(self._item.dtype).itemsize]
        target = values.view(self._item.dtype).reshape(len(unique), self._layout.num_pictures, *self._stored_shape)
        groups = [
            (camera, positions)
            for camera in range(self._layout.num_pictures)
            for positions in self._group_by_key_frame(self._index[unique, camera])
        ]

        def decode(part: Sequence[tuple[int, np.ndarray]]) -> None:
            decoders: dict[int, FrameDecoder] = {}
            for camera, positions in part:
                numbers, frames = self._index[unique[positions], camera].T
                number = int(numbers[0])
                if number not in decoders:
                    decoders[number] = FrameDecoder(self._videos[number])
                self._decode(number, decoders[number], frames, target[:, camera], positions)

        size = max(1, -(-len(groups) // num_threads()))
        for _ in map_in_threads(decode, [groups[start : start + size] for start in range(0, len(groups), size)]):
            pass
        return decoded if len(unique) == len(inverse) and _is_rising(inverse) else decoded[torch.from_numpy(inverse)]

    @property
    def _stored_shape(self) -> tuple[int, ...]:
        """Shape of one picture in a row."""
        return tuple(self._item.shape[-3:])

    def _group_by_key_frame(self, index: np.ndarray) -> list[np.ndarray]:
        """Return positions of frames, in rising order of their numbers, one group per key frame."""
        order = np.lexsort((index[:, 1], index[:, 0]))
        numbers, frames = index[order].T
        key_frames = np.empty_like(frames)
        for number in np.unique(numbers).tolist():
            key_frames[numbers == number] = self._videos[number].find_key_frames(frames[numbers == number])
        changes = np.flatnonzero((np.diff(numbers) != 0) | (np.diff(key_frames) != 0)) + 1
        return [group for group in np.split(order, changes) if len(group)]

    def _decode(
        self, number: int, decoder: FrameDecoder, frames: np.ndarray, target: np.ndarray, positions: np.ndarray
    ) -> None:
        """Decode frames in rising order into the positions of an array ``[n, *stored shape]``."""
        first = int(frames[0])
        by_frame: dict[int, list[int]] = {}
        for frame, position in zip(frames.tolist(), positions.tolist(), strict=True):
            by_frame.setdefault(frame, []).append(position)
        pictures = self._videos[number].decode(first, int(frames[-1]) + 1, self._layout, decoder=decoder)
        for offset, picture in enumerate(pictures):
            for position in by_frame.get(first + offset, ()):
                target[position] = np.moveaxis(picture, 2, 0) if self._layout.is_channels_first else picture


def _is_rising(numbers: np.ndarray) -> bool:
    return bool((np.diff(numbers) == 1).all())
