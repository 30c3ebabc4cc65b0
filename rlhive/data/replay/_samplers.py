"""A slice sampler that takes the episode boundaries from the episode table.

:class:`EpisodeSliceSampler` draws the same slices as TorchRL's ``SliceSampler`` from the same generator, without
reading the storage. TorchRL's own samplers get their boundaries from :mod:`rlhive.data.replay._boundaries`.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args
from weakref import WeakKeyDictionary

import torch
from torchrl.data import SliceSampler
from torchrl.data.replay_buffers.storages import Storage

from rlhive import keys
from rlhive.data.replay._boundaries import Boundaries, compute_boundaries
from rlhive.data.replay._storage import PackedStorage
from rlhive.data.replay._validation import require_choice
from rlhive.errors import EpisodesTooShortError

ShortEpisodes = Literal["drop", "pad", "shorter"]

#: Key under which TorchRL's slice samplers tell real transitions from padding.
MASK = keys.SLICE_MASK

_END_KEYS = (keys.NEXT_TRUNCATED, keys.NEXT_DONE, keys.NEXT_TERMINATED)


@dataclass(frozen=True)
class SliceTable:
    """The episodes of one storage that are sampled.

    Attributes:
        starts: int64 ``[E, 3]``. Of every episode its first transition, its number of starts, and the last of those if
            it ends with a terminal transition (-1 otherwise). In one table, since one gather of all costs as much as
            one of each.
        take: Transitions of a slice of each episode, int64 ``[E]``.
        done: Whether each episode is done, bool ``[E]``.
        all_whole: Whether every slice has the full length.
    """

    starts: torch.Tensor
    take: torch.Tensor
    done: torch.Tensor
    all_whole: bool


class EpisodeSliceSampler(SliceSampler):
    """Draw windows of ``slice_len`` consecutive transitions, each inside one episode.

    An episode is drawn uniformly, then a start inside it uniformly, as TorchRL's ``SliceSampler`` does: the same
    generator gives the same slices. As there, the batch is flat, ``[num_slices * slice_len]``, and the last
    transition of a slice is marked ``truncated`` (and ``done``) below ``"next"``; ``terminated`` stays as it was
    recorded.

    Args:
        storage: Storage whose episodes are sampled. The sampler may serve other storages as well, each with its own
            episodes.
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
        super().__init__(slice_len=slice_len, strict_length=short == "drop", pad_output=short == "pad")
        self._tables: WeakKeyDictionary[PackedStorage, SliceTable] = WeakKeyDictionary()
        # The last one, without a look-up.
        self._storage: PackedStorage | None = storage
        self._table = self._find_table(storage)
        self._steps = torch.arange(slice_len, device=storage.device)
        self._end_flags = torch.zeros(3, 0, slice_len, 1, dtype=torch.bool, device=storage.device)

    def _find_table(self, storage: PackedStorage) -> SliceTable:
        if storage not in self._tables:
            self._tables[storage] = self._make_table(storage)
        return self._tables[storage]

    def _make_table(self, storage: PackedStorage) -> SliceTable:
        lengths = storage.lengths()
        is_sampled = self.is_sampled(lengths)
        if not is_sampled.any():
            longest = int(lengths.max()) if len(lengths) else 0
            msg = (
                f"slice_len={self.slice_len}: expected an episode of at least that many transitions, got {longest} at "
                "most. Use a smaller slice_len, or short_episodes='pad' or 'shorter'."
            )
            raise EpisodesTooShortError(msg)
        first = compute_boundaries(lengths)[0][is_sampled, 0]
        take = lengths[is_sampled].clamp_max(self.slice_len)
        num_starts = lengths[is_sampled] - take + 1
        terminated, done = (flags[is_sampled] for flags in storage.endings())
        last_start = torch.where(terminated, num_starts - 1, -1)
        starts = torch.stack([first, num_starts, last_start], 1)
        return SliceTable(starts, take, done, bool((take == self.slice_len).all()))

    def is_sampled(self, lengths: torch.Tensor) -> torch.Tensor:
        """Return whether slices of episodes of some lengths are drawn, bool ``[num_episodes]``."""
        return lengths >= self.slice_len if self.strict_length else lengths > 0

    def draw_episodes(self, table: SliceTable, num_slices: int) -> torch.Tensor:
        """Return positions in the table of the episodes of a batch's slices, int64 ``[num_slices]``."""
        return torch.randint(len(table.starts), (num_slices,), device=table.starts.device, generator=self._rng)

    def sample(self, storage: Storage, batch_size: int) -> tuple[tuple[torch.Tensor], dict[Any, torch.Tensor]]:
        """Draw slices.

        Returns:
            The indices of their transitions, int64 ``[num_slices * slice_len]``, as TorchRL's one-element tuple, and
            the entries to set in the batch.

        Raises:
            RuntimeError: The batch size is not a multiple of the slice length.
        """
        if not isinstance(storage, PackedStorage):
            return super().sample(storage, batch_size)
        if storage is not self._storage:
            self._storage, self._table = storage, self._find_table(storage)
        table = self._table
        _, num_slices = self._adjusted_batch_size(batch_size * (self._batch_size_multiplier or 1))
        generator, device = self._rng, table.starts.device
        episode = self.draw_episodes(table, num_slices)
        first, num_starts, last_start = table.starts.index_select(0, episode).unbind(1)
        offset = (torch.rand(num_slices, device=device, generator=generator) * num_starts).to(torch.int64)
        start, terminated = first + offset, offset == last_start
        if table.all_whole:
            return self._whole_slices(start, terminated)
        return self._short_slices(start, terminated, table.done[episode], table.take[episode])

    def _get_stop_and_length(self, storage: Storage, fallback: bool = True) -> Boundaries:
        if isinstance(storage, PackedStorage):
            return compute_boundaries(storage.lengths())
        return super()._get_stop_and_length(storage, fallback)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_tables": None, "_storage": None, "_table": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _tables=WeakKeyDictionary())

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
