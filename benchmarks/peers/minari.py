"""Minari: episodes in HDF5 or Arrow files. It serves whole episodes; a batch is cut from enough of them."""

import os
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.source import ACTION, OBSERVATION, Source
from benchmarks.peers.worker import Drawing, UnavailableError, batch_of, folder_bytes, slice_of

os.environ.setdefault("MINARI_REMOTE", "")
DATASET = "bench/episodes-v0"


class Peer:
    """Adapter of ``create_dataset_from_buffers``, ``sample_episodes`` and ``iterate_episodes``."""

    data_format = "hdf5"

    def __init__(self, source: Source, folder: Path):
        self._source, self._folder = source, Path(folder)
        os.environ["MINARI_DATASETS_PATH"] = str(self._folder)
        self._generator = np.random.default_rng(0)

    def versions(self) -> dict[str, str]:
        """Return the versions of the measured libraries."""
        return {name: metadata.version(name) for name in ("minari", "h5py", "pyarrow")}

    def write(self) -> dict[str, Any]:
        """Pass one buffer of arrays per episode, which is Minari's fastest way to write."""
        import gymnasium
        import minari
        from minari.data_collector import EpisodeBuffer

        buffers = [
            EpisodeBuffer(
                id=episode.index,
                seed=episode.index,
                observations=np.asarray(episode.observation),
                actions=np.asarray(episode.action),
                rewards=np.asarray(episode.reward),
                terminations=np.asarray(episode.terminated),
                truncations=np.asarray(episode.truncated),
            )
            for episode in self._source.episodes()
        ]
        start, cpu_start = time.perf_counter(), time.process_time()
        minari.create_dataset_from_buffers(
            DATASET,
            buffers,
            observation_space=gymnasium.spaces.Box(-np.inf, np.inf, (OBSERVATION,), np.float32),
            action_space=gymnasium.spaces.Box(-1, 1, (ACTION,), np.float32),
            data_format=self.data_format,
        )
        spent = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu_start}
        return {"bytes": folder_bytes(self._folder), **spent}

    def open(self, workload: str, variant: str) -> Drawing:
        """Serve batches of whole episodes."""
        if workload in ("nstep_3", "stack_3", "prioritized", "images_64", "open_cold"):
            msg = "Minari has no such sampling"
            raise UnavailableError(msg)
        if workload == "open_warm":
            return Drawing(lambda: _batch(self._load().sample_episodes(6), 256), _as_is)
        dataset, size = self._load(), batch_of(workload)
        dataset.set_seed(0)
        if workload.startswith("iterate"):
            return self._iterate(dataset)
        if workload.startswith("slices"):
            return Drawing(lambda: self._windows(dataset, size, slice_of(workload)), _as_is)
        num_episodes = -(-size // int(self._source.lengths.min()))
        return Drawing(lambda: _batch(dataset.sample_episodes(num_episodes), size), _as_is)

    def _load(self) -> Any:
        import minari

        return minari.load_dataset(DATASET)

    def _iterate(self, dataset: Any) -> Drawing:
        def episodes() -> Any:
            while True:
                yield from dataset.iterate_episodes()

        running = episodes()
        return Drawing(lambda: _batch([next(running)]), _as_is, size=int(self._source.lengths[0]))

    def _windows(self, dataset: Any, size: int, width: int) -> dict[str, np.ndarray]:
        if width > self._source.lengths.min():
            msg = f"an episode is shorter than {width}"
            raise UnavailableError(msg)
        parts = []
        for episode in dataset.sample_episodes(size // width):
            start = int(self._generator.integers(0, len(episode.actions) - width + 1))
            parts.append({name: values[start : start + width] for name, values in _batch([episode]).items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _batch(episodes: Any, size: int | None = None) -> dict[str, np.ndarray]:
    episodes = list(episodes)
    columns = {
        "observation": [episode.observations[:-1] for episode in episodes],
        "next_observation": [episode.observations[1:] for episode in episodes],
        "action": [episode.actions for episode in episodes],
        "reward": [episode.rewards for episode in episodes],
        "terminated": [episode.terminations for episode in episodes],
        "truncated": [episode.truncations for episode in episodes],
    }
    return {name: np.concatenate(parts)[:size] for name, parts in columns.items()}


def _as_is(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return batch
