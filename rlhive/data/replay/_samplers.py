"""Samplers that take the episodes' boundaries from the episode table instead of scanning flags.

TorchRL's slice samplers find boundaries by reading a key of the whole storage, at every sample unless told to cache.
A dataset knows its boundaries: TorchRL's own samplers are given them, and :class:`EpisodeSliceSampler` draws the same
slices as TorchRL's ``SliceSampler`` from the same generator without reading the storage at all.
"""

from typing import Any, Literal

import torch
from torchrl.data import SliceSampler
from torchrl.data.replay_buffers.samplers import Sampler
from torchrl.data.replay_buffers.storages import Storage

from rlhive import keys
from rlhive.data.replay._storage import PackedStorage
from rlhive.errors import EpisodesTooShort

ShortEpisodes = Literal["drop", "pad", "shorter"]

#: Where TorchRL's slice samplers say which transitions are real.
MASK = ("collector", "mask")

_END_KEYS = (keys.NEXT_TRUNCATED, keys.NEXT_DONE, keys.NEXT_TERMINATED)

#: The name under which they keep boundaries that they were given.
_BOUNDARIES = "static-stop-and-length"

#: Set on a sampler whose boundaries are a dataset's and not its user's.
_OURS = "_rlhive_boundaries"


class EpisodeSliceSampler(SliceSampler):
    """Draw windows of ``slice_len`` consecutive transitions, each inside one episode.

    An episode is drawn uniformly, then a start inside it uniformly, as TorchRL's ``SliceSampler`` does: the same
    generator gives the same slices. As there, the batch is flat, ``[num_slices * slice_len]``, and the last
    transition of a slice is marked ``truncated`` (and ``done``) below ``"next"``; ``terminated`` stays the
    environment's.

    Args:
        storage: Whose episodes to draw from.
        slice_len: Transitions per slice.
        short: What becomes of an episode with fewer transitions: ``"drop"`` leaves it out; ``"pad"`` repeats its last
            transition and says so in ``("collector", "mask")``, False where padded; ``"shorter"`` gives what there
            is, so that the batch is smaller.

    Raises:
        EpisodesTooShort: No episode is left.
    """

    def __init__(self, storage: PackedStorage, *, slice_len: int, short: ShortEpisodes = "drop"):
        if short not in ("drop", "pad", "shorter"):
            msg = f"short_episodes={short!r}: expected 'drop', 'pad' or 'shorter'. Choose one."
            raise ValueError(msg)
        super().__init__(
            slice_len=slice_len, cache_values=True, strict_length=short == "drop", pad_output=short == "pad"
        )
        lengths = storage.lengths()
        self._cache[_BOUNDARIES] = boundaries = episode_boundaries(lengths)
        kept = lengths >= slice_len if short == "drop" else lengths > 0
        if not kept.any():
            longest = int(lengths.max()) if len(lengths) else 0
            msg = (
                f"slice_len={slice_len}: expected an episode of that many transitions, got {longest} at most. "
                "Ask for shorter slices, or short_episodes='pad' or 'shorter'."
            )
            raise EpisodesTooShort(msg)
        self._take = lengths[kept].clamp_max(slice_len)
        num_starts = lengths[kept] - self._take + 1
        terminated, self._done = (flags[kept] for flags in storage.endings())
        # Of every episode: its first transition, its number of starts, and the last of those where it ends with a
        # terminal transition (-1 otherwise). Side by side, since one gather of all costs as much as one of each.
        last = torch.where(terminated, num_starts - 1, -1)
        self._table = torch.stack([boundaries[0][kept, 0], num_starts, last], 1)
        self._whole = bool((self._take == slice_len).all())
        self._steps = torch.arange(slice_len, device=lengths.device)
        self._ends = torch.zeros(3, 0, slice_len, 1, dtype=torch.bool, device=lengths.device)

    def sample(self, storage: Storage, batch_size: int) -> tuple[tuple[torch.Tensor], dict[Any, torch.Tensor]]:
        """Draw slices.

        Returns:
            Their transitions' indices, int64 ``[num_slices * slice_len]``, as TorchRL's one-element tuple, and the
            entries that go into the batch.

        Raises:
            RuntimeError: The batch size is no multiple of the slice length.
        """
        _, num_slices = self._adjusted_batch_size(batch_size * (self._batch_size_multiplier or 1))
        generator, device = self._rng, self._table.device
        episode = torch.randint(len(self._table), (num_slices,), device=device, generator=generator)
        first, num_starts, last = self._table.index_select(0, episode).unbind(1)
        offset = (torch.rand(num_slices, device=device, generator=generator) * num_starts).to(torch.int64)
        start, terminated = first + offset, offset == last
        if self._whole:
            return self._whole_slices(start, terminated)
        return self._short_slices(start, terminated, self._done[episode], self._take[episode])

    def _whole_slices(self, start: torch.Tensor, terminated: torch.Tensor) -> tuple[tuple, dict]:
        index = (start.unsqueeze(1) + self._steps).view(-1)
        if self._ends.shape[1] != len(start):  # truncated and done at the end of every slice
            self._ends = self._ends.new_zeros(3, len(start), len(self._steps), 1)
            self._ends[:2, :, -1] = True
        flags = self._ends.clone()
        flags[2, :, -1, 0] = terminated
        return (index,), dict(zip(_END_KEYS, flags.view(3, -1, 1).unbind(0), strict=True))

    def _short_slices(
        self, start: torch.Tensor, terminated: torch.Tensor, done: torch.Tensor, take: torch.Tensor
    ) -> tuple[tuple, dict]:
        last = (take - 1).unsqueeze(1)
        index = start.unsqueeze(1) + torch.minimum(self._steps, last)
        at_end, real = self._steps == last, self._steps <= last
        # A padded row repeats the episode's last one, its flags included, but for the mark of the slice's end.
        flags = [at_end, at_end | (~real & done.unsqueeze(1)), (self._steps >= last) & terminated.unsqueeze(1)]
        if self.pad_output:
            index, flags, mask = index.flatten(), [flag.flatten() for flag in flags], {MASK: real.flatten()}
        else:
            index, flags, mask = index[real], [flag[real] for flag in flags], {}
        return (index,), dict(zip(_END_KEYS, (flag.unsqueeze(1) for flag in flags), strict=True)) | mask


def episode_boundaries(lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return first and last transition of every episode, ``[E, 1]``, and the lengths ``[E]``, as TorchRL keeps them."""
    stop = lengths.cumsum(0)
    return (stop - lengths).unsqueeze(1), (stop - 1).unsqueeze(1), lengths


def give_boundaries(sampler: Sampler, storage: PackedStorage) -> None:
    """Tell one of TorchRL's slice samplers where the episodes begin and end, unless its user did.

    Without it the sampler reads a key of every transition, at every sample or at the first. A sampler that served
    another dataset before gets the boundaries of this one.
    """
    if not isinstance(sampler, SliceSampler) or isinstance(sampler, EpisodeSliceSampler) or sampler.fragmented:
        return
    if not sampler._cache or getattr(sampler, _OURS, False):
        sampler.cache_values = True
        sampler._cache.clear()
        sampler._cache[_BOUNDARIES] = episode_boundaries(storage.lengths())
        setattr(sampler, _OURS, True)
