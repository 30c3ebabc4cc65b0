"""RLHive: its recorder, writer, checks, diff and replay buffer."""

import itertools
import os
import shutil
import statistics
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from torchrl.data.replay_buffers.samplers import PrioritizedSampler

from benchmarks.peers.source import GAMMA, NUM_STEPS, STACK, Source
from benchmarks.peers.ted import arrays_of, endless, prioritized_draw, ted_of
from benchmarks.peers.worker import Drawing, batch_of, folder_bytes
from rlhive import RoboHiveDataset
from rlhive.data import _parquet, _store
from rlhive.data.checks import _check
from rlhive.data.recording._recorder import Recorder
from rlhive.data.versions import _diff, _manifest

NAME, VERSION = "bench/episodes", "1.0.0"


class Peer:
    """Adapter of the recorder, ``check``, ``diff`` and ``as_replay_buffer``."""

    def __init__(self, source: Source, folder: Path):
        self._source, self._store = source, Path(folder) / "store"

    def versions(self) -> dict[str, str]:
        """Return the versions of the measured libraries."""
        return {name: metadata.version(name) for name in ("rlhive", "torch", "torchrl", "tensordict", "pyarrow")}

    def write(self, frames: int = 0, durability: str = "episode") -> dict[str, Any]:
        """Record every episode, then commit a version.

        Args:
            frames: Transitions of a batch, as a collector yields them; each batch is one call to the recorder and
                one flush. 0 for one call per episode.
            durability: That of the recorder.
        """
        recorder, add_s, add_cpu_s = self._record(NAME, frames=frames, durability=durability)
        start, cpu_start = time.perf_counter(), time.process_time()
        version = recorder.commit(license="apache-2.0", version=VERSION)
        commit_s, commit_cpu_s = time.perf_counter() - start, time.process_time() - cpu_start
        return {
            "bytes": folder_bytes(version),
            "seconds": sum(add_s) + commit_s,
            "cpu_seconds": add_cpu_s + commit_cpu_s,
            "record_s": sum(add_s),
            "commit_s": commit_s,
            "add_ms": statistics.median(add_s) * 1e3,
        }

    def durability(self, episodes: int = 200) -> dict[str, float]:
        """Return, in milliseconds, the mean wait for the disk per episode, the longest wait, and the median ``add``."""
        waits: list[float] = []

        def make_timed(flush: Callable[[int], None]) -> Callable[[int], None]:
            def wait(descriptor: int) -> None:
                start = time.perf_counter()
                flush(descriptor)
                waits.append(time.perf_counter() - start)

            return wait

        flushes = {name: getattr(os, name) for name in ("fsync", "fdatasync") if hasattr(os, name)}
        try:
            for name, flush in flushes.items():
                setattr(os, name, make_timed(flush))
            recorder, add_s, _ = self._record("bench/durable", episodes)
        finally:
            for name, flush in flushes.items():
                setattr(os, name, flush)
        shutil.rmtree(recorder.path)
        return {
            "wait_ms": sum(waits) / len(add_s) * 1e3,
            "worst_wait_ms": max(waits) * 1e3,
            "add_ms": statistics.median(add_s) * 1e3,
        }

    def floors(self, episodes: int = 200) -> dict[str, float]:
        """Return lower bounds for durable recording and for ``check``, on this disk and with this pyarrow.

        Returns:
            ``flush_ms``: median time to append the bytes of an episode to a file and flush it;
            ``parquet_s`` and ``parquet_cpu_s``: time in which pyarrow writes the version's rows again with the same
            settings, one row group after the other; ``decode_cpu_s``: CPU time to read them; ``sha256_cpu_s``: CPU
            time to hash the files.
        """
        version = _store.version_dir(NAME, VERSION, store=self._store)
        paths = sorted((version / "data").glob("*.parquet"))
        content, waits = os.urandom(self._source.raw_bytes // len(self._source.lengths)), []
        with (self._store / "floor").open("wb", buffering=0) as file:
            for _ in range(episodes):
                start = time.perf_counter()
                file.write(content)
                getattr(os, "fdatasync", os.fsync)(file.fileno())
                waits.append(time.perf_counter() - start)
        cpu_start = time.process_time()
        tables = [_parquet.read_groups(path, range(len(_parquet.read_group_sizes(path)))) for path in paths]
        cpu_decoded = time.process_time()
        for path in paths:
            _manifest.compute_sha256(path)
        cpu_hashed, start = time.process_time(), time.perf_counter()
        for table in tables:
            _parquet.write_table(table, self._store / "floor")
        seconds = {"parquet_s": time.perf_counter() - start, "parquet_cpu_s": time.process_time() - cpu_hashed}
        seconds |= {"decode_cpu_s": cpu_decoded - cpu_start, "sha256_cpu_s": cpu_hashed - cpu_decoded}
        return {"flush_ms": statistics.median(waits) * 1e3, **seconds}

    def check(self) -> dict[str, float]:
        """Time ``check`` on the version, whose files are in the page cache."""
        version = _store.version_dir(NAME, VERSION, store=self._store)
        start, cpu_start = time.perf_counter(), time.process_time()
        report = _check.run_checks(version)
        return {
            "seconds": time.perf_counter() - start,
            "cpu_seconds": time.process_time() - cpu_start,
            "ok": report.ok,
        }

    def diff(self) -> dict[str, Any]:
        """Time ``diff`` between the version and one that lacks every tenth episode."""
        second = _store.version_dir(NAME, "2.0.0", store=self._store)
        if not second.exists():
            subset = self._dataset().where(lambda table: table["episode"].to_numpy() % 10 != 0)
            subset.save(NAME, version="2.0.0", license="apache-2.0")
        first = _store.version_dir(NAME, VERSION, store=self._store)
        start = time.perf_counter()
        result = _diff.diff(first, second)
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "result": {"same": result.num_same, "dropped": len(result.dropped)}}

    def open(self, workload: str, variant: str) -> Drawing:
        """Open a buffer with the options that the workload measures."""
        if workload == "open_cold" and variant == "pyarrow":
            return self._parquet()
        if workload.startswith("open"):
            return Drawing(self._first_batch, arrays_of, before=self._forget if workload == "open_cold" else None)
        size = batch_of(workload)
        if workload == "prioritized":
            return self._prioritized(size)
        if variant == "dataloader":
            return self._dataloader(size)
        arguments = {
            "slices_16x16": {"slice_len": 16},
            "slices_4x64": {"slice_len": 64},
            "nstep_3": {"n_step": NUM_STEPS, "gamma": GAMMA},
            "stack_3": {"frame_stack": STACK},
            "images_64": {"image_cache": variant},
        }.get(workload, {})
        if variant == "prefetch":
            arguments["prefetch"] = 2
        buffer = self._buffer(batch_size=size, **arguments)
        if workload.startswith("iterate"):
            batches = iter(buffer)
            return Drawing(lambda: next(batches), arrays_of)
        if workload.startswith("images"):
            cache_dir = _store.memmap_dir(self._dataset().fingerprint, kind=variant or "raw", store=self._store)
            # A transition has two pictures: the current and the next one.
            return Drawing(buffer.sample, arrays_of, frames=2, bytes=folder_bytes(cache_dir))
        return Drawing(buffer.sample, arrays_of)

    def _record(
        self, name: str, episodes: int | None = None, frames: int = 0, durability: str = "episode"
    ) -> tuple[Recorder, list[float], float]:
        recorder = Recorder(name, policy="bench", split="all", durability=durability, store=self._store)
        seconds, cpu_seconds = [], 0.0
        pending: list[TensorDict] = []
        for episode in itertools.islice(self._source.episodes(), episodes):
            transitions = ted_of(episode)
            if frames:
                pending.append(transitions)
                if sum(map(len, pending)) < frames and episode.index + 1 < len(self._source.lengths):
                    continue
                transitions = torch.cat(pending)
                pending.clear()
            start, cpu_start = time.perf_counter(), time.process_time()
            recorder.extend(transitions) if frames else recorder.add_episode(transitions, seed=episode.index)
            seconds.append(time.perf_counter() - start)
            cpu_seconds += time.process_time() - cpu_start
        start, cpu_start = time.perf_counter(), time.process_time()
        recorder.close()
        seconds[-1] += time.perf_counter() - start
        return recorder, seconds, cpu_seconds + time.process_time() - cpu_start

    def _dataset(self) -> RoboHiveDataset:
        return RoboHiveDataset(NAME, version=VERSION, generate=False, store=self._store)

    def _buffer(self, **arguments: Any) -> Any:
        return self._dataset().as_replay_buffer(dtype=None, **arguments)  # what was stored, as the peers serve

    def _first_batch(self) -> TensorDict:
        return self._buffer(batch_size=256).sample()

    def _forget(self) -> None:
        shutil.rmtree(_store.memmap_dir(self._dataset().fingerprint, store=self._store), ignore_errors=True)

    def _parquet(self) -> Drawing:
        """Read the same Parquet files into memory with pyarrow alone: the reference of a cold opening."""
        import pyarrow.parquet as pq

        folder = _store.version_dir(NAME, VERSION, store=self._store) / "data"
        return Drawing(lambda: [pq.read_table(path) for path in sorted(folder.glob("*.parquet"))], lambda tables: {})

    def _prioritized(self, size: int) -> Drawing:
        count = len(self._source)
        sampler = PrioritizedSampler(max_capacity=count, alpha=0.6, beta=0.4)
        buffer = self._buffer(batch_size=size, sampler=sampler)
        return Drawing(prioritized_draw(buffer, sampler, count, size), arrays_of)

    def _dataloader(self, size: int) -> Drawing:
        return Drawing(endless(self._dataset().as_dataloader(batch_size=size, dtype=None)), arrays_of)
