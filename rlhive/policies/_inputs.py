"""What a policy reads besides ``observation``: several vectors of the environment, and pictures through an encoder.

::

    vectors ──────────────────────────┐
    pictures ─► frozen encoder ───────┴─► concatenated ─► normaliser ─┬─► features of the actor
    pictures ─► CNN, trained with the policy ─────────────────────────┘
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import nn

from rlhive import keys
from rlhive.errors import InvalidOptionError
from rlhive.normalization import Normalizer
from rlhive.policies._frozen import FROZEN, FrozenEncoder
from rlhive.policies._pictures import CNN, PictureCNN, require_pictures

_MAX_SIZE = 2**31
_MAX_KEYS = 64


@dataclass(frozen=True)
class PolicyInputs:
    """Keys of the environment that a policy reads, in the order in which its features are concatenated.

    Attributes:
        vectors: Size of each vector by its key's column name, for example ``{"robot_jnt": 9}``.
        pictures: Shape of each key of pictures by its column name, ``{"pixels": (2, 84, 84, 3)}``.
        encoder: Section ``encoder`` of the configuration: the network of the pictures; None without pictures.
    """

    vectors: Mapping[str, int]
    pictures: Mapping[str, tuple[int, ...]]
    encoder: Mapping[str, Any] | None = None

    @property
    def is_frozen(self) -> bool:
        """Whether the encoder is pretrained and was not trained with the policy."""
        return self.encoder is not None and self.encoder.get("name") in FROZEN

    @property
    def in_keys(self) -> list[keys.NestedKey]:
        """Keys of the environment."""
        return [keys.column_to_key(column) for column in (*self.vectors, *self.pictures)]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each input by its column name."""
        return {**{column: (size,) for column, size in self.vectors.items()}, **self.pictures}

    def make_encoders(self) -> list[PictureCNN | FrozenEncoder]:
        """Return one network per key of pictures.

        Raises:
            InvalidOptionError: The section ``encoder`` describes none.
        """
        return [make_picture_encoder(shape, self.encoder or {}) for shape in self.pictures.values()]

    def to_json(self) -> dict[str, Any]:
        """Return the entry ``inputs`` of ``checkpoint.json``."""
        pictures = {column: list(shape) for column, shape in self.pictures.items()}
        encoder = None if self.encoder is None else dict(self.encoder)
        return {"vectors": dict(self.vectors), "pictures": pictures, "encoder": encoder}

    @classmethod
    def from_json(cls, entry: object) -> Self:
        """Return the inputs that an entry of ``checkpoint.json`` describes, every value checked.

        Raises:
            InvalidOptionError: It describes none; the message says which value, what was expected and what was found.
        """
        if not isinstance(entry, dict):
            msg = f"inputs: expected an object, got {entry!r:.80}"
            raise InvalidOptionError(msg)
        vectors, pictures, encoder = (entry.get(name) for name in ("vectors", "pictures", "encoder"))
        if not isinstance(vectors, dict) or not isinstance(pictures, dict) or len(vectors) + len(pictures) > _MAX_KEYS:
            msg = f"inputs: expected objects vectors and pictures of at most {_MAX_KEYS} entries"
            raise InvalidOptionError(msg)
        for column, size in vectors.items():
            _require_column(column)
            if type(size) is not int or not 1 <= size <= _MAX_SIZE:
                msg = f"inputs.vectors.{column}: expected a size of at least 1, got {size!r:.80}"
                raise InvalidOptionError(msg)
        for column, shape in pictures.items():
            _require_column(column)
            require_pictures(shape if isinstance(shape, list) else (), context=f"inputs.pictures.{column}")
        if not isinstance(encoder, dict) and (pictures or encoder is not None):
            msg = f"inputs.encoder: expected an object, got {encoder!r:.80}"
            raise InvalidOptionError(msg)
        return cls(vectors, {column: tuple(shape) for column, shape in pictures.items()}, encoder)


def make_picture_encoder(shape: tuple[int, ...], encoder: Mapping[str, Any]) -> PictureCNN | FrozenEncoder:
    """Return the network from pictures of a shape to features; its attribute ``feature_dim`` is their number.

    Raises:
        InvalidOptionError: There is no encoder of that name, or an option of it is out of range.
    """
    name = encoder.get("name")
    if name == CNN:
        return PictureCNN(shape, encoder)
    if name in FROZEN:
        return FrozenEncoder(shape, encoder)
    msg = f"encoder.name: expected one of {', '.join((CNN, *FROZEN))}, got {name!r:.80}"
    raise InvalidOptionError(msg)


def count_normalized(inputs: PolicyInputs) -> int:
    """Return the number of elements that the normaliser of a policy takes: of vectors and frozen embeddings."""
    num_elements = sum(inputs.vectors.values())
    if inputs.is_frozen:
        num_elements += sum(encoder.feature_dim for encoder in inputs.make_encoders())
    return num_elements


class InputEncoder(nn.Module):
    """First part of a deployed policy: from the values of the inputs to the features of the actor.

    Args:
        inputs: The inputs.
        normalizer: Normaliser of the concatenated vectors, and of the embeddings of a frozen encoder after them.
    """

    def __init__(self, inputs: PolicyInputs, normalizer: Normalizer) -> None:
        super().__init__()
        self._num_vectors = len(inputs.vectors)
        self._are_frozen = inputs.is_frozen
        self.normalizer = normalizer
        self.encoders = nn.ModuleList(inputs.make_encoders())

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        """Return the features ``[*batch, feature_dim]``, float32.

        Args:
            values: Vectors and pictures, in the order of :attr:`PolicyInputs.in_keys`.
        """
        vectors, pictures = list(values[: self._num_vectors]), values[self._num_vectors :]
        features = [encoder(value) for encoder, value in zip(self.encoders, pictures, strict=True)]
        if self._are_frozen:
            vectors, features = [*vectors, *features], []
        if vectors:
            joined = torch.cat([vector.to(torch.float64) for vector in vectors], -1)
            features = [self.normalizer(joined), *features]
        return torch.cat(features, -1)


def _require_column(column: str) -> None:
    """Raise InvalidOptionError unless a text names a key of an environment."""
    try:
        keys.key_to_column(keys.column_to_key(column))
    except ValueError as error:
        msg = f"inputs: expected the name of a key, got {column!r:.80}"
        raise InvalidOptionError(msg) from error
