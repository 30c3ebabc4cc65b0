"""Conversion between the source and TorchRL's TED format, for the peers that serve TensorDicts."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from torchrl.data.replay_buffers.samplers import PrioritizedSampler

from benchmarks.peers.source import Episode

FIELDS = {"observation": "observation", "action": "action", "pixels": "pixels"}
NEXT_FIELDS = {
    "reward": "reward",
    "next_observation": "observation",
    "terminated": "terminated",
    "truncated": "truncated",
}


def ted_of(episode: Episode) -> TensorDict:
    """Return an episode in the format of a TorchRL collector."""
    steps, column = len(episode), lambda array: torch.from_numpy(np.array(array))[:, None]
    terminated, truncated = column(episode.terminated), column(episode.truncated)
    ends = {"terminated": terminated, "truncated": truncated, "done": terminated | truncated}
    observed = {"observation": torch.from_numpy(np.array(episode.observation))}
    if episode.pixels is not None:
        observed["pixels"] = torch.from_numpy(np.array(episode.pixels))
    following = {name: values[1:] for name, values in observed.items()} | {"reward": column(episode.reward)} | ends
    root = {name: values[:-1] for name, values in observed.items()} | {
        "action": torch.from_numpy(np.array(episode.action))
    }
    root |= {name: torch.zeros_like(terminated) for name in ends}
    return TensorDict({**root, "next": TensorDict(following, [steps])}, [steps])


def prioritized_draw(buffer: Any, sampler: PrioritizedSampler, count: int, size: int) -> Any:
    """Return a function that samples a batch and updates the priorities of its transitions, as a training step does."""
    sampler.extend(torch.arange(count))
    errors = torch.rand(64, size) + 0.5
    turn = iter(range(1 << 62))

    def draw() -> TensorDict:
        batch = buffer.sample()
        buffer.update_priority(batch["index"], errors[next(turn) % len(errors)])
        return batch

    return draw


def endless(loader: Any) -> Any:
    """Return a function that yields the next batch of a loader, which restarts at its end."""

    def batches() -> Any:
        while True:
            yield from loader

    running = batches()
    return lambda: next(running)


def arrays_of(batch: TensorDict) -> Mapping[str, np.ndarray]:
    """Return a TED batch under the source's names."""
    flat = batch.reshape(-1)
    arrays = {name: flat[key] for name, key in FIELDS.items() if key in flat}
    arrays |= {name: flat["next", key] for name, key in NEXT_FIELDS.items() if ("next", key) in flat.keys(True)}
    return {name: value.cpu().numpy().reshape(len(flat), *value.shape[1:]) for name, value in arrays.items()}
