"""Batches of replay buffers, one buffer per training seed, in a reproducible order."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tensordict import TensorDictBase
from torchrl.data import ReplayBuffer

from rlhive.errors import CheckpointMismatchError


class BatchSource:
    """Sample a batch from each of several buffers, each with its own generator.

    Args:
        buffers: One buffer per seed. Their generators are replaced.
        seeds: The seeds.
        batch_size: Transitions per batch.
    """

    def __init__(self, buffers: Sequence[ReplayBuffer], seeds: Sequence[int], batch_size: int) -> None:
        self._buffers = buffers
        self._batch_size = batch_size
        self._generators = []
        for buffer, seed in zip(buffers, seeds, strict=True):
            device = getattr(buffer.storage, "device", "cpu")
            generator = torch.Generator("cpu" if device in (None, "auto") else device).manual_seed(seed)
            buffer.set_rng(generator)
            self._generators.append(generator)

    def sample(self) -> list[TensorDictBase]:
        """Return a batch of each buffer."""
        return [buffer.sample(self._batch_size) for buffer in self._buffers]

    @property
    def num_transitions(self) -> int:
        """Number of transitions in a buffer."""
        return len(self._buffers[0])

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the samplers and of their generators."""
        samplers = [buffer.sampler.state_dict() for buffer in self._buffers]  # takes back what was drawn ahead
        num_transitions = self.num_transitions
        return {
            "num_transitions": num_transitions,
            "samplers": samplers,
            "generators": [generator.get_state() for generator in self._generators],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the state that :meth:`state_dict` returned.

        Raises:
            CheckpointMismatchError: It is the state of buffers of another size.
        """
        if state["num_transitions"] != self.num_transitions:
            expected = state["num_transitions"]
            msg = (
                f"resume: this is a training on other data: expected {expected} transitions, got {self.num_transitions}"
            )
            raise CheckpointMismatchError(msg)
        for index, buffer in enumerate(self._buffers):
            buffer.sampler.load_state_dict(state["samplers"][index])
            self._generators[index].set_state(state["generators"][index])
