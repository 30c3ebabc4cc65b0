"""Write files/lerobot/ with LeRobot's writer: pictures and video in v3.0, v2.1; read an export of RLHive with LeRobot.

    python -m benchmarks.peers.environments lerobot              # builds benchmarks/.venvs/lerobot, lerobot 0.4.4
    python -m benchmarks.peers.environments lerobot06            # the same with lerobot 0.6.1, which needs Python 3.12
    benchmarks/.venvs/lerobot/bin/python tests/data/formats/make_lerobot.py write v3.0
    benchmarks/.venvs/lerobot/bin/python tests/data/formats/make_lerobot.py cameras FOLDER    # two, in several files
    benchmarks/.venvs/lerobot/bin/python tests/data/formats/make_lerobot.py read FOLDER    # prints JSON
    benchmarks/.venvs/lerobot/bin/python tests/data/formats/make_lerobot.py digest FOLDER  # SHA-256 of every picture
    HF_ENDPOINT=… benchmarks/.venvs/lerobot/bin/python tests/data/formats/make_lerobot.py pull REPO FOLDER    # the same

v2.1 is what lerobot 0.3.3 writes; unpacked beside (pip download --no-deps lerobot==0.3.3) it runs in the same
environment:

    PYTHONPATH=UNPACKED benchmarks/.venvs/lerobot/bin/python tests/data/formats/make_lerobot.py write v2.1
"""

import hashlib
import json
import os
import sys
from pathlib import Path

import numpy as np

FILES = Path(__file__).parent / "files" / "lerobot"
FPS, SIZE = 10, 64
LENGTHS = (5, 3, 4)
#: Whether the episode ends with success; the second is cut off.
SOLVED = (True, False, True)
TASKS = ("turn the knob", "turn the knob", "open the door")


def truth(episode: int) -> dict[str, np.ndarray]:
    """Return the frames of an episode; the picture's colour tells episode and frame even after a video codec."""
    generator = np.random.default_rng(episode)
    length = LENGTHS[episode]
    rows = np.arange(length)
    picture = np.zeros((length, SIZE, SIZE, 3), np.uint8)
    picture[..., 0], picture[..., 1] = (40 * (episode + 1)), (50 * rows)[:, None, None]
    return {
        "observation.state": generator.normal(size=(length, 4)).astype(np.float32),
        "observation.images.top": picture,
        "action": generator.uniform(-1, 1, (length, 2)).astype(np.float32),
        "next.reward": generator.normal(size=(length, 1)).astype(np.float32),
        "next.done": (rows == length - 1)[:, None],
        "next.success": ((rows == length - 1) & SOLVED[episode])[:, None],
    }


def write(version: str) -> None:
    """Write one dataset with video, and for v3.0 one with pictures."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    for dtype in ("video", "image") if version == "v3.0" else ("video",):
        features = {
            name: {"dtype": values.dtype.name, "shape": values.shape[1:], "names": None}
            for name, values in truth(0).items()
        }
        features["observation.images.top"] |= {"dtype": dtype, "names": ["height", "width", "channel"]}
        root = FILES / f"{version}-{dtype}"
        dataset = LeRobotDataset.create("lab/frames", fps=FPS, features=features, root=root, robot_type="franka")
        for episode in range(len(LENGTHS)):
            frames = truth(episode)
            for row in range(LENGTHS[episode]):
                frame = {name: values[row] for name, values in frames.items()}
                if version == "v3.0":
                    dataset.add_frame({**frame, "task": TASKS[episode]})
                else:
                    dataset.add_frame(frame, task=TASKS[episode])
            dataset.save_episode()
        if version == "v3.0":
            dataset.finalize()


def write_cameras(folder: str, num_episodes: str = "20") -> None:
    """Write demonstrations of two cameras with noise, without rewards and ends, in several video files a camera."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    vectors = {"observation.state": 4, "action": 2}
    features = {name: {"dtype": "float32", "shape": (width,), "names": None} for name, width in vectors.items()}
    picture = {"dtype": "video", "shape": (96, 96, 3), "names": ["height", "width", "channel"]}
    features |= dict.fromkeys(("observation.images.top", "observation.images.wrist"), picture)
    dataset = LeRobotDataset.create("lab/cameras", fps=FPS, features=features, root=Path(folder), robot_type="franka")
    dataset.meta.update_chunk_settings(video_files_size_in_mb=1)
    for episode in range(int(num_episodes)):
        generator = np.random.default_rng(episode)
        for row in range(40 + episode):
            noise = generator.normal(0, 8, (2, 96, 96, 3))
            rising = np.arange(96)[:, None, None] + np.array([2 * row, 100 - row])[:, None, None, None]
            top, wrist = np.clip(rising + noise, 0, 255).astype(np.uint8)
            frame = {"observation.images.top": top, "observation.images.wrist": wrist, "task": TASKS[episode % 3]}
            frame |= {name: generator.normal(size=width).astype(np.float32) for name, width in vectors.items()}
            dataset.add_frame(frame)
        dataset.save_episode()
    dataset.finalize()


def read(repo_id: str, folder: str) -> None:
    """Print what LeRobot makes of a dataset; what the folder lacks comes from the Hub, by LeRobot's own tag."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    dataset = LeRobotDataset(repo_id, root=folder, video_backend="pyav")  # torchcodec needs the libraries of FFmpeg
    frames = [
        {name: value if isinstance(value, str) else value.tolist() for name, value in dataset[index].items()}
        for index in range(len(dataset))
    ]
    statistics = {
        name: {kind: np.asarray(value).tolist() for kind, value in part.items()}
        for name, part in dataset.meta.stats.items()
    }
    report = {"fps": dataset.fps, "episodes": dataset.num_episodes, "frames": frames, "statistics": statistics}
    sys.stdout.write(json.dumps(report))


def digest(folder: str) -> None:
    """Print the SHA-256 of every picture that LeRobot's loader decodes, uint8 ``[H, W, 3]``, by camera."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    dataset = LeRobotDataset("lab/cameras", root=folder, video_backend="pyav")
    hashes: dict[str, list[str]] = {name: [] for name in dataset.meta.camera_keys}
    for index in range(len(dataset)):
        for name, values in hashes.items():
            picture = (dataset[index][name] * 255).round().numpy().astype(np.uint8).transpose(1, 2, 0)
            values.append(hashlib.sha256(np.ascontiguousarray(picture).tobytes()).hexdigest())
    sys.stdout.write(json.dumps(hashes))


if __name__ == "__main__":
    verb, *words = sys.argv[1:]
    if verb != "pull":
        os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    if verb == "cameras":
        write_cameras(*words)
    elif verb == "write":
        write(*words)
    elif verb == "digest":
        digest(*words)
    else:
        read(*words if verb == "pull" else ("lab/ours", *words))
