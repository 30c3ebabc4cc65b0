"""IQL on LeRobot datasets, opened by an address with a sparse reward: losses, and what the pictures take.

    python -m benchmarks.lerobot_iql tests/data/formats/files/lerobot/*     # v2.1, v3.0 with pictures, v3.0 with video
    benchmarks/.venvs/lerobot/bin/python tests/data/formats/make_lerobot.py cameras /tmp/cameras
    python -m benchmarks.lerobot_iql /tmp/cameras

The store is temporary, in the folder ``--work``: on the disk of the datasets, their videos are linked. The pictures
that the buffer serves are compared with PyAV's own decode of the videos.
"""

import argparse
import math
import sys
import tempfile
from pathlib import Path

import numpy as np

from rlhive import keys, train
from rlhive.dataset import RoboHiveDataset

STEPS = 40
OVERRIDES = (f"train.num_steps={STEPS}", f"train.log_every={STEPS}", "train.batch_size=32", "encoder=cnn")


def measure(folder: Path, store: Path) -> str:
    """Return a row of the table: sizes in MB, and IQL's losses after some steps."""
    dataset = RoboHiveDataset(f"lerobot:{folder.resolve()}", reward="sparse", store=store)
    num_frames = sum(compare_video(dataset, path) for path in sorted(folder.rglob("*.mp4")))
    result = train("iql", dataset.path, output_dir=store / "run", overrides=OVERRIDES, progress=False)
    losses = {name: value for name, value in result.curve[-1].items() if "loss" in name}
    if not losses or not all(map(math.isfinite, losses.values())):
        msg = f"{folder}: expected finite losses, got {losses}"
        raise ValueError(msg)
    sizes = [measure_files(folder, "*.mp4"), measure_files(dataset.path, "*"), measure_added(dataset.path, folder)]
    cells = [folder.name, str(len(dataset)), str(num_frames), *(f"{size / 1e6:.3f}" for size in sizes)]
    return "| " + " | ".join([*cells, ", ".join(f"{name} {value:.3f}" for name, value in losses.items())]) + " |"


def compare_video(dataset: RoboHiveDataset, path: Path) -> int:
    """Require that every frame of a video is a picture of the dataset, bit for bit; return their number."""
    import av

    key = next(part for part in path.parts if part.startswith("observation.images."))
    camera = key.removeprefix("observation.images.")
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24").tobytes() for frame in container.decode(video=0)]
    transitions = dataset.as_tensordict()
    column = transitions[keys.PIXELS, camera].numpy(), transitions[keys.NEXT, keys.PIXELS, camera].numpy()
    pictures = {np.ascontiguousarray(picture).tobytes() for rows in column for picture in rows}
    num_missing = sum(frame not in pictures for frame in frames)
    if num_missing:
        msg = f"{path}: expected the pictures that PyAV decodes, {num_missing} of {len(frames)} are missing"
        raise ValueError(msg)
    return len(frames)


def measure_files(folder: Path, pattern: str) -> int:
    """Return the size of the files below a folder, in bytes."""
    return sum(path.stat().st_size for path in folder.rglob(pattern) if path.is_file())


def measure_added(folder: Path, source: Path) -> int:
    """Return the bytes on the disk of the files below a folder that are not files of the source too, as ``du`` does."""
    inodes = {path.stat().st_ino for path in source.rglob("*")}
    files = [path.stat() for path in folder.rglob("*") if path.is_file()]
    return sum(status.st_blocks * 512 for status in files if status.st_ino not in inodes)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--work", type=Path, help="folder of the store")
    arguments = parser.parse_args()
    sizes = "video, MB | version, MB | added to the disk, MB"
    lines = [
        f"| dataset | transitions | frames equal to PyAV's | {sizes} | mean losses of {STEPS} steps |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    with tempfile.TemporaryDirectory(prefix="rlhive-lerobot-", dir=arguments.work) as store:
        for index, folder in enumerate(arguments.folders):
            lines.append(measure(folder, Path(store) / str(index)))
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
