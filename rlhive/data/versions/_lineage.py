"""Lineage: whether two versions belong to one history."""

from collections.abc import Iterable
from typing import Any

from rlhive.data.versions._manifest import Manifest


def share_history(first: Manifest, second: Manifest) -> bool:
    """Whether two versions have the same content, a recording run in common, or one is derived from the other.

    Versions without runs and parents, which hold episodes of unknown origin, share no history with another content.
    """
    if not _list_texts(first.runs, "run").isdisjoint(_list_texts(second.runs, "run")):
        return True
    return not _list_fingerprints(first).isdisjoint(_list_fingerprints(second))


def _list_fingerprints(manifest: Manifest) -> set[str]:
    """Return the fingerprints of a version and of its parents."""
    return {manifest.fingerprint, *_list_texts(manifest.parents, "fingerprint")}


def _list_texts(rows: Iterable[Any], name: str) -> set[str]:
    """Return the values of a field that are texts and not empty; a manifest may come from anywhere."""
    values = [row.get(name) for row in rows if isinstance(row, dict)]
    return {value for value in values if isinstance(value, str) and value}
