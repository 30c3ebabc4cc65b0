"""Pictures on their way into a version: encoded ahead on all cores, joined to videos, and what they lost.

::

    records ─► check ─► encode, on all cores, in order ─► one video per camera, split and shard size
                             │
                             └─► decode: what a reader will get ─► PSNR and SSIM per split and column

A record that comes from a version with the same storage is not encoded again: its pictures are copied as they are.
"""

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from rlhive._threads import num_cores
from rlhive.data._encoded_pictures import EncodedPictures, encode_pictures
from rlhive.data._episodes import EpisodeRecord
from rlhive.data._pictures import PICTURE_DIMS, find_layout
from rlhive.data._schema import Field, Schema
from rlhive.data._video_encoding import VideoWriter
from rlhive.data.versions._picture_loss import PictureErrors, compare_pictures

#: Rate of the videos of episodes whose rate is not known.
DEFAULT_FPS = 30.0

_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")


@dataclass(frozen=True)
class EncodedEpisode:
    """An episode before and after its pictures were encoded.

    Attributes:
        original: The record as it came.
        record: The record as readers of the version will get it: decoded pictures beside the encoded ones.
        errors: What the pictures lost that were encoded lossily here, by column.
    """

    original: EpisodeRecord
    record: EpisodeRecord
    errors: Mapping[str, PictureErrors]


def encode_ahead(
    records: Iterable[EpisodeRecord], schema: Schema, check: Callable[[EpisodeRecord], None]
) -> Iterator[EncodedEpisode]:
    """Yield episodes with their pictures encoded, in order; as many as the machine has cores are encoded at a time.

    Args:
        records: The episodes.
        schema: Schema of the version, storages included.
        check: Raises for a record that does not fit; it is called in order, before the record is encoded.
    """
    if not schema.carried:
        for record in records:
            check(record)
            yield EncodedEpisode(record, replace(record, encoded={}) if record.encoded else record, {})
        return
    with ThreadPoolExecutor(num_cores(), "rlhive-encode") as pool:
        pending: deque[Future[EncodedEpisode]] = deque()
        for record in records:
            check(record)
            pending.append(pool.submit(encode_episode, record, schema))
            if len(pending) > num_cores():
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def encode_episode(record: EpisodeRecord, schema: Schema) -> EncodedEpisode:
    """Return an episode with the pictures of a schema encoded; those that it carries in the same storage stay.

    Raises:
        MissingExtraError: PyAV, or its encoder, is not installed.
    """
    encoded: dict[str, EncodedPictures] = {}
    columns, final, errors = dict(record.columns), dict(record.final), {}
    for item in schema.carried:
        pictures = record.encoded.get(item.column)
        if pictures is None or pictures.storage != item.storage:
            pictures = encode_pictures(columns[item.column], final.get(item.column), str(item.storage))
            if item.is_lossy:
                decoded = pictures.decode(item.dtype, item.shape)
                errors[item.column] = _compare(record, decoded, item)
                columns[item.column] = decoded[: record.length]
                if item.observed:
                    final[item.column] = decoded[-1]
        encoded[item.column] = pictures
    return EncodedEpisode(record, replace(record, columns=columns, final=final, encoded=encoded), errors)


class SplitVideos:
    """The video files of one split.

    Args:
        folder: Folder of the version.
        schema: Schema of the version.
        fps: Rate of the videos.
        max_bytes: Size in bytes from which a new file is begun.
        may_link: Whether whole files of others are linked instead of copied.
    """

    def __init__(self, folder: Path, schema: Schema, *, fps: float, max_bytes: int, may_link: bool):
        self._schema = schema
        self._make_writer = partial(VideoWriter, folder, fps=fps, max_bytes=max_bytes, may_link=may_link)
        self._writers: dict[str, VideoWriter] = {}

    def add(self, record: EpisodeRecord) -> EpisodeRecord:
        """Append the clips of an episode; return the record with their places."""
        encoded = dict(record.encoded)
        for position, item in enumerate(self._schema.fields):
            if item.is_video:
                clips = [
                    self._writer(_find_key(item, position, camera)).add(clip, record.episode)
                    for camera, clip in enumerate(encoded[item.column].clips)
                ]
                encoded[item.column] = encoded[item.column].with_clips(clips)
        return replace(record, encoded=encoded) if encoded else record

    def finish(self) -> list[str]:
        """Finish the files; return their paths in the version."""
        for writer in self._writers.values():
            writer.close()
        return [path for writer in self._writers.values() for path in writer.paths]

    def _writer(self, key: str) -> VideoWriter:
        if key not in self._writers:
            self._writers[key] = self._make_writer(key)
        return self._writers[key]


def _find_key(item: Field, position: int, camera: int) -> str:
    """Return the folder of a camera's videos: the column's name, and the camera's number where it has several."""
    name = _UNSAFE.sub("_", item.column)
    name = name if name == item.column else f"{name}-{position}"
    return f"{name}.{camera}" if len(item.shape) > PICTURE_DIMS else name


def _compare(record: EpisodeRecord, decoded: np.ndarray, item: Field) -> PictureErrors:
    """Compare the pictures of a record, the final value too, with what was decoded for them."""
    originals = [*record.columns[item.column], *([record.final[item.column]] if item.observed else [])]
    layout = find_layout(item.dtype, item.shape)
    if layout is None:
        msg = f"expected a column of pictures, got {item.dtype} {list(item.shape)}"
        raise ValueError(msg)
    return compare_pictures(originals, decoded, layout)
