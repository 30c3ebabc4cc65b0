"""Mixtures: one replay buffer over the transitions of several sources.

::

    sources of one layout       JoinedCache ── PackedStorage ─┐
    sources of another layout   JoinedCache ── PackedStorage ─┼─ MixedStorage ── MixtureReplayBuffer
    buffers that grow           their own storages ───────────┘  only where there are several

Sources of one layout, as tasks of one family have, are read by one gather. docs/decisions/050-mixtures.md compares this
with a single source and with TorchRL's ``ReplayBufferEnsemble``.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.data.replay_buffers.storages import Storage

from rlhive import keys
from rlhive.data.replay._ahead import DrawnBatch
from rlhive.data.replay._buffer import DatasetReplayBuffer, replay_buffer_arguments
from rlhive.data.replay._info import INDEX, SampleInfo, add_info
from rlhive.data.replay._items import map_blocks, take_elements
from rlhive.data.replay._mixture_samplers import MixtureLayout, MixtureSampler, MixtureSliceSampler
from rlhive.data.replay._options import SamplingOptions
from rlhive.data.replay._storage import PackedStorage
from rlhive.errors import InvalidOptionError, SchemaMismatchError
from rlhive.keys import NestedKey
from rlhive.normalization import normalize

#: What becomes of a key that some sources do not have: an error that names it, or zeros and a mask.
MissingKeys = Literal["error", "mask"]

#: Batches that are drawn at once, at a lower cost than one by one.
_NUM_DRAWN = 16

#: Below this key, whether each transition's source has a key that other sources lack.
PRESENT = "present"


@dataclass(frozen=True)
class MixtureSource:
    """One source of a mixture.

    Attributes:
        name: Name of the dataset, or ``"online"``.
        version: Its version; empty for a buffer that grows.
        fingerprint: SHA-256 of the version's content; empty for a buffer that grows.
        operations: The operations that made the view, in order.
        num_transitions: Transitions when the mixture was made.
        weight: Share of every batch.
    """

    name: str
    version: str
    fingerprint: str
    operations: tuple[str, ...]
    num_transitions: int
    weight: float

    def to_json(self) -> dict[str, Any]:
        """Return the entry of a checkpoint."""
        return {**vars(self), "operations": list(self.operations)}


class MixedStorage(Storage):
    """Several storages as one, whose batches hold the keys of all; read-only.

    Args:
        parts: The storages.
        missing: What becomes of a key that some parts do not have.
        names: Name of each part, for messages.

    Raises:
        SchemaMismatchError: A key has two dtypes or shapes, or is missing and ``missing`` is ``"error"``.
    """

    def __init__(self, parts: Sequence[Storage], missing: MissingKeys, names: Sequence[str]):
        self._parts = list(parts)
        stops = list(itertools.accumulate(part.max_size for part in parts))
        self._starts = torch.tensor([0, *stops[:-1]], device="cpu")
        templates = [_read_template(part) for part in parts]
        self._rows = _join_templates(templates, names, missing)
        self._masked = [key for key in self._rows if not all(key in template for template in templates)]
        super().__init__(stops[-1])

    def get(self, index: Any) -> TensorDict:
        """Return transitions by their indices, int64 ``[n]`` or a slice, as TED; they own their memory."""
        if not isinstance(index, torch.Tensor):
            index = torch.arange(len(self), device="cpu")[index].reshape(-1)
        count = len(index)
        batch = TensorDict({key: row.new_zeros(count, *row.shape) for key, row in self._rows.items()}, [count])
        for key in self._masked:
            batch.set(_mask_key(key), torch.zeros(count, dtype=torch.bool, device="cpu"))
        part_numbers = torch.bucketize(index, self._starts, right=True) - 1
        for number, part in enumerate(self._parts):
            positions = (part_numbers == number).nonzero()[:, 0]
            if len(positions):
                rows = self._read_part(part, index[positions] - self._starts[number])
                for key, value in rows.items():  # by NumPy, which stays in this thread, see _items.py
                    batch.get(key).numpy()[positions.numpy()] = value.numpy()
        return batch

    def get_many(self, index: torch.Tensor, batch_size: int) -> list[TensorDict]:
        """Return several batches; see :meth:`PackedStorage.get_many`."""
        return list(self.get(index).split(batch_size))

    def _read_part(self, part: Storage, index: torch.Tensor) -> dict[NestedKey, torch.Tensor]:
        rows = part.get(index)
        values = {key: rows.get(key) for key in self._rows if key in rows.keys(True, True)}
        for key in self._masked:
            values[_mask_key(key)] = torch.full((len(index),), key in values, device="cpu")
        return values

    @property
    def item_bytes(self) -> int:
        """Bytes that are read for one item of a batch, at most."""
        return max(part.item_bytes if isinstance(part, PackedStorage) else 0 for part in self._parts)

    @property
    def device(self) -> torch.device:
        """Device on which indices are drawn."""
        return torch.device("cpu")

    @property
    def copies_to_gpu(self) -> bool:
        """Whether every batch is copied to a GPU: never."""
        return False

    @property
    def identity(self) -> list[Any]:
        """What determines the transitions of the datasets."""
        return [part.identity if isinstance(part, PackedStorage) else "online" for part in self._parts]

    def state_dict(self) -> dict[str, Any]:
        """Return what identifies the content of the datasets; buffers that grow are saved by themselves."""
        return {"parts": [part.state_dict() for part in self._parts if isinstance(part, PackedStorage)]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that a checkpoint was made with these datasets.

        Raises:
            CheckpointMismatchError: It was made with others.
        """
        packed = [part for part in self._parts if isinstance(part, PackedStorage)]
        states = state_dict.get("parts", [])
        for number, part in enumerate(packed):
            part.load_state_dict(states[number] if number < len(states) else {})

    def set(self, cursor: Any, data: Any, *, set_cursor: bool = True) -> None:
        """Refuse to write: a mixture is read-only.

        Raises:
            TypeError: Always.
        """
        msg = "A mixture is read-only. Extend the buffer that is one of its sources."
        raise TypeError(msg)

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts)

    def contains(self, item: int) -> bool:
        """Return whether there is a transition of that index."""
        return any(
            0 <= item - start < len(part) for start, part in zip(self._starts.tolist(), self._parts, strict=True)
        )

    def _empty(self) -> None:
        self.set(None, None)


class NormalizeBySource:
    """Normalise keys of a batch by the statistics of each transition's source; a transform of a mixture.

    The rule is that of :mod:`rlhive.normalization`. An observed key is normalised below ``"next"`` as well.

    Args:
        numbers: By key mean and scale of every source, float64 ``[num_sources, *shape]`` each. A source whose scale is
            1 and whose mean is 0 stays as it is.
    """

    def __init__(self, numbers: Mapping[NestedKey, tuple[torch.Tensor, torch.Tensor]]):
        self._numbers = dict(numbers)

    def __call__(self, batch: TensorDictBase) -> TensorDictBase:
        """Return the batch with new values of these keys, in their dtype."""
        sources = batch[keys.SOURCE]
        for key, (mean, scale) in self._numbers.items():
            parts = (key,) if isinstance(key, str) else key
            numbers = [take_elements(values.to(sources.device), sources) for values in (mean, scale)]
            for leaf_key in (parts, (keys.NEXT, *parts)):
                value = batch.get(leaf_key, None)
                if value is not None:
                    batch.set(leaf_key, map_blocks(_normalize_rows, value, *numbers))
        return batch


def _normalize_rows(value: torch.Tensor, means: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Return normalised rows ``[n, *shape]``; stacked frames repeat the elements of the last dimension."""
    repeats = value.shape[-1] // means.shape[-1]
    if repeats > 1:
        means, scales = (numbers.repeat(*(1,) * (numbers.ndim - 1), repeats) for numbers in (means, scales))
    return normalize(value, means, scales)


class MixtureReplayBuffer(DatasetReplayBuffer):
    """A replay buffer over several sources, in which every batch has a fixed share of each.

    Batches have the keys of a dataset's and ``source`` (int64), the position of each transition's source in
    :attr:`sources`, and ``task`` (int64), that of its instruction in :attr:`tasks`. Episode ids are those of the
    sources. See :func:`rlhive.mix`.

    Attributes:
        sources: The sources, in order.
    """

    def __init__(self, *, sources: Sequence[MixtureSource], layout: MixtureLayout, **kwargs: Any):
        self.sources = tuple(sources)
        self._layout = layout
        super().__init__(**kwargs)
        self._draws_ahead = not (layout.ranges.grows or self._prefetch)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The instructions, or names of tasks, that the episodes have."""
        return self._layout.texts

    def to_json(self) -> list[dict[str, Any]]:
        """Return the recipe of the mixture, for checkpoints: versions, fingerprints and weights."""
        return [source.to_json() for source in self.sources]

    def sample(
        self, batch_size: int | None = None, return_info: bool = False, include_info: bool | None = None
    ) -> TensorDict | tuple[TensorDict, SampleInfo]:
        """Sample a batch; see ``TensorDictReplayBuffer.sample``."""
        if self._draws_ahead and not self._batches_ahead and batch_size in (None, self._batch_size):
            self._draw_ahead(_NUM_DRAWN, gather=False)
        return super().sample(batch_size, return_info, include_info)

    def _draw_several(self, num_batches: int) -> list[DrawnBatch]:
        if not isinstance(self._sampler, MixtureSampler):
            return super()._draw_several(num_batches)
        with self._replay_lock:
            draws = self._sampler.sample_several(self._storage, self._batch_size, num_batches)
        return [DrawnBatch({**info, INDEX: index}, False) for index, info in draws]

    def _finish_batch(self, batch: TensorDict, info: SampleInfo) -> tuple[TensorDict, SampleInfo]:
        """Add source and task before the transforms, which may read them."""
        if keys.SOURCE not in info:
            index = info[INDEX]
            info |= self._layout.label(index[0] if isinstance(index, tuple) else index)
        if self._transform._modules["transforms"]:
            add_info(batch, {key: info[key] for key in (keys.SOURCE, keys.TASK)})
        return super()._finish_batch(batch, info)

    def _fuse(self, transform: Any) -> None:
        storage: Storage = self._storage
        if not isinstance(storage, PackedStorage):
            msg = f"{type(transform).__name__}: expected sources with the same keys, and none that grows"
            raise InvalidOptionError(msg)
        super()._fuse(transform)

    def __repr__(self) -> str:
        lines = (
            f"    {source.weight:6.1%}  {f'{source.name} {source.version}'.rstrip()}, {source.num_transitions:,}"
            for source in self.sources
        )
        return "\n".join([f"{type(self).__name__}(batch_size={self._batch_size}, transitions by source:", *lines, ")"])


def make_mixture_buffer(
    storage: PackedStorage | MixedStorage,
    sources: Sequence[MixtureSource],
    layout: MixtureLayout,
    options: SamplingOptions,
    *,
    normalize_by_source: Mapping[NestedKey, tuple[torch.Tensor, torch.Tensor]] | None = None,
) -> MixtureReplayBuffer:
    """Return a replay buffer over a storage of several sources.

    Args:
        storage: The transitions.
        sources: Name, weight, … of each source.
        layout: Where the transitions of each source lie.
        options: How to sample.
        normalize_by_source: Numbers of :class:`NormalizeBySource`.

    Raises:
        InvalidOptionError: ``slice_len`` is given, and the sources have different keys or grow.
        EpisodesTooShortError: A source has no episode as long as a slice.
    """
    weights = [source.weight for source in sources]
    sampler: MixtureSampler | MixtureSliceSampler = MixtureSampler(weights, layout)
    if options.slice_len is not None:
        if not isinstance(storage, PackedStorage):
            msg = f"slice_len={options.slice_len}: expected sources with the same keys, and none that grows"
            raise InvalidOptionError(msg)
        sampler = MixtureSliceSampler(
            weights, layout, storage, slice_len=options.slice_len, short=options.short_episodes
        )
    arguments = replay_buffer_arguments(storage, replace(options, sampler=sampler, slice_len=None, transform=None))
    if layout.tasks is not None:
        layout = replace(layout, tasks=layout.tasks.to(storage.device))
    buffer = MixtureReplayBuffer(sources=sources, layout=layout, **arguments)
    if normalize_by_source:
        buffer.append_transform(NormalizeBySource(normalize_by_source))
    if options.transform is not None:
        buffer.append_transform(options.transform)
    return buffer


def _read_template(part: Storage) -> dict[NestedKey, torch.Tensor]:
    """Return one row of each key of a storage; a buffer's ``index`` is not data."""
    row = part.get(torch.zeros(1, dtype=torch.int64, device="cpu"))[0]
    return {key: row.get(key) for key in row.keys(True, True) if key != INDEX}


def _join_templates(
    templates: Sequence[Mapping[NestedKey, torch.Tensor]], names: Sequence[str], missing: MissingKeys
) -> dict[NestedKey, torch.Tensor]:
    rows: dict[NestedKey, torch.Tensor] = {}
    holders: dict[NestedKey, str] = {}
    problems = []
    for template, name in zip(templates, names, strict=True):
        for key, row in template.items():
            first = rows.setdefault(key, row)
            holder = holders.setdefault(key, name)
            if (first.dtype, first.shape) != (row.dtype, row.shape):
                forms = f"{_describe_form(first)} in {holder}, {_describe_form(row)} in {name}"
                problems.append(f"{keys.key_to_column(key)}: {forms}")
    if not problems and missing == "error":
        for key in rows:
            if absent := [name for template, name in zip(templates, names, strict=True) if key not in template]:
                problems.append(f"{keys.key_to_column(key)}: in {holders[key]}, not in {', '.join(absent)}")
        if problems:
            problems[-1] += '. Select the keys that all have, keys=[…], or fill in zeros and a mask, missing="mask"'
    if problems:
        msg = "Sources of a mixture: expected keys of the same dtype and shape, got " + "; ".join(problems)
        raise SchemaMismatchError(msg)
    return rows


def _describe_form(row: torch.Tensor) -> str:
    """Return dtype and shape as text."""
    return f"{row.dtype} {list(row.shape)}".removeprefix("torch.")


def _mask_key(key: NestedKey) -> NestedKey:
    return (PRESENT, *((key,) if isinstance(key, str) else key))
