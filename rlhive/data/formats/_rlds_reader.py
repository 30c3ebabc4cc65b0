"""The second pass over RLDS episodes: records of a TFDS file, turned into arrays of transitions."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from rlhive.data._episodes import REWARD, TRUNCATED
from rlhive.data.formats._episode_source import EpisodeArrays, Keeps, end_flags
from rlhive.data.formats._memory_limits import require_memory
from rlhive.data.formats._rlds_scan import EpisodeFlags, StepFeatures, read_flags, require_length
from rlhive.data.formats._tfds import Feature, TfdsShard
from rlhive.data.formats._tfds_values import read_feature, read_ragged, read_sequence_lengths
from rlhive.data.formats._tfrecord import Example

_INSTRUCTIONS = ("language_instruction", "natural_language_instruction")


@dataclass(frozen=True)
class RldsReader:
    """The way in which the episodes of a dataset are read, known after the scan.

    Attributes:
        features: The features of the dataset.
        last_step: "observation", "transition" or "each".
        sequence_lengths: Smallest and largest length of a sequence that every step has, by column.
    """

    features: StepFeatures
    last_step: str
    sequence_lengths: Mapping[str, tuple[int, int]]

    @property
    def padded_columns(self) -> list[str]:
        """The columns of sequences of different lengths, which are padded with zeros."""
        return [column for column, (shortest, longest) in self.sequence_lengths.items() if shortest != longest]

    def find_episodes(self, shard: TfdsShard) -> Iterator[tuple[str, Callable[[Keeps], EpisodeArrays]]]:
        """Yield the address of each episode of a file that has a transition, and the function that reads it.

        Raises:
            SchemaMismatchError: A record is damaged, or differs from features.json.
        """
        for number, example in enumerate(shard.read_examples()):
            flags = read_flags(self.features, example)
            length = flags.count_transitions(self.last_step)
            if length:
                origin = {"file": shard.path.name, "record": number}
                yield example.context, partial(self._read_arrays, example, flags, length, shard.split, origin)

    def _read_arrays(
        self, example: Example, flags: EpisodeFlags, length: int, split: str, origin: Mapping[str, Any], keeps: Keeps
    ) -> EpisodeArrays:
        steps = {
            column: self._read_steps(column, feature, example, flags)
            for column, feature in self.features.columns.items()
            if keeps(feature.name, column)
        }
        final = {column: steps[column][-1] for column in self.features.observed if column in steps}
        columns = {column: rows[:length] for column, rows in steps.items()}
        for column in self.padded_columns:
            if column in steps:
                lengths = read_sequence_lengths(self.features.columns[column], example)
                columns[f"{column}_length"] = lengths[:length]
        ends = end_flags(length, terminated=flags.is_terminal)
        if not flags.ends_last:
            ends[TRUNCATED][:] = False
        metadata = {**origin, **_read_metadata(self.features, example, flags)}
        task = self._find_task(steps)
        if task is not None:
            metadata["task"] = task
        # TFDS writes zeros where D4RL has no last state.
        is_blank = all(not value.any() for value in final.values() if value.dtype != object)
        if flags.is_terminal and (length == flags.length or is_blank):
            metadata["final_observation"] = "unknown"
        origins = {column: feature.name for column, feature in self.features.columns.items()}
        fields = {"split": split, "metadata": metadata}
        return EpisodeArrays(columns | ends, final, example.context, fields, origins=origins)

    def _find_task(self, steps: Mapping[str, np.ndarray]) -> str | None:
        """Return the instruction of an episode; None where it has none, or several."""
        for column, feature in self.features.columns.items():
            if feature.path[-1] in _INSTRUCTIONS and column in steps:
                texts = set(steps[column])
                return texts.pop() if len(texts) == 1 else None
        return None

    def _read_steps(self, column: str, feature: Feature, example: Example, flags: EpisodeFlags) -> np.ndarray:
        """Return the values of all steps, ``[length, *shape]``."""
        if feature.depth == 2:
            elements, lengths = read_ragged(feature, example)
            require_length(lengths, flags.length, feature, example)
            longest = self.sequence_lengths[column][1]
            num_bytes = len(lengths) * longest * math.prod(elements.shape[1:]) * elements.itemsize
            require_memory(num_bytes, elements.nbytes, f"{example.context}: {feature.name}, padded")
            return _pad_sequences(elements, lengths, longest)
        rows = read_feature(feature, example)
        require_length(rows, flags.length, feature, example)
        return rows[:, None] if column == REWARD and rows.ndim == 1 else rows


def _pad_sequences(elements: np.ndarray, lengths: np.ndarray, longest: int) -> np.ndarray:
    """Return sequences of different lengths as one array, padded with zeros, ``[num_steps, longest, *shape]``."""
    rows = np.zeros((len(lengths), longest, *elements.shape[1:]), elements.dtype)
    rows[np.arange(longest) < lengths[:, None]] = elements
    return rows


def _read_metadata(features: StepFeatures, example: Example, flags: EpisodeFlags) -> dict[str, Any]:
    """Return the features of an episode as nested dictionaries of JSON values."""
    metadata: dict[str, Any] = {} if flags.starts_first else {"is_first": False}
    for feature in features.episode:
        *parents, last = feature.path
        node = metadata
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = _to_json(read_feature(feature, example))
    return metadata


def _to_json(value: Any) -> Any:
    """Return an array as lists; None stands for NaN and infinities, which JSON does not have."""
    if isinstance(value, np.ndarray) and value.ndim:
        return [_to_json(item) for item in value]
    item = value.item() if hasattr(value, "item") else value
    return None if isinstance(item, float) and not np.isfinite(item) else item
