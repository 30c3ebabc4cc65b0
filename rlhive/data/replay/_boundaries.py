"""Where the slices of TorchRL's samplers may begin and end, by the sampler's own keys.

TorchRL's slice samplers find boundaries by reading a key of the whole storage. A dataset never changes, so that each
buffer finds the boundaries once: from its episode table, or from the key that the sampler names. It lends them to the
sampler while that draws. The sampler keeps none, so that it may serve several buffers.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torchrl.data import PrioritizedSliceSampler, SliceSampler, find_start_stop_traj
from torchrl.data.replay_buffers.samplers import Sampler

from rlhive import keys
from rlhive.data.replay._storage import PackedStorage
from rlhive.errors import InvalidOptionError, SchemaMismatchError

Boundaries = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

#: Keys in the ``_cache`` of TorchRL's slice samplers: the boundaries, and what prioritized slices derive from them.
_BOUNDARIES = "static-stop-and-length"
_NO_STARTS = "preceding_stop_idx"

#: TorchRL's way to find boundaries, which a sampler of its own may replace.
_STOCK = SliceSampler._get_stop_and_length


class LentBoundaries:
    """The boundaries that a slice sampler's keys give in a storage, which the sampler has while it draws.

    Args:
        boundaries: First and last transition of every trajectory, ``[n, 1]`` each, and their lengths ``[n]``.
    """

    def __init__(self, boundaries: Boundaries):
        self._boundaries = boundaries
        self._caches: dict[int, dict[str, Any]] = {}  # by batch size, which may decide on the slice length

    @contextlib.contextmanager
    def lent_to(self, sampler: SliceSampler, batch_size: int) -> Iterator[None]:
        """Let a sampler find these boundaries, and those only, while the block runs."""
        previous = sampler._cache, sampler.cache_values
        sampler._cache = self._find_cache(sampler, batch_size)
        sampler.cache_values = True
        try:
            yield
        finally:
            sampler._cache, sampler.cache_values = previous

    def _find_cache(self, sampler: SliceSampler, batch_size: int) -> dict[str, Any]:
        if batch_size not in self._caches:
            cache: dict[str, Any] = {_BOUNDARIES: self._boundaries}
            if isinstance(sampler, PrioritizedSliceSampler):
                cache[_NO_STARTS] = self._find_no_starts(sampler, sampler._adjusted_batch_size(batch_size)[0])
            self._caches[batch_size] = cache
        return self._caches[batch_size]

    def _find_no_starts(self, sampler: PrioritizedSliceSampler, slice_len: int) -> torch.Tensor:
        """Return the transitions at which no prioritized slice starts: it would leave its trajectory.

        TorchRL finds the same ones, except where ``span`` is ``slice_len - 1``: there it finds all of them.
        """
        span = sampler.span[1]
        if span is not True and span >= slice_len:
            msg = f"span={span}: expected less than the {slice_len} transitions of a slice"
            raise InvalidOptionError(msg)
        first, _, lengths = self._boundaries
        num_left = torch.repeat_interleave(lengths.cumsum(0), lengths) - torch.arange(
            int(lengths.sum()), device=lengths.device
        )
        is_no_start = num_left < (2 if span is True else slice_len - span)
        if not sampler.strict_length:
            is_no_start[first[:, 0]] = False
        return is_no_start.nonzero()[:, 0].cpu()


def find_boundaries(sampler: Sampler, storage: PackedStorage) -> LentBoundaries | None:
    """Return the boundaries of a sampler's slices in a storage; None if the sampler brings its own or needs none.

    Raises:
        SchemaMismatchError: The dataset has no key of that name.
    """
    if not isinstance(sampler, SliceSampler) or type(sampler)._get_stop_and_length is not _STOCK:
        return None
    if sampler.fragmented:
        for key in (sampler.traj_key or keys.EPISODE, sampler.step_key):
            _read(storage, key, sampler)
        return None
    if sampler._cache.get(_BOUNDARIES) is not None:  # from ends= or trajectories=
        return None
    if not sampler._fetch_traj:
        ends = [_read(storage, key, sampler).any(1) for key in sampler.end_keys or (sampler.end_key,)]
        return LentBoundaries(_split_after(torch.stack(ends).any(0)))
    if sampler.traj_key in (None, keys.EPISODE, (keys.EPISODE,)):
        return LentBoundaries(compute_boundaries(storage.lengths()))
    trajectory = _read(storage, sampler.traj_key, sampler)
    changes = (trajectory[1:] != trajectory[:-1]).any(1)
    return LentBoundaries(_split_after(torch.cat([changes, changes.new_ones(1)])))


def compute_boundaries(lengths: torch.Tensor) -> Boundaries:
    """Return the episode boundaries in TorchRL's form.

    Args:
        lengths: Lengths of the episodes, int64 ``[E]``.

    Returns:
        First and last transition of every episode, ``[E, 1]`` each, and the lengths.
    """
    stop = lengths.cumsum(0)
    return (stop - lengths).unsqueeze(1), (stop - 1).unsqueeze(1), lengths


def _split_after(ends: torch.Tensor) -> Boundaries:
    """Return the boundaries of the trajectories that end where ``ends`` is True, bool ``[N]``, and at the last row."""
    return find_start_stop_traj(end=ends, at_capacity=False)


def _read(storage: PackedStorage, key: keys.NestedKey, sampler: SliceSampler) -> torch.Tensor:
    """Return a key of all transitions, ``[N, width]``."""
    try:
        return storage.read_key(key).reshape(len(storage), -1)
    except (ValueError, TypeError) as error:
        msg = f"{type(sampler).__name__}: expected keys of the dataset, got {key!r}. {error}"
        raise SchemaMismatchError(msg) from error
