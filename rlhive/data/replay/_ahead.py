"""Batches that are drawn and gathered before they are asked for, and how a buffer takes them back.

The caller's thread draws the indices, in the order in which batches are handed out. Threads only gather, so that they
decide when a batch is ready and not which. Anything else that is done with the buffer meanwhile (another sampler, a
batch of another size, a checkpoint) must not notice: the buffer first takes back what is not handed out yet, which
returns the sampler and its generator to where they would be without drawing ahead.
"""

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torchrl.data.replay_buffers.samplers import Sampler

from rlhive.data.replay._info import SampleInfo

#: What a draw changes in samplers, TorchRL's and those of mixtures, besides the generator.
_ORDER = "_sample_list"
_STATE = (_ORDER, "_remaining_batches", "_ran_out", "len_storage", "_credit")

_PACKAGES = ("torchrl", "rlhive")


class SamplerState(NamedTuple):
    """What a draw changes: the state of the generator, and the attributes of the sampler by name."""

    generator: torch.Tensor
    attributes: dict[str, Any]

    @classmethod
    def of(cls, sampler: Sampler, generator: torch.Generator) -> "SamplerState":
        """Return the current state. Tensors are not copied: samplers replace theirs."""
        attributes = sampler.__dict__
        return cls(generator.get_state(), {name: attributes[name] for name in _STATE if name in attributes})

    def restore(self, sampler: Sampler, generator: torch.Generator) -> None:
        """Return the sampler and the generator to this state."""
        generator.set_state(self.generator)
        sampler.__dict__.update(self.attributes)

    def is_same(self, other: "SamplerState") -> bool:
        """Return whether nobody has drawn between this state and another."""
        is_same_order = self.attributes.get(_ORDER) is other.attributes.get(_ORDER)
        return is_same_order and torch.equal(self.generator, other.generator)


@dataclass(slots=True)
class DrawnBatch:
    """A batch that was drawn ahead.

    Attributes:
        info: The sampler's information on it, its indices included.
        ends_epoch: Whether it is the last one of the sampler's epoch.
        future: Its content, or that of several batches; None if it is still to be gathered.
        position: Its position among these batches; None if the future is of one batch, complete with transforms.
        before: State before it was drawn, where it was recorded.
    """

    info: SampleInfo
    ends_epoch: bool
    future: "Future[Any] | None" = None
    position: int | None = None
    before: SamplerState | None = None


class BatchesAhead:
    """The queue of the batches that were drawn ahead.

    Threads do not survive a fork. In a forked process the queue has the indices only.

    Attributes:
        batches: The batches, oldest first.
    """

    def __init__(self) -> None:
        self.batches: deque[DrawnBatch] = deque()
        self._pid = os.getpid()
        # The last recorded state before a batch that was handed out, and the number of batches handed out since.
        self._before: SamplerState | None = None
        self._num_since = 0
        self._after: SamplerState | None = None

    def __len__(self) -> int:
        return len(self.batches)

    def append(self, batches: list[DrawnBatch], after: SamplerState | None) -> None:
        """Add batches at the end; ``after`` is the state after they were drawn, None if they cannot be taken back."""
        if not self.batches:
            self._pid = os.getpid()
            self._before = None
        self.batches.extend(batches)
        self._after = after

    def popleft(self) -> DrawnBatch:
        """Remove and return the oldest batch."""
        batch = self.batches.popleft()
        if batch.before is not None:
            self._before, self._num_since = batch.before, 0
        self._num_since += 1
        if self._pid != os.getpid():
            batch.future = None
        return batch

    def infos(self) -> list[tuple[SampleInfo, bool]]:
        """Return information and ``ends_epoch`` of every batch, in order."""
        return [(batch.info, batch.ends_epoch) for batch in self.batches]

    def restore(self, infos: list[tuple[SampleInfo, bool]]) -> None:
        """Replace the queue by batches that are still to be gathered."""
        self.batches = deque(DrawnBatch(info, ends_epoch) for info, ends_epoch in infos)
        self._before = self._after = None

    def take_back(self, sampler: Sampler, generator: torch.Generator, draw: Callable[[], Any]) -> None:
        """Undo the drawing of every batch in the queue, where the sampler allows it.

        A sampler of another library may have a state of its own, and one that several buffers share may have been used
        by another one; the queue is then kept.

        Args:
            sampler: The sampler that drew the batches.
            generator: Its generator.
            draw: Draws one batch.
        """
        if not self.batches or self._after is None or not self._after.is_same(SamplerState.of(sampler, generator)):
            return
        before, num_redrawn = self.batches[0].before, 0
        if before is None:
            before, num_redrawn = self._before, self._num_since
        if before is None:
            return
        self.batches.clear()
        before.restore(sampler, generator)
        for _ in range(num_redrawn):
            draw()

    def clear(self) -> None:
        """Forget every batch."""
        self.batches.clear()


def can_take_back(sampler: Sampler, generator: torch.Generator | None) -> bool:
    """Return whether everything that a draw changes is known: TorchRL's samplers, with a generator of this buffer."""
    if generator is None or sampler._rng is not generator:
        return False
    return type(sampler).__module__.partition(".")[0] in _PACKAGES
