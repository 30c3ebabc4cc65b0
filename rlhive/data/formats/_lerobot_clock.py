"""The rate and the timestamps of a LeRobot dataset that is written.

LeRobot takes a whole number of frames per second, and frames whose ``timestamp`` begins at 0 and goes on by 1 / fps, up
to 0.1 ms (the default ``tolerance_s`` of its LeRobotDataset). Recorded timestamps that do so are written there. Others
vary more, and stand in the feature ``recorded_timestamp`` alone.
"""

import logging

import numpy as np

from rlhive.data._episodes import EpisodeRecord
from rlhive.data._timing import find_timestamps
from rlhive.data.versions import Manifest
from rlhive.errors import UnsupportedFormatError

logger = logging.getLogger(__name__)

#: Largest difference between a step and 1 / fps, in seconds, that LeRobot accepts.
_TOLERANCE_S = 1e-4


class LeRobotClock:
    """The timestamps of frames, episode by episode.

    Args:
        fps: Frames per second.
    """

    def __init__(self, fps: int):
        self._fps = fps
        self._num_replaced = 0

    def frame_times(self, record: EpisodeRecord) -> np.ndarray:
        """Return the seconds since the first frame, float32 ``[T]``: the recorded ones where LeRobot accepts them."""
        timestamps = find_timestamps(record.columns)
        if timestamps is not None:
            times = (timestamps - timestamps[0]).astype(np.float32)
            if (np.abs(np.diff(times.astype(np.float64)) - 1 / self._fps) <= _TOLERANCE_S).all():
                return times
            self._num_replaced += 1
        return (np.arange(record.length) / self._fps).astype(np.float32)

    def log_replaced(self, name: str) -> None:
        """Log how many episodes have other timestamps than the recorded ones."""
        if self._num_replaced:
            logger.warning(
                "%s: the timestamps of %d episodes vary by more than LeRobot's %g s: their frames are counted at %d "
                "frames per second, and recorded_timestamp has what was recorded",
                *(name, self._num_replaced, _TOLERANCE_S, self._fps),
            )


def require_whole_fps(manifest: Manifest) -> int:
    """Return the rate of a version, rounded, at least 1.

    Raises:
        UnsupportedFormatError: No rate was recorded, or runs have several.
    """
    if manifest.fps is None:
        msg = f"{manifest.name}: expected fps=: the runs record no frames per second, or not all the same."
        raise UnsupportedFormatError(msg)
    return max(1, round(manifest.fps))
