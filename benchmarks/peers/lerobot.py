"""LeRobotDataset: Parquet and, with pictures, AV1 video; read through torch's DataLoader."""

import os
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}

import numpy as np
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from benchmarks.peers.source import ACTION, OBSERVATION, STACK, Source
from benchmarks.peers.worker import Drawing, UnavailableError, batch_of, folder_bytes, slice_of

REPO, FPS, TASK = "bench/episodes", 20, "turn the knob"
PICTURE = "observation.images.camera"
NAMES = {"observation.state": "observation", "action": "action", "next.reward": "reward", PICTURE: "pixels"}
try:  # torchcodec needs FFmpeg's shared libraries; PyAV bundles its own
    import torchcodec.decoders  # noqa: F401

    VIDEO = "torchcodec"
except (ImportError, RuntimeError):
    VIDEO = "pyav"


class Peer:
    """Adapter of ``create``, ``add_frame``, ``save_episode`` and ``finalize``, and of a shuffling DataLoader.

    LeRobotDataset stores one observation per action, so an item has no next observation. The variant is the number of
    loader workers.
    """

    picture = "video"

    def __init__(self, source: Source, folder: Path):
        self._source, self._root = source, Path(folder) / "dataset"
        os.environ["HF_HOME"] = str(Path(folder) / "home")

    def versions(self) -> dict[str, str]:
        """Return the versions of the measured libraries."""
        libraries = ("lerobot", "datasets", "pyarrow", "torch", "torchcodec", "av")
        return {name: metadata.version(name) for name in libraries} | {"video": VIDEO}

    def write(self) -> dict[str, Any]:
        """Record frame by frame with LeRobot's writer."""
        features = {
            "observation.state": {"dtype": "float32", "shape": (OBSERVATION,), "names": None},
            "action": {"dtype": "float32", "shape": (ACTION,), "names": None},
            "next.reward": {"dtype": "float32", "shape": (1,), "names": None},
            "next.done": {"dtype": "bool", "shape": (1,), "names": None},
        }
        if self._source.pixels is not None:
            shape = self._source.pixels.shape[1:]
            features[PICTURE] = {"dtype": self.picture, "shape": shape, "names": ["height", "width", "channel"]}
        dataset = LeRobotDataset.create(REPO, fps=FPS, features=features, root=self._root, robot_type="franka")
        for episode in self._source.episodes():
            for row in range(len(episode)):
                frame = {
                    "observation.state": np.array(episode.observation[row]),
                    "action": np.array(episode.action[row]),
                    "next.reward": np.array([episode.reward[row]]),
                    "next.done": np.array([episode.terminated[row] | episode.truncated[row]]),
                    "task": TASK,
                }
                if episode.pixels is not None:
                    frame[PICTURE] = np.array(episode.pixels[row])
                dataset.add_frame(frame)
            dataset.save_episode()
        dataset.finalize()
        return {"bytes": folder_bytes(self._root)}

    def open(self, workload: str, variant: str) -> Drawing:
        """Open a shuffling loader; windows and frame stacks by ``delta_timestamps``."""
        if workload in ("nstep_3", "prioritized", "open_cold"):
            msg = "LeRobotDataset has no such sampling"
            raise UnavailableError(msg)
        if workload == "open_warm":
            return Drawing(lambda: next(iter(self._loader(self._dataset(), 256, 0))), _arrays)
        size, width, workers = batch_of(workload), slice_of(workload), int(variant or 0)
        arrays = _arrays
        if width > 1:
            size, arrays = size // width, _windows
            moments = [step / FPS for step in range(width)]
            dataset = self._dataset({"observation.state": moments, "action": moments})
        elif workload == "stack_3":
            arrays = _stacked
            dataset = self._dataset({"observation.state": [step / FPS for step in range(1 - STACK, 1)]})
        else:
            dataset = self._dataset()
        return self._drawing(self._loader(dataset, size, workers, shuffle=workload != "iterate_256"), arrays)

    def _dataset(self, deltas: dict[str, list[float]] | None = None) -> LeRobotDataset:
        return LeRobotDataset(REPO, root=self._root, delta_timestamps=deltas, video_backend=VIDEO)

    def _loader(self, dataset: Any, size: int, workers: int, shuffle: bool = True) -> Any:
        return torch.utils.data.DataLoader(
            dataset,
            batch_size=size,
            shuffle=shuffle,
            num_workers=workers,
            drop_last=True,
            persistent_workers=workers > 0,
        )

    @staticmethod
    def _drawing(loader: Any, arrays: Any) -> Drawing:
        def batches() -> Any:
            while True:
                yield from loader

        running = batches()
        return Drawing(lambda: next(running), arrays, close=running.close)


def _arrays(batch: dict[str, Any]) -> dict[str, np.ndarray]:
    arrays = {source_name: batch[name].numpy() for name, source_name in NAMES.items() if name in batch}
    if "pixels" in arrays:  # float in [0, 1], channels first
        arrays["pixels"] = (arrays["pixels"].transpose(0, 2, 3, 1) * 255).round()
    return arrays | {"reward": arrays["reward"].ravel()}


def _windows(batch: dict[str, Any]) -> dict[str, np.ndarray]:
    # The other windows pass the end of their episode and are clamped.
    unpadded = ~batch["observation.state_is_pad"].any(dim=1).numpy()
    columns = {"observation": batch["observation.state"], "action": batch["action"]}
    return {name: values.numpy()[unpadded].reshape(-1, values.shape[-1]) for name, values in columns.items()}


def _stacked(batch: dict[str, Any]) -> dict[str, np.ndarray]:
    states = batch["observation.state"].numpy()
    return {"observation": states.reshape(len(states), -1), "action": batch["action"].numpy()}
