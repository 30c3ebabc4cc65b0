"""The options of ``as_replay_buffer()``, ``as_dataloader()`` and ``as_storage()``, each declared and validated once.

::

    ReadOptions          what a transition holds and where the rows lie     make_storage(packed, episodes, options)
    SamplingOptions      how a replay buffer samples                        make_replay_buffer(storage, options)
    DataLoaderOptions    how a DataLoader goes through the transitions      make_dataloader(storage, options)

A new option is one field and one line of a docstring here, and its use in the function that gets the object.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch
from tensordict import TensorDictBase
from torchrl.data.replay_buffers.samplers import Sampler

from rlhive.data.replay._gather import RaggedChoice, Window, select_columns
from rlhive.data.replay._layout import ImageCache, PackedCache
from rlhive.data.replay._normalization import Normalize, resolve_normalization
from rlhive.data.replay._samplers import ShortEpisodes
from rlhive.data.replay._storage import PackedStorage
from rlhive.data.replay._validation import require_choice, require_integer, require_key_list
from rlhive.errors import InvalidOptionError
from rlhive.keys import NestedKey

#: A function of a batch, or one of TorchRL's transforms.
BatchTransform = Callable[[TensorDictBase], TensorDictBase]

#: Share of a GPU's free memory that ``in_memory=None`` may fill with a dataset.
_MEMORY_SHARE = 0.8

_N_STEP_GAMMA = 0.99

#: What floating-point fields can be served in.
_BATCH_DTYPES = ("float64", "float32", "float16")


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """What each transition of a batch holds, and where its rows are read from.

    Attributes:
        keys: Keys to read, as nested keys of the root; None for all. An observed key comes with its twin below
            ``"next"``; ``episode`` and the flags always come. A large field that is left out costs nothing.
        n_step: Number of steps to ``("next", observation)``, fewer at an episode's end, and number of rewards in the
            discounted sum ``("next", "reward")``, as TorchRL's ``MultiStepTransform``. As there, the flags stay those
            of the first step; losses discount by ``steps_to_next_obs``.
        gamma: Discount of ``n_step`` (0.99 by default) and of ``return_to_go`` (1.0 by default).
        frame_stack: Number of consecutive observations (also ``pixels`` and ``depth``) joined along the last
            dimension, oldest first, as TorchRL's ``CatFrames`` with ``padding="same"``.
        return_to_go: Whether to add ``return_to_go``, the sum of the rewards from here to the episode's end.
        action_chunk: Number of actions per chunk. Adds ``action_chunk``, the action and those that follow it in the
            episode, ``[N, action_chunk, *shape]``, of which those after the last repeat it, and ``action_chunk_mask``
            ``[N, action_chunk]``, True for actions of the episode. None for no chunks.
        normalize: True to normalise ``observation``, or a list of keys, by the statistics of the selected episodes; or
            mean and standard deviation by key. The rule of :mod:`rlhive.normalization`: ``(value - mean) / std`` as
            TorchRL's ``ObservationNorm``, clipped to ±10; elements that do not vary are not scaled.
        image_cache: How the cache stores pictures (any field of 4 KB or more per row): ``"raw"`` rows, read at memory
            speed, or ``"encoded"``, lossless, decoded on all cores: a seventh of the size for rendered pictures of a
            camera that does not move, hardly smaller than raw with a sensor's noise or of a lossy video; or ``"none"``,
            decoded from the version's videos. By default the kind of an existing cache;
            otherwise ``"raw"`` if that takes no more than half of the memory and of the free disk.
        dtype: Dtype of the floating-point fields in batches, whatever their stored dtype: the parameters of a network
            are float32 by default. ``None`` serves what was stored, bit for bit. Each dtype has a cache of its own.
        ragged: What becomes of fields whose rows have different lengths, such as audio: an ``"error"`` that names them,
            ``"nested"`` tensors of layout jagged in the batches, or ``"drop"``.
        device: Device of the batches. A GPU with enough free memory holds the dataset and samples there; otherwise
            batches are copied to it from pinned memory, prefetched.
        in_memory: Whether to copy the dataset into the device's memory first; None decides as ``device`` says.

    Raises:
        ValueError: ``n_step``, ``frame_stack``, ``action_chunk``, ``gamma`` or ``image_cache`` is out of range.
        SchemaMismatchError: ``keys`` or ``normalize`` is a string.
        InvalidOptionError: ``device`` is a GPU, and torch cannot use one, or ``dtype`` is not float64, float32 or
            float16.
    """

    keys: Sequence[NestedKey] | None = None
    n_step: int = 1
    gamma: float | None = None
    frame_stack: int = 1
    return_to_go: bool = False
    action_chunk: int | None = None
    normalize: Normalize = False
    image_cache: ImageCache | None = None
    dtype: torch.dtype | None = torch.float32
    ragged: RaggedChoice = "error"
    device: torch.device | str = "cpu"
    in_memory: bool | None = None

    def __post_init__(self) -> None:
        require_key_list(self.keys, "keys")
        require_key_list(self.normalize, "normalize")
        if self.action_chunk is not None:
            require_integer(self.action_chunk, 1, "action_chunk")
        self.window()  # validates n_step, gamma and frame_stack
        if self.image_cache is not None:
            require_choice(self.image_cache, get_args(ImageCache), "image_cache")
        require_choice(self.ragged, get_args(RaggedChoice), "ragged")
        if self.dtype is not None and self.cache_dtype not in _BATCH_DTYPES:
            expected = ", ".join(f"torch.{name}" for name in _BATCH_DTYPES)
            msg = f"dtype={self.dtype!r}: expected {expected}, or None for the stored dtypes"
            raise InvalidOptionError(msg)
        if torch.device(self.device).type == "cuda" and not torch.cuda.is_available():
            msg = f"device={str(self.device)!r}: expected a GPU that torch can use, got none"
            raise InvalidOptionError(msg)

    @property
    def cache_dtype(self) -> str | None:
        """Name of ``dtype``, as a schema writes it."""
        return str(self.dtype).removeprefix("torch.") if isinstance(self.dtype, torch.dtype) else None

    def window(self) -> Window:
        """Return the rows that make one item of a batch, before normalisation."""
        gamma = _N_STEP_GAMMA if self.gamma is None else self.gamma
        return Window(n_step=self.n_step, gamma=gamma, frame_stack=self.frame_stack)

    @property
    def return_to_go_gamma(self) -> float | None:
        """Discount of ``return_to_go``; None without it."""
        if not self.return_to_go:
            return None
        return 1.0 if self.gamma is None else self.gamma


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How a replay buffer samples batches from a storage.

    Attributes:
        batch_size: Number of transitions per ``sample()``, over all slices.
        slice_len: Number of consecutive transitions of one episode per slice; None samples single transitions. A
            batch of slices is flat and ``truncated`` at the end of each slice, as TorchRL's ``SliceSampler``.
        short_episodes: What slices do with an episode shorter than ``slice_len``: ``"drop"`` it, ``"pad"`` it with
            ``("collector", "mask")`` False, or take a ``"shorter"`` slice.
        sampler: A TorchRL sampler; uniform with replacement by default. Slice samplers get the episode boundaries from
            the episode table.
        transform: Function or TorchRL transform that is applied to every batch. ``MultiStepTransform`` and
            ``Reward2GoTransform``, which TorchRL applies in ``extend``, are computed by the storage instead.
        prefetch: Number of batches prepared ahead in threads; by default 2 if every batch is copied to a GPU, else 0.
        pin_memory: Whether batches are page-locked for a copy to a GPU.
        seed: Seed of the sampler. The same seed gives the same batches for any ``prefetch``. Each rank of
            ``torch.distributed``, where it is initialised, draws batches of its own from it, and rank 0 those of a
            single process.

    Raises:
        ValueError: A number is out of range, ``batch_size`` is not a multiple of ``slice_len``, or ``slice_len`` and
            ``sampler`` are both given.
    """

    batch_size: int = 256
    slice_len: int | None = None
    short_episodes: ShortEpisodes = "drop"
    sampler: Sampler | None = None
    transform: BatchTransform | None = None
    prefetch: int | None = None
    pin_memory: bool = False
    seed: int | None = None

    def __post_init__(self) -> None:
        require_integer(self.batch_size, 1, "batch_size")
        require_choice(self.short_episodes, get_args(ShortEpisodes), "short_episodes")
        if self.prefetch is not None:
            require_integer(self.prefetch, 0, "prefetch")
        if self.slice_len is None:
            return
        require_integer(self.slice_len, 1, "slice_len")
        if self.sampler is not None:
            msg = f"slice_len={self.slice_len}: expected no sampler besides slice_len, which brings its own sampler"
            raise ValueError(msg)
        if self.batch_size % self.slice_len:
            msg = f"slice_len={self.slice_len}: expected a batch_size that is a multiple of it, got {self.batch_size}"
            raise ValueError(msg)


@dataclass(frozen=True, kw_only=True)
class DataLoaderOptions:
    """How a torch DataLoader goes through a storage, every item once per epoch.

    Attributes:
        batch_size: Number of items per batch, over all ranks.
        slice_len: Number of consecutive transitions of one episode per item, with one item per possible start; batches
            are then ``[batch_size, slice_len]`` and shorter episodes are left out. None for items of one transition
            and batches ``[batch_size]``.
        shuffle: Whether every epoch has a new random order.
        drop_last: Whether to leave out an epoch's last batch if it is smaller.
        num_workers: Number of processes that read; they share the page cache. Any number gives the same batches.
        seed: Seed of the shuffle. The order of an epoch depends on it and on the epoch's number alone.
        rank: Which part of every batch to return; None for that of ``torch.distributed`` if it is initialised, else 0.
        world_size: Number of parts; None as for ``rank``.

    Raises:
        ValueError: A number is out of range.
    """

    batch_size: int = 256
    slice_len: int | None = None
    shuffle: bool = True
    drop_last: bool = False
    num_workers: int = 0
    seed: int | None = None
    rank: int | None = None
    world_size: int | None = None

    def __post_init__(self) -> None:
        require_integer(self.batch_size, 1, "batch_size")
        require_integer(self.num_workers, 0, "num_workers")
        if self.slice_len is not None:
            require_integer(self.slice_len, 1, "slice_len")
        if self.rank is not None:
            require_integer(self.rank, 0, "rank")
        if self.world_size is not None:
            require_integer(self.world_size, 1, "world_size")


def make_storage(
    packed: PackedCache,
    episodes: torch.Tensor | None,
    options: ReadOptions,
    *,
    statistics: Mapping[str, Mapping[str, Any]] | None = None,
) -> PackedStorage:
    """Return a storage over an open cache.

    Args:
        packed: The open cache.
        episodes: Positions of the selected episodes, int64; None for all.
        options: What to read. ``image_cache`` was used when the cache was opened.
        statistics: Statistics by column name, as :meth:`rlhive.data.ColumnStatistics.to_json` returns them. Needed
            where ``normalize`` brings no numbers of its own.

    Raises:
        SchemaMismatchError: The schema has no field of a key, or a field does not have the dtype that an option needs.
    """
    normalization = resolve_normalization(packed.schema, options.normalize, statistics or {})
    window = replace(options.window(), normalize=normalization)
    device, in_memory = torch.device(options.device), options.in_memory
    if in_memory is None:
        in_memory = device.type == "cuda" and _fits_in_gpu_memory(packed, episodes, options, device)
    return PackedStorage(
        packed,
        episodes,
        keys=options.keys,
        window=window,
        return_to_go=options.return_to_go_gamma,
        action_chunk=options.action_chunk,
        ragged=options.ragged,
        device=device,
        resident=in_memory,
    )


def _fits_in_gpu_memory(
    packed: PackedCache, episodes: torch.Tensor | None, options: ReadOptions, gpu: torch.device
) -> bool:
    """Return whether the blocks of the selected keys fit into a GPU's free memory."""
    columns = select_columns(packed, options.keys, options.ragged)
    table = packed.episodes if episodes is None else packed.episodes[episodes]
    num_rows = int(table[:, 3].sum()) + len(table)
    row_bytes = sum(block.row_bytes for block in packed.blocks if block.holds_any(columns))
    return num_rows * row_bytes <= _MEMORY_SHARE * torch.cuda.mem_get_info(gpu)[0]
