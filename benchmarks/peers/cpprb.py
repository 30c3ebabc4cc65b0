"""cpprb: a compiled buffer in memory."""

from importlib import metadata
from pathlib import Path
from typing import Any

import cpprb
import numpy as np
import torch

from benchmarks.peers.source import ACTION, GAMMA, NUM_STEPS, OBSERVATION, Source
from benchmarks.peers.worker import Drawing, UnavailableError, batch_of, folder_bytes

NAMES = {"obs": "observation", "act": "action", "rew": "reward", "next_obs": "next_observation", "done": "terminated"}
SHAPES = {"obs": {"shape": OBSERVATION}, "act": {"shape": ACTION}, "rew": {}, "next_obs": {"shape": OBSERVATION}}


class Peer:
    """Adapter of ``ReplayBuffer`` and ``PrioritizedReplayBuffer``; variant "torch" converts each array to a tensor."""

    def __init__(self, source: Source, folder: Path):
        self._source, self._path = source, Path(folder) / "transitions.npz"

    def versions(self) -> dict[str, str]:
        """Return the versions of the measured libraries."""
        return {name: metadata.version(name) for name in ("cpprb", "torch")}

    def write(self) -> dict[str, Any]:
        """Fill a buffer and save its transitions."""
        buffer = cpprb.ReplayBuffer(len(self._source), self._fields())
        self._fill(buffer)
        buffer.save_transitions(str(self._path))
        return {"bytes": folder_bytes(self._path.parent)}

    def open(self, workload: str, variant: str) -> Drawing:
        """Fill the buffer that the workload needs."""
        if workload in ("slices_16x16", "slices_4x64", "stack_3", "images_64", "open_cold", "iterate_256"):
            msg = "cpprb has no such sampling"
            raise UnavailableError(msg)
        size, count = batch_of(workload), len(self._source)
        convert = _to_torch if variant == "torch" else (lambda batch: batch)
        if workload == "open_warm":
            return Drawing(lambda: self._load().sample(size), _arrays)
        if workload == "prioritized":
            return self._prioritized(size, convert)
        if workload == "nstep_3":
            steps = {"size": NUM_STEPS, "gamma": GAMMA, "rew": "rew", "next": "next_obs"}
            buffer = cpprb.ReplayBuffer(count, self._fields(), Nstep=steps)
            self._fill(buffer)
            return Drawing(lambda: convert(buffer.sample(size)), _without_ends)
        buffer = self._load()
        return Drawing(lambda: convert(buffer.sample(size)), _arrays)

    def _fields(self) -> dict[str, dict[str, Any]]:
        return {**SHAPES, "done": {}}

    def _fill(self, buffer: Any) -> None:
        for episode in self._source.episodes():
            buffer.add(
                obs=np.array(episode.observation[:-1]),
                act=np.array(episode.action),
                rew=np.array(episode.reward),
                next_obs=np.array(episode.observation[1:]),
                done=np.array(episode.terminated),  # a copy: the n-step buffer writes into it
            )
            buffer.on_episode_end()

    def _load(self) -> Any:
        buffer = cpprb.ReplayBuffer(len(self._source), self._fields())
        buffer.load_transitions(str(self._path))
        return buffer

    def _prioritized(self, size: int, convert: Any) -> Drawing:
        buffer = cpprb.PrioritizedReplayBuffer(len(self._source), self._fields(), alpha=0.6)
        self._fill(buffer)
        errors = np.random.default_rng(0).random((64, size)) + 0.5
        turn = iter(range(1 << 62))

        def draw() -> Any:
            batch = buffer.sample(size, beta=0.4)
            buffer.update_priorities(batch["indexes"], errors[next(turn) % len(errors)])
            return convert(batch)

        return Drawing(draw, _arrays)


def _to_torch(batch: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {
        name: torch.from_numpy(values if values.dtype != np.uint64 else values.view(np.int64))
        for name, values in batch.items()
    }


def _arrays(batch: dict[str, Any]) -> dict[str, np.ndarray]:
    arrays = {source_name: np.asarray(batch[name]) for name, source_name in NAMES.items()}
    return arrays | {"reward": arrays["reward"].ravel(), "terminated": arrays["terminated"].ravel() > 0}


def _without_ends(batch: dict[str, Any]) -> dict[str, np.ndarray]:
    arrays = _arrays(batch)
    arrays.pop("terminated")
    return arrays
