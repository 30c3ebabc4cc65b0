"""Pictures that a pretrained encoder embeds: its weights for a training, and the embeddings of collected episodes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDictBase
from torchrl.data import Composite, Unbounded
from torchrl.envs import EnvBase, TransformedEnv
from torchrl.envs.transforms import Transform

from rlhive import keys
from rlhive.data import Field
from rlhive.dataset import find_weights
from rlhive.errors import InvalidOptionError
from rlhive.policies import FrozenEncoder, load_frozen_encoder, parse_embedding


@dataclass(frozen=True)
class FrozenPictures:
    """Pictures that a pretrained encoder embeds.

    Attributes:
        column: Column of the pictures.
        embedded: Column of their embeddings.
        encoder: The encoder.
    """

    column: str
    embedded: str
    encoder: FrozenEncoder


def load_frozen_pictures(
    column: str,
    shape: tuple[int, ...],
    encoder: Mapping[str, Any],
    observed: Mapping[str, Field],
    store: Path | None,
    context: str,
) -> FrozenPictures:
    """Return the pretrained encoder of a column of pictures, whose embeddings stored data have already.

    Args:
        column: Column of the pictures.
        shape: Shape of the pictures of one observation.
        encoder: Section ``encoder`` of the configuration.
        observed: Fields of the data by column.
        store: Folder of all datasets; None for an environment's own pictures, which have no embeddings.
        context: Name of the data or the environment, for messages.

    Raises:
        InvalidOptionError: The data have no embeddings of this encoder, or its weights are not there.
    """
    section = {name: encoder[name] for name in ("name", "model", "resize")}
    weights = encoder["weights"]
    if store is None:
        network, _ = load_frozen_encoder(shape, section, weights)
        return FrozenPictures(column, f"{column}_{section['name']}_{section['model']}", network)
    for item in observed.values():
        embedding = parse_embedding(item.unit)
        if embedding is None or (embedding.column, dict(embedding.encoder)) != (column, section):
            continue
        path = weights or find_weights(store, embedding.digest)
        if weights is None and not Path(path).exists():
            msg = (
                f"{item.column} of {context} was computed with weights that are not on this machine (sha256 "
                f"{embedding.digest}): expected encoder.weights=FILE"
            )
            raise InvalidOptionError(msg)
        network, digest = load_frozen_encoder(shape, section, path)
        if digest != embedding.digest:
            msg = (
                f"encoder.weights={path}: {item.column} of {context} was computed with other weights, expected sha256 "
                f"{embedding.digest}, got {digest}"
            )
            raise InvalidOptionError(msg)
        return FrozenPictures(column, item.column, network)
    msg = (
        f"{context} has no embeddings of {column} by {section['name']} {section['model']} at {section['resize']} px. "
        f"Compute them: rlhive embed {context.split()[0]} --encoder {section['name']} --model {section['model']}"
    )
    raise InvalidOptionError(msg)


class EmbedPictures(Transform):
    """TorchRL transform that adds the embeddings of pictures to what an environment returns.

    Append it after a ``ParallelEnv``, as TorchRL's ``R3MTransform``: before it, every process has an encoder.

    Args:
        item: Pictures, their encoder, and the column of the embeddings.
    """

    def __init__(self, item: FrozenPictures) -> None:
        super().__init__(in_keys=[keys.column_to_key(item.column)], out_keys=[keys.column_to_key(item.embedded)])
        self._encoder = item.encoder

    def _apply_transform(self, pictures: torch.Tensor) -> torch.Tensor:
        return self._encoder(pictures)

    def _reset(self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase) -> TensorDictBase:
        return self._call(tensordict_reset)

    def transform_observation_spec(self, observation_spec: Composite) -> Composite:
        """Add the embeddings to the specification."""
        batch_shape = observation_spec.shape
        observation_spec[self.out_keys[0]] = Unbounded(
            (*batch_shape, self._encoder.feature_dim), dtype=torch.float32, device=observation_spec.device
        )
        return observation_spec


def embed_observations(env: EnvBase, frozen: Sequence[FrozenPictures]) -> EnvBase:
    """Return the environment with the embeddings of its pictures."""
    for item in frozen:
        env = TransformedEnv(env, EmbedPictures(item))
    return env
