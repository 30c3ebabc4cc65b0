"""The episodes that a format's reader returns, and the step from arrays to a checked episode record."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlhive import keys
from rlhive.data._episodes import TERMINATED, TRUNCATED, Columns, EpisodeRecord, pack_leaves
from rlhive.data._schema import Schema
from rlhive.data.versions import VersionSource


@dataclass(frozen=True)
class EpisodeSource(VersionSource):
    """Episodes of another library's files, as :func:`rlhive.data.versions.export` takes them.

    ``records()`` starts a pass over the episodes and reads one at a time.

    Attributes:
        num_episodes: Number of episodes.
        notes: What was detected, converted or left out; one sentence each. :func:`import_dataset` logs them.
    """

    num_episodes: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class EpisodeArrays:
    """The arrays of one episode, as a reader finds them.

    Attributes:
        columns: ``[T, *shape]`` by column name, the two end columns included; see :func:`end_flags`.
        final: The value after the last row, ``[*shape]``, for every observed column.
        context: Address for messages, for example ``"log.h5, Trial3"``.
        fields: Further fields of the record: split, seed, start_state, policy, run, metadata.
    """

    columns: Columns
    final: Columns
    context: str
    fields: Mapping[str, Any] = field(default_factory=dict)

    def infer_schema(self) -> Schema:
        """Return the schema of the arrays.

        Raises:
            SchemaMismatchError: An array has a dtype that a column cannot have.
        """
        return Schema.from_arrays(self._with_next())

    def to_record(self, schema: Schema, *, episode: int, **fields: Any) -> EpisodeRecord:
        """Check the arrays as a recorded episode is checked and return the record.

        Args:
            schema: Schema that the arrays must have.
            episode: Id of the episode.
            **fields: Further fields of the record; those of the arrays take precedence.

        Raises:
            SchemaMismatchError: A key, dtype or shape differs, a value is NaN, or an end stands before the last row.
        """
        leaves = self._with_next()
        schema.require(Schema.from_arrays(leaves), context=self.context)
        columns, final = pack_leaves(leaves, schema, context=self.context)
        return EpisodeRecord(episode=episode, columns=columns, final=final, **{**fields, **self.fields})

    def _with_next(self) -> Columns:
        """Return the columns with the ``next.`` twin of every observed one."""
        twins = {
            f"{keys.NEXT}.{name}": np.concatenate(
                [self.columns[name][1:], np.asarray(value, self.columns[name].dtype)[None]]
            )
            for name, value in self.final.items()
        }
        return {**self.columns, **twins}


def end_flags(length: int, *, terminated: bool) -> Columns:
    """Return the two end columns, bool ``[length, 1]``.

    Args:
        length: Number of transitions.
        terminated: Whether the last transition ended the task; otherwise it was cut off.
    """
    flags = {TERMINATED: np.zeros((length, 1), bool), TRUNCATED: np.zeros((length, 1), bool)}
    flags[TERMINATED if terminated else TRUNCATED][-1] = True
    return flags
