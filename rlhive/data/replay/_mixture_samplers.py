"""Samplers of mixtures: exact numbers of transitions or slices from each source in every batch."""

import itertools
import json
import math
import operator
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchrl.data.replay_buffers.samplers import Sampler
from torchrl.data.replay_buffers.storages import Storage

from rlhive import keys
from rlhive.data.replay._items import take_elements
from rlhive.data.replay._samplers import EpisodeSliceSampler, ShortEpisodes, SliceTable
from rlhive.data.replay._storage import PackedStorage
from rlhive.errors import CheckpointMismatchError, EpisodesTooShortError
from rlhive.keys import NestedKey

_FILE = "sampler.json"

#: Patterns of a batch that are remembered: the numbers of items of each source change from batch to batch.
_NUM_PATTERNS = 1024


class SourceRanges:
    """Which items belong to which source; an item is a transition or an episode.

    Args:
        sizes: Number of items of each source, or a container that has them and may grow.
        capacities: Numbers between the first items of a source and the next one; ``sizes`` by default.
        labels: Numbers of each source that :meth:`draw` returns for its items, int64 ``[num_labels, num_sources]``.
    """

    def __init__(
        self, sizes: Sequence[int | Sized], capacities: Sequence[int] | None = None, labels: torch.Tensor | None = None
    ):
        self._sources = list(sizes)
        capacities = [size for size in sizes if isinstance(size, int)] if capacities is None else capacities
        stops = list(itertools.accumulate(capacities))
        self._first = np.array([0, *stops[:-1]])
        self._stops = torch.tensor(stops, device="cpu")
        self._grows = any(not isinstance(size, int) for size in sizes)
        self._sizes = self.sizes()
        self._labels = torch.empty(0, len(sizes), dtype=torch.int64, device="cpu") if labels is None else labels
        self._patterns: dict[tuple[int, ...], tuple[torch.Tensor, ...]] = {}

    @property
    def grows(self) -> bool:
        """Whether a source may grow."""
        return self._grows

    def sizes(self) -> list[int]:
        """Return the present number of items of each source."""
        return [source if isinstance(source, int) else len(source) for source in self._sources]

    def find_sources(self, items: torch.Tensor) -> torch.Tensor:
        """Return the source of each item, int64 of the shape of ``items``."""
        return torch.bucketize(items, self._stops.to(items.device), right=True)

    def draw(
        self, batches: Sequence[tuple[int, ...]], device: torch.device, generator: torch.Generator | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return uniform items, evenly spread over the sources: a part of a batch is mixed as the whole.

        Args:
            batches: For each batch the number of items to draw from each source.
            device: Device of the generator and of the result.
            generator: Random generator.

        Returns:
            The items, int64 ``[num_items]``, batch after batch, and their labels, a copy, int64
            ``[num_labels, num_items]``.
        """
        if self._grows and self._sizes != (sizes := self.sizes()):
            self._sizes = sizes
            self._patterns.clear()
        patterns = [self._find_pattern(counts, device) for counts in batches]
        columns = list(zip(*patterns, strict=True))
        if device.type == "cpu":  # NumPy stays in this thread, see _items.py
            first, size, labels = (torch.from_numpy(np.concatenate(parts, -1)) for parts in columns)
        else:
            first, size, labels = (torch.cat(parts, -1) for parts in columns)
        # The remainder of 62 random bits costs less than a product with random floats, and is as good as uniform.
        items = torch.randint(1 << 62, first.shape, device=device, generator=generator)
        if device.type != "cpu":
            return items.remainder_(size).add_(first), labels
        values = items.numpy()
        np.remainder(values, size.numpy(), out=values)
        values += first.numpy()
        return items, labels

    def _find_pattern(self, counts: tuple[int, ...], device: torch.device) -> tuple[torch.Tensor, ...]:
        pattern = self._patterns.get(counts)
        if pattern is None or pattern[0].device != device:
            if len(self._patterns) == _NUM_PATTERNS:
                self._patterns.clear()
            pattern = self._patterns[counts] = self._spread(counts, device)
        return pattern

    def _spread(self, counts: tuple[int, ...], device: torch.device) -> tuple[torch.Tensor, ...]:
        """Return the first item, the number of items and the labels of the source of every item of a batch."""
        positions = np.concatenate([(np.arange(count) + 0.5) / count for count in counts if count])
        sources = np.repeat(np.arange(len(counts)), counts)[np.argsort(positions, kind="stable")]
        first, size = self._first[sources], np.array(self._sizes)[sources]
        return (
            torch.from_numpy(first).to(device),
            torch.from_numpy(size).to(device),
            torch.from_numpy(self._labels.numpy()[:, sources]).to(device),
        )


@dataclass(frozen=True, eq=False)
class MixtureLayout:
    """Where the transitions of each source lie in the storage of a mixture.

    Attributes:
        ranges: The transitions of each source.
        num_episodes: Number of episodes of each source; of a buffer that grows 0.
        texts: The instructions.
        labels: Position of each source, and of its instruction in ``texts``, int64 ``[2, num_sources]``.
        tasks: Position of every transition's instruction, int64 ``[num_transitions]``; None where each source has one.
    """

    ranges: SourceRanges
    num_episodes: tuple[int, ...]
    texts: tuple[str, ...]
    labels: torch.Tensor
    tasks: torch.Tensor | None

    def label(self, index: torch.Tensor, labels: torch.Tensor | None = None) -> dict[NestedKey, torch.Tensor]:
        """Return ``source`` and ``task`` of some transitions, given the labels of their sources if they are known."""
        if labels is None:
            labels = self.labels.to(index.device)[:, self.ranges.find_sources(index)]
        sources, tasks = labels.unbind(0)
        return {keys.SOURCE: sources, keys.TASK: tasks if self.tasks is None else take_elements(self.tasks, index)}


class Shares:
    """Numbers of items from each source, batch after batch; a base class of samplers.

    In every batch a source has its share of the batch, rounded up or down. What rounding takes from a source in one
    batch it gets back in a later one, so that the difference to its share does not grow with the number of batches.

    Args:
        weights: Share of each source, positive, 1 together.
    """

    def __init__(self, weights: Sequence[float]):
        self._weights = tuple(weights)
        self._credit = (0.0,) * len(weights)  # what rounding owes to each source
        self._rounded: dict[int, tuple[list[int], list[float], int]] = {}

    def take(self, num_items: int) -> tuple[int, ...]:
        """Return the number of items of each source in the next batch."""
        if num_items not in self._rounded:
            exact = [weight * num_items for weight in self._weights]
            floors = [math.floor(share + 1e-9) for share in exact]  # 0.29 * 100 is 28.999999999999996
            rests = [share - floor for share, floor in zip(exact, floors, strict=True)]
            self._rounded[num_items] = floors, rests, num_items - sum(floors)
        floors, rests, num_left = self._rounded[num_items]
        if not num_left:
            return tuple(floors)
        counts, credit = floors.copy(), list(map(operator.add, self._credit, rests))
        for source in sorted(range(len(credit)), key=credit.__getitem__, reverse=True)[:num_left]:
            counts[source] += 1
            credit[source] -= 1
        self._credit = tuple(credit)
        return tuple(counts)

    def state_dict(self) -> dict[str, Any]:
        """Return the shares, and what rounding owes to each source."""
        return {"weights": list(self._weights), "credit": list(self._credit)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state of :meth:`state_dict`.

        Raises:
            CheckpointMismatchError: It is the state of a mixture with other shares.
        """
        expected, got = list(self._weights), state_dict.get("weights")
        credit = state_dict.get("credit")
        if got != expected or not isinstance(credit, list) or len(credit) != len(expected):
            msg = f"State of a mixture: expected shares {expected}, got {got}"
            raise CheckpointMismatchError(msg)
        self._credit = tuple(float(value) for value in credit)

    def dumps(self, path: Path | str) -> None:
        """Write the state into a folder."""
        Path(path).mkdir(parents=True, exist_ok=True)
        (Path(path) / _FILE).write_text(json.dumps(self.state_dict()), encoding="utf-8")

    def loads(self, path: Path | str) -> None:
        """Load what :meth:`dumps` wrote."""
        self.load_state_dict(json.loads((Path(path) / _FILE).read_text(encoding="utf-8")))

    def _empty(self) -> None:
        """Do nothing: a dataset is not emptied."""


class MixtureSampler(Shares, Sampler):
    """Draw transitions uniformly, with replacement, with the share of each source.

    Args:
        weights: Share of each source, positive, 1 together.
        layout: Transitions of each source.
    """

    def __init__(self, weights: Sequence[float], layout: MixtureLayout):
        super().__init__(weights)
        self._layout = layout

    def sample(self, storage: Storage, batch_size: int) -> tuple[torch.Tensor, dict[Any, torch.Tensor]]:
        """Return the indices of a batch, int64 ``[batch_size]``, sources evenly spread, with source and task."""
        [(index, info)] = self.sample_several(storage, batch_size, 1)
        return index, info

    def sample_several(
        self, storage: Storage, batch_size: int, num_batches: int
    ) -> list[tuple[torch.Tensor, dict[Any, torch.Tensor]]]:
        """Return what as many calls of :meth:`sample` return, at a lower cost."""
        counts = [self.take(batch_size) for _ in range(num_batches)]
        index, labels = self._layout.ranges.draw(counts, storage.device, self._rng)
        info = self._layout.label(index, labels)
        parts = [torch.unsafe_split(values, batch_size) for values in (index, *info.values())]
        return [(part, dict(zip(info, values, strict=True))) for part, *values in zip(*parts, strict=True)]


class MixtureSliceSampler(Shares, EpisodeSliceSampler):
    """Draw slices as :class:`EpisodeSliceSampler` does, with the share of each source.

    Args:
        weights: Share of each source, positive, 1 together.
        layout: Transitions of each source.
        storage: See :class:`EpisodeSliceSampler`.
        slice_len: See :class:`EpisodeSliceSampler`.
        short: See :class:`EpisodeSliceSampler`.

    Raises:
        EpisodesTooShortError: A source has no episode of that length.
    """

    def __init__(
        self,
        weights: Sequence[float],
        layout: MixtureLayout,
        storage: PackedStorage,
        *,
        slice_len: int,
        short: ShortEpisodes = "drop",
    ):
        Shares.__init__(self, weights)
        EpisodeSliceSampler.__init__(self, storage, slice_len=slice_len, short=short)
        is_sampled = self.is_sampled(storage.lengths()).cpu()
        sizes = [int(part.sum()) for part in torch.split(is_sampled, list(layout.num_episodes))]
        if 0 in sizes:
            msg = (
                f"slice_len={slice_len}: expected an episode of at least that many transitions in every source, got "
                f"none in source {sizes.index(0)}. Use a smaller slice_len, or short_episodes='pad' or 'shorter'."
            )
            raise EpisodesTooShortError(msg)
        self._episodes = SourceRanges(sizes)

    def draw_episodes(self, table: SliceTable, num_slices: int) -> torch.Tensor:
        """Return the episodes of a batch, int64 ``[num_slices]``, sources evenly spread."""
        return self._episodes.draw([self.take(num_slices)], table.starts.device, self._rng)[0]
