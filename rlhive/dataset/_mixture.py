"""``mix()``: one replay buffer over several datasets, views and buffers that grow."""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, Unpack

import torch
from torchrl.data.replay_buffers.storages import Storage

from rlhive import keys
from rlhive.data.replay import (
    BatchTransform,
    JoinedCache,
    MissingKeys,
    MixedStorage,
    MixtureLayout,
    MixtureReplayBuffer,
    MixtureSource,
    OnlineReplayBuffer,
    PackedCache,
    PackedStorage,
    ReadOptions,
    SamplingOptions,
    ShortEpisodes,
    SourceRanges,
    make_mixture_buffer,
    make_storage,
    mean_and_scale,
)
from rlhive.data.versions import read_episodes
from rlhive.dataset._dataset import RoboHiveDataset
from rlhive.dataset._loaders import ReadKeywords, find_episodes, load_packed
from rlhive.dataset._view import DatasetView
from rlhive.errors import InvalidOptionError, SchemaMismatchError

#: Name of a dataset, a dataset or view, or a buffer that grows.
Source: TypeAlias = str | RoboHiveDataset | OnlineReplayBuffer

_Opened: TypeAlias = RoboHiveDataset | OnlineReplayBuffer

#: Text of the task of transitions that were collected into a buffer.
_ONLINE = "online"


@dataclass(frozen=True)
class _OpenSource:
    """A source with its cache.

    Attributes:
        source: The dataset or view, or the buffer that grows.
        packed: The cache; None for a buffer.
        episodes: Positions of the selected episodes in the cache, int64; none for a buffer.
        tasks: Position of the instruction of every transition, int64; for a buffer as many as it can hold.
    """

    source: _Opened
    packed: PackedCache | None
    episodes: torch.Tensor
    tasks: torch.Tensor

    @property
    def size(self) -> int | Storage:
        """Number of transitions, or the storage that has them and grows."""
        return len(self.tasks) if isinstance(self.source, RoboHiveDataset) else self.source._storage

    def describe_layout(self) -> Any:
        """Return what two sources have in common if one gather can read both."""
        if self.packed is None:
            return id(self)
        fields = (layout.field for block in self.packed.blocks for layout in block.fields)
        return tuple((item.column, item.dtype, tuple(item.shape), item.observed) for item in fields)


def mix(
    sources: Mapping[Source, float] | Sequence[Source],
    batch_size: int = 256,
    *,
    temperature: float = 1.0,
    missing: MissingKeys = "error",
    slice_len: int | None = None,
    short_episodes: ShortEpisodes = "drop",
    transform: BatchTransform | None = None,
    prefetch: int | None = None,
    pin_memory: bool = False,
    seed: int | None = None,
    **options: Unpack[ReadKeywords],
) -> MixtureReplayBuffer:
    """Return a replay buffer over several sources, in which every batch has a fixed share of each.

    The number of a source's transitions in a batch is its share, rounded up or down; over all batches the shares are
    exact. Transitions of a source are drawn uniformly, with replacement. Each batch has two further keys, both int64
    ``[batch_size]``: ``source``, the position of a transition's source in ``buffer.sources``, and ``task``, the
    position of its instruction in ``buffer.tasks`` (the episode's ``task``, or the name of the dataset's task).
    Neighbouring sources with the same fields are read by one gather; docs/decisions/050-mixtures.md has the times.

    Args:
        sources: Sources with their weights, which need not sum to 1; or sources alone, weighted by
            ``num_transitions ** temperature``. A source is the name of a dataset (also ``"lerobot:…"``), a dataset or
            view, or a buffer of :func:`rlhive.extend`, whose later transitions are sampled too.
        batch_size: Number of transitions per ``sample()``, over all sources.
        temperature: For sources without weights: 1 samples all transitions alike, 0 all sources alike.
        missing: What becomes of a key that some sources do not have: an ``"error"`` that names it, or a ``"mask"``:
            zeros, and ``("present", key)`` (bool ``[batch_size]``), which is False where the source has no such key.
        slice_len: See :meth:`RoboHiveDataset.as_replay_buffer`; the shares are then those of the slices.
        short_episodes: See :meth:`RoboHiveDataset.as_replay_buffer`.
        transform: See :meth:`RoboHiveDataset.as_replay_buffer`.
        prefetch: See :meth:`RoboHiveDataset.as_replay_buffer`.
        pin_memory: See :meth:`RoboHiveDataset.as_replay_buffer`.
        seed: Seed of the batches.
        options: Fields of :class:`rlhive.data.replay.ReadOptions`: ``keys``, ``n_step``, ``frame_stack``, …
            ``normalize=True``, or a list of keys, takes the statistics of each transition's own source.

    Raises:
        InvalidOptionError: There is no source, a weight is negative or not finite, all are 0, or an option does not
            fit sources of different layouts.
        SchemaMismatchError: A key has different dtypes or shapes in two sources, or is missing in one.
        DatasetNotFoundError: There is no dataset of a name.

    Example:
        >>> buffer = mix({"kitchen_knob1": 0.5, "kitchen_light": 0.3, reach: 0.2}, batch_size=256)  # doctest: +SKIP
        >>> batch = buffer.sample()
        >>> batch["source"].bincount()
        tensor([128,  77,  51])
    """
    weights = list(sources.values()) if isinstance(sources, Mapping) else None
    opened = [RoboHiveDataset(source) if isinstance(source, str) else source for source in sources]
    shares = _compute_shares(opened, weights, temperature)
    opened = [source for source, share in zip(opened, shares, strict=True) if share]
    shares = [share for share in shares if share]
    read = ReadOptions(**options)
    if read.ragged == "nested":
        msg = 'ragged="nested": expected "error" or "drop" in a mixture, whose rows have one length'
        raise InvalidOptionError(msg)
    by_source = [] if isinstance(read.normalize, Mapping) else _list_normalized(read.normalize)
    if by_source:
        read = replace(read, normalize=False)
    texts: dict[str, int] = {}
    joined = [_load_source(source, read, texts) for source in opened]
    return make_mixture_buffer(
        _join_sources(joined, read, missing),
        [_to_mixture_source(source, share) for source, share in zip(opened, shares, strict=True)],
        _describe_transitions(joined, list(texts)),
        SamplingOptions(
            batch_size=batch_size,
            slice_len=slice_len,
            short_episodes=short_episodes,
            transform=transform,
            prefetch=prefetch,
            pin_memory=pin_memory,
            seed=seed,
        ),
        normalize_by_source={key: _read_statistics(opened, key) for key in by_source},
    )


def _compute_shares(sources: Sequence[_Opened], weights: Sequence[float] | None, temperature: float) -> list[float]:
    """Return the share of every source, 0 or more and 1 together.

    Raises:
        InvalidOptionError: There is no source, or the weights give no shares.
    """
    if not sources:
        msg = "mix(): expected at least one source, got none"
        raise InvalidOptionError(msg)
    if weights is None:
        if not math.isfinite(temperature) or temperature < 0:
            msg = f"temperature={temperature!r}: expected a number of 0 or more"
            raise InvalidOptionError(msg)
        weights = [len(source) ** temperature if len(source) else 0.0 for source in sources]
    for source, weight in zip(sources, weights, strict=True):
        if not isinstance(weight, (int, float)) or not math.isfinite(weight) or weight < 0:
            msg = f"Weight of {_name_source(source)}: expected a finite number of 0 or more, got {weight!r}"
            raise InvalidOptionError(msg)
        if weight and not len(source):
            msg = f"Weight of {_name_source(source)}: expected 0 for a source without transitions, got {weight!r}"
            raise InvalidOptionError(msg)
    total = math.fsum(weights)
    if not total:
        msg = f"mix(): expected a weight above 0, got {list(weights)}"
        raise InvalidOptionError(msg)
    return [weight / total for weight in weights]


def _load_source(source: _Opened, options: ReadOptions, texts: dict[str, int]) -> _OpenSource:
    """Return a source with its cache; its instructions are added to ``texts``.

    Raises:
        SchemaMismatchError: The version has a field ``source`` or ``task``.
    """
    if isinstance(source, OnlineReplayBuffer):
        task = torch.full((source._storage.max_size,), texts.setdefault(_ONLINE, len(texts)), device="cpu")
        return _OpenSource(source, None, torch.empty(0, dtype=torch.int64, device="cpu"), task)
    view = source._view
    packed = load_packed(view, options)
    if reserved := {keys.SOURCE, keys.TASK} & {item.column for item in packed.schema.tensors}:
        names = " and ".join(sorted(reserved))
        msg = f"{_name_source(source)} has a field {names}: expected none, since a mixture adds source and task"
        raise SchemaMismatchError(msg)
    episodes = find_episodes(packed, view)
    if episodes is None:
        episodes = torch.arange(len(packed.episodes), device="cpu")
    instructions = _read_instructions(view)
    ids, lengths = packed.episodes[episodes][:, [0, 3]].unbind(1)
    tasks = torch.tensor(
        [texts.setdefault(instructions[episode], len(texts)) for episode in ids.tolist()], device="cpu"
    )
    return _OpenSource(source, packed, episodes, torch.repeat_interleave(tasks, lengths))


def _join_sources(
    sources: Sequence[_OpenSource], options: ReadOptions, missing: MissingKeys
) -> PackedStorage | MixedStorage:
    """Return one storage, in which the transitions of the sources follow each other."""
    parts: list[Storage] = []
    names = []
    for _, group in itertools.groupby(sources, _OpenSource.describe_layout):
        members = list(group)
        names.append(", ".join(_name_source(member.source) for member in members))
        parts.append(_join_members(members, options))
    if len(parts) == 1 and isinstance(parts[0], PackedStorage):
        return parts[0]
    if torch.device(options.device).type != "cpu":
        msg = f"device={str(options.device)!r}: expected 'cpu' for sources with different keys or buffers that grow"
        raise InvalidOptionError(msg)
    return MixedStorage(parts, missing, names)


def _join_members(members: Sequence[_OpenSource], options: ReadOptions) -> Storage:
    """Return the storage of sources of one layout, or of one buffer that grows."""
    if isinstance(members[0].source, OnlineReplayBuffer):
        return members[0].source._storage
    caches = [member.packed for member in members if member.packed is not None]
    joined = caches[0] if len(caches) == 1 else JoinedCache(caches)
    first = itertools.accumulate((len(packed.episodes) for packed in caches), initial=0)
    episodes = torch.cat([member.episodes + number for member, number in zip(members, first, strict=False)])
    return make_storage(joined, episodes, options)


def _describe_transitions(sources: Sequence[_OpenSource], texts: Sequence[str]) -> MixtureLayout:
    """Return where the transitions of the sources lie, and their instructions."""
    labels = torch.stack([torch.arange(len(sources), device="cpu"), torch.stack([item.tasks[0] for item in sources])])
    has_one_each = all(bool((source.tasks == source.tasks[0]).all()) for source in sources)
    return MixtureLayout(
        ranges=SourceRanges([source.size for source in sources], [len(source.tasks) for source in sources], labels),
        num_episodes=tuple(len(source.episodes) for source in sources),
        texts=tuple(texts),
        labels=labels,
        tasks=None if has_one_each else torch.cat([source.tasks for source in sources]),
    )


def _read_instructions(view: DatasetView) -> dict[int, str]:
    """Return the instruction of every episode of the version: the text ``task`` of its metadata, or the version's."""
    manifest = view.manifest
    default = manifest.task or manifest.env_name or manifest.name
    table = read_episodes(view.folder, manifest, [keys.EPISODE, "metadata"])
    metadata = [json.loads(text) for text in table["metadata"].to_pylist()]
    texts = [entries.get(keys.TASK) if isinstance(entries, Mapping) else None for entries in metadata]
    return {
        episode: text if isinstance(text, str) and text else default
        for episode, text in zip(table[keys.EPISODE].to_pylist(), texts, strict=True)
    }


def _to_mixture_source(source: _Opened, share: float) -> MixtureSource:
    if isinstance(source, OnlineReplayBuffer):
        return MixtureSource("online", "", "", (), len(source), share)
    return MixtureSource(
        source.name, source.version, source.fingerprint, _describe_operations(source), len(source), share
    )


def _list_normalized(normalize: bool | Sequence[keys.NestedKey]) -> list[keys.NestedKey]:
    if isinstance(normalize, bool):
        return [keys.OBSERVATION] if normalize else []
    return [keys.column_to_key(keys.key_to_column(key)) for key in normalize]


def _read_statistics(sources: Sequence[_Opened], key: keys.NestedKey) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and scale of a key in every source, ``[num_sources, *shape]`` each.

    Raises:
        InvalidOptionError: A source is a buffer that grows.
        SchemaMismatchError: A source has no such field, or one without statistics.
    """
    column = keys.key_to_column(key)
    numbers = []
    for source in sources:
        if isinstance(source, OnlineReplayBuffer):
            msg = "normalize: a buffer that grows has no statistics: expected normalize={key: (mean, std)}"
            raise InvalidOptionError(msg)
        schema = source.schema
        if column not in schema.columns:
            msg = f"normalize: {source.name} {source.version} has no column {column}: expected one of "
            raise SchemaMismatchError(msg + ", ".join(schema.columns))
        numbers.append(mean_and_scale(schema[column], source.statistics.get(column, {})))
    means, scales = zip(*numbers, strict=True)
    return torch.stack(means), torch.stack(scales)


def _name_source(source: _Opened) -> str:
    return "a buffer that grows" if isinstance(source, OnlineReplayBuffer) else f"{source.name} {source.version}"


def _describe_operations(source: RoboHiveDataset) -> tuple[str, ...]:
    """Return the operations that made a view, splits included."""
    view = source._view
    is_part = view.selection is None and view.splits != tuple(view.manifest.splits)
    return ((f"split={'+'.join(view.splits)!r}",) if is_part else ()) + view.operations
