"""LeRobot's writer and loader on given frames, for :mod:`benchmarks.video_storage`; runs in LeRobot's environment.

    python -m benchmarks.lerobot_frames FOLDER BATCH SECONDS

reads ``FOLDER/frames.npy``, writes a dataset with LeRobot's defaults, prints its size, and then reads random batches
for some seconds whenever a line arrives on standard input. All lines of output are JSON.
"""

import json
import os
import sys
import time
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}

import numpy as np
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from benchmarks.peers.lerobot import VIDEO

FPS, PICTURE = 30, "observation.images.camera"


def write(frames: np.ndarray, root: Path) -> float:
    """Write episodes ``[E, T, H, W, 3]``; return the frames per second."""
    features = {
        "action": {"dtype": "float32", "shape": (9,), "names": None},
        PICTURE: {"dtype": "video", "shape": frames.shape[2:], "names": ["height", "width", "channel"]},
    }
    started = time.perf_counter()
    dataset = LeRobotDataset.create("bench/frames", fps=FPS, features=features, root=root, robot_type="franka")
    for episode in frames:
        for frame in episode:
            dataset.add_frame({"action": np.zeros(9, np.float32), PICTURE: frame, "task": "turn the knob"})
        dataset.save_episode()
    dataset.finalize()
    return frames.shape[0] * frames.shape[1] / (time.perf_counter() - started)


def read(dataset: LeRobotDataset, batch_size: int, seconds: float, num_workers: int) -> tuple[float, float]:
    """Return frames per second, and per second of this process's CPU time, of random batches."""
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=batch_size, shuffle=True, num_workers=num_workers, persistent_workers=num_workers > 0
    )
    next(iter(loader))
    num_frames, started, cpu_started = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - started < seconds:
        for batch in loader:
            num_frames += len(batch[PICTURE])
            if time.perf_counter() - started >= seconds:
                break
    return num_frames / (time.perf_counter() - started), num_frames / (time.process_time() - cpu_started)


def main() -> None:
    """Write, then read whenever a line arrives."""
    folder, batch_size, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    root = folder / "lerobot"
    frames_per_s = write(np.load(folder / "frames.npy"), root)
    num_bytes = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    print(json.dumps({"bytes": num_bytes, "frames_per_s": frames_per_s}), flush=True)
    dataset = LeRobotDataset("bench/frames", root=root, video_backend=VIDEO)
    for _ in sys.stdin:
        alone, per_cpu_s = read(dataset, batch_size, seconds, 0)
        best = max(alone, read(dataset, batch_size, seconds, 2)[0])
        print(json.dumps({"frames_per_s": best, "frames_per_cpu_s": per_cpu_s}), flush=True)


if __name__ == "__main__":
    main()
