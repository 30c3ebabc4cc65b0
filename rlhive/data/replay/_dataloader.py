"""``as_dataloader()``: torch's own DataLoader over a packed storage.

The main process draws which transitions go into which batch, so that the order does not depend on the number of
workers; a worker opens the cache by its path and gathers.
"""

from collections.abc import Iterator

import torch
from tensordict import TensorDict
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from rlhive.data.replay import _prefetch
from rlhive.data.replay._options import DataLoaderOptions
from rlhive.data.replay._storage import PackedStorage, identity_collate
from rlhive.errors import EpisodesTooShortError


def make_dataloader(storage: PackedStorage, options: DataLoaderOptions) -> DataLoader:
    """Return a DataLoader whose epochs hold every item once.

    Args:
        storage: Transitions to read.
        options: What an item is, and how items are put into batches.

    Raises:
        EpisodesTooShortError: No episode is as long as an item.
    """
    if options.slice_len is not None:
        storage.require_equal_lengths("batches of slices")
    dataset = _TransitionDataset(storage) if options.slice_len is None else _SliceDataset(storage, options.slice_len)
    batches = _BatchSampler(len(dataset), options)
    if not options.num_workers:
        return DataLoader(_PrefetchedBatches(dataset, batches), batch_size=None, collate_fn=identity_collate)
    return DataLoader(
        dataset,
        sampler=batches,
        batch_size=None,
        collate_fn=identity_collate,
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

    def __init__(self, dataset: _TransitionDataset, batches: "_BatchSampler"):
        self._dataset = dataset
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[TensorDict]:
        indices = (self._dataset.transition_indices(items) for items in self._batches)
        num_transitions = self._batches.batch_size * self._dataset.item_len
        return _prefetch.iter_gathered(self._dataset.storage, indices, num_transitions)


class _BatchSampler(Sampler):
    """The item numbers of every batch of an epoch, int64 ``[batch_size]``."""

    def __init__(self, num_items: int, options: DataLoaderOptions):
        self.batch_size = options.batch_size
        self._num_items = num_items
        self._shuffle = options.shuffle
        self._drop_last = options.drop_last
        self._generator = torch.Generator("cpu")
        if options.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(options.seed)

    def __len__(self) -> int:
        num_full, num_left = divmod(self._num_items, self.batch_size)
        return num_full + (num_left > 0 and not self._drop_last)

    def __iter__(self) -> Iterator[torch.Tensor]:
        if self._shuffle:
            items = torch.randperm(self._num_items, generator=self._generator, device="cpu")
        else:
            items = torch.arange(self._num_items, device="cpu")
        yield from torch.split(items, self.batch_size)[: len(self)]


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
