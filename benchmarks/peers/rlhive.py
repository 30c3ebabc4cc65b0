"""RLHive itself, through its public functions only."""

import os
import shutil
import statistics
import time
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from tensordict import TensorDict
from torchrl.data.replay_buffers.samplers import PrioritizedSampler

from benchmarks.peers.source import GAMMA, NUM_STEPS, STACK, Source
from benchmarks.peers.ted import arrays_of, endless, prioritized_draw, ted_of
from benchmarks.peers.worker import Drawing, Unavailable, batch_of, folder_bytes
from rlhive import RoboHiveDataset
from rlhive.data import cache
from rlhive.data.export import export
from rlhive.data.recording import Recording
from rlhive.data.schema import Schema

NAME, VERSION = "bench/episodes", "1.0.0"


class Peer:
    """Recorder, export, check, diff and ``as_replay_buffer``."""

    def __init__(self, source: Source, folder: Path):
        self._source, self._store = source, Path(folder) / "store"
        self._recording = Path(folder) / "recording"

    def versions(self) -> dict[str, str]:
        """Return what takes part."""
        return {name: metadata.version(name) for name in ("rlhive", "torch", "torchrl", "tensordict", "pyarrow")}

    def write(self) -> dict[str, Any]:
        """Record every episode durably, then commit a version."""
        began = time.perf_counter()
        add_s = self._record()
        recorded = time.perf_counter()
        version = self._commit(VERSION)
        return {
            "bytes": folder_bytes(version),
            "record_s": recorded - began,
            "commit_s": time.perf_counter() - recorded,
            "add_ms": statistics.median(add_s) * 1e3,
        }

    def durability(self, episodes: int = 200) -> dict[str, float]:
        """Return the milliseconds that one episode waits for the disk, and the whole ``add``; medians."""
        waits: list[float] = []
        real = os.fsync

        def timed(descriptor: int) -> None:
            began = time.perf_counter()
            real(descriptor)
            waits.append(time.perf_counter() - began)

        os.fsync = timed
        try:
            add_s = self._record(episodes)
        finally:
            os.fsync = real
        shutil.rmtree(self._recording)
        return {
            "wait_ms": statistics.median(waits) * 1e3,
            "worst_wait_ms": max(waits) * 1e3,
            "add_ms": statistics.median(add_s) * 1e3,
        }

    def check(self) -> dict[str, float]:
        """Time ``rlhive.data.check`` over the version; files are in the page cache."""
        room = _room("rlhive.data.check", "check")
        version = cache.version_dir(NAME, VERSION, store=self._store)
        began = time.perf_counter()
        report = room.check(version)
        return {"seconds": time.perf_counter() - began, "ok": report.ok}

    def diff(self) -> dict[str, float]:
        """Time ``rlhive.data.diff`` of this version and one that lacks every tenth episode."""
        room = _room("rlhive.data.diff", "diff")
        second = cache.version_dir(NAME, "2.0.0", store=self._store)
        if not second.exists():
            self._commit("2.0.0", lambda record: record.episode % 10 != 0)
        first = cache.version_dir(NAME, VERSION, store=self._store)
        began = time.perf_counter()
        result = room.diff(first, second)
        return {"seconds": time.perf_counter() - began, "result": str(result)[:200]}

    def open(self, workload: str, variant: str) -> Drawing:
        """Open a buffer with the arguments that the workload is about."""
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
        return Drawing(buffer.sample, arrays_of)

    def _record(self, episodes: int | None = None) -> list[float]:
        shutil.rmtree(self._recording, ignore_errors=True)
        seconds: list[float] = []
        recorder = None
        for episode in self._source.episodes():
            if len(seconds) == episodes:
                break
            began = time.perf_counter()
            transitions = ted_of(episode)
            if recorder is None:
                schema = Schema.of(transitions)
                recording = Recording.create(self._recording, schema, start_state={}, provenance={"run": "bench"})
                recorder = recording.writer("bench")
            recorder.add(transitions, episode=episode.index, split="all", seed=episode.index, policy="bench")
            seconds.append(time.perf_counter() - began)
        recorder.close()
        return seconds

    def _commit(self, version: str, keep: Any = None) -> Path:
        recording = Recording(self._recording)
        return export(
            filter(keep, recording.sorted_records()) if keep else recording.sorted_records(),
            NAME,
            version=version,
            schema=recording.schema,
            license="apache-2.0",
            store=self._store,
        )

    def _buffer(self, **arguments: Any) -> Any:
        dataset = RoboHiveDataset(NAME, version=VERSION, generate=False, store=self._store)
        try:
            return dataset.as_replay_buffer(**arguments)
        except TypeError as error:
            if "unexpected keyword" in str(error):
                raise Unavailable(str(error).partition(") ")[2] or str(error)) from error
            raise

    def _first_batch(self) -> TensorDict:
        return self._buffer(batch_size=256).sample()

    def _forget(self) -> None:
        manifest = RoboHiveDataset(NAME, version=VERSION, generate=False, store=self._store).fingerprint
        shutil.rmtree(cache.memmap_dir(manifest, store=self._store), ignore_errors=True)

    def _parquet(self) -> Drawing:
        """The yardstick of a cold opening: read the same Parquet into memory."""
        import pyarrow.parquet as pq

        folder = cache.version_dir(NAME, VERSION, store=self._store) / "data"
        return Drawing(lambda: [pq.read_table(path) for path in sorted(folder.glob("*.parquet"))], lambda tables: {})

    def _prioritized(self, size: int) -> Drawing:
        count = len(self._source)
        sampler = PrioritizedSampler(max_capacity=count, alpha=0.6, beta=0.4)
        buffer = self._buffer(batch_size=size, sampler=sampler)
        return Drawing(prioritized_draw(buffer, sampler, count, size), arrays_of)

    def _dataloader(self, size: int) -> Drawing:
        dataset = RoboHiveDataset(NAME, version=VERSION, generate=False, store=self._store)
        if not hasattr(dataset, "as_dataloader"):
            msg = "RoboHiveDataset has no as_dataloader"
            raise Unavailable(msg)
        return Drawing(endless(dataset.as_dataloader(batch_size=size)), arrays_of)


def _room(name: str, function: str) -> Any:
    try:
        room = import_module(name)
    except ModuleNotFoundError as error:
        msg = f"there is no {name}"
        raise Unavailable(msg) from error
    if not hasattr(room, function):
        msg = f"{name} has no {function}"
        raise Unavailable(msg)
    return room
