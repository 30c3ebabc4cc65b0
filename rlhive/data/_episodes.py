"""Episode records: the form in which episodes travel between recording, versions, formats and checks.

An :class:`EpisodeRecord` holds one episode as NumPy columns::

    row           0      1      …    T-1        final
    observation   s_0    s_1    …    s_T-1      s_T        (observed fields)
    action        a_0    a_1    …    a_T-1
    next.reward   r_1    r_2    …    r_T

:func:`pack` makes them from TED transitions, :func:`unpack` turns them back. Nothing here reads or writes files.
"""

import functools
import hashlib
import json
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rlhive import keys
from rlhive.data._dtypes import STRING, array_to_tensor, dtype_name, to_numbers, view_bits
from rlhive.data._encoded_pictures import EncodedPictures
from rlhive.data._parquet import MAX_TEXT_BYTES
from rlhive.data._ragged import copy_rows, count_bytes, have_equal_bits, is_ragged, join_rows, make_rows, to_nested
from rlhive.data._schema import Field, Schema, flatten_tensordict
from rlhive.errors import SchemaMismatchError

if TYPE_CHECKING:  # importing torch takes seconds, and reading an episode table does not need it
    import torch
    from tensordict import NonTensorStack, TensorDict, TensorDictBase

Columns = dict[str, np.ndarray]
#: Arrays ``[num_transitions, *shape]`` by nested key.
Rows = dict[tuple[str, ...], np.ndarray]

TERMINATED = keys.key_to_column(keys.NEXT_TERMINATED)
TRUNCATED = keys.key_to_column(keys.NEXT_TRUNCATED)
REWARD = keys.key_to_column(keys.NEXT_REWARD)

_JSON_ENCODER = json.JSONEncoder(sort_keys=True)


def sum_exactly(values: npt.ArrayLike) -> float:
    """Return the sum of all elements, rounded once; ±inf or NaN where the sum is infinite, too large or undefined.

    ``math.fsum`` raises for these: for infinities of both signs, and where a partial sum exceeds the range of float64.
    """
    numbers = np.asarray(values, np.float64).ravel()
    if not np.isfinite(numbers).all():
        with np.errstate(invalid="ignore"):
            return float(numbers.sum())
    try:
        return math.fsum(numbers.tolist())
    except OverflowError:
        return math.fsum((numbers * 2.0**-64).tolist()) * 2.0**64


@dataclass(frozen=True, eq=False)
class EpisodeRecord:
    """One episode, ready to be written or just read.

    Attributes:
        episode: Episode id, unique within the dataset.
        split: Name of the split that the episode belongs to.
        columns: Arrays of shape ``[T, *field.shape]`` by column name.
        final: Values of the observed fields after the last action; shape ``field.shape``.
        seed: Seed that reproduces the episode, or None.
        start_state: Simulator state before the first action; named flat float64 arrays.
        policy: Name of the behaviour policy.
        run: Id of the run that recorded the episode.
        metadata: User metadata, JSON-able.
        encoded: Pictures as a version's files hold them, by column, for columns of a lossy storage or a video; columns
            and final values hold the decoded ones.
    """

    episode: int
    split: str
    columns: Columns
    final: Columns
    seed: int | None = None
    start_state: Mapping[str, np.ndarray] = field(default_factory=dict)
    policy: str = ""
    run: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    encoded: Mapping[str, EncodedPictures] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Number of transitions."""
        return len(next(iter(self.columns.values())))

    @property
    def num_bytes(self) -> int:
        """Size of the columns in memory; texts count as pointers."""
        return sum(count_bytes(array) for array in self.columns.values())

    @property
    def episode_return(self) -> float | None:
        """Undiscounted sum of the rewards, rounded once; None where no reward was recorded."""
        return sum_exactly(to_numbers(self.columns[REWARD])) if REWARD in self.columns else None

    @property
    def success(self) -> bool | None:
        """Whether the task was solved after any of the actions; None where success was not recorded."""
        if keys.SUCCESS not in self.columns:
            return None
        flags = to_numbers(self.columns[keys.SUCCESS])
        if keys.SUCCESS not in self.final:  # of the steps, not of the states between them
            return bool(flags.any())
        return bool(flags[1:].any() or to_numbers(self.final[keys.SUCCESS]).any())

    @property
    def ended(self) -> str:
        """Why the episode ended: ``"terminated"``, ``"truncated"``, or ``"unfinished"`` where no flag is set."""
        if self.columns[TERMINATED][-1].any():
            return "terminated"
        return "truncated" if self.columns[TRUNCATED][-1].any() else "unfinished"

    def content_hash(self) -> str:
        """Return the SHA-256 of the transitions, independent of how files and batches divide them.

        Two episodes have the same hash if and only if their columns and final values are the same bit for bit, for
        pictures of a lossy storage if the encoded pictures are.
        The hash is cached if the record's arrays are read-only, as those of a recording or a version are.
        """
        cached: str | None = self.__dict__.get("_content_hash")
        if cached is not None:
            return cached
        digest = hashlib.sha256()
        for kind, columns in (("row", self.columns), ("final", self.final)):
            for name in sorted(columns):
                pictures = self.encoded.get(name)
                if pictures is not None and pictures.is_lossy:
                    pictures.update_hash(digest, kind, name)
                else:
                    _hash_column(digest, f"{kind}\0{name}", columns[name])
        content_hash = digest.hexdigest()
        if not any(array.flags.writeable for array in (*self.columns.values(), *self.final.values())):
            self.__dict__["_content_hash"] = content_hash
        return content_hash

    def cache_hashes(self, content_hash: str, identity: str | None = None) -> None:
        """Store hashes that the reader of this record has verified; the record's arrays must be read-only."""
        self.__dict__["_content_hash"] = content_hash
        self.__dict__["_identity"] = identity

    def identity(self) -> str:
        """Return the SHA-256 of everything that a version promises about the episode; the run id is not part of it."""
        cached: str | None = self.__dict__.get("_identity")
        if cached is not None:
            return cached
        digest = hashlib.sha256()
        fields = [self.episode, self.split, self.seed, self.policy, self.metadata, self.content_hash()]
        digest.update(_JSON_ENCODER.encode(fields).encode())
        for name in sorted(self.start_state):
            state = np.ascontiguousarray(self.start_state[name], dtype="<f8")
            digest.update(f"{name}\0{state.shape}\0".encode() + state.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class EpisodeStart:
    """Start of an episode, as an environment notes it at a reset.

    Attributes:
        seed: Seed that reproduces the episode; None where the environment was not seeded for it.
        state: Simulator state before the first action; named flat float64 arrays.
    """

    seed: int | None
    state: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class EpisodeInfo:
    """Metadata of an episode that its transitions do not hold; see :class:`EpisodeRecord`.

    Attributes:
        split: Name of the split that the episode belongs to.
        seed: Seed that reproduces the episode, or None.
        start_state: Simulator state before the first action; named float64 arrays.
        policy: Name of the behaviour policy.
        metadata: User metadata, JSON-able.
    """

    split: str
    seed: int | None = None
    start_state: Mapping[str, np.ndarray] = field(default_factory=dict)
    policy: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def create(
        cls,
        *,
        split: str,
        policy: str,
        metadata: Mapping[str, Any] | None = None,
        seed: int | None = None,
        start_state: Mapping[str, np.ndarray] | None = None,
        context: str,
    ) -> "EpisodeInfo":
        """Check the metadata of an episode and convert them to the types that a dataset version stores.

        Args:
            split: See the attributes.
            policy: See the attributes.
            metadata: See the attributes.
            seed: Any integer type whose value fits into an int64.
            start_state: Named arrays or sequences of numbers.
            context: Prefix of error messages, for example ``"episode 7"``.

        Raises:
            SchemaMismatchError: The metadata are not a mapping of JSON values (without NaN and infinity), larger than
                MAX_TEXT_BYTES, the seed is not an int64, or a part of the start state is not an array of numbers.
        """
        try:
            text = json.dumps(dict(metadata or {}), allow_nan=False)
            json_metadata = json.loads(text)
        except (TypeError, ValueError, RecursionError) as error:
            msg = f"{context}, metadata: expected a mapping of JSON values, got: {error}."
            raise SchemaMismatchError(msg) from error
        if len(text) > MAX_TEXT_BYTES:
            msg = f"{context}, metadata: expected at most {MAX_TEXT_BYTES} bytes, got {len(text)}."
            raise SchemaMismatchError(msg)
        try:
            int64_seed = None if seed is None else int(np.int64(operator.index(seed)))
            state = {name: np.array(value, dtype=np.float64) for name, value in (start_state or {}).items()}
        except (TypeError, ValueError, OverflowError) as error:
            msg = f"{context}: expected an int64 seed and a start state of numbers, got: {error}."
            raise SchemaMismatchError(msg) from error
        return cls(split, int64_seed, state, policy, json_metadata)


def pack(transitions: "TensorDictBase", schema: Schema, *, context: str) -> tuple[Columns, Columns]:
    """Turn the TED transitions of one episode into columns and final values.

    Args:
        transitions: All transitions of one episode in order; batch size ``[T]`` with T at least 1.
        schema: Schema of the dataset.
        context: Prefix of error messages, for example ``"episode 7"``.

    Returns:
        The columns, ``[T, *shape]``, and the final values of the observed fields. They are copies: later writes to
        the TensorDict do not change them.

    Raises:
        SchemaMismatchError: A key, dtype or shape differs, a value is NaN, an end flag is set before the last row, or
            an observation below ``next`` differs from the observation of the following row.
    """
    if transitions.ndim != 1 or not len(transitions):
        msg = (
            f"{context}: expected the transitions of one episode, batch size [T] with T >= 1, got {transitions.shape}."
        )
        raise SchemaMismatchError(msg)
    leaves = flatten_tensordict(transitions, context=context)
    schema.require(Schema.from_arrays(leaves), context=context)
    return pack_chunks([leaves], schema, context=context)


def pack_chunks(chunks: Sequence[Mapping[str, np.ndarray]], schema: Schema, *, context: str) -> tuple[Columns, Columns]:
    """Pack chunks of arrays ``[t, *shape]`` that already match the schema; otherwise like :func:`pack`.

    Every column is copied once, into memory that has room for its final value.
    """
    schema.require_values(context=context)
    for item in schema.ragged:
        twins = [item.column, f"{keys.NEXT}.{item.column}"] if item.observed else [item.column]
        for name in twins:
            _require_row_kind(np.concatenate([chunk[name] for chunk in chunks]), name, item, context)
    columns, final = {}, {}
    for item in schema.fields:
        rows = _join_with_spare_row([chunk[item.column] for chunk in chunks])
        columns[item.column] = rows[:-1]
        if not item.observed:
            continue
        next_chunks = [chunk[f"{keys.NEXT}.{item.column}"] for chunk in chunks]
        rows[-1:] = _copy_contiguous(next_chunks[-1][-1:])
        first_row = 0
        for next_rows in next_chunks:
            _require_continuous(rows[:-1], next_rows, first_row, column=item.column, context=context)
            first_row += len(next_rows)
        final[item.column] = rows[-1:].reshape(item.kind[1])
    _require_valid_values(columns, final, context=context)
    _require_end_at_last_row(columns, context=context)
    return columns, final


def unpack(columns: Columns, final: Columns, schema: Schema, *, episode: int) -> "TensorDict":
    """Return the TED transitions of one episode: the inverse of :func:`pack`.

    Returns:
        A TensorDict of batch size ``[T]`` that owns its memory: ``episode`` (int64) at the root, ``next`` taken from
        the following row and the final values, the root flags False, and ``("next", "done")`` derived.
    """
    copies = {field.column: columns[field.column].copy() for field in schema.fields}
    return rows_to_tensordict(expand_rows(copies, final, schema, episode=episode))


def expand_rows(columns: Columns, final: Columns, schema: Schema, *, episode: int) -> Rows:
    """Return what each transition of an episode holds, by nested key: ``next`` and the episode id included.

    The values of columns that are not observed share their memory.
    """
    length = len(next(iter(columns.values())))
    rows: Rows = {(keys.EPISODE,): np.full(length, episode)}
    for item in schema.fields:
        key = (item.key,) if isinstance(item.key, str) else item.key
        rows[key] = columns[item.column]
        if item.observed:
            rows[keys.NEXT, *key] = np.concatenate([rows[key][1:], final[item.column][None]])
    return rows


def rows_to_tensordict(rows: Rows) -> "TensorDict":
    """Return transitions as a TED TensorDict ``[T]`` that shares the memory of the arrays.

    Args:
        rows: Arrays as :func:`expand_rows` returns them, of any transitions. At least one row if a field is ragged.
    """
    import torch
    from tensordict import TensorDict

    td = TensorDict({}, [len(rows[keys.EPISODE,])])
    for key, values in rows.items():
        td[key] = _to_tensor_or_text(values)
    terminated, truncated = td[keys.NEXT_TERMINATED], td[keys.NEXT_TRUNCATED]
    td[keys.NEXT_DONE] = terminated | truncated
    for flag in keys.END_FLAGS:
        td[flag] = torch.zeros_like(terminated)
    return td


def _to_tensor_or_text(array: np.ndarray) -> "torch.Tensor | NonTensorStack":
    from tensordict import NonTensorStack

    if is_ragged(array):
        return to_nested(array)
    return NonTensorStack(*array.tolist()) if array.dtype == object else array_to_tensor(array)


def _join_with_spare_row(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Return a copy of arrays one after the other, and a last row of zeros; None in a column of objects."""
    num_rows = sum(map(len, arrays))
    rows = np.zeros((num_rows + 1, *arrays[0].shape[1:]), arrays[0].dtype)
    start = 0
    for array in arrays:
        rows[start : start + len(array)] = _copy_contiguous(array) if is_ragged(array) else array
        start += len(array)
    return rows


def _copy_contiguous(array: np.ndarray) -> np.ndarray:
    if is_ragged(array):
        return copy_rows(array)
    return np.array(array, order="C", copy=True)


def _hash_column(digest: Any, address: str, values: np.ndarray) -> None:
    """Feed dtype, shape and bytes of an array to a hash; texts and ragged rows with their lengths."""
    array = np.ascontiguousarray(values)
    if is_ragged(array):
        joined, lengths = join_rows(array)
        digest.update(f"{address}\0ragged\0{array.shape}\0".encode())
        digest.update(lengths.astype("<i8"))
        _hash_column(digest, address, joined)
        return
    if array.dtype == object:
        texts = [text.encode() for text in array.ravel()]
        digest.update(f"{address}\0{STRING}\0{array.shape}\0".encode())
        digest.update(np.array([len(text) for text in texts], dtype="<i8").tobytes())
        digest.update(b"".join(texts))
        return
    name, little_endian = _name_and_little_endian(array.dtype)
    array = array.astype(little_endian, copy=False)
    digest.update(f"{address}\0{name}\0{array.shape}\0".encode())
    digest.update(array)


@functools.lru_cache(maxsize=64)
def _name_and_little_endian(dtype: np.dtype) -> tuple[str, np.dtype]:
    """Return the name of a dtype and its little-endian form; cached, since NumPy builds the name on each access."""
    return dtype_name(dtype), dtype.newbyteorder("<")


def _require_continuous(rows: np.ndarray, next_rows: np.ndarray, first_row: int, *, column: str, context: str) -> None:
    """Raise unless the ``next`` values of some rows, from ``first_row`` on, are those of the rows that follow them."""
    following = rows[first_row + 1 : first_row + 1 + len(next_rows)]
    next_rows = next_rows[: len(following)]
    if is_ragged(rows):
        is_equal = have_equal_bits(following, next_rows)
    else:
        expected, got = view_bits(following), view_bits(next_rows)  # NaN equals NaN, and 0.0 differs from -0.0
        if np.array_equal(expected, got):
            return
        is_equal = ~(expected != got).reshape(len(expected), -1).any(axis=1)
    if is_equal.all():
        return
    row = first_row + int(is_equal.argmin())
    msg = (
        f"{context}, row {row}: expected next.{column} to be {column} of row {row + 1}, got another value. "
        "Pass whole episodes, one at a time and in order."
    )
    raise SchemaMismatchError(msg)


def _require_valid_values(columns: Columns, final: Columns, *, context: str) -> None:
    final_rows = {f"{keys.NEXT}.{name}": value[None] for name, value in final.items()}
    for name, array in (*columns.items(), *final_rows.items()):
        if is_ragged(array):
            _require_no_nan(array, name, context)
            continue
        if array.dtype == object:
            _require_unicode(array, name, context)
        numbers = to_numbers(array)
        if numbers.dtype.kind == "f" and np.isnan(numbers).any():
            row = int(np.isnan(numbers).reshape(len(array), -1).any(axis=1).argmax())
            raise _is_nan(name, row, context)


def _require_no_nan(rows: np.ndarray, name: str, context: str) -> None:
    for index, row in enumerate(rows.reshape(-1)):
        numbers = to_numbers(row)
        if numbers.dtype.kind == "f" and np.isnan(numbers).any():
            raise _is_nan(name, index, context)


def _is_nan(name: str, row: int, context: str) -> SchemaMismatchError:
    return SchemaMismatchError(
        f"{context}, row {row}: key {name} is NaN. Drop the episode, or fix the environment or policy."
    )


def _require_row_kind(rows: np.ndarray, name: str, item: Field, context: str) -> None:
    """Raise unless every row of a ragged column has the dtype and the inner shape of the field."""
    for index, row in enumerate(rows.reshape(-1)):
        got = Field.of_array(name, make_rows([row])) if isinstance(row, np.ndarray) else None
        if got is None or (got.dtype, got.shape) != (item.dtype, item.shape):
            described = type(row).__name__ if got is None else got.describe()
            msg = f"{context}, row {index}: key {name}: expected {item.describe()}, got {described}."
            raise SchemaMismatchError(msg)


def _require_end_at_last_row(columns: Columns, *, context: str) -> None:
    length = len(columns[TERMINATED])
    ends = columns[TERMINATED].reshape(length, -1).any(axis=1) | columns[TRUNCATED].reshape(length, -1).any(axis=1)
    if ends[:-1].any():
        row = int(ends[:-1].argmax())
        msg = f"{context}, row {row}: expected an end flag only in the last row {length - 1}. Split the episode here."
        raise SchemaMismatchError(msg)


def _require_unicode(array: np.ndarray, name: str, context: str) -> None:
    for row, text in enumerate(array.tolist()):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            msg = f"{context}, row {row}: key {name}: expected Unicode text, got {text!r} ({error.reason})."
            raise SchemaMismatchError(msg) from error
