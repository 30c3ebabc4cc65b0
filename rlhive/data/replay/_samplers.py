"""Slice samplers that take the episode boundaries from the episode table.

TorchRL's slice samplers find boundaries by reading a key of the whole storage, at every sample unless
``cache_values=True``. A dataset knows its boundaries: :func:`set_boundaries` gives them to TorchRL's own samplers, and
:class:`EpisodeSliceSampler` draws the same slices as TorchRL's ``SliceSampler`` from the same generator without
reading the storage.
"""

from typing import Any, Literal, get_args

import torch
from torchrl.data import SliceSampler
from torchrl.data.replay_buffers.samplers import Sampler
from torchrl.data.replay_buffers.storages import Storage

from rlhive import keys
from rlhive.data.replay._storage import PackedStorage
from rlhive.data.replay._validation import require_choice
from rlhive.errors import EpisodesTooShortError

ShortEpisodes = Literal["drop", "pad", "shorter"]

#: Key under which TorchRL's slice samplers tell real transitions from padding.
MASK = ("collector", "mask")

_END_KEYS = (keys.NEXT_TRUNCATED, keys.NEXT_DONE, keys.NEXT_TERMINATED)

#: Key of the boundaries in the ``_cache`` of TorchRL's slice samplers.
_BOUNDARIES = "static-stop-and-length"

#: Attribute of a sampler whose boundaries were set by this module, not by the user.
_BOUNDARIES_SET = "_rlhive_boundaries"


class EpisodeSliceSampler(SliceSampler):
    """Draw windows of ``slice_len`` consecutive transitions, each inside one episode.

    An episode is drawn uniformly, then a start inside it uniformly, as TorchRL's ``SliceSampler`` does: the same
    generator gives the same slices. As there, the batch is flat, ``[num_slices * slice_len]``, and the last
    transition of a slice is marked ``truncated`` (and ``done``) below ``"next"``; ``terminated`` stays as it was
    recorded.

    Args:
        storage: Storage whose episodes are sampled.
        slice_len: Transitions per slice.
        short: Treatment of an episode with fewer transitions: ``"drop"`` leaves it out; ``"pad"`` repeats its last
            transition, with ``("collector", "mask")`` False; ``"shorter"`` takes the whole episode, so that the batch
            is smaller.

    Raises:
        ValueError: ``short`` is none of these.
        EpisodesTooShortError: No episode is left.
    """

    def __init__(self, storage: PackedStorage, *, slice_len: int, short: ShortEpisodes = "drop"):
        require_choice(short, get_args(ShortEpisodes), "short_episodes")
        super().__init__(
            slice_len=slice_len, cache_values=True, strict_length=short == "drop", pad_output=short == "pad"
        )
        lengths = storage.lengths()
        boundaries = compute_boundaries(lengths)
        self._cache[_BOUNDARIES] = boundaries
        is_sampled = lengths >= slice_len if short == "drop" else lengths > 0
        if not is_sampled.any():
            longest = int(lengths.max()) if len(lengths) else 0
            msg = (
                f"slice_len={slice_len}: expected an episode of at least that many transitions, got {longest} at most. "
                "Use a smaller slice_len, or short_episodes='pad' or 'shorter'."
            )
            raise EpisodesTooShortError(msg)
        self._take = lengths[is_sampled].clamp_max(slice_len)
        num_starts = lengths[is_sampled] - self._take + 1
        terminated, self._done = (flags[is_sampled] for flags in storage.endings())
        # Of every episode: its first transition, its number of starts, and the last of those if it ends with a
        # terminal transition (-1 otherwise). In one table, since one gather of all costs as much as one of each.
        last_start = torch.where(terminated, num_starts - 1, -1)
        self._table = torch.stack([boundaries[0][is_sampled, 0], num_starts, last_start], 1)
        self._all_whole = bool((self._take == slice_len).all())
        self._steps = torch.arange(slice_len, device=lengths.device)
        self._end_flags = torch.zeros(3, 0, slice_len, 1, dtype=torch.bool, device=lengths.device)

    def sample(self, storage: Storage, batch_size: int) -> tuple[tuple[torch.Tensor], dict[Any, torch.Tensor]]:
        """Draw slices.

        Returns:
            The indices of their transitions, int64 ``[num_slices * slice_len]``, as TorchRL's one-element tuple, and
            the entries to set in the batch.

        Raises:
            RuntimeError: The batch size is not a multiple of the slice length.
        """
        _, num_slices = self._adjusted_batch_size(batch_size * (self._batch_size_multiplier or 1))
        generator, device = self._rng, self._table.device
        episode = torch.randint(len(self._table), (num_slices,), device=device, generator=generator)
        first, num_starts, last_start = self._table.index_select(0, episode).unbind(1)
        offset = (torch.rand(num_slices, device=device, generator=generator) * num_starts).to(torch.int64)
        start, terminated = first + offset, offset == last_start
        if self._all_whole:
            return self._whole_slices(start, terminated)
        return self._short_slices(start, terminated, self._done[episode], self._take[episode])

    def _whole_slices(self, start: torch.Tensor, terminated: torch.Tensor) -> tuple[tuple, dict]:
        index = (start.unsqueeze(1) + self._steps).view(-1)
        if self._end_flags.shape[1] != len(start):  # truncated and done at the end of every slice
            self._end_flags = self._end_flags.new_zeros(3, len(start), len(self._steps), 1)
            self._end_flags[:2, :, -1] = True
        flags = self._end_flags.clone()
        flags[2, :, -1, 0] = terminated
        return (index,), dict(zip(_END_KEYS, flags.view(3, -1, 1).unbind(0), strict=True))

    def _short_slices(
        self, start: torch.Tensor, terminated: torch.Tensor, done: torch.Tensor, take: torch.Tensor
    ) -> tuple[tuple, dict]:
        last = (take - 1).unsqueeze(1)
        index = start.unsqueeze(1) + torch.minimum(self._steps, last)
        is_end, is_real = self._steps == last, self._steps <= last
        # A padded row repeats the episode's last one with its flags, except for the mark of the slice's end.
        flags = [is_end, is_end | (~is_real & done.unsqueeze(1)), (self._steps >= last) & terminated.unsqueeze(1)]
        if self.pad_output:
            index, flags, mask = index.flatten(), [flag.flatten() for flag in flags], {MASK: is_real.flatten()}
        else:
            index, flags, mask = index[is_real], [flag[is_real] for flag in flags], {}
        return (index,), dict(zip(_END_KEYS, (flag.unsqueeze(1) for flag in flags), strict=True)) | mask


def compute_boundaries(lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the episode boundaries in TorchRL's form.

    Args:
        lengths: Lengths of the episodes, int64 ``[E]``.

    Returns:
        First and last transition of every episode, ``[E, 1]`` each, and the lengths.
    """
    stop = lengths.cumsum(0)
    return (stop - lengths).unsqueeze(1), (stop - 1).unsqueeze(1), lengths


def set_boundaries(sampler: Sampler, storage: PackedStorage) -> None:
    """Set the episode boundaries of one of TorchRL's slice samplers, unless its user gave it some.

    Without them the sampler reads a key of every transition, at every sample or at the first. A sampler that was used
    with another dataset before gets the boundaries of this one.
    """
    if not isinstance(sampler, SliceSampler) or isinstance(sampler, EpisodeSliceSampler) or sampler.fragmented:
        return
    if not sampler._cache or getattr(sampler, _BOUNDARIES_SET, False):
        sampler.cache_values = True
        sampler._cache.clear()
        sampler._cache[_BOUNDARIES] = compute_boundaries(storage.lengths())
        setattr(sampler, _BOUNDARIES_SET, True)
