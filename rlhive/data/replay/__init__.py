"""Replay buffers: a version's packed memmap cache, and the TorchRL buffers and data loaders that sample from it."""

from typing import TYPE_CHECKING

from rlhive._lazy import attach

if TYPE_CHECKING:
    from rlhive.data.replay._buffer import (
        DatasetReplayBuffer as DatasetReplayBuffer,
        make_replay_buffer as make_replay_buffer,
        replay_buffer_arguments as replay_buffer_arguments,
    )
    from rlhive.data.replay._cache import open_packed as open_packed
    from rlhive.data.replay._dataloader import EpochLoader as EpochLoader, make_dataloader as make_dataloader
    from rlhive.data.replay._epochs import derive_seed as derive_seed, find_rank as find_rank
    from rlhive.data.replay._gather import RaggedChoice as RaggedChoice, select_ragged as select_ragged
    from rlhive.data.replay._joined import JoinedCache as JoinedCache
    from rlhive.data.replay._layout import ImageCache as ImageCache, PackedCache as PackedCache
    from rlhive.data.replay._mixture import (
        MissingKeys as MissingKeys,
        MixedStorage as MixedStorage,
        MixtureReplayBuffer as MixtureReplayBuffer,
        MixtureSource as MixtureSource,
        make_mixture_buffer as make_mixture_buffer,
    )
    from rlhive.data.replay._mixture_samplers import MixtureLayout as MixtureLayout, SourceRanges as SourceRanges
    from rlhive.data.replay._normalization import (
        MEAN_STD as MEAN_STD,
        Normalize as Normalize,
        mean_and_scale as mean_and_scale,
        observation_norm as observation_norm,
    )
    from rlhive.data.replay._online import OnlineReplayBuffer as OnlineReplayBuffer, extend as extend
    from rlhive.data.replay._options import (
        BatchTransform as BatchTransform,
        DataLoaderOptions as DataLoaderOptions,
        ReadOptions as ReadOptions,
        SamplingOptions as SamplingOptions,
        make_storage as make_storage,
    )
    from rlhive.data.replay._samplers import EpisodeSliceSampler as EpisodeSliceSampler, ShortEpisodes as ShortEpisodes
    from rlhive.data.replay._snapshot import (
        restore_snapshot as restore_snapshot,
        take_snapshot as take_snapshot,
    )
    from rlhive.data.replay._storage import PackedStorage as PackedStorage, identity_collate as identity_collate
    from rlhive.data.replay._validation import require_integer as require_integer
else:
    __getattr__, __dir__, __all__ = attach(__name__, __file__)
