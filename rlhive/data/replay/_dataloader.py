"""``as_dataloader()``: torch's own DataLoader over a packed storage.

The main process draws which transitions go into which batch, so that the order does not depend on the number of
workers; a worker opens the cache by its path and gathers.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from tensordict import TensorDict
from torch.utils.data import DataLoader, Dataset, IterableDataset

from rlhive.data.replay import _prefetch
from rlhive.data.replay._epochs import EpochBatches
from rlhive.data.replay._options import DataLoaderOptions
from rlhive.data.replay._storage import PackedStorage, identity_collate
from rlhive.errors import EpisodesTooShortError


class EpochLoader(DataLoader):
    """A DataLoader whose epochs hold every item once, and which goes on where a state says.

    The state counts the batches that the loop has received, whatever workers have read ahead. It belongs to the data
    and to the way that batches are made, not to a number of ranks or workers.

    Args:
        dataset: Dataset of :func:`make_dataloader`.
        batches: Items of the batches.
        options: Keywords of torch's DataLoader.
    """

    def __init__(self, dataset: Dataset, batches: EpochBatches, **options: Any):
        super().__init__(dataset, batch_size=None, collate_fn=identity_collate, **options)
        self._batches = batches

    def __iter__(self) -> Iterator[TensorDict]:  # type: ignore[override]  # torch names its own iterator class
        for batch in super().__iter__():
            self._batches.count()
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return the position after the batches received so far, JSON-able."""
        return self._batches.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state with the next iteration, on any number of ranks and workers.

        The seed of the state replaces that of this loader.

        Raises:
            CheckpointMismatchError: The state is of other episodes or of batches of another kind.
        """
        self._batches.load_state_dict(state)


def make_dataloader(storage: PackedStorage, options: DataLoaderOptions) -> EpochLoader:
    """Return a DataLoader whose epochs hold every item once.

    Args:
        storage: Transitions to read.
        options: What an item is, and how items are put into batches.

    Raises:
        EpisodesTooShortError: No episode is as long as an item.
        InvalidOptionError: Rank, number of ranks and batch size do not fit together, or several ranks have no seed.
    """
    if options.slice_len is not None:
        storage.require_equal_lengths("batches of slices")
    dataset = _TransitionDataset(storage) if options.slice_len is None else _SliceDataset(storage, options.slice_len)
    batches = EpochBatches(storage.identity, len(dataset), options)
    if not options.num_workers:
        return EpochLoader(_PrefetchedBatches(dataset, batches), batches)
    return EpochLoader(
        dataset,
        batches,
        sampler=batches,
        num_workers=options.num_workers,
        # A forked child would inherit torch's threads; the storage travels as a path.
        multiprocessing_context="spawn",
        persistent_workers=True,
    )


class _TransitionDataset(Dataset):
    """Batches of transitions by their indices.

    Args:
        storage: Transitions to read.

    Attributes:
        storage: The storage.
        item_len: Transitions per item.
    """

    def __init__(self, storage: PackedStorage):
        self.storage = storage
        self.item_len = 1

    def __len__(self) -> int:
        return len(self.storage)

    def __getitem__(self, items: torch.Tensor) -> TensorDict:
        return self.storage.get(self.transition_indices(items))

    def transition_indices(self, items: torch.Tensor) -> torch.Tensor:
        """Return the transitions of some items, ``[n]``."""
        return items


class _SliceDataset(_TransitionDataset):
    """Batches of slices by their numbers; there is one slice per possible start."""

    def __init__(self, storage: PackedStorage, slice_len: int):
        super().__init__(storage)
        self.item_len = slice_len
        self._starts = _find_slice_starts(storage, slice_len)
        self._steps = torch.arange(slice_len, device="cpu")

    def __len__(self) -> int:
        return len(self._starts)

    def transition_indices(self, items: torch.Tensor) -> torch.Tensor:
        """Return the transitions of some slices, ``[n, slice_len]``."""
        return self._starts[items].unsqueeze(1) + self._steps


class _PrefetchedBatches(IterableDataset):
    """The batches of an epoch in the main process, gathered ahead in a thread."""

    def __init__(self, dataset: _TransitionDataset, batches: EpochBatches):
        self._dataset = dataset
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[TensorDict]:
        indices = (self._dataset.transition_indices(items) for items in self._batches)
        num_transitions = self._batches.batch_size * self._dataset.item_len
        return _prefetch.iter_gathered(self._dataset.storage, indices, num_transitions)


def _find_slice_starts(storage: PackedStorage, slice_len: int) -> torch.Tensor:
    """Return the transitions with which a slice inside one episode can start, int64."""
    lengths = storage.lengths().cpu()
    num_starts = (lengths - slice_len + 1).clamp_min(0)
    if not num_starts.sum():
        longest = int(lengths.max()) if len(lengths) else 0
        msg = (
            f"slice_len={slice_len}: expected an episode of at least that many transitions, got {longest} at most. "
            "Use a smaller slice_len."
        )
        raise EpisodesTooShortError(msg)
    first = lengths.cumsum(0) - lengths
    offset = first - (num_starts.cumsum(0) - num_starts)
    return torch.arange(int(num_starts.sum()), device="cpu") + torch.repeat_interleave(offset, num_starts)
