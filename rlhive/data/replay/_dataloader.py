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
from rlhive.data.replay._storage import PackedStorage
from rlhive.errors import EpisodesTooShort


def make_dataloader(storage: PackedStorage, options: DataLoaderOptions) -> DataLoader:
    """Return a DataLoader whose epochs hold every item once.

    Args:
        storage: Transitions to read.
        options: What an item is, and how items are put into batches.

    Raises:
        EpisodesTooShort: No episode is as long as an item.
    """
    starts = None if options.slice_len is None else _starts(storage, options.slice_len)
    items = _Items(storage, starts, options.slice_len)
    batches = _Batches(len(storage) if starts is None else len(starts), options)
    if not options.num_workers:
        return DataLoader(_Epochs(items, batches), batch_size=None, collate_fn=_as_is)
    return DataLoader(
        items,
        sampler=batches,
        batch_size=None,
        collate_fn=_as_is,
        num_workers=options.num_workers,
        # A forked child would inherit torch's threads; the storage travels as a path.
        multiprocessing_context="spawn",
        persistent_workers=True,
    )


class _Items(Dataset):
    """Batches of items by the numbers of the items."""

    def __init__(self, storage: PackedStorage, starts: torch.Tensor | None, slice_len: int | None):
        self.storage, self._starts = storage, starts
        self._steps = None if slice_len is None else torch.arange(slice_len)
        self.item_len = slice_len or 1

    def __getitem__(self, items: torch.Tensor) -> TensorDict:
        return self.storage.get(self.index_of(items))

    def index_of(self, items: torch.Tensor) -> torch.Tensor:
        """Return the transitions of some items, ``[n]`` or ``[n, slice_len]``."""
        return items if self._starts is None else self._starts[items].unsqueeze(1) + self._steps


class _Epochs(IterableDataset):
    """The batches of an epoch in the process that asks for them, gathered ahead."""

    def __init__(self, items: _Items, batches: "_Batches"):
        self._items, self._batches = items, batches

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[TensorDict]:
        indices = (self._items.index_of(batch) for batch in self._batches)
        return _prefetch.gathered(self._items.storage, indices, self._batches.batch_size * self._items.item_len)


class _Batches(Sampler):
    """The numbers of the items of every batch of an epoch."""

    def __init__(self, count: int, options: DataLoaderOptions):
        self._count = count
        self.batch_size = options.batch_size
        self._shuffle = options.shuffle
        self._drop_last = options.drop_last
        self._generator = torch.Generator()
        if options.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(options.seed)

    def __len__(self) -> int:
        full, rest = divmod(self._count, self.batch_size)
        return full + (rest > 0 and not self._drop_last)

    def __iter__(self) -> Iterator[torch.Tensor]:
        order = torch.randperm(self._count, generator=self._generator) if self._shuffle else torch.arange(self._count)
        yield from order.split(self.batch_size)[: len(self)]


def _starts(storage: PackedStorage, slice_len: int) -> torch.Tensor:
    """The transitions with which a window inside one episode can begin."""
    lengths = storage.lengths().cpu()
    windows = (lengths - slice_len + 1).clamp_min(0)
    if not windows.sum():
        longest = int(lengths.max()) if len(lengths) else 0
        msg = (
            f"slice_len={slice_len}: expected an episode of that many transitions, got {longest} at most. "
            "Ask for shorter slices."
        )
        raise EpisodesTooShort(msg)
    first = lengths.cumsum(0) - lengths
    offset = first - (windows.cumsum(0) - windows)
    return torch.arange(int(windows.sum())) + torch.repeat_interleave(offset, windows)


def _as_is(batch: TensorDict) -> TensorDict:
    return batch
