"""One pass over the transitions of a version, in threads and bounded memory, that computes what the checks need.

::

    shard ─► chunks: row groups that hold whole episodes ─► threads ─► one ChunkFacts per chunk, in order

The facts are not judged here: :mod:`rlhive.data.checks._rows` decides which of them are defects.
"""

import json
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from rlhive import keys
from rlhive.data import _arrow, _parquet
from rlhive.data._dtypes import to_numbers
from rlhive.data._encoded_pictures import EncodedPictures
from rlhive.data._episodes import TERMINATED, TRUNCATED, Columns, EpisodeRecord
from rlhive.data._schema import Schema
from rlhive.data._statistics import find_extremes
from rlhive.data._timing import find_timestamps
from rlhive.data._video_files import VideoFolder
from rlhive.data.checks._duplicates import Sketcher, unique_codes
from rlhive.errors import CorruptDatasetError

#: Function that recomputes an episode's rewards. It returns what differs under "reward" and "success", or under
#: "unavailable" the reason why the rewards cannot be computed.
RewardChecker = Callable[[EpisodeRecord], Mapping[str, str]]

NAN, INFINITE = "NaN", "infinite"

_EPISODE_COLUMNS = (keys.EPISODE, "split", "length", "seed", "policy", "run", "metadata")


class ObservationHashes(NamedTuple):
    """Hashes of the observations at the ends of an episode; all 0 without an observation.

    Attributes:
        first: Hash of the first row's observation.
        last: Hash of the last row's observation.
        final: Hash of the final observation.
    """

    first: int = 0
    last: int = 0
    final: int = 0


@dataclass(frozen=True)
class EpisodeFacts:
    """What the rows of one episode say, for comparison with the episode table.

    Attributes:
        position: Position of the episode in the episode table.
        content_hash: Hash of the transitions.
        identity: Hash of everything that the version promises about the episode.
        episode_return: Sum of the rewards; None without a reward.
        success: Whether the task was solved after any action; None where success was not recorded.
        ended: "terminated", "truncated" or "unfinished".
        order_defect: First row with a wrong episode id or step count, described; empty without one.
        early_end: First row before the last one that ends the episode; -1 without one.
        observations: Hashes of the observations at the ends of the episode.
        reward_defects: Result of the reward checker; empty without one.
        timestamps: Seconds at which the rows were recorded, float64; None where the data have none.
    """

    position: int
    content_hash: str
    identity: str
    episode_return: float | None
    success: bool | None
    ended: str
    order_defect: str
    early_end: int
    observations: ObservationHashes
    reward_defects: Mapping[str, str]
    timestamps: np.ndarray | None


@dataclass
class Extremes:
    """Smallest and largest value of every element of a column, and how many rows have them.

    Attributes:
        count: Number of rows.
        low: Smallest values ``[elements]``, of the column's dtype (float32 for bfloat16).
        high: Largest values ``[elements]``, of the column's dtype (float32 for bfloat16).
        num_low: Number of rows with the smallest value; 0 for one-byte dtypes.
        num_high: Number of rows with the largest value; 0 for one-byte dtypes.
    """

    count: int
    low: np.ndarray
    high: np.ndarray
    num_low: np.ndarray
    num_high: np.ndarray

    @classmethod
    def from_rows(cls, rows: np.ndarray) -> "Extremes":
        """Return the extremes of ``[N, *shape]``, N >= 1; a NaN makes both extremes NaN."""
        values = to_numbers(rows).reshape(len(rows), -1)
        low, high = find_extremes(values)
        if values.dtype.itemsize == 1:  # flags and images are not checked for saturation
            return cls(len(rows), low, high, np.zeros(len(low), int), np.zeros(len(low), int))
        return cls(len(rows), low, high, _count_equal(values, low), _count_equal(values, high))

    def merge(self, other: "Extremes") -> "Extremes":
        """Return the extremes of both sets of rows together."""
        low, high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        num_low = self.num_low * (self.low == low) + other.num_low * (other.low == low)
        num_high = self.num_high * (self.high == high) + other.num_high * (other.high == high)
        return Extremes(self.count + other.count, low, high, num_low, num_high)


class NonFiniteValue(NamedTuple):
    """A NaN or an infinity.

    Attributes:
        column: Name of the column.
        position: Position of the episode in the episode table.
        row: Row within the episode; the episode's length for a final value.
        kind: NAN or INFINITE.
    """

    column: str
    position: int
    row: int
    kind: str


@dataclass(frozen=True)
class ChunkFacts:
    """What the rows of a chunk say.

    Attributes:
        chunk: The chunk.
        error: Why the chunk cannot be read, in which case the other attributes are empty.
        episodes: Facts of each episode.
        codes: Unique row codes of each episode, see :mod:`rlhive.data.checks._duplicates`.
        extremes: Extremes of each numeric column, without final values.
        non_finite: First NaN and first infinity of each column, in the rows and in the final values.
    """

    chunk: _parquet.Chunk
    error: str = ""
    episodes: list[EpisodeFacts] = field(default_factory=list)
    codes: list[np.ndarray] = field(default_factory=list)
    extremes: dict[str, Extremes] = field(default_factory=dict)
    non_finite: list[NonFiniteValue] = field(default_factory=list)


class Scanner:
    """Reader of chunks that computes their facts.

    Args:
        schema: The transitions' schema.
        episodes: The episode table.
        sketcher: Sketcher of the rows, for near-duplicates.
        videos: Videos of the version.
        reward_checker: Function that is called with the record of every episode, never by two threads at once.
    """

    def __init__(
        self,
        schema: Schema,
        episodes: pa.Table,
        sketcher: Sketcher,
        videos: VideoFolder,
        reward_checker: RewardChecker | None = None,
    ):
        self._schema = schema
        self._sketcher = sketcher
        self._reward_checker = reward_checker
        self._reward_lock = threading.Lock()  # a simulator is not thread-safe
        self._rows = episodes.select(_EPISODE_COLUMNS).to_pylist()
        self._ids = episodes[keys.EPISODE].to_numpy()
        self._lengths = episodes["length"].to_numpy()
        self._videos = videos
        finals = [f"{_arrow.FINAL_PREFIX}{item.column}" for item in schema.carried if item.observed]
        self._final_pictures = episodes.select(["length", *finals])
        self._finals = _arrow.read_final_values(episodes, schema, videos)
        for array in self._finals.values():
            array.flags.writeable = False
        self._start_states = list(_arrow.read_start_states(episodes))
        self._has_observation = any(field.column == keys.OBSERVATION for field in schema.observed)

    def scan(self, chunks: Iterable[_parquet.Chunk], *, num_threads: int) -> Iterator[ChunkFacts]:
        """Yield the facts of every chunk, in order. At most ``num_threads + 1`` chunks are in memory."""
        with ThreadPoolExecutor(num_threads) as pool:
            pending: deque[Future[ChunkFacts]] = deque()
            for chunk in chunks:
                pending.append(pool.submit(self._scan_chunk, chunk))
                if len(pending) > num_threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()

    def _scan_chunk(self, chunk: _parquet.Chunk) -> ChunkFacts:
        try:
            table = _parquet.read_groups(chunk.path, chunk.groups)
            columns = _arrow.table_to_columns(table, self._schema, self._videos)
            episodes = self._final_pictures.take(chunk.positions)
            encoded = _arrow.read_encoded(table, episodes, self._schema, self._videos)
        except CorruptDatasetError as error:
            return ChunkFacts(chunk, str(error))
        for array in columns.values():
            array.flags.writeable = False  # so that a record remembers its hash
        order_defects = self._find_order_defects(chunk.positions, table)
        del table  # the index columns; the others are shared with the arrays
        codes = self._sketcher.compute_codes(columns)
        early_ends = self._find_early_ends(chunk.positions, columns)
        facts = ChunkFacts(chunk)
        start = 0
        for index, position in enumerate(chunk.positions):
            rows = slice(start, start + self._lengths[position])
            record = self._make_record(position, {name: array[rows] for name, array in columns.items()}, encoded[index])
            order_defect, early_end = order_defects.get(index, ""), early_ends.get(index, -1)
            facts.episodes.append(self._describe_episode(position, record, order_defect, early_end))
            facts.codes.append(unique_codes(codes[rows]))
            start = rows.stop
        numeric = {name: array for name, array in columns.items() if array.size and array.dtype != object}
        facts.extremes.update({name: Extremes.from_rows(array) for name, array in numeric.items()})
        facts.non_finite.extend(self._find_non_finite(facts, columns))
        return facts

    def _find_order_defects(self, positions: Sequence[int], table: pa.Table) -> dict[int, str]:
        """Return the first row with wrong index columns of each episode, described, by the episode's index."""
        ids, lengths = self._ids[positions], self._lengths[positions]
        starts = lengths.cumsum() - lengths
        expected_ids = np.repeat(ids, lengths)
        expected_steps = np.arange(lengths.sum())
        expected_steps -= np.repeat(starts, lengths)
        row_ids, steps = (table.column(name).to_numpy() for name in (keys.EPISODE, keys.STEP_COUNT))
        first_rows = _first_row_by_episode((row_ids != expected_ids) | (steps != expected_steps), starts)
        return {
            index: f"row {row - starts[index]}: expected episode {expected_ids[row]}, step_count "
            f"{expected_steps[row]}; got {row_ids[row]}, {steps[row]}"
            for index, row in first_rows.items()
        }

    def _find_early_ends(self, positions: Sequence[int], columns: Columns) -> dict[int, int]:
        """Return the first row before the last one that ends an episode, by the episode's index."""
        lengths = self._lengths[positions]
        starts = lengths.cumsum() - lengths
        ends = (columns[TERMINATED] | columns[TRUNCATED]).reshape(lengths.sum(), -1).any(axis=1)
        ends[starts + lengths - 1] = False
        return {index: int(row - starts[index]) for index, row in _first_row_by_episode(ends, starts).items()}

    def _make_record(self, position: int, columns: Columns, encoded: Mapping[str, EncodedPictures]) -> EpisodeRecord:
        row = self._rows[position]
        return EpisodeRecord(
            episode=row[keys.EPISODE],
            split=row["split"],
            columns=columns,
            final={
                item.column: _arrow.take_row(self._finals[item.column], position, item)
                for item in self._schema.observed
            },
            seed=row["seed"],
            start_state=self._start_states[position],
            policy=row["policy"],
            run=row["run"],
            metadata=json.loads(row["metadata"]),
            encoded=encoded,
        )

    def _describe_episode(
        self, position: int, record: EpisodeRecord, order_defect: str, early_end: int
    ) -> EpisodeFacts:
        reward_defects: Mapping[str, str] = {}
        if self._reward_checker is not None:
            with self._reward_lock:
                reward_defects = self._reward_checker(record)
        hashes = ObservationHashes()
        if self._has_observation:
            rows, final = record.columns[keys.OBSERVATION], record.final[keys.OBSERVATION]
            hashes = ObservationHashes(*(hash(_row_bytes(value)) for value in (rows[0], rows[-1], final)))
        return EpisodeFacts(
            position=position,
            content_hash=record.content_hash(),
            identity=record.identity(),
            episode_return=record.episode_return,
            success=record.success,
            ended=record.ended,
            order_defect=order_defect,
            early_end=early_end,
            observations=hashes,
            reward_defects=reward_defects,
            timestamps=find_timestamps(record.columns),
        )

    def _find_non_finite(self, facts: ChunkFacts, columns: Columns) -> Iterator[NonFiniteValue]:
        """Yield the first NaN and the first infinity of each column, in the rows and in the final values."""
        positions = facts.chunk.positions
        lengths = self._lengths[positions]
        starts = lengths.cumsum() - lengths
        for name, extremes in facts.extremes.items():
            finals = to_numbers(self._finals[name][positions]) if name in self._finals else np.zeros((0, 1))
            if np.isfinite(extremes.low).all() and np.isfinite(extremes.high).all() and np.isfinite(finals).all():
                continue
            for kind, test in ((NAN, np.isnan), (INFINITE, np.isinf)):
                is_bad_row = test(to_numbers(columns[name])).reshape(lengths.sum(), -1).any(axis=1)
                if is_bad_row.any():
                    row = int(is_bad_row.argmax())
                    index = int(np.searchsorted(starts, row, side="right")) - 1
                    yield NonFiniteValue(name, positions[index], row - int(starts[index]), kind)
                is_bad_final = test(finals).any(axis=tuple(range(1, finals.ndim)))
                if is_bad_final.any():
                    index = int(is_bad_final.argmax())
                    yield NonFiniteValue(name, positions[index], int(lengths[index]), kind)


def _first_row_by_episode(mask: np.ndarray, starts: np.ndarray) -> dict[int, int]:
    """Return the first row where the mask is set of each episode that has one.

    Args:
        mask: Boolean ``[num_rows]``.
        starts: First row of each episode.

    Returns:
        Row by the index of the episode in ``starts``.
    """
    rows = np.flatnonzero(mask)
    episodes, first = np.unique(np.searchsorted(starts, rows, side="right") - 1, return_index=True)
    return {int(episode): int(rows[index]) for episode, index in zip(episodes, first, strict=True)}


def _count_equal(values: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Return how many rows of ``[N, elements]`` equal ``row`` in each element."""
    counts = np.zeros(len(row), int)
    for start in range(0, len(values), 255):  # a byte can count 255 rows, which is eight times as fast as int64
        counts += np.add.reduce((values[start : start + 255] == row).view(np.uint8), axis=0, dtype=np.uint8)
    return counts


def _row_bytes(value: Any) -> bytes:
    """Return the bytes of one row, also of text and of a ragged row in an object array."""
    if isinstance(value, np.ndarray) and value.dtype == object:
        value = value.item()
    return value.encode() if isinstance(value, str) else bytes(value.tobytes())
