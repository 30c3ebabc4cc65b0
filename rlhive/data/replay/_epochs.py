"""The order of an epoch: a function of the seed and the epoch alone, for any number of ranks and workers.

::

    epoch e      permutation of all items by (seed, e), see _order.py
    batch k      its items k·B … (k+1)·B - 1, over all ranks
    rank r       part r of that batch in W parts, whose sizes differ by at most 1

A rank computes its own part alone, some batches at a time: neither the start of an epoch nor a rank costs more in a
larger epoch or with more ranks.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed
from torch.utils.data import Sampler

from rlhive.data.replay._options import DataLoaderOptions
from rlhive.data.replay._order import RandomOrder
from rlhive.errors import CheckpointMismatchError, InvalidOptionError

#: Items of a rank that are computed at once, to share the cost of a call.
_BLOCK_ITEMS = 65_536
#: Changed with the orders: a state would go on in another one.
_ORDER = "permuted by position"


def find_rank(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Return rank and number of ranks: the given ones, those of ``torch.distributed`` if it is initialised, or 0 of 1.

    Raises:
        InvalidOptionError: One of the two is missing, or they are out of range.
    """
    if rank is None and world_size is None:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return 0, 1
    if rank is None or world_size is None or not 0 <= rank < world_size:
        msg = f"rank={rank}, world_size={world_size}: expected both, with 0 <= rank < world_size"
        raise InvalidOptionError(msg)
    return rank, world_size


def derive_seed(seed: int, number: int) -> int:
    """Return the seed of an epoch or a rank: well mixed, so that neighbouring numbers have unrelated generators."""
    return int(np.random.SeedSequence((seed % 2**64, number)).generate_state(1, np.uint64)[0])


class EpochBatches(Sampler):
    """Numbers of the items in one rank's part of every batch of an epoch, int64 ``[n]``.

    An iteration goes on where :meth:`load_state_dict` says, or begins the next epoch.

    Args:
        identity: What determines the items, JSON-able: a state belongs to this data alone.
        num_items: Number of items.
        options: Batch size, shuffle, seed and rank.

    Raises:
        InvalidOptionError: The rank is out of range; there are more ranks than items of a batch; or several ranks have
            no seed, so that each would shuffle differently.
    """

    def __init__(self, identity: Mapping[str, Any], num_items: int, options: DataLoaderOptions):
        self._rank, self._world_size = find_rank(options.rank, options.world_size)
        if self._world_size > options.batch_size:
            msg = f"world_size={self._world_size}: expected at most batch_size={options.batch_size} ranks"
            raise InvalidOptionError(msg)
        if self._world_size > 1 and options.shuffle and options.seed is None:
            msg = f"seed=None: expected a seed for {self._world_size} ranks, each of which would shuffle differently"
            raise InvalidOptionError(msg)
        self._options = options
        self._identity = dict(identity)
        self._num_items = num_items
        self._seed = torch.Generator("cpu").seed() if options.seed is None else options.seed
        self._epoch = -1
        self._num_done = 0
        self._resumes = False  # whether the next iteration goes on in the middle of an epoch

    @property
    def batch_size(self) -> int:
        """Largest number of items in a batch of this rank."""
        return -(-self._options.batch_size // self._world_size)

    def __len__(self) -> int:
        num_full, num_left = divmod(self._num_items, self._options.batch_size)
        return num_full + (num_left > 0 and not self._options.drop_last)

    def __iter__(self) -> Iterator[torch.Tensor]:
        if not self._resumes:
            self._epoch, self._num_done = self._epoch + 1, 0
        self._resumes = False
        order = None
        if self._options.shuffle:
            order = RandomOrder(self._num_items, derive_seed(self._seed, self._epoch))
        num_batches = max(1, _BLOCK_ITEMS // self.batch_size)
        for first in range(self._num_done, len(self), num_batches):
            parts = [self._find_positions(number) for number in range(first, min(first + num_batches, len(self)))]
            positions = np.concatenate(parts)
            items = torch.from_numpy(positions if order is None else order.items(positions))
            yield from torch.split(items, [len(part) for part in parts])

    def _find_positions(self, number: int) -> np.ndarray:
        """Return the positions of this rank's part of a batch in the epoch, int64."""
        start = number * self._options.batch_size
        size = min(self._options.batch_size, self._num_items - start)
        part, num_larger = divmod(size, self._world_size)
        start += self._rank * part + min(self._rank, num_larger)
        return np.arange(start, start + part + (self._rank < num_larger))

    def count(self) -> None:
        """Note that a batch was handed out."""
        self._num_done += 1

    def state_dict(self) -> dict[str, Any]:
        """Return the position, JSON-able; it holds for any number of ranks and workers."""
        return {**self._settings(), "seed": self._seed, "epoch": self._epoch, "num_batches": self._num_done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after the batches that were handed out when the state was taken.

        Raises:
            CheckpointMismatchError: The state is of other data or another way to make batches.
        """
        settings = self._settings()
        if differing := [name for name in settings if state.get(name) != settings[name]]:
            expected = ", ".join(f"{name}={settings[name]!r}" for name in differing)
            got = ", ".join(f"{name}={state.get(name)!r}" for name in differing)
            msg = f"State of a DataLoader: expected {expected}; got {got}"
            raise CheckpointMismatchError(msg)
        position: list[Any] = [state.get(name) for name in ("seed", "epoch", "num_batches")]
        if not all(type(value) is int for value in position) or not 0 <= position[-1] <= len(self):
            msg = f"State of a DataLoader: expected seed, epoch and at most {len(self)} num_batches, got {position}"
            raise CheckpointMismatchError(msg)
        self._seed, self._epoch, self._num_done = position
        self._resumes = self._epoch >= 0 and self._num_done < len(self)

    def _settings(self) -> dict[str, Any]:
        """Return what a state and this loader must have in common."""
        options = self._options
        names = ("batch_size", "slice_len", "shuffle", "drop_last")
        settings = {name: getattr(options, name) for name in names}
        return self._identity | {"num_items": self._num_items, "order": _ORDER} | settings
