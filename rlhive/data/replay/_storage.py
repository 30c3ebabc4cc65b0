"""The read-only TorchRL storage over the packed cache: which values do these transitions have?"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from torchrl.data.replay_buffers.storages import Storage

from rlhive import keys
from rlhive.data.replay._gather import GAMMA, NONTERMINAL, STEPS_TO_NEXT, Window, columns_of, plan, put
from rlhive.data.replay._layout import Packed
from rlhive.errors import CheckpointMismatch

#: A transition is its row and the row below.
PLAIN = Window()

#: Rewards are read in pieces of this many rows.
_PIECE = 65_536


class PackedStorage(Storage):
    """Transitions of a packed cache, or of some of its episodes; read-only.

    Every batch is a copy: writing into it changes neither the cache nor a later batch. Its leaves are windows into
    one block, so that keeping one leaf keeps the batch in memory; ``.contiguous()`` cuts one out. Pickling sends the
    folder's path, not the data, so that worker processes share the page cache.

    Args:
        packed: The open cache.
        episodes: Positions of the episodes to serve, int64; None for all.
        keys: The fields to serve, as nested keys of the root: an observed field comes with its twin below ``"next"``.
            ``episode`` and the flags always come. None for all.
        window: Steps and frames that make one item, and what is normalised.
        return_to_go: Discount of the rewards from a transition to its episode's end (TorchRL's
            ``Reward2GoTransform``); None for none. Reads every reward once.
        return_to_go_key: Where they go.
        device: Where batches shall be.
        resident: Whether the rows are copied into that device's memory, to be sampled there; otherwise they stay
            mapped and every batch is copied (to CUDA from pinned memory).

    Raises:
        SchemaMismatch: There is no field of a key, or not one of the kind that is needed.

    Example:
        >>> storage.get(torch.tensor([0, 7]))["next", "reward"].shape  # doctest: +SKIP
        torch.Size([2, 1])
    """

    def __init__(
        self,
        packed: Packed,
        episodes: torch.Tensor | None = None,
        *,
        keys: Sequence[keys.NestedKey] | None = None,
        window: Window = PLAIN,
        return_to_go: float | None = None,
        return_to_go_key: keys.NestedKey = keys.RETURN_TO_GO,
        device: torch.device | str = "cpu",
        resident: bool = False,
    ):
        self._episodes = torch.arange(len(packed.episodes)) if episodes is None else episodes
        self._keys, self._window = keys, window
        self._discount, self._to_go_key = return_to_go, return_to_go_key
        self._target, self._resident = torch.device(device), resident
        self._open(packed)
        super().__init__(self._length)

    def _open(self, packed: Packed) -> None:
        self._folder = packed.folder
        table = packed.episodes[self._episodes]
        self._ids, self._lengths = table[:, 0], table[:, 3]
        if self._resident:
            packed = packed.resident(self._episodes, columns_of(packed, self._keys), self._target)
            self._rows = packed.rows
        else:
            self._rows = packed.rows_of(self._episodes)
        self._home = self._rows.device
        self._length = len(self._rows)
        self._gathers = plan(packed, self._keys, self._window)
        self._since = self._left = self._to_go = None
        if not self._window.is_pair:
            self._since, self._left = _steps(self._lengths, self._home)
        if self._discount is not None:
            self._to_go = returns_to_go(packed, self._rows, self._lengths, self._discount).to(self._target)

    def variant(self, **changes: Any) -> "PackedStorage":
        """Return a storage of the same episodes with some of the arguments changed."""
        arguments = {
            "keys": self._keys,
            "window": self._window,
            "return_to_go": self._discount,
            "return_to_go_key": self._to_go_key,
            "device": self._target,
            "resident": self._resident,
        }
        return PackedStorage(Packed(self._folder), self._episodes, **arguments | changes)

    @property
    def window(self) -> Window:
        """Steps and frames that make one item."""
        return self._window

    def get(self, index: Any) -> TensorDict:
        """Return transitions as TED.

        Args:
            index: An int, a slice, or anything that indexes a one-dimensional tensor.

        Returns:
            TensorDict of the index's shape, owning its memory: the fields of the dataset, ``episode`` (int64), the
            root flags (False), and below ``"next"`` the observed fields of the following state, the true final one
            at an episode's end, with ``done`` derived. With ``n_step``, what ``MultiStepTransform`` adds.
        """
        if type(index) is tuple and len(index) == 1:  # as TorchRL's slice samplers give it
            index = index[0]
        if not isinstance(index, torch.Tensor) or index.dtype is not torch.int64:
            index = torch.arange(self._length, device=self._home)[index]
        if index.device != self._home:
            index = index.to(self._home)
        flat = index if index.ndim == 1 else index.reshape(-1)
        [batch] = self.get_many(flat, flat.shape[0])
        return batch if index.ndim == 1 else batch.reshape(index.shape)

    def get_many(self, index: torch.Tensor, batch_size: int) -> list[TensorDict]:
        """Return several batches that were gathered at once, which costs less than one after the other.

        Args:
            index: int64 ``[num_batches * batch_size]``; negative ones count from the end.
            batch_size: Transitions per batch.

        Returns:
            The batches in order. They share one block of memory, of which every one has a part of its own.
        """
        rows, device = self._rows.take(index), self._target
        more, slots = {}, None
        if self._since is not None:
            slots, steps = self._window.slots(self._since.take(index), self._left.take(index))
            if self._window.n_step > 1:
                steps = steps.to(device, torch.int64)
                more = {STEPS_TO_NEXT: steps, GAMMA: self._window.gamma**steps, NONTERMINAL: steps != 1}
        roots: list[dict[str, Any]] = [{} for _ in range(rows.shape[0] // batch_size)] if batch_size else [{}]
        for gather in self._gathers:
            gather.fill(roots, gather.read(rows, slots, device))
        if self._to_go is not None:
            more[self._to_go_key] = self._to_go[index.to(device)]
        for key, value in more.items():
            for root, part in zip(roots, value.chunk(len(roots)), strict=True):
                put(root, key, part)
        size = torch.Size([batch_size])
        return [_tensordict(root, size, device) for root in roots]

    @property
    def item_bytes(self) -> int:
        """Bytes that are read for one item of a batch."""
        return sum(gather.item_bytes for gather in self._gathers)

    def set(self, cursor: Any, data: Any, *, set_cursor: bool = True) -> None:
        """Refuse: a dataset version never changes.

        Raises:
            TypeError: Always.
        """
        msg = "A dataset's buffer is read-only. To go on collecting, extend another TensorDictReplayBuffer with it."
        raise TypeError(msg)

    def __len__(self) -> int:
        return self._length

    def contains(self, item: int) -> bool:
        """Whether there is a transition of that index."""
        return -len(self) <= item < len(self)

    def _rand_given_ndim(self, batch_size: int) -> torch.Tensor:
        """Uniform indices: TorchRL's own draw, without its detour around ``torch.compile``."""
        return torch.randint(0, self._length, (batch_size,), generator=self._rng, device=self.device)

    @property
    def _total_shape(self) -> torch.Size:
        """What TorchRL's prioritized slice sampler asks a storage for."""
        return torch.Size([len(self)])

    @property
    def device(self) -> torch.device:
        """Where indices are drawn and rows are gathered: the CPU for mapped files."""
        return self._home

    def trajectories(self) -> torch.Tensor:
        """Return the episode's position for every transition, int64: what TorchRL's slice samplers take."""
        lengths = self.lengths()
        return torch.repeat_interleave(torch.arange(len(lengths), device=self._home), lengths)

    @property
    def streams(self) -> bool:
        """Whether every batch is copied to a GPU."""
        return self._target.type == "cuda" and self._home != self._target

    def lengths(self) -> torch.Tensor:
        """Return the number of transitions of every episode served, int64 ``[num_episodes]``, in storage order."""
        return self._lengths.to(self._home)

    def endings(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return whether every episode served terminated, and whether it is done, bool ``[num_episodes]`` each."""
        last = self.get(self.lengths().cumsum(0) - 1)[keys.NEXT]
        return tuple(last[key].flatten(1).any(1).to(self._home) for key in (keys.TERMINATED, keys.DONE))

    def state_dict(self) -> dict[str, Any]:
        """Return what identifies the content; the content itself stays in the cache."""
        # The same content in either image cache: "<fingerprint>" or "<fingerprint>.encoded".
        return {"folder": self._folder.name.partition(".")[0], "num_transitions": len(self)}

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
        for name in ("_rows", "_gathers", "_since", "_left", "_to_go", "_ids", "_lengths", "_home", "_length"):
            del state[name]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._open(Packed(self._folder))


def returns_to_go(packed: Packed, rows: torch.Tensor, lengths: torch.Tensor, discount: float) -> torch.Tensor:
    """Return the discounted sum of the rewards from every transition to its episode's end.

    Args:
        packed: The cache.
        rows: Physical rows of the transitions, episode after episode, ``[N]``.
        lengths: Of the episodes.
        discount: 1.0 for the plain sum.

    Returns:
        ``[N, *reward.shape]``, of the reward's dtype, added up from the end as TorchRL's ``reward2go`` does.
    """
    gather = plan(packed, [keys.NEXT_REWARD], PLAIN)[0]
    found: dict[str, Any] = {}
    for piece in rows.split(_PIECE):
        part: dict[str, Any] = {}
        gather.fill([part], gather.read(piece, None, rows.device))
        found.setdefault(keys.REWARD, []).append(part[keys.NEXT][keys.REWARD].clone())
    total = torch.cat(found[keys.REWARD])
    end = lengths.to(rows.device).cumsum(0) - 1
    for step in range(1, int(lengths.max())):
        here = (end - step)[lengths.to(rows.device) > step]
        total[here] += discount * total[here + 1]
    return total


def _steps(lengths: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Steps since the episode's beginning and to its final row, int32 ``[N]`` each."""
    first = lengths.cumsum(0) - lengths
    count = int(lengths.sum())
    since = torch.arange(count, dtype=torch.int32) - torch.repeat_interleave(first, lengths).to(torch.int32)
    left = torch.repeat_interleave(lengths, lengths).to(torch.int32) - since
    return since.to(device), left.to(device)


def _tensordict(entries: dict[str, Any], size: torch.Size, device: torch.device) -> TensorDict:
    """Nested dicts as a TensorDict, unchecked: every leaf has the batch's size and device by construction."""
    for name, value in entries.items():
        if type(value) is dict:
            entries[name] = _tensordict(value, size, device)
    made = TensorDict._new_unsafe(None, size)
    # Given to _new_unsafe, which copies them one by one, they would cost as much as a quarter of the gather.
    made._tensordict, made._device = entries, device
    return made
