"""How a dataset feeds training: as a TorchRL replay buffer, a torch DataLoader, a storage, or one TensorDict."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from tensordict import TensorDict

from rlhive.data.replay import (
    DataLoaderOptions,
    ImageCache,
    Normalize,
    PackedStorage,
    ReadOptions,
    SamplingOptions,
    ShortEpisodes,
    make_dataloader,
    make_replay_buffer,
    make_storage,
    open_packed,
)
from rlhive.data.versions import FileEntry, Manifest, positions
from rlhive.dataset._transforms import Condition, Derivations
from rlhive.errors import StreamingOnly
from rlhive.keys import NestedKey

if TYPE_CHECKING:
    from torch.utils.data import DataLoader
    from torchrl.data import TensorDictReplayBuffer
    from torchrl.data.replay_buffers.samplers import Sampler


class Feeding(Derivations):
    """The part of :class:`rlhive.RoboHiveDataset` that algorithms read from."""

    statistics: dict[str, dict[str, Any]]
    name: str
    version: str
    _here: Manifest
    _streaming: bool

    def as_replay_buffer(
        self,
        batch_size: int = 256,
        *,
        split: str | None = None,
        where: Condition | None = None,
        keys: Sequence[NestedKey] | None = None,
        slice_len: int | None = None,
        short_episodes: ShortEpisodes = "drop",
        n_step: int = 1,
        gamma: float | None = None,
        frame_stack: int = 1,
        return_to_go: bool = False,
        normalize: Normalize = False,
        image_cache: ImageCache | None = None,
        sampler: "Sampler | None" = None,
        transform: Callable | None = None,
        device: torch.device | str = "cpu",
        in_memory: bool | None = None,
        prefetch: int | None = None,
        pin_memory: bool = False,
        seed: int | None = None,
    ) -> "TensorDictReplayBuffer":
        """Return a TorchRL replay buffer over the chosen splits; read-only, mapped from disk.

        The first call for a version builds its memmap cache from Parquet, later ones open it in milliseconds.

        Args:
            batch_size: Transitions per ``sample()``, those of all slices together.
            split: Some of the dataset's splits: ``"expert"``, ``"expert+random"``.
            where: Which episodes: what :meth:`where` takes, ``"success and return > -40"`` for example.
            keys: Fields to serve, an observed one with its twin below ``"next"``; ``episode`` and the flags always
                come. What is left out costs nothing where it is big.
            slice_len: For batches of slices: consecutive transitions of one episode, flat, ``truncated`` at the end
                of each, as TorchRL's ``SliceSampler``.
            short_episodes: Of fewer transitions than a slice: ``"drop"`` them, ``"pad"`` them with
                ``("collector", "mask")`` False, or take a ``"shorter"`` slice.
            n_step: As TorchRL's ``MultiStepTransform``: ``("next", "reward")`` is the discounted sum of so many
                rewards, the rest of ``"next"`` lies so many steps ahead, fewer at an episode's end. As there, the
                flags stay those of the first step; losses discount by ``steps_to_next_obs``.
            gamma: Discount of ``n_step`` (0.99 by default) and of ``return_to_go`` (none by default).
            frame_stack: As TorchRL's ``CatFrames`` with ``padding="same"``: ``observation`` (and ``pixels``,
                ``depth``) joined with so many minus one before it, along the last dimension.
            return_to_go: Whether to give ``return_to_go``, the rewards from here to the episode's end.
            normalize: ``(value - mean) / std`` over the chosen episodes, as TorchRL's ``ObservationNorm``: of
                ``observation`` for True, of the keys given, or with ``{key: (mean, scale)}``.
            image_cache: How the cache keeps pictures (any field of 4 KB or more): ``"raw"`` rows, read at memory speed,
                or ``"encoded"`` without a loss, an eighth of them or so where the camera stands still, decoded by all
                cores. By default as a cache that is there does, otherwise raw while that takes no more than half of
                the memory and of the free disk.
            sampler: One of TorchRL's; uniform with replacement by default. Slice samplers get the boundaries from
                the episode table.
            transform: Applied to every batch.
            device: Where batches shall be. A GPU that has room keeps the dataset and samples there; otherwise
                batches are copied from pinned memory, prefetched.
            in_memory: Whether to copy the dataset into the device's memory first.
            prefetch: Number of batches to prepare ahead, in threads.
            pin_memory: Whether batches are page-locked for a copy to a GPU.
            seed: The same seed gives the same batches, with any ``prefetch``.

        Returns:
            Batches with the environment's own dtypes: ``observation``, ``action``, ``success``, ``episode``
            (int64), and below ``"next"`` ``observation`` (the true one, the last of an episode included),
            ``reward``, ``terminated``, ``truncated`` and ``done`` with a trailing dimension of 1. A batch owns
            its memory; its tensors are windows into one block, so ``reshape`` them rather than ``view``, and take
            ``.contiguous()`` of one that is kept for long.

        Raises:
            SchemaMismatch: There is no field of a key, or not one of the kind that an option needs.
            EpisodesTooShort: No episode holds a slice.
            SplitNotFound: No such split.
        """
        sampling = SamplingOptions(
            batch_size=batch_size,
            slice_len=slice_len,
            short_episodes=short_episodes,
            sampler=sampler,
            transform=transform,
            prefetch=prefetch,
            pin_memory=pin_memory,
            seed=seed,
        )
        reading = ReadOptions(
            keys=keys,
            n_step=n_step,
            gamma=gamma,
            frame_stack=frame_stack,
            return_to_go=return_to_go,
            normalize=normalize,
            image_cache=image_cache,
            device=device,
            in_memory=in_memory,
        )
        return make_replay_buffer(self._open_storage(reading, split=split, where=where), sampling)

    def as_dataloader(
        self,
        batch_size: int = 256,
        *,
        slice_len: int | None = None,
        shuffle: bool = True,
        drop_last: bool = False,
        num_workers: int = 0,
        seed: int | None = None,
        **choices: Any,
    ) -> "DataLoader":
        """Return a torch ``DataLoader`` of TensorDicts; an epoch holds every transition once.

        Args:
            batch_size: Items per batch.
            slice_len: An item is a window of so many transitions, one per possible start; batches are
                ``[batch_size, slice_len]``. Shorter episodes are left out.
            shuffle: Whether the order is drawn anew for every epoch.
            drop_last: Whether an epoch's last batch is left out where it is smaller.
            num_workers: Processes that gather; they share the page cache. Any number gives the same batches.
            seed: Of the order.
            choices: What :meth:`as_storage` takes: ``split``, ``where``, ``keys``, ``n_step``, …
        """
        options = DataLoaderOptions(
            batch_size=batch_size,
            slice_len=slice_len,
            shuffle=shuffle,
            drop_last=drop_last,
            num_workers=num_workers,
            seed=seed,
        )
        return make_dataloader(self.as_storage(**choices), options)

    def as_storage(self, *, split: str | None = None, where: Condition | None = None, **options: Any) -> PackedStorage:
        """Return the read-only TorchRL storage behind :meth:`as_replay_buffer`; the arguments are those of it."""
        return self._open_storage(ReadOptions(**options), split=split, where=where)

    def _open_storage(self, options: ReadOptions, *, split: str | None, where: Condition | None) -> PackedStorage:
        view = self if split is None else self[split]
        view = view if where is None else view.where(where)
        shards = self._shards(view._on_disk)
        packed = open_packed(
            self.path, self._manifest, shards=shards, image_cache=options.image_cache, store=self._store
        )
        if view._selection is None:
            codes = [packed.splits.index(name) for name in view.splits]
            chosen = torch.cat([(packed.episodes[:, 1] == code).nonzero().flatten() for code in codes])
            whole = len(codes) == len(packed.splits)
        else:
            chosen = torch.from_numpy(positions(packed.episodes[:, 0].numpy(), view._selection))
            whole = False
        statistics = view.statistics if options.normalize is not False and view._selection is None else None
        return make_storage(packed, None if whole else chosen, options, statistics=statistics)

    def as_tensordict(self, **choices: Any) -> TensorDict:
        """Return all chosen transitions as one TED TensorDict in memory, episode by episode.

        Args:
            choices: What :meth:`as_storage` takes.
        """
        return self.as_storage(**choices).get(slice(None))

    def _shards(self, splits: list[str]) -> list[FileEntry]:
        """Return the shards of some splits that are on disk.

        Raises:
            StreamingOnly: None is, since the dataset was opened with ``streaming=True``.
        """
        if self._streaming:
            msg = (
                f"{self.name} {self.version} was opened with streaming=True: expected iter_episodes() or "
                "iter_batches(). For buffers and tables open it without."
            )
            raise StreamingOnly(msg)
        return [entry for split in splits for entry in self._here.shards(split)]
