"""Embeddings: a column of a pretrained encoder's outputs, computed once per version and trained on as a vector.

::

    <store>/.encoders/<sha256>.pt           weights of an encoder, in the form in which they are published
    <store>/.embeddings/<version>-<sha256>/ what an interrupted run computed; removed when the version is written

The unit of the column says what computed it, so that the column keeps its origin through every later version.
"""

import hashlib
import io
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from rlhive import keys
from rlhive._threads import torch_threads
from rlhive.data import write_atomically
from rlhive.errors import InvalidOptionError
from rlhive.policies import (
    DEFAULT_MODELS,
    DEFAULT_SIZES,
    FrozenEncoder,
    describe_embedding,
    load_frozen_encoder,
    save_frozen_weights,
)

if TYPE_CHECKING:
    from rlhive.dataset._dataset import RoboHiveDataset


def embed(
    dataset: "RoboHiveDataset",
    encoder: str = "r3m",
    *,
    weights: str | Path | None = None,
    model: str | None = None,
    resize: int | None = None,
    column: str = keys.PIXELS,
    into: str | None = None,
    name: str | None = None,
    batch_size: int = 64,
    device: str = "cpu",
    num_threads: int | None = 1,
    progress: bool = True,
) -> "RoboHiveDataset":
    """Write a version with the embeddings of its pictures as a further column, of which a policy can be trained.

    What is computed is kept until the version is written: an interrupted call goes on where it was.

    Args:
        dataset: A version or view with pictures, uint8 ``[height, width, 3]`` or ``[camera, height, width, 3]``.
        encoder: "r3m", "vip" or "torchvision".
        weights: File of the weights, "download" or "random"; see :func:`rlhive.policies.load_frozen_encoder`.
        model: torchvision's name of the network; "resnet18" by default, for VIP "resnet50".
        resize: Height and width in pixels to which pictures are resized; by default those of TorchRL's transforms,
            244, and 224 for torchvision.
        column: Column of the pictures.
        into: Name of the new column; ``<column>_<encoder>_<model>`` by default.
        name: Name of a new dataset; by default the next version of this one.
        batch_size: Observations that are encoded together.
        device: Device of the encoder.
        num_threads: Threads of torch; None for torch's own number, which is faster where no other process is busy.
        progress: Whether to show a progress bar.

    Returns:
        The new version. Its column is float32 ``[cameras · features]``, and its unit names the encoder and the sha256
        of its weights.

    Raises:
        InvalidOptionError: There is no such column of pictures, no such encoder, or no weights were named.
        CheckpointMismatchError: The file holds no weights of that model.
        SchemaMismatchError: The new column exists.
    """
    field = next((item for item in dataset.schema.fields if item.column == column), None)
    if field is None or field.dtype != "uint8" or not field.observed:
        msg = f"{dataset.name} {dataset.version}: expected pictures in the column {column!r}, got "
        raise InvalidOptionError(msg + ("none" if field is None else field.describe()))
    section = {
        "name": encoder,
        "model": model or DEFAULT_MODELS.get(encoder, ""),
        "resize": resize or DEFAULT_SIZES.get(encoder, 0),
    }
    network, digest = load_frozen_encoder(field.shape, section, weights)
    save_frozen_weights(network, section, find_weights(dataset.store, digest))
    version_hash = hashlib.sha256(f"{dataset.fingerprint} {column} {section}".encode()).hexdigest()
    finished = dataset.store / ".embeddings" / f"{version_hash[:16]}-{digest[:16]}"
    finished.mkdir(parents=True, exist_ok=True)
    progress_bar = tqdm(total=dataset.episodes.num_rows, desc=f"embed {column}", unit="ep", disable=not progress)
    with progress_bar as bar, torch_threads(num_threads):
        compute = _EpisodeEncoder(network.to(device), column, finished, batch_size, bar)
        embedded = dataset.add_column(
            into or f"{column}_{encoder}_{section['model']}",
            compute,
            name=name or dataset.name,
            unit=describe_embedding(column, section, digest),
        )
    shutil.rmtree(finished, ignore_errors=True)
    return embedded


def find_weights(store: Path, digest: str) -> Path:
    """Return the path at which :func:`embed` keeps the weights of a hash in a store."""
    return store / ".encoders" / f"{digest}.pt"


class _EpisodeEncoder:
    """Function from an episode's columns to its embeddings, which keeps what it computed in a folder.

    An episode is known by the hash of its pictures.
    """

    def __init__(self, network: FrozenEncoder, column: str, folder: Path, batch_size: int, bar: Any) -> None:
        self._network = network
        self._column = column
        self._folder = folder
        self._batch_size = batch_size
        self._bar = bar
        self._seen: set[Path] = set()

    def __call__(self, columns: Mapping[str, np.ndarray], final: Mapping[str, np.ndarray]) -> np.ndarray:
        pictures = np.concatenate([columns[self._column], final[self._column][None]])
        path = self._folder / f"{hashlib.sha256(pictures.tobytes()).hexdigest()}.npy"
        if path.exists():
            embeddings = np.load(path, allow_pickle=False)
        else:
            embeddings = self._encode(pictures)
            content = io.BytesIO()
            np.save(content, embeddings, allow_pickle=False)
            write_atomically(path, content.getvalue())
        if path not in self._seen:  # the first episode is computed twice: once for its shape
            self._seen.add(path)
            self._bar.update()
        return embeddings

    def _encode(self, pictures: np.ndarray) -> np.ndarray:
        device = next(self._network.parameters()).device
        parts = torch.split(torch.from_numpy(pictures), self._batch_size)
        return torch.cat([self._network(part.to(device)).cpu() for part in parts]).numpy()
