"""d3rlpy: episodes in memory, transitions picked one by one."""

from importlib import metadata
from pathlib import Path
from typing import Any

import d3rlpy.dataset as d3
import numpy as np

from benchmarks.peers.source import GAMMA, NUM_STEPS, STACK, Source
from benchmarks.peers.worker import Drawing, UnavailableError, batch_of, folder_bytes, slice_of


class Peer:
    """Adapter of ``ReplayBuffer`` with the transition picker or slicer of the workload.

    d3rlpy stores no observation after the last action: a terminal transition has a zero next observation, and the last
    transition of a truncated episode is not served. Both are left out of the comparison.
    """

    def __init__(self, source: Source, folder: Path):
        self._source, self._path = source, Path(folder) / "episodes.h5"

    def versions(self) -> dict[str, str]:
        """Return the versions of the measured libraries."""
        return {name: metadata.version(name) for name in ("d3rlpy", "h5py", "torch")}

    def write(self) -> dict[str, Any]:
        """Dump all episodes into an HDF5 file."""
        with self._path.open("w+b") as file:
            self._buffer().dump(file)
        return {"bytes": folder_bytes(self._path.parent)}

    def open(self, workload: str, variant: str) -> Drawing:
        """Build the buffer that the workload needs."""
        if workload in ("prioritized", "images_64", "open_cold", "iterate_256"):
            msg = "d3rlpy has no such sampling"
            raise UnavailableError(msg)
        size = batch_of(workload)
        if workload == "open_warm":
            return Drawing(lambda: self._load().sample_transition_batch(size), _arrays)
        if workload.startswith("slices"):
            width = slice_of(workload)
            if width > self._source.lengths.min():
                msg = f"an episode is shorter than {width}"
                raise UnavailableError(msg)
            buffer = self._buffer()
            return Drawing(lambda: buffer.sample_trajectory_batch(size // width, width), _windows)
        picker = {
            "nstep_3": lambda: d3.MultiStepTransitionPicker(NUM_STEPS, GAMMA),
            "stack_3": lambda: d3.FrameStackTransitionPicker(STACK),
        }.get(workload, d3.BasicTransitionPicker)()
        buffer = self._buffer(transition_picker=picker)
        arrays = {"nstep_3": _nstep, "stack_3": _stacked}.get(workload, _arrays)
        return Drawing(lambda: buffer.sample_transition_batch(size), arrays)

    def _buffer(self, **arguments: Any) -> d3.ReplayBuffer:
        episodes = [
            d3.Episode(
                np.array(episode.observation[:-1]),
                np.array(episode.action),
                np.array(episode.reward)[:, None],
                bool(episode.terminated[-1]),
            )
            for episode in self._source.episodes()
        ]
        return d3.ReplayBuffer(d3.InfiniteBuffer(), episodes=episodes, **arguments)

    def _load(self) -> d3.ReplayBuffer:
        with self._path.open("rb") as file:
            return d3.ReplayBuffer.load(file, d3.InfiniteBuffer())


def _arrays(batch: Any) -> dict[str, np.ndarray]:
    following = np.where(batch.terminals > 0, np.nan, batch.next_observations)
    return {
        "observation": batch.observations,
        "action": batch.actions,
        "reward": batch.rewards.ravel(),
        "next_observation": following,
        "terminated": batch.terminals.ravel() > 0,
    }


def _nstep(batch: Any) -> dict[str, np.ndarray]:
    full = batch.intervals.ravel() == NUM_STEPS  # the other returns end early, at the end of the stored episode
    return {name: values[full] for name, values in _arrays(batch).items() if name != "terminated"}


def _stacked(batch: Any) -> dict[str, np.ndarray]:
    return {"observation": batch.observations, "action": batch.actions}


def _windows(batch: Any) -> dict[str, np.ndarray]:
    unpadded = batch.masks.all(axis=1)  # the other windows begin before their episode and are padded
    columns = {"observation": batch.observations, "action": batch.actions, "reward": batch.rewards[..., 0]}
    return {name: values[unpadded].reshape(-1, *values.shape[2:]) for name, values in columns.items()}
