"""TorchRL's replay buffer: a TensorStorage over a memory-mapped TensorDict with the same keys."""

from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from torchrl.data import (
    ImmutableDatasetWriter,
    MultiStep,
    RandomSampler,
    ReplayBuffer,
    SliceSampler,
    TensorDictReplayBuffer,
)
from torchrl.data.replay_buffers.samplers import PrioritizedSampler
from torchrl.data.replay_buffers.storages import TensorStorage
from torchrl.envs import CatFrames, Compose

from benchmarks.peers.source import GAMMA, NUM_STEPS, STACK, Source
from benchmarks.peers.ted import arrays_of, prioritized_draw, ted_of
from benchmarks.peers.worker import Drawing, UnavailableError, batch_of, folder_bytes, slice_of


class Peer:
    """Adapter of ``TensorDictReplayBuffer(TensorStorage(memmap))``.

    It stores root and next, as TorchRL's dataset classes do. A transform that changes the number of rows requires the
    plain ``ReplayBuffer``.
    """

    def __init__(self, source: Source, folder: Path):
        self._source, self._folder = source, Path(folder) / "memmap"

    def versions(self) -> dict[str, str]:
        """Return the versions of the measured libraries."""
        return {name: metadata.version(name) for name in ("torch", "torchrl", "tensordict")}

    def write(self) -> dict[str, Any]:
        """Fill a memory-mapped TensorDict episode by episode."""
        stored, start = None, 0
        for episode in self._source.episodes():
            transitions = ted_of(episode).set("episode", torch.full((len(episode),), episode.index))
            if stored is None:
                stored = transitions[:1].expand(len(self._source)).memmap_like(self._folder)
            stored[start : start + len(episode)] = transitions
            start += len(episode)
        return {"bytes": folder_bytes(self._folder)}

    def open(self, workload: str, variant: str) -> Drawing:
        """Open a buffer with TorchRL's sampler and transform for the workload."""
        if workload == "open_cold":
            msg = "TorchRL opens its memmap directly; it builds no cache"
            raise UnavailableError(msg)
        if workload == "open_warm":
            return Drawing(lambda: self._buffer(batch_size=256, sampler=RandomSampler()).sample(), arrays_of)
        size, cached = batch_of(workload), "cached" in variant
        prefetch = {"prefetch": 2} if "prefetch" in variant else {}
        if workload == "prioritized":
            sampler = PrioritizedSampler(max_capacity=len(self._source), alpha=0.6, beta=0.4)
            buffer = self._buffer(batch_size=size, sampler=sampler)
            return Drawing(prioritized_draw(buffer, sampler, len(self._source), size), arrays_of)
        if workload.startswith("slices"):
            sampler = SliceSampler(slice_len=slice_of(workload), traj_key="episode", cache_values=cached)
            return Drawing(self._buffer(batch_size=size, sampler=sampler, **prefetch).sample, arrays_of)
        if workload == "nstep_3":
            sampler = SliceSampler(slice_len=NUM_STEPS, traj_key="episode", cache_values=cached)
            fold = Compose(lambda td: td.reshape(-1, NUM_STEPS), MultiStep(GAMMA, NUM_STEPS), lambda td: td[:, 0])
            buffer = self._buffer(ReplayBuffer, batch_size=size * NUM_STEPS, sampler=sampler, transform=fold)
            return Drawing(buffer.sample, _nstep)
        if workload == "stack_3":
            frames = CatFrames(
                N=STACK, dim=-1, in_keys=["observation"], out_keys=["stacked"], padding="same", reset_key="_reset"
            )
            transform, sampler = frames.make_rb_transform_and_sampler(size, traj_key="episode", cache_values=cached)
            buffer = self._buffer(ReplayBuffer, batch_size=size, sampler=sampler, transform=transform)
            return Drawing(buffer.sample, _stacked)
        buffer = self._buffer(batch_size=size, sampler=RandomSampler(), **prefetch)
        if workload.startswith("iterate"):
            batches = iter(buffer)
            return Drawing(lambda: next(batches), arrays_of)
        return Drawing(buffer.sample, arrays_of)

    def _buffer(self, kind: type[ReplayBuffer] = TensorDictReplayBuffer, **arguments: Any) -> ReplayBuffer:
        storage = TensorStorage(TensorDict.load_memmap(self._folder))
        return kind(storage=storage, writer=ImmutableDatasetWriter(), **arguments)


def _nstep(batch: TensorDict) -> dict[str, np.ndarray]:
    return {name: values for name, values in arrays_of(batch).items() if name not in ("terminated", "truncated")}


def _stacked(batch: TensorDict) -> dict[str, np.ndarray]:
    return {"observation": batch["stacked"].numpy(), "action": batch["action"].numpy()}
