"""Hugging Face datasets: one row per transition, Arrow tables mapped from disk, the torch formatter."""

import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from benchmarks.peers.source import ACTION, OBSERVATION, Source
from benchmarks.peers.worker import Drawing, UnavailableError, batch_of

COLUMNS = ("observation", "action", "reward", "terminated", "truncated")
datasets.disable_progress_bars()


class Peer:
    """Adapter of ``from_generator``, ``to_parquet`` and ``with_format("torch")``; a row has no next observation."""

    def __init__(self, source: Source, folder: Path):
        self._source, self._folder = source, Path(folder)
        self._parquet = str(self._folder / "data.parquet")

    def versions(self) -> dict[str, str]:
        """Return the versions of the measured libraries."""
        return {name: metadata.version(name) for name in ("datasets", "pyarrow", "torch")}

    def write(self) -> dict[str, Any]:
        """Record row by row, then write Parquet; return the size of the Parquet file."""
        features = datasets.Features(
            {
                "observation": datasets.List(datasets.Value("float32"), length=OBSERVATION),
                "action": datasets.List(datasets.Value("float32"), length=ACTION),
                "reward": datasets.Value("float32"),
                "terminated": datasets.Value("bool"),
                "truncated": datasets.Value("bool"),
                "episode": datasets.Value("int64"),
            }
        )
        dataset = datasets.Dataset.from_generator(
            _Rows(self._source), features=features, cache_dir=str(self._folder / "generated")
        )
        dataset.to_parquet(self._parquet)
        size = Path(self._parquet).stat().st_size
        del dataset
        shutil.rmtree(self._folder / "generated")
        return {"bytes": size}

    def open(self, workload: str, variant: str) -> Drawing:
        """Open the Parquet file through datasets' cache."""
        size = batch_of(workload)
        if workload in ("slices_16x16", "slices_4x64", "nstep_3", "stack_3", "prioritized", "images_64"):
            msg = "datasets has no such sampling"
            raise UnavailableError(msg)
        if workload.startswith("open"):
            before = self._forget if workload == "open_cold" else None
            return Drawing(
                lambda: self._load()[list(range(0, len(self._source), max(1, len(self._source) // size)))[:size]],
                _arrays,
                before=before,
            )
        rows = self._load()
        if workload == "iterate_256":
            return self._iterate(rows, size)
        generator = np.random.default_rng(0)
        return Drawing(lambda: rows[generator.integers(0, len(rows), size).tolist()], _arrays)

    def _load(self) -> Any:
        cache = str(self._folder / "cache")
        return datasets.Dataset.from_parquet(self._parquet, cache_dir=cache).with_format("torch")

    def _forget(self) -> None:
        shutil.rmtree(self._folder / "cache", ignore_errors=True)

    def _iterate(self, rows: Any, size: int) -> Drawing:
        def batches() -> Iterator[dict[str, Any]]:
            while True:
                yield from rows.iter(batch_size=size, drop_last_batch=True)

        running = batches()
        return Drawing(lambda: next(running), _arrays)


class _Rows:
    """Generator function of rows that datasets can hash, because it pickles as the path of the source."""

    def __init__(self, source: Source):
        self._source = source

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return _Rows.at, (str(self._source.folder),)

    @classmethod
    def at(cls, folder: str) -> "_Rows":
        return cls(Source(Path(folder)))

    def __call__(self) -> Iterator[dict[str, Any]]:
        for episode in self._source.episodes():
            for row in range(len(episode)):
                yield {
                    "observation": episode.observation[row],
                    "action": episode.action[row],
                    "reward": episode.reward[row],
                    "terminated": episode.terminated[row],
                    "truncated": episode.truncated[row],
                    "episode": episode.index,
                }


def _arrays(batch: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: batch[name].numpy() for name in COLUMNS}
