"""Where episodes begin and end, and why: the one form in which episodes travel between the data rooms.

An :class:`EpisodeRecord` holds one episode as plain NumPy columns::

    row           0      1      …    T-1        final
    observation   s_0    s_1    …    s_T-1      s_T        (observed fields)
    action        a_0    a_1    …    a_T-1
    next.reward   r_1    r_2    …    r_T

Pure functions of arrays: nothing here touches a file.
"""

import functools
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from tensordict import NonTensorStack, TensorDict, TensorDictBase

from rlhive import keys
from rlhive.data._schema import STRING, Schema, flatten_tensordict
from rlhive.errors import SchemaMismatch

Columns = dict[str, np.ndarray]

TERMINATED = keys.key_to_column(keys.NEXT_TERMINATED)
TRUNCATED = keys.key_to_column(keys.NEXT_TRUNCATED)
REWARD = keys.key_to_column(keys.NEXT_REWARD)

_SORTED = json.JSONEncoder(sort_keys=True)


@dataclass(frozen=True, eq=False)
class EpisodeRecord:
    """One episode, ready to be written or just read.

    Attributes:
        episode: Id, unique within the dataset.
        split: Name of the split that it belongs to.
        columns: Arrays of shape ``[T, *field.shape]`` by column name.
        final: The value after the last action, of the observed fields; shape ``field.shape``.
        seed: Seed that reproduces the episode, or None.
        start_state: Simulator state before the first action; named flat float64 arrays.
        policy: Name of the behaviour policy.
        run: Id of the run that recorded it.
        metadata: The user's own, JSON-able.
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

    @property
    def length(self) -> int:
        """Number of transitions."""
        return len(next(iter(self.columns.values())))

    @property
    def episode_return(self) -> float:
        """Undiscounted sum of the rewards, rounded once; 0.0 without a reward."""
        return math.fsum(self.columns[REWARD].ravel().tolist()) if REWARD in self.columns else 0.0

    @property
    def success(self) -> bool:
        """Whether the task was solved after any of the actions; False where nobody said."""
        if keys.SUCCESS not in self.columns:
            return False
        return bool(self.columns[keys.SUCCESS][1:].any() or self.final[keys.SUCCESS].any())

    @property
    def ended(self) -> str:
        """Why it ended: ``"terminated"``, ``"truncated"`` or, when nothing says, ``"unfinished"``."""
        if self.columns[TERMINATED][-1].any():
            return "terminated"
        return "truncated" if self.columns[TRUNCATED][-1].any() else "unfinished"

    def content_hash(self) -> str:
        """Return the SHA-256 of the transitions, whatever files or batches they lie in.

        Two episodes have the same hash if and only if their columns and final values are the same bit for bit.
        It is computed once for a record whose arrays are read-only, as those of a recording or a version are.
        """
        known = self.__dict__.get("_content_hash")
        if known is None:
            digest = hashlib.sha256()
            for kind, columns in (("row", self.columns), ("final", self.final)):
                for name in sorted(columns):
                    _hash_column(digest, f"{kind}\0{name}", columns[name])
            known = digest.hexdigest()
            if not any(array.flags.writeable for array in (*self.columns.values(), *self.final.values())):
                self.__dict__["_content_hash"] = known
        return known

    def with_known_hashes(self, content_hash: str, identity: str) -> "EpisodeRecord":
        """Make the record, whose arrays are read-only, remember hashes that its reader has just checked."""
        self.__dict__["_content_hash"], self.__dict__["_identity"] = content_hash, identity
        return self

    def identity(self) -> str:
        """Return the SHA-256 of everything that a version promises about the episode, its run excepted."""
        known = self.__dict__.get("_identity")
        if known is not None:
            return known
        digest = hashlib.sha256()
        promised = [self.episode, self.split, self.seed, self.policy, self.metadata, self.content_hash()]
        digest.update(_SORTED.encode(promised).encode())
        for name in sorted(self.start_state):
            state = np.ascontiguousarray(self.start_state[name], dtype="<f8")
            digest.update(f"{name}\0{state.shape}\0".encode() + state.tobytes())
        return digest.hexdigest()


def pack(transitions: TensorDictBase, schema: Schema, *, where: str) -> tuple[Columns, Columns]:
    """Turn the TED transitions of one episode into columns and final values.

    Args:
        transitions: Batch size ``[T]``, T at least 1, one whole episode in order.
        schema: What the dataset promises.
        where: Address for messages, for example ``"episode 7"``.

    Returns:
        The columns, ``[T, *shape]``, and the final values of the observed fields. Copies: later writes to the
        TensorDict do not reach them.

    Raises:
        SchemaMismatch: A key, dtype or shape differs, an action or observation is NaN, an end flag stands
            before the last row, or ``next`` does not continue in the following row.
    """
    if transitions.ndim != 1 or not len(transitions):
        msg = f"{where}: expected the transitions of one episode, batch size [T] with T >= 1, got {transitions.shape}."
        raise SchemaMismatch(msg)
    leaves = flatten_tensordict(transitions, context=where)
    schema.require(Schema.from_arrays(leaves), context=where)
    return pack_leaves(leaves, schema, where=where)


def pack_leaves(leaves: Mapping[str, np.ndarray], schema: Schema, *, where: str) -> tuple[Columns, Columns]:
    """Do what :func:`pack` does with arrays ``[T, *shape]`` that are known to be of the schema."""
    columns = {item.column: _copy(leaves[item.column]) for item in schema.fields}
    final = {}
    for item in schema.observed:
        following = leaves[f"{keys.NEXT}.{item.column}"]
        _require_continuous(columns[item.column], following, column=item.column, where=where)
        final[item.column] = _copy(following[-1:]).reshape(item.shape)
    _require_sound(columns, final, where=where)
    return columns, final


def unpack(columns: Columns, final: Columns, schema: Schema, *, episode: int) -> TensorDict:
    """Return the TED transitions of one episode: the inverse of :func:`pack`.

    Returns:
        Batch size ``[T]``, with ``episode`` (int64) at the root, ``next`` taken from the following row and the
        true final value, the root flags False and ``("next", "done")`` derived. It owns its memory.
    """
    length = len(next(iter(columns.values())))
    td = TensorDict({keys.EPISODE: torch.full((length,), episode)}, [length])
    for item in schema.fields:
        rows = columns[item.column]
        td[item.key] = _leaf(rows.copy())
        if item.observed:
            following = np.concatenate([rows[1:], final[item.column][None]])
            td[(keys.NEXT, *_parts(item.key))] = _leaf(following)
    terminated, truncated = td[keys.NEXT_TERMINATED], td[keys.NEXT_TRUNCATED]
    td[keys.NEXT_DONE] = terminated | truncated
    for flag in keys.END_FLAGS:
        td[flag] = torch.zeros_like(terminated)
    return td


def _parts(key: keys.NestedKey) -> tuple[str, ...]:
    return (key,) if isinstance(key, str) else key


def _leaf(array: np.ndarray) -> torch.Tensor | NonTensorStack:
    return NonTensorStack(*array.tolist()) if array.dtype == object else torch.from_numpy(array)


def _copy(array: np.ndarray) -> np.ndarray:
    return np.array(array, order="C", copy=True)


def _hash_column(digest: Any, address: str, values: np.ndarray) -> None:
    """Feed dtype, shape and bytes of an array to a hash; the text of a string array with its lengths."""
    array = np.ascontiguousarray(values)
    if array.dtype == object:
        texts = [text.encode() for text in array.ravel()]
        digest.update(f"{address}\0{STRING}\0{array.shape}\0".encode())
        digest.update(np.array([len(text) for text in texts], dtype="<i8").tobytes())
        digest.update(b"".join(texts))
        return
    name, little = _dtype_of(array.dtype)
    array = array.astype(little, copy=False)
    digest.update(f"{address}\0{name}\0{array.shape}\0".encode())
    digest.update(array)


@functools.lru_cache(maxsize=64)
def _dtype_of(dtype: np.dtype) -> tuple[str, np.dtype]:
    """Return the name, which NumPy makes anew each time, and the little-endian twin."""
    return dtype.name, dtype.newbyteorder("<")


def _require_continuous(rows: np.ndarray, following: np.ndarray, *, column: str, where: str) -> None:
    here, there = _bits(rows[1:]), _bits(following[:-1])
    if np.array_equal(here, there):
        return
    row = int((here != there).reshape(len(here), -1).any(axis=1).argmax())
    msg = (
        f"{where}, row {row}: expected next.{column} to be {column} of row {row + 1}, got another value. "
        "Pass whole episodes, one at a time and in order."
    )
    raise SchemaMismatch(msg)


def _bits(array: np.ndarray) -> np.ndarray:
    """Return the values as unsigned integers: NaN equals NaN and 0.0 is not -0.0."""
    return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}") if array.dtype.kind == "f" else array


def _require_sound(columns: Columns, final: Columns, *, where: str) -> None:
    for name, array in (*columns.items(), *((f"next.{name}", value[None]) for name, value in final.items())):
        if array.dtype == object:
            _require_unicode(array, name, where)
        if array.dtype.kind == "f" and np.isnan(array).any():
            row = int(np.isnan(array).reshape(len(array), -1).any(axis=1).argmax())
            msg = f"{where}, row {row}: key {name} is NaN. Drop the episode or mend what made it."
            raise SchemaMismatch(msg)
    ends = columns[TERMINATED].reshape(len(columns[TERMINATED]), -1).any(axis=1)
    ends |= columns[TRUNCATED].reshape(len(ends), -1).any(axis=1)
    if ends[:-1].any():
        row = int(ends[:-1].argmax())
        msg = f"{where}, row {row}: expected the end at the last row {len(ends) - 1}, got it here. Split there."
        raise SchemaMismatch(msg)


def _require_unicode(array: np.ndarray, name: str, where: str) -> None:
    for row, text in enumerate(array.tolist()):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            msg = f"{where}, row {row}: key {name}: expected Unicode text, got {text!r} ({error.reason}). Clean it."
            raise SchemaMismatch(msg) from error
