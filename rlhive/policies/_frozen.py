"""Pretrained encoders of pictures, whose weights stay as they are: R3M, VIP, and torchvision's models.

R3M (Nair et al., "R3M: A Universal Visual Representation for Robot Manipulation", CoRL 2022) and VIP (Ma et al., "VIP:
Towards Universal Visual Reward and Representation via Value-Implicit Pre-Training", ICLR 2023) are the networks of
TorchRL's ``R3MTransform`` and ``VIPTransform``: the same pictures give the same embeddings, at the same size.

Weights come from a file, from where TorchRL downloads them, or, if that is asked for, from a random generator. A file
is read as tensors only, and identified by a hash of the values, so that an embedding says what it was computed with.
"""

import functools
import hashlib
import io
import math
import re
import urllib.error
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rlhive._extras import require_extra
from rlhive.errors import CheckpointMismatchError, HubUnreachableError, InvalidOptionError
from rlhive.policies._files import replace_file
from rlhive.policies._pictures import require_pictures

R3M = "r3m"
VIP = "vip"
TORCHVISION = "torchvision"
FROZEN = (R3M, VIP, TORCHVISION)

#: Values of ``weights`` that are no files.
DOWNLOAD = "download"
RANDOM = "random"

#: Model and size of the pictures by default: for R3M and VIP those of TorchRL's transforms.
DEFAULT_MODELS = {R3M: "resnet18", VIP: "resnet50", TORCHVISION: "resnet18"}
DEFAULT_SIZES = {R3M: 244, VIP: 244, TORCHVISION: 224}

_EMBEDDING = re.compile(r"embedding of (\S+) by (r3m|vip|torchvision) (\w+) at (\d{2,4}) px, sha256 ([0-9a-f]{64})")

_MODELS = {R3M: ("resnet18", "resnet34", "resnet50"), VIP: ("resnet50",)}
_URLS = {
    (R3M, "resnet18"): "https://pytorch.s3.amazonaws.com/models/rl/r3m/r3m_18.pt",
    (R3M, "resnet34"): "https://pytorch.s3.amazonaws.com/models/rl/r3m/r3m_34.pt",
    (R3M, "resnet50"): "https://pytorch.s3.amazonaws.com/models/rl/r3m/r3m_50.pt",
    (VIP, "resnet50"): "https://pytorch.s3.amazonaws.com/models/rl/vip/model.pt",
}
_VIP_DIM = 1024
_MIN_SIZE, _MAX_SIZE = 32, 1024
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
_RANDOM_SEED = 0


class FrozenEncoder(nn.Module):
    """A pretrained network from pictures to embeddings; its weights are loaded by :func:`load_frozen_encoder`.

    Args:
        shape: Shape of the pictures of one observation, ``[height, width, 3]`` or ``[camera, height, width, 3]``.
        encoder: ``name`` ("r3m", "vip" or "torchvision"), ``model`` (name of torchvision's model) and ``resize``
            (height and width in pixels to which pictures are resized).

    Attributes:
        convnet: The network.
        feature_dim: Number of elements of the embedding of one observation, over all cameras.

    Raises:
        InvalidOptionError: No such encoder or model. MissingExtraError: torchvision is not installed.
    """

    def __init__(self, shape: Sequence[int], encoder: Mapping[str, Any]) -> None:
        super().__init__()
        require_pictures(shape, context="Pictures")
        self._shape = tuple(shape)
        self.convnet = _make_convnet(encoder.get("name"), encoder.get("model"))
        self._size = _require_size(encoder.get("resize"))
        self.eval().requires_grad_(False)
        self.feature_dim = math.prod(shape[:-3]) * _count_outputs(encoder["name"], encoder["model"], self._size)

    def train(self, mode: bool = True) -> "FrozenEncoder":
        """Stay in evaluation mode, in which an embedding does not depend on the batch that it is computed in."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of pictures.

        Args:
            pictures: uint8 ``[*batch, *shape]``.

        Returns:
            float32 ``[*batch, feature_dim]``; those of several cameras one after the other.
        """
        from torchvision.transforms.functional import resize

        batch_shape = pictures.shape[: pictures.ndim - len(self._shape)]
        flat = pictures.reshape(-1, *self._shape[-3:]).permute(0, 3, 1, 2).div(255)
        mean, std = (torch.tensor(values, device=flat.device).view(3, 1, 1) for values in (_MEAN, _STD))
        flat = (flat - mean) / std
        if flat.shape[-2:] != (self._size, self._size):
            flat = resize(flat, [self._size, self._size], antialias=True)
        return self.convnet(flat).reshape(*batch_shape, -1)


def load_frozen_encoder(
    shape: Sequence[int], encoder: Mapping[str, Any], weights: str | Path | None
) -> tuple[FrozenEncoder, str]:
    """Build a pretrained encoder and load its weights.

    Args:
        shape: Shape of the pictures of one observation.
        encoder: See :class:`FrozenEncoder`.
        weights: A file of weights: the one that TorchRL downloads for R3M and VIP, a ``state_dict`` for torchvision's
            models. "download" fetches it, "random" draws weights, always the same ones.

    Returns:
        The encoder, and the hash of its weights, see :func:`hash_weights`.

    Raises:
        InvalidOptionError: No such encoder, or no weights were named.
        CheckpointMismatchError: The file holds no weights of that model.
        HubUnreachableError: The weights cannot be downloaded.
    """
    if weights is None or not str(weights):
        msg = (
            f"encoder={encoder.get('name')}: expected weights, got none. Name the file that holds them, download to "
            "fetch them, or random for a network that has learned nothing"
        )
        raise InvalidOptionError(msg)
    if weights == RANDOM:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(_RANDOM_SEED)
            network = FrozenEncoder(shape, encoder)
    else:
        with torch.device("meta"):
            network = FrozenEncoder(shape, encoder)
        network.to_empty(device="cpu")
        state = _fetch_published(encoder) if weights == DOWNLOAD else _read_state(Path(weights))
        _load_state(network.convnet, state, encoder, context=str(weights))
    return network, hash_weights(network.convnet)


def hash_weights(network: nn.Module) -> str:
    """Return the sha256 of the names, dtypes, shapes and values of a network's ``state_dict``, in hexadecimal."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Embedding:
    """What the column of an embedding was computed with, as its unit says.

    Attributes:
        column: Column of the pictures.
        encoder: ``name``, ``model`` and ``resize`` of the encoder.
        digest: Hash of its weights.
    """

    column: str
    encoder: Mapping[str, Any]
    digest: str


def describe_embedding(column: str, encoder: Mapping[str, Any], digest: str) -> str:
    """Return the unit of a column of embeddings, which :func:`parse_embedding` reads."""
    return f"embedding of {column} by {encoder['name']} {encoder['model']} at {encoder['resize']} px, sha256 {digest}"


def parse_embedding(unit: str | None) -> Embedding | None:
    """Return what a unit says about an embedding; None if it says nothing about one."""
    match = _EMBEDDING.fullmatch(unit or "")
    if match is None:
        return None
    column, name, model, resize, digest = match.groups()
    return Embedding(column, {"name": name, "model": model, "resize": int(resize)}, digest)


def save_frozen_weights(network: FrozenEncoder, encoder: Mapping[str, Any], path: Path) -> None:
    """Write the weights of an encoder in the form in which they are published, unless the file exists."""
    if path.exists():
        return
    state: Mapping[str, Any] = network.convnet.state_dict()
    if encoder["name"] in (R3M, VIP):
        state = {encoder["name"]: {f"module.convnet.{name}": value for name, value in state.items()}}
    content = io.BytesIO()
    torch.save(dict(state), content)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, content.getvalue())


def _require_size(size: Any) -> int:
    if type(size) is not int or not _MIN_SIZE <= size <= _MAX_SIZE:
        msg = f"encoder.resize: expected {_MIN_SIZE} to {_MAX_SIZE} pixels, got {size!r:.80}"
        raise InvalidOptionError(msg)
    return size


def _make_convnet(name: Any, model: Any) -> nn.Module:
    """Return a network of torchvision without its classifier."""
    if name not in FROZEN:
        msg = f"encoder.name: expected one of {', '.join(FROZEN)}, got {name!r:.80}"
        raise InvalidOptionError(msg)
    with require_extra(f"encoder={name}: expected torchvision, got none. Install it: pip install 'rlhive[pixels]'"):
        from torchvision import models
    available = _MODELS.get(name) or models.list_models(module=models)
    if model not in available:
        msg = f"encoder.model: expected one of {', '.join(available)}, got {model!r:.80}"
        raise InvalidOptionError(msg)
    try:
        convnet = models.get_model(model, weights=None)
    except NotImplementedError as error:  # RegNets compute with their initial weights, and the meta device has none
        msg = f"encoder.model={model}: its sizes cannot be read before its weights are; choose another model"
        raise InvalidOptionError(msg) from error
    linear = [layer for layer, module in convnet.named_modules() if isinstance(module, nn.Linear)][-1:]
    if not linear or linear[0] != [layer for layer, _ in _leaves_with_parameters(convnet)][-1]:
        msg = f"encoder.model={model}: expected a model whose last layer is linear"
        raise InvalidOptionError(msg)
    parent, _, child = linear[0].rpartition(".")
    setattr(convnet.get_submodule(parent), child, nn.Linear(2048, _VIP_DIM) if name == VIP else nn.Identity())
    for module in convnet.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.num_batches_tracked = None  # counts training batches; no weight
    return convnet


@functools.cache
def _count_outputs(name: str, model: str, size: int) -> int:
    """Return the number of outputs of a network for one picture, computed without its weights."""
    with torch.device("meta"):
        convnet, pictures = _make_convnet(name, model).eval(), torch.zeros(1, 3, size, size)
    try:
        return int(convnet(pictures).shape[-1])
    except (RuntimeError, AssertionError, ValueError) as error:  # vision transformers take one size only
        msg = f"encoder: the model takes no pictures of {size} x {size} pixels: {error}"
        raise InvalidOptionError(msg) from error


def _leaves_with_parameters(network: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, module) for name, module in network.named_modules() if list(module.parameters(recurse=False))]


def _fetch_published(encoder: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the published weights of an encoder, which torch keeps in its folder of downloads."""
    name, model = encoder["name"], encoder["model"]
    try:
        if name == TORCHVISION:
            from torchvision.models import get_model_weights

            return get_model_weights(model).DEFAULT.get_state_dict(check_hash=True)
        return torch.hub.load_state_dict_from_url(_URLS[name, model], map_location="cpu", weights_only=True)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        msg = f"The weights of {name} {model} cannot be downloaded: {error}. Pass the file that holds them"
        raise HubUnreachableError(msg) from error


def _read_state(path: Path) -> Mapping[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        msg = f"encoder weights {path}: expected a file, got none. Or {DOWNLOAD}, or {RANDOM}"
        raise InvalidOptionError(msg) from error
    except Exception as error:  # torch.load documents no errors for damaged files
        msg = f"{path} holds no weights that can be read safely: expected a state_dict of tensors"
        raise CheckpointMismatchError(msg) from error
    if not isinstance(state, Mapping):
        msg = f"{path}: expected a state_dict of tensors, got {type(state).__name__}"
        raise CheckpointMismatchError(msg)
    return state


def _load_state(convnet: nn.Module, state: Mapping[str, Any], encoder: Mapping[str, Any], *, context: str) -> None:
    """Load the weights in the form of the encoder's publisher; those of a classifier are left out."""
    if encoder["name"] in (R3M, VIP):
        inner, prefix = state.get(encoder["name"]), "module.convnet."
        inner = inner if isinstance(inner, Mapping) else {}
        state = {name.removeprefix(prefix): value for name, value in inner.items() if str(name).startswith(prefix)}
    expected = convnet.state_dict()
    missing = [
        name
        for name, value in expected.items()
        if not isinstance(state.get(name), torch.Tensor) or state[name].shape != value.shape
    ]
    if missing:
        msg = (
            f"{context} holds no weights of {encoder['name']} {encoder['model']}: expected {missing[0]} of shape "
            f"{list(expected[missing[0]].shape)}, got {_describe(state.get(missing[0]))}"
        )
        raise CheckpointMismatchError(msg)
    copy_values(convnet, state)


@torch.no_grad()
def copy_values(network: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Copy the values of a ``state_dict`` into a network of the same shapes.

    torch's ``load_state_dict`` expects a count of training batches of every batch normalisation, which no frozen one
    has, unless the mapping has metadata of a kind that ``policy.pt`` does not hold.
    """
    for name, value in network.state_dict().items():
        value.copy_(state[name])


def _describe(value: object) -> str:
    return f"shape {list(value.shape)}" if isinstance(value, torch.Tensor) else "none"
