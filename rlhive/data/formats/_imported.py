"""What every importer returns, and the one way in which an importer's arrays become an episode."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlhive import keys
from rlhive.data._episodes import TERMINATED, TRUNCATED, Columns, EpisodeRecord, pack_leaves
from rlhive.data._schema import Schema
from rlhive.data.versions import Source


@dataclass(frozen=True)
class Imported(Source):
    """Episodes of another format, ready for :func:`rlhive.data.versions.export`; read one at a time while they are.

    Attributes:
        num_episodes: How many there are.
        notes: What was detected, converted or left out, a sentence each; for the log and for the user to read.
    """

    num_episodes: int = 0
    notes: tuple[str, ...] = ()


def schema_of(columns: Columns, final: Columns) -> Schema:
    """Return the schema of an episode's arrays.

    Args:
        columns: ``[T, *shape]`` by column name.
        final: The value after the last row, of the observed fields.

    Raises:
        SchemaMismatch: An array has a dtype that a column cannot have.
    """
    return Schema.of_leaves(_leaves(columns, final))


def record_of(
    columns: Columns, final: Columns, schema: Schema, *, where: str, episode: int, **fields: Any
) -> EpisodeRecord:
    """Check arrays as a recorded episode is checked, and return them as its record.

    Args:
        columns: ``[T, *shape]`` by column name, the ends included.
        final: The value after the last row, of the observed fields.
        schema: That they must have.
        where: Address for messages.
        episode: Its id.
        **fields: Further fields of the record.

    Raises:
        SchemaMismatch: A key, dtype or shape differs, or a value is NaN.
    """
    leaves = _leaves(columns, final)
    schema.require(Schema.of_leaves(leaves), where=where)
    packed, ends = pack_leaves(leaves, schema, where=where)
    return EpisodeRecord(episode=episode, columns=packed, final=ends, **fields)


def end_flags(length: int, *, terminated: bool) -> Columns:
    """Return the two end columns of an episode that ended for good or, if not, was cut off."""
    flags = {TERMINATED: np.zeros((length, 1), bool), TRUNCATED: np.zeros((length, 1), bool)}
    flags[TERMINATED if terminated else TRUNCATED][-1] = True
    return flags


def _leaves(columns: Mapping[str, np.ndarray], final: Mapping[str, np.ndarray]) -> Columns:
    twins = {
        f"{keys.NEXT}.{name}": np.concatenate([columns[name][1:], np.asarray(value, columns[name].dtype)[None]])
        for name, value in final.items()
    }
    return {**columns, **twins}
