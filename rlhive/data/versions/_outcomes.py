"""How the episodes of a version came out: an identity that the last bits of another processor do not change.

The fingerprint is over bits. A processor without fused multiply-add rounds sines differently, so the same recipe gives
observations there that differ in the 13th digit, and another fingerprint. What a second machine confirms instead::

    outcome fingerprint   id, split, seed, length, end and success of every episode: whole numbers and names, exact
    returns               of the same episodes, compared within a tolerance

Rounded returns are in no hash: of enough numbers, one lies so near to the border between two rounded ones that its last
bit decides.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from rlhive import keys
from rlhive.data._schema import Schema, find_unrecorded

#: Columns of the episode table that say how an episode came out, without rounding.
OUTCOME_COLUMNS = (keys.EPISODE, "split", "seed", "length", "ended", keys.SUCCESS)
#: Largest difference of two returns that count as equal, in parts of the larger one, or of 1.
RETURN_TOLERANCE = 1e-6


def compute_outcome_fingerprint(table: pa.Table, schema: Schema) -> str:
    """Return the SHA-256 of how episodes came out, in rising order of their ids.

    It says that a recipe took the same course, and nothing of the content: that is the fingerprint's.

    Args:
        table: The episode table, or some of its rows.
        schema: Schema of the version. An unrecorded success is unknown, also in tables that hold False there.
    """
    columns = [table[name].to_pylist() for name in OUTCOME_COLUMNS]
    if keys.SUCCESS in find_unrecorded(schema):
        columns[-1] = [None] * len(table)
    return _hash_rows(zip(*columns, strict=True))


def compare_outcomes(before: Mapping[int, Mapping[str, Any]], after: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Compare how the episodes of two versions came out.

    Args:
        before: Rows of the episode table by id, with OUTCOME_COLUMNS and ``return``.
        after: Those of the other version.

    Returns:
        ``fingerprint``: the outcome fingerprints; ``different``: ids in both of episodes that came out differently;
        ``return_error``: the largest difference of returns of one id, None where nothing is compared or one is not
        finite; ``unequal_returns``: ids of the episodes whose returns are not equal within RETURN_TOLERANCE.
    """
    common = sorted(before.keys() & after.keys())
    returns = [(before[episode]["return"], after[episode]["return"]) for episode in common]
    errors = [abs(new - old) for old, new in returns if old is not None and new is not None]
    names = OUTCOME_COLUMNS[1:]
    return {
        "fingerprint": [_hash_rows(_to_rows(rows)) for rows in (before, after)],
        "different": [
            episode for episode in common if any(before[episode][name] != after[episode][name] for name in names)
        ],
        "return_error": max(errors) if errors and all(map(math.isfinite, errors)) else None,
        "unequal_returns": [episode for episode, pair in zip(common, returns, strict=True) if not _are_close(*pair)],
    }


def _are_close(old: float | None, new: float | None) -> bool:
    if old is None or new is None:
        return old is new
    if old == new or (math.isnan(old) and math.isnan(new)):
        return True
    return math.isfinite(new - old) and abs(new - old) <= RETURN_TOLERANCE * max(1.0, abs(old), abs(new))


def _to_rows(rows: Mapping[int, Mapping[str, Any]]) -> Iterable[tuple[Any, ...]]:
    return ((episode, *(rows[episode][name] for name in OUTCOME_COLUMNS[1:])) for episode in sorted(rows))


def _hash_rows(rows: Iterable[tuple[Any, ...]]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()
