"""The storage behind `as_replay_buffer()`: a read-only TorchRL storage over the packed cache.

TorchRL's samplers, writers, transforms and losses are used as they are; this room only answers
"which values do these transitions have", with two gathers per dtype: the rows, and for the observed fields the rows
below them.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from torchrl.data import ImmutableDatasetWriter, RandomSampler, TensorDictReplayBuffer
from torchrl.data.replay_buffers.samplers import Sampler
from torchrl.data.replay_buffers.storages import Storage

from rlhive import keys
from rlhive.data.packed import Packed
from rlhive.errors import CheckpointMismatch


class PackedStorage(Storage):
    """Transitions of a packed cache, or of some of its episodes; read-only.

    Every batch is a copy: writing into it changes neither the cache nor a later batch. Pickling sends the folder's
    path, not the data, so that worker processes share the page cache.

    Args:
        packed: The open cache.
        episodes: Positions of the episodes to serve, int64; None for all.

    Example:
        >>> storage.get(torch.tensor([0, 7]))["next", "reward"].shape  # doctest: +SKIP
        torch.Size([2, 1])
    """

    def __init__(self, packed: Packed, episodes: torch.Tensor | None = None):
        self._packed = packed
        self._episodes = torch.arange(len(packed.episodes)) if episodes is None else episodes
        chosen = packed.transitions_of(self._episodes)
        self._rows = packed.rows if len(chosen) == len(packed) and episodes is None else packed.rows[chosen]
        super().__init__(len(self._rows))

    def get(self, index: Any) -> TensorDict:
        """Return transitions as TED.

        Args:
            index: An int, a slice, or anything that indexes a one-dimensional tensor.

        Returns:
            TensorDict of the index's shape, on the CPU, owning its memory: the fields of the dataset, ``episode``
            (int64), the root flags (False), and below ``"next"`` the observed fields of the following state, the
            true final one at an episode's end, with ``done`` derived.
        """
        rows = self._rows[index]
        flat = rows.reshape(-1)
        root: dict[str, torch.Tensor] = {}
        following: dict[str, torch.Tensor] = {}
        for dtype, places in self._packed.places.items():
            block = self._packed.blocks[dtype]
            here = block.index_select(0, flat)
            below = block.index_select(0, flat + 1) if places[0].field.observed else None
            for place in places:
                shape = (*rows.shape, *place.field.shape)
                _put(root, following, place.field.key, here[:, place.start : place.stop].reshape(shape))
                if place.field.observed:
                    _put(following, following, place.field.key, below[:, place.start : place.stop].reshape(shape))
        terminated = following[keys.TERMINATED]
        following[keys.DONE] = terminated | following[keys.TRUNCATED]
        root |= {flag: torch.zeros_like(terminated) for flag in keys.END_FLAGS}
        root[keys.NEXT] = TensorDict(following, rows.shape)
        return TensorDict(root, rows.shape)

    def set(self, cursor: Any, data: Any, *, set_cursor: bool = True) -> None:
        """Refuse: a dataset version never changes.

        Raises:
            TypeError: Always.
        """
        msg = "A dataset's buffer is read-only. To go on collecting, extend another TensorDictReplayBuffer with it."
        raise TypeError(msg)

    def __len__(self) -> int:
        return len(self._rows)

    def contains(self, item: int) -> bool:
        """Whether there is a transition of that index."""
        return -len(self) <= item < len(self)

    @property
    def device(self) -> torch.device:
        """The CPU: batches are gathered from mapped files."""
        return torch.device("cpu")

    def trajectories(self) -> torch.Tensor:
        """Return the episode's position for every transition, int64: what TorchRL's slice samplers take."""
        return torch.repeat_interleave(torch.arange(len(self._episodes)), self._packed.episodes[self._episodes, 3])

    def state_dict(self) -> dict[str, Any]:
        """Return what identifies the content; the content itself stays in the cache."""
        return {"folder": self._packed.folder.name, "num_transitions": len(self)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that a checkpoint was made with this content.

        Raises:
            CheckpointMismatch: It was made with another.
        """
        if dict(state_dict) != self.state_dict():
            msg = (
                f"Buffer checkpoint: expected {self.state_dict()}, got {dict(state_dict)}. Open that version's buffer."
            )
            raise CheckpointMismatch(msg)

    def dumps(self, path: Path) -> None:
        """Write what identifies the content into a folder."""
        Path(path).mkdir(parents=True, exist_ok=True)
        (Path(path) / "storage.json").write_text(json.dumps(self.state_dict()), encoding="utf-8")

    def loads(self, path: Path) -> None:
        """Check a folder that :meth:`dumps` wrote."""
        self.load_state_dict(json.loads((Path(path) / "storage.json").read_text(encoding="utf-8")))

    def _empty(self) -> None:
        self.set(None, None)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        state["_packed"], state["_rows"] = self._packed.folder, None
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._packed = Packed(state["_packed"])
        self._rows = self._packed.rows[self._packed.transitions_of(self._episodes)]


def make_replay_buffer(
    storage: PackedStorage,
    *,
    batch_size: int,
    sampler: Sampler | None = None,
    transform: Callable | None = None,
    prefetch: int | None = None,
    pin_memory: bool = False,
    seed: int | None = None,
) -> TensorDictReplayBuffer:
    """Return TorchRL's own replay buffer over a packed storage.

    Args:
        storage: What to sample from.
        batch_size: Transitions per sample.
        sampler: One of TorchRL's; uniform with replacement by default.
        transform: Applied to every batch.
        prefetch: Number of batches to prepare ahead, in threads.
        pin_memory: Whether batches are page-locked for a copy to a GPU.
        seed: Of the sampler's generator; the same seed gives the same batches.
    """
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return TensorDictReplayBuffer(
        storage=storage,
        sampler=sampler if sampler is not None else RandomSampler(),
        writer=ImmutableDatasetWriter(),
        collate_fn=_as_is,
        batch_size=batch_size,
        transform=transform,
        prefetch=prefetch,
        pin_memory=pin_memory,
        generator=generator,
    )


def _put(root: dict, following: dict, key: keys.NestedKey, value: torch.Tensor) -> None:
    """Write a value at a nested key; the fields below ``"next"`` go to ``following``."""
    parts = (key,) if isinstance(key, str) else key
    target = root
    if parts[0] == keys.NEXT:
        target, parts = following, parts[1:]
    for part in parts[:-1]:
        target = target.setdefault(part, {})
    target[parts[-1]] = value


def _as_is(batch: TensorDict) -> TensorDict:
    return batch
