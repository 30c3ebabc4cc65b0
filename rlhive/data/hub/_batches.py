"""Batches of the transitions of a stream of episodes, shuffled in a pool of bounded size."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from tensordict import TensorDict

from rlhive import keys
from rlhive.data._episodes import EpisodeRecord, unpack
from rlhive.data._ragged import to_nested
from rlhive.data._schema import Schema


def iterate_batches(
    records: Iterable[EpisodeRecord],
    schema: Schema,
    batch_size: int,
    *,
    shuffle: int = 0,
    seed: int | None = None,
    drop_last: bool = False,
) -> Iterator[TensorDict]:
    """Yield the transitions of episodes as TED batches, each transition once.

    Args:
        records: The episodes.
        schema: The transitions' schema.
        batch_size: Number of transitions per batch.
        shuffle: Number of transitions, beyond one batch, in the pool from which batches are drawn at random; 0 keeps
            the order.
        seed: Seed of the shuffle; random by default.
        drop_last: Whether to drop a last batch that is smaller.
    """
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    pending: list[_Pool] = []
    num_pending = 0
    for record in records:
        pending.append(_Pool.of_episode(record, schema))
        num_pending += record.length
        if num_pending >= batch_size + shuffle:
            pool = _Pool.join(pending)
            while len(pool) >= batch_size + shuffle:
                yield pool.draw(batch_size, shuffle, generator)
            pending, num_pending = [pool], len(pool)
    if pending:
        pool = _Pool.join(pending)
        while len(pool) >= (batch_size if drop_last else 1):
            yield pool.draw(batch_size, shuffle, generator)


class _Pool:
    """Transitions from which batches are drawn.

    Args:
        transitions: The fields whose rows have one length.
        ragged: Object arrays of the others, by nested key: nested tensors can be neither joined nor indexed by rows.
    """

    def __init__(self, transitions: TensorDict, ragged: dict[tuple[str, ...], np.ndarray]):
        self._transitions = transitions
        self._ragged = ragged

    @classmethod
    def of_episode(cls, record: EpisodeRecord, schema: Schema) -> "_Pool":
        """Return the transitions of one episode."""
        plain = Schema(tuple(item for item in schema.fields if not item.is_ragged))
        ragged = {}
        for item in schema.ragged:
            key, rows = (item.key,) if isinstance(item.key, str) else item.key, record.columns[item.column]
            ragged[key] = rows
            if item.observed:
                ragged[keys.NEXT, *key] = np.concatenate([rows[1:], record.final[item.column][None]])
        return cls(unpack(record.columns, record.final, plain, episode=record.episode), ragged)

    @classmethod
    def join(cls, pools: Sequence["_Pool"]) -> "_Pool":
        """Return the transitions of several pools in one."""
        ragged = {key: np.concatenate([pool._ragged[key] for pool in pools]) for key in pools[0]._ragged}
        return cls(torch.cat([pool._transitions for pool in pools]), ragged)

    def __len__(self) -> int:
        return len(self._transitions)

    def draw(self, batch_size: int, shuffle: int, generator: torch.Generator) -> TensorDict:
        """Remove and return a batch: the first transitions, or random ones if ``shuffle`` is not 0."""
        if shuffle:
            order = torch.randperm(len(self), generator=generator)
            self._transitions = self._transitions[order]
            self._ragged = {key: rows[order.numpy()] for key, rows in self._ragged.items()}
        batch = self._transitions[:batch_size].clone()
        for key, rows in self._ragged.items():
            batch[key] = to_nested(rows[:batch_size])
        self._transitions = self._transitions[batch_size:]
        self._ragged = {key: rows[batch_size:] for key, rows in self._ragged.items()}
        return batch
