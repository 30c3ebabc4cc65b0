"""The episodes that a format's reader returns, and the step from arrays to an episode record."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlhive.data._episodes import TERMINATED, TRUNCATED, Columns, EpisodeRecord
from rlhive.data._schema import Schema
from rlhive.data._video_files import Clip
from rlhive.data.formats._column_forms import ColumnForms
from rlhive.data.formats._column_values import cast_if_exact, split_values
from rlhive.data.versions import VersionSource
from rlhive.errors import SchemaMismatchError

#: Whether a column is wanted, by its name in RLHive and its name in the file.
Keeps = Callable[..., bool]


@dataclass(frozen=True)
class EpisodeArrays:
    """The arrays of one episode, as a reader finds them.

    Any dtype is allowed, and texts, nulls (None) and lists of different lengths as objects: the import widens them to
    what a column can hold, over all episodes.

    Attributes:
        columns: ``[T, *shape]`` by column name, with the two end columns where the file has them; see
            :func:`end_flags`.
        final: The value after the last row, ``[*shape]``, for every observed column.
        context: Address for messages, for example ``"log.h5, Trial3"``.
        fields: Further fields of the record: split, seed, start_state, policy, run, metadata.
        has_frames: Whether the rows are frames: the last one has no successor, so it becomes the final observation
            unless it ended the task. ``final`` and the end columns may then be missing; ``next.done`` may be there.
        left_out: What the reader found and did not read; the import logs and counts it.
        origins: Name in the file of every column that has another name there.
        clips: The encoded frames of columns that are videos in the file, from which the columns were decoded; a version
            keeps them as they are.
    """

    columns: Columns
    final: Columns
    context: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    has_frames: bool = False
    left_out: tuple[str, ...] = ()
    origins: Mapping[str, str] = field(default_factory=dict)
    clips: Mapping[str, Clip] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Number of rows."""
        return len(next(iter(self.columns.values()), ()))

    def infer_schema(self) -> Schema:
        """Return the schema of the arrays alone; the import widens it to that of all episodes.

        Raises:
            SchemaMismatchError: No column can hold an array; the message names it.
        """
        forms = ColumnForms()
        forms.add(*self.split(), self.context)
        return forms.schema

    def to_record(self, schema: Schema, *, episode: int, **fields: Any) -> EpisodeRecord:
        """Return the arrays as a record, in the dtypes of the schema where these hold all values.

        Whether all episodes agree, and whether values are NaN, is checked where the record is imported.

        Args:
            schema: Schema of the episodes, as far as the reader knows it.
            episode: Id of the episode.
            **fields: Further fields of the record; those of the arrays take precedence.

        Raises:
            SchemaMismatchError: No column can hold an array.
        """
        forms = ColumnForms()
        columns, observed = self.split()
        forms.add(columns, observed, self.context)
        columns, final = forms.fit(columns, observed, self.length, self.context)
        fields_by_column = {item.column: item for item in schema.fields}
        for values in (columns, final):
            for name, array in values.items():
                item = fields_by_column.get(name)
                if item is not None and not item.is_string and array.dtype != object:
                    values[name] = cast_if_exact(array, np.dtype(item.dtype))
        return EpisodeRecord(episode=episode, columns=columns, final=final, **{**fields, **self.fields})

    def split(self) -> tuple[Columns, Columns]:
        """Return the columns without a final value, ``[T, …]``, and those with one, ``[T + 1, …]``, as files hold them.

        Raises:
            SchemaMismatchError: No column can hold an array, or a column has another number of rows.
        """
        columns: Columns = {}
        observed: Columns = {}
        for name, rows in self.columns.items():
            if len(rows) != self.length:
                msg = f"{self.context}: expected {self.length} rows of {name}, got {len(rows)}."
                raise SchemaMismatchError(msg)
            target = observed if name in self.final else columns
            joined = _append_row(rows, self.final[name]) if name in self.final else rows
            target.update(split_values(name, joined, context=self.context))
        return columns, observed


@dataclass(frozen=True)
class PendingEpisode:
    """An episode that is read when it is needed, so that one that is not wanted cannot fail.

    Attributes:
        episode: Id of the episode.
        context: Address for messages.
        read: Reads the arrays; its argument tells which columns are wanted.
        fields: Fields of the record; those of the arrays take precedence.
    """

    episode: int
    context: str
    read: Callable[[Keeps], EpisodeArrays]
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EpisodeSource(VersionSource):
    """Episodes of another library's files, as :func:`rlhive.data.versions.export` takes them.

    ``records()`` starts a pass over the episodes and reads one at a time.

    Attributes:
        num_episodes: Number of episodes.
        notes: What was detected, converted or left out; one sentence each. :func:`import_dataset` logs them.
        pending: Starts a pass over the same episodes before they are read; None where the reader cannot tell them
            apart without reading them.
    """

    num_episodes: int = 0
    notes: tuple[str, ...] = ()
    pending: Callable[[], Iterator[PendingEpisode]] | None = None


def end_flags(length: int, *, terminated: bool | None) -> Columns:
    """Return the two end columns, bool ``[length, 1]``.

    Args:
        length: Number of transitions.
        terminated: Whether the last transition ended the task; otherwise it was cut off. None where nobody recorded
            why the episode ends: neither flag is set then.
    """
    flags = {TERMINATED: np.zeros((length, 1), bool), TRUNCATED: np.zeros((length, 1), bool)}
    if terminated is not None:
        flags[TERMINATED if terminated else TRUNCATED][-1] = True
    return flags


def _append_row(rows: np.ndarray, final: Any) -> np.ndarray:
    """Return ``[T + 1, …]``: the rows and the final value, in the dtype of the rows where it holds that value."""
    if rows.dtype == object:
        joined = np.empty((len(rows) + 1, *rows.shape[1:]), object)
        joined[:-1] = rows
        joined[-1] = final.item() if isinstance(final, np.ndarray) and not final.ndim else final
        return joined
    value = np.asarray(final)
    if not rows.dtype.names and rows.dtype.kind == value.dtype.kind and value.dtype != rows.dtype:
        value = cast_if_exact(value, rows.dtype)
    return np.concatenate([rows, value[None]])
