"""Instructions of an export to LeRobot: the task of every frame, and the table that numbers them."""

from collections.abc import Iterator

import numpy as np

from rlhive.data._episodes import EpisodeRecord
from rlhive.data.versions import Manifest
from rlhive.errors import UnsupportedFormatError

#: Where an instruction is looked for: string columns of these names, then keys of an episode's metadata.
_NAMES = ("task", "instruction", "language_instruction")


class LeRobotTasks:
    """The instructions of a version in the order of their first frames, numbered from 0.

    Args:
        manifest: Manifest of the version; its description is the instruction of episodes that have none.
        default: Instruction of episodes that have none, instead of the description.
        source: Name of the string column or metadata key that holds the instructions; None for the usual names.

    Raises:
        UnsupportedFormatError: The source is a column that holds no strings.
    """

    def __init__(self, manifest: Manifest, default: str | None, source: str | None):
        columns = {item.column: item for item in manifest.schema.fields}
        if source in columns and not columns[source].is_string:
            msg = f"task_from={source!r}: expected a column of strings, got {columns[source].describe()}."
            raise UnsupportedFormatError(msg)
        self._names = _NAMES if source is None else (source,)
        self._columns = [name for name in self._names if name in columns and columns[name].is_string]
        self._is_required = source is not None and default is None
        self._default = default or manifest.description or manifest.name
        self._context = manifest.name
        self._indices: dict[str, int] = {}

    def number(self, record: EpisodeRecord) -> np.ndarray:
        """Return the task_index of every frame of an episode, int64 ``[T]``.

        Raises:
            UnsupportedFormatError: The caller named where the instructions are, and the episode has none there.
        """
        texts = self._read_column(record) or [self._read_metadata(record)] * record.length
        return np.array([self._indices.setdefault(text, len(self._indices)) for text in texts], np.int64)

    def texts(self, indices: np.ndarray) -> list[str]:
        """Return the instructions of some frames, each once, in the order of the frames."""
        numbered = list(self._indices)
        return [numbered[index] for index in dict.fromkeys(indices.tolist())]

    def __len__(self) -> int:
        return len(self._indices)

    def __iter__(self) -> Iterator[str]:
        return iter(self._indices)

    def _read_column(self, record: EpisodeRecord) -> list[str]:
        """Return the instruction of every frame; empty where no column has one for any frame."""
        for name in self._columns:
            texts: list[str] = record.columns[name].tolist()
            if any(texts):
                return texts
        return []

    def _read_metadata(self, record: EpisodeRecord) -> str:
        for name in self._names:
            text = record.metadata.get(name)
            if text and isinstance(text, str):
                return text
        if self._is_required:
            msg = (
                f"{self._context}, episode {record.episode}: expected an instruction in the string column or the "
                f"metadata {self._names[0]!r}, got none. The option task gives one to the episodes without."
            )
            raise UnsupportedFormatError(msg)
        return self._default
