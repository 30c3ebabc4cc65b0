"""One pass over the transitions of a version, in threads and bounded memory: what every check of rows needs.

    shard ─► chunks: whole row groups that hold whole episodes ─► threads ─► one ChunkFacts each, in order

Facts, not judgements: :mod:`rlhive.data.checks` says which of them are defects.
"""

import json
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from rlhive import keys
from rlhive.data import _arrow, _parquet
from rlhive.data._episodes import TERMINATED, TRUNCATED, Columns, EpisodeRecord
from rlhive.data._schema import Schema
from rlhive.data._statistics import find_extremes
from rlhive.data.checks._duplicates import Sketcher, distinct
from rlhive.errors import CorruptDataset

_READ = (keys.EPISODE, "split", "length", "seed", "policy", "run", "metadata")


@dataclass(frozen=True)
class EpisodeFacts:
    """What the rows of one episode say, to be compared with its row of the episode table.

    Attributes:
        position: Of its row in the episode table.
        content_hash: Of its transitions.
        identity: Of everything that the version promises about it.
        episode_return: Sum of its rewards.
        success: Whether the task was solved after any action.
        ended: "terminated", "truncated" or "unfinished".
        disorder: What is wrong with the place or the order of its rows; empty where nothing is.
        early: First row that ends the episode before its last one; -1 where there is none.
        first, last, final: Hashes of its first row's observation, of its last row's, and of the final one.
        judged: What the caller's judge said of the episode.
    """

    position: int
    content_hash: str
    identity: str
    episode_return: float
    success: bool
    ended: str
    disorder: str
    early: int
    first: int
    last: int
    final: int
    judged: Any


@dataclass
class Extremes:
    """Smallest and largest value of every element of a column, and how many rows have them."""

    count: int
    low: np.ndarray
    high: np.ndarray
    num_low: np.ndarray
    num_high: np.ndarray

    @classmethod
    def from_rows(cls, rows: np.ndarray) -> "Extremes":
        """Return those of ``[N, *shape]``, N at least 1; a NaN makes both NaN."""
        values = rows.reshape(len(rows), -1)
        low, high = find_extremes(values)
        if values.dtype.itemsize == 1:  # flags and pictures: nobody asks how often they are black
            return cls(len(rows), low, high, np.zeros(len(low), int), np.zeros(len(low), int))
        return cls(len(rows), low, high, _count_equal(values, low), _count_equal(values, high))

    def merge(self, other: "Extremes") -> "Extremes":
        """Return those of both sets of rows together."""
        low, high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        num_low = self.num_low * (self.low == low) + other.num_low * (other.low == low)
        num_high = self.num_high * (self.high == high) + other.num_high * (other.high == high)
        return Extremes(self.count + other.count, low, high, num_low, num_high)


@dataclass(frozen=True)
class ChunkFacts:
    """What the rows of a chunk say.

    Attributes:
        chunk: The chunk.
        error: Why it cannot be read; the rest is empty then.
        episodes: Of each episode.
        extremes: Of each column, final values not included.
        odd: Column, position of the episode, row, and "NaN" or "infinite"; the first of each kind and column.
        codes: The different ones of each episode, see :mod:`rlhive.data.checks`.
    """

    chunk: _parquet.Chunk
    error: str = ""
    episodes: list[EpisodeFacts] = field(default_factory=list)
    extremes: dict[str, Extremes] = field(default_factory=dict)
    odd: list[tuple[str, int, int, str]] = field(default_factory=list)
    codes: list[np.ndarray] = field(default_factory=list)


class Scanner:
    """Read chunks and gather their facts.

    Args:
        schema: Of the transitions.
        episodes: The episode table, in the order of its rows.
        sketcher: Makes the codes of the rows.
        judge: Called with every episode's record, one at a time; what it returns is kept.
    """

    def __init__(
        self,
        schema: Schema,
        episodes: pa.Table,
        sketcher: Sketcher,
        judge: Callable[[EpisodeRecord], Any] | None = None,
    ):
        self._schema, self._sketcher, self._judge = schema, sketcher, judge
        self._rows = episodes.select(_READ).to_pylist()
        self._ids, self._lengths = (episodes[name].to_numpy() for name in (keys.EPISODE, "length"))
        self._finals = _arrow.read_final_values(episodes, schema)
        for array in self._finals.values():
            array.flags.writeable = False
        self._starts = list(_arrow.read_start_states(episodes))
        self._seen = next((i.column for i in schema.observed if i.column == keys.OBSERVATION), "")
        self._alone = threading.Lock()  # the judge may use a simulator

    def scan(self, chunks: Iterable[_parquet.Chunk], *, num_threads: int) -> Iterator[ChunkFacts]:
        """Yield the facts of every chunk, in order; as many chunks are in memory as there are threads, and one."""
        with ThreadPoolExecutor(num_threads) as pool:
            waiting: deque[Future[ChunkFacts]] = deque()
            for chunk in chunks:
                waiting.append(pool.submit(self._facts, chunk))
                if len(waiting) > num_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _facts(self, chunk: _parquet.Chunk) -> ChunkFacts:
        try:
            table = _parquet.read_groups(chunk.path, chunk.groups)
        except CorruptDataset as error:
            return ChunkFacts(chunk, str(error))
        columns = _arrow.table_to_columns(table, self._schema)
        for array in columns.values():
            array.flags.writeable = False  # so that an episode is hashed once
        codes = self._sketcher.codes(columns)
        facts = ChunkFacts(chunk)
        start = 0
        for position, disorder, early in zip(chunk.positions, *self._places(chunk, table, columns), strict=True):
            rows = slice(start, start + self._lengths[position])
            own = {name: array[rows] for name, array in columns.items()}
            facts.episodes.append(self._episode(position, own, disorder, early))
            facts.codes.append(distinct(codes[rows]))
            start = rows.stop
        numbers = {name: array for name, array in columns.items() if array.size and array.dtype != object}
        facts.extremes.update({name: Extremes.from_rows(array) for name, array in numbers.items()})
        facts.odd.extend(self._odd(facts, columns))
        return facts

    def _places(self, chunk: _parquet.Chunk, table: pa.Table, columns: Columns) -> tuple[list[str], list[int]]:
        """Return what is wrong with the order of each episode's rows, and the first row that ends it too early."""
        positions = list(chunk.positions)
        lengths = self._lengths[positions]
        first = lengths.cumsum() - lengths
        expected = {
            keys.EPISODE: np.repeat(self._ids[positions], lengths),
            keys.STEP_COUNT: np.arange(lengths.sum()) - np.repeat(first, lengths),
        }
        index = {name: table.column(name).to_numpy() for name in expected}
        wrong = np.logical_or.reduce([index[name] != rows for name, rows in expected.items()])
        ends = (columns[TERMINATED] | columns[TRUNCATED]).reshape(len(wrong), -1).any(axis=1)
        ends[first + lengths - 1] = False
        disorder, early = [""] * len(positions), [-1] * len(positions)
        # The first of each: np.unique keeps the first row of an episode that it meets.
        for places, mask in ((disorder, wrong), (early, ends)):
            found = np.flatnonzero(mask)
            episodes = np.searchsorted(first, found, side="right") - 1
            for episode, at in zip(*np.unique(episodes, return_index=True), strict=True):
                row = int(found[at] - first[episode])
                got = ", ".join(str(rows[found[at]]) for rows in index.values())
                said = f"row {row}: expected episode {self._ids[positions[episode]]}, step_count {row}; got {got}"
                places[episode] = said if places is disorder else row
        return disorder, early

    def _episode(self, position: int, columns: Columns, disorder: str, early: int) -> EpisodeFacts:
        row = self._rows[position]
        final = {name: array[position] for name, array in self._finals.items()}
        record = EpisodeRecord(
            episode=row[keys.EPISODE],
            split=row["split"],
            columns=columns,
            final=final,
            seed=row["seed"],
            start_state=self._starts[position],
            policy=row["policy"],
            run=row["run"],
            metadata=json.loads(row["metadata"]),
        )
        seen = self._seen
        judged = None
        if self._judge is not None:
            with self._alone:
                judged = self._judge(record)
        return EpisodeFacts(
            position=position,
            content_hash=record.content_hash(),
            identity=record.identity(),
            episode_return=record.episode_return,
            success=record.success,
            ended=record.ended,
            disorder=disorder,
            early=early,
            first=hash(columns[seen][0].tobytes()) if seen else 0,
            last=hash(columns[seen][-1].tobytes()) if seen else 0,
            final=hash(final[seen].tobytes()) if seen else 0,
            judged=judged,
        )

    def _odd(self, facts: ChunkFacts, columns: Columns) -> Iterator[tuple[str, int, int, str]]:
        """Yield where the first NaN and the first infinity of each column stand, final values included."""
        lengths = [self._rows[position]["length"] for position in facts.chunk.positions]
        starts = np.cumsum(lengths) - lengths
        for name, extremes in facts.extremes.items():
            finals = self._finals[name][list(facts.chunk.positions)] if name in self._finals else np.zeros((0, 1))
            if np.isfinite(extremes.low).all() and np.isfinite(extremes.high).all() and np.isfinite(finals).all():
                continue
            for kind, test in (("NaN", np.isnan), ("infinite", np.isinf)):
                rows = test(columns[name]).reshape(sum(lengths), -1).any(axis=1)
                if rows.any():
                    row = int(rows.argmax())
                    episode = int(np.searchsorted(starts, row, side="right")) - 1
                    yield name, facts.chunk.positions[episode], row - int(starts[episode]), kind
                ends = test(finals).any(axis=tuple(range(1, finals.ndim)))
                if ends.any():
                    episode = int(ends.argmax())
                    yield name, facts.chunk.positions[episode], lengths[episode], kind


def _count_equal(values: np.ndarray, one: np.ndarray) -> np.ndarray:
    """Return how many rows of ``[N, elements]`` have each element's value in ``one``."""
    counts = np.zeros(len(one), int)
    for start in range(0, len(values), 255):  # so that a byte counts them: eight times as many at once
        counts += np.add.reduce((values[start : start + 255] == one).view(np.uint8), axis=0, dtype=np.uint8)
    return counts
