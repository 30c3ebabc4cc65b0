"""The episode table as columns for the list: its own columns, and the entries of the metadata."""

import collections
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rlhive import keys
from rlhive.data import find_unrecorded
from rlhive.data.scores import add_scores
from rlhive.data.versions import SCORE_COLUMNS
from rlhive.viewer._json import to_cell

if TYPE_CHECKING:
    from rlhive.dataset import DatasetView

#: Episodes in the list; of a larger dataset the first ones.
MAX_ROWS = 100_000
#: Entries of the metadata that become columns.
MAX_METADATA_COLUMNS = 24

_COLUMNS = (keys.EPISODE, "split", "length", "return", "success", "ended", "seed", "policy", "run")
_DUPLICATE = "duplicate of"
#: Digits of a score: a condition on what the list shows then selects the same episodes in nearly all cases.
_SCORE_DIGITS = 6


def list_episodes(view: "DatasetView", scores: Any = None) -> dict[str, Any]:
    """Return the episodes of a view, in rising order of ids.

    Args:
        view: The episodes.
        scores: Arrow table of the scores of the version's episodes; None where they are not computed yet.

    Returns:
        ``columns``, name → list with a value per episode: None where nothing was recorded. An entry of the metadata
        is a column ``metadata.NAME``, as in a condition. ``duplicate of`` is the first episode with the same content
        hash, and is missing where all episodes differ. ``omitted`` is the number of episodes beyond :data:`MAX_ROWS`.
    """
    table = view.read_episode_table()
    omitted = max(0, len(table) - MAX_ROWS)
    table = table.slice(0, MAX_ROWS)
    unrecorded = find_unrecorded(view.manifest.schema)  # older versions hold 0.0 and False there
    columns: dict[str, list[Any]] = {
        name: [None] * len(table) if name in unrecorded else [to_cell(value) for value in table[name].to_pylist()]
        for name in _COLUMNS
    }
    columns |= _metadata_columns(table["metadata"].to_pylist())
    duplicates = _find_duplicates(columns[keys.EPISODE], table["content_hash"].to_pylist())
    if any(first is not None for first in duplicates):
        columns[_DUPLICATE] = duplicates
    if scores is not None:
        columns |= list_scores(add_scores(table.select([keys.EPISODE]), scores))
    return {"columns": columns, "omitted": omitted}


def list_scores(scores: Any) -> dict[str, list[Any]]:
    """Return the scores of the episodes in the list; a score that no episode has is left out.

    An episode that does not stand out has an empty text as ``outlier``, as in a condition.

    Args:
        scores: Arrow table of the scores of the episodes, in rising order of ids.
    """
    columns = {name: scores[name].slice(0, MAX_ROWS).to_pylist() for name in SCORE_COLUMNS}
    return {
        name: [_round_score(value) for value in values]
        for name, values in columns.items()
        if any(value is not None for value in values)
    }


def _round_score(value: Any) -> Any:
    return to_cell(float(f"{value:.{_SCORE_DIGITS}g}") if isinstance(value, float) else value)


def _metadata_columns(rows: Sequence[str]) -> dict[str, list[Any]]:
    """Return the most frequent entries of the metadata that are a bool, a number or a text."""
    entries = [dict(_flatten_metadata(json.loads(row), "metadata")) for row in rows]
    counts = collections.Counter(name for entry in entries for name in entry)
    names = sorted(name for name, _ in counts.most_common(MAX_METADATA_COLUMNS))
    return {name: [to_cell(entry.get(name)) for entry in entries] for name in names}


def _flatten_metadata(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield the simple values in nested dicts by their dotted name, in which every part is a word."""
    if isinstance(value, Mapping):
        for part, item in value.items():
            if part.isidentifier():
                yield from _flatten_metadata(item, f"{name}.{part}")
    elif isinstance(value, (bool, int, float, str)):
        yield name, value


def _find_duplicates(episodes: Sequence[int], hashes: Sequence[str]) -> list[int | None]:
    """Return for each episode the first one with the same content; None for a first one."""
    first: dict[str, int] = {}
    return [
        None if first.setdefault(content_hash, episode) == episode else first[content_hash]
        for episode, content_hash in zip(episodes, hashes, strict=True)
    ]
