"""Pictures as files and as videos: size, quality, and frames per second, beside LeRobot on the same frames.

    python -m benchmarks.peers.environments lerobot         # once
    python -m benchmarks.video_storage                      # sizes and reading
    python -m benchmarks.video_storage --recording          # CPU time to encode 640 x 480 pixels
    python -m benchmarks.video_storage --caches             # size and speed of each image cache

Frames are those of a RoboHive kitchen, rendered, and the same with the noise of a sensor that differs in every frame.
Reading draws random batches: from a raw cache, and directly from the videos (``image_cache="none"``). Our buffer and
LeRobot's loader take turns, so that both meet the same load of the machine; the best turn counts. A transition has two
pictures, its own and the next one, and an item of LeRobot one: pictures are counted. Pictures that were read or encoded
are compared with the frames: they are equal, or of the PSNR that the manifest names.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tensordict import TensorDictBase

from benchmarks.peers.environments import VENVS
from benchmarks.picture_codecs import FRAMES, kitchen
from benchmarks.picture_storage import add_noise
from rlhive import RoboHiveDataset
from rlhive.data import EpisodeRecord
from rlhive.data._encoded_pictures import encode_pictures
from rlhive.data._picture_codecs import parse_storage
from rlhive.data._pictures import decode_rows, encode_rows, find_layout
from rlhive.data.replay import open_packed
from rlhive.data.versions import Manifest, export
from rlhive.data.versions._picture_loss import compare_pictures

CACHES = ("raw", "encoded", "none")
STORAGES = ("raw", "png", "jpeg", "ffv1", "av1", "h264", "h265")
RECORDING = (
    "png",
    "jpeg",
    "ffv1",
    "av1:preset=8",
    "av1:preset=10",
    "av1:preset=13",
    "h264",
    "h264:preset=0",
    "h265:preset=0",
)
NUM_EPISODES, BATCH, TURNS, TURN_S = 10, 64, 3, 2.0
SPEEDS = ("frames_per_s", "frames_per_cpu_s")
CAMERAS, RATE_HZ = 3, 30
EQUAL = float("inf")
#: PSNR in dB that no storage of ``--recording`` falls below.
MIN_PSNR = 25.0


def make_records(frames: np.ndarray) -> list[EpisodeRecord]:
    """Return episodes of a camera that saw the frames, each rolled sideways by another number of pixels."""
    records = []
    for episode in range(NUM_EPISODES):
        pixels = np.roll(frames, episode, axis=2)
        length = len(pixels) - 1
        ends = np.zeros((length, 1), bool)
        ends[-1] = True
        columns = {
            "pixels": pixels[:-1],
            "action": np.zeros((length, 9), np.float32),
            "next.reward": np.zeros((length, 1)),
            "next.terminated": np.zeros((length, 1), bool),
            "next.truncated": ends,
        }
        records.append(EpisodeRecord(episode, "train", columns, {"pixels": pixels[-1]}))
    return records


def count_picture_bytes(dataset: RoboHiveDataset) -> int:
    """Return the size of the shards, the episode table and the videos."""
    return sum(
        entry.bytes for entry in dataset.manifest.files if entry.path.startswith(("data/", "meta/episodes", "videos/"))
    )


def require_psnr(pictures: np.ndarray, frames: np.ndarray, psnr: float) -> None:
    """Raise AssertionError unless each picture ``[N, H, W, 3]`` has a PSNR to its frame, in dB; EQUAL for all bits."""
    for index, (picture, frame) in enumerate(zip(pictures, frames, strict=True)):
        error = np.square(picture.astype(np.int32) - frame).mean()
        got = 10 * np.log10(255**2 / error) if error else EQUAL
        if got < psnr - 0.01:  # the manifest rounds to 2 decimals
            msg = f"picture {index}: expected a PSNR of {psnr} dB, got {got:.2f}"
            raise AssertionError(msg)


def require_frames(batch: TensorDictBase, records: list[EpisodeRecord], psnr: float) -> None:
    """Raise AssertionError unless the pictures of a batch are those of its rows, of episodes of one length."""
    pixels = np.stack([np.concatenate([record.columns["pixels"], record.final["pixels"][None]]) for record in records])
    episodes, steps = np.divmod(batch["index"].numpy(), records[0].length)
    require_psnr(batch["pixels"].numpy(), pixels[episodes, steps], psnr)
    require_psnr(batch["next", "pixels"].numpy(), pixels[episodes, steps + 1], psnr)


def time_batches(
    dataset: RoboHiveDataset, image_cache: str, records: list[EpisodeRecord], psnr: float
) -> dict[str, float]:
    """Return frames per second, and per second of CPU time, of random batches in one turn."""
    buffer = dataset.as_replay_buffer(batch_size=BATCH, image_cache=image_cache, seed=0, keys=["pixels"])
    require_frames(buffer.sample(), records, psnr)
    num_frames, started, cpu_started = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - started < TURN_S:
        num_frames += 2 * len(buffer.sample())
    wall_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
    return {"frames_per_s": num_frames / wall_s, "frames_per_cpu_s": num_frames / cpu_s}


def measure(frames: np.ndarray, folder: Path) -> Iterator[dict[str, float | str]]:
    """Yield size, quality and speed of each storage, then of LeRobot."""
    records, datasets, least_psnr = make_records(frames), {}, {}
    raw_bytes = NUM_EPISODES * frames.nbytes
    rows: dict[str, dict[str, float | str]] = {}
    for storage in STORAGES:
        started = time.perf_counter()
        path = export(records, f"bench/{storage}", license="mit", store=folder, storage={"pixels": storage})
        seconds = time.perf_counter() - started
        dataset = datasets[storage] = RoboHiveDataset(path, store=folder)
        loss = Manifest.read(path).picture_loss.get("train", {}).get("pixels", {})
        rows[storage] = {
            "storage": storage,
            "size": count_picture_bytes(dataset) / raw_bytes,
            "psnr": loss.get("psnr", EQUAL),
            "write": NUM_EPISODES * len(frames) / seconds,
        }
        least_psnr[storage] = loss.get("min_psnr", EQUAL)
    peer = LeRobotReader(frames, folder)
    rows["lerobot"] = {"storage": "LeRobot (AV1, crf 30, g 2)", "size": peer.num_bytes / raw_bytes, "write": peer.write}
    for _ in range(TURNS):
        _take_turn(rows["lerobot"], "direct", peer.time_batches())
        for storage, dataset in datasets.items():
            psnr = least_psnr[storage]
            _take_turn(rows[storage], "cache", time_batches(dataset, "raw", records, psnr))
            if dataset.schema["pixels"].is_video:
                _take_turn(rows[storage], "direct", time_batches(dataset, "none", records, psnr))
    peer.close()
    yield from rows.values()


class LeRobotReader:
    """LeRobot's loader in its own environment, which reads in turns.

    Args:
        frames: Frames of an episode.
        folder: Folder of the dataset.
    """

    def __init__(self, frames: np.ndarray, folder: Path):
        np.save(folder / "frames.npy", np.stack([record.columns["pixels"] for record in make_records(frames)]))
        command = [VENVS / "lerobot/bin/python", "-m", "benchmarks.lerobot_frames", folder, str(BATCH), str(TURN_S)]
        environment = {**os.environ, "HF_HOME": str(folder / "home")}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        written = self._read()
        self.num_bytes, self.write = written["bytes"], written["frames_per_s"]

    def time_batches(self) -> dict[str, float]:
        """Return frames per second with the better number of workers, and per second of CPU time without any."""
        self._process.stdin.write("read\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> dict[str, float]:
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(self._process.wait())


def _take_turn(row: dict[str, float | str], name: str, speeds: dict[str, float]) -> None:
    for key, speed in speeds.items():
        row[f"{name}.{key}"] = max(row.get(f"{name}.{key}", 0.0), speed)


def print_reading(side: int) -> None:
    """Print a table of sizes and speeds for rendered frames and for noisy ones."""
    rendered = kitchen(side)
    for name, frames in ((f"kitchen {side}²", rendered), (f"kitchen {side}², noise", add_noise(rendered))):
        print(f"\n{name}: {NUM_EPISODES} episodes of {FRAMES} frames")
        titles = ("size", "PSNR, dB", "written/s", "from cache/s", "… per CPU second", "directly/s", "… per CPU second")
        print(f"| storage | {' | '.join(titles)} |\n| --- |" + " ---: |" * len(titles))
        with tempfile.TemporaryDirectory() as folder:
            for row in measure(frames, Path(folder)):
                psnr = row.get("psnr")
                quality = "" if psnr is None else "equal" if psnr == EQUAL else f"{psnr:.1f}"
                names = ["write", *(f"{name}.{key}" for name in ("cache", "direct") for key in SPEEDS)]
                speeds = (f"{row[key]:,.0f}" if key in row else "" for key in names)
                print(f"| {row['storage']} | {row['size']:.4f} | {quality} | " + " | ".join(speeds) + " |")


def print_recording() -> None:
    """Print the CPU time of a frame of 640 x 480 pixels, and which share of two cores three cameras take."""
    frames = kitchen(480)
    frames = add_noise(np.concatenate([frames, frames[:, :, :160]], axis=2))
    print(f"{len(frames)} frames of 640 x 480 pixels with noise; {CAMERAS} cameras at {RATE_HZ} Hz on 2 cores")
    titles = ("ms per frame", "share of 2 cores", "ms to commit a frame", "size")
    print(f"| storage | {' | '.join(titles)} |\n| --- |" + " ---: |" * len(titles))
    for storage in RECORDING:
        started = time.process_time()
        if storage == "png":
            contents = encode_rows(frames)
        else:
            encoded = encode_pictures(frames, None, str(parse_storage(storage)))
            contents = [*encoded.contents, *(packet for clip in encoded.clips for packet in clip.packets())]
        ms = (time.process_time() - started) / len(frames) * 1e3
        num_bytes = sum(map(len, contents))
        if storage == "png":
            pictures = decode_rows(contents, "uint8", frames.shape[1:], context=storage)
        else:
            pictures = encoded.decode("uint8", frames.shape[1:])
        require_psnr(pictures, frames, MIN_PSNR if parse_storage(storage).is_lossy else EQUAL)
        share, commit_ms = CAMERAS * RATE_HZ * ms / 2e3, ms
        if parse_storage(storage).is_lossy:  # a commit also decodes what readers will get, and says what was lost
            started = time.process_time()
            compare_pictures(frames, encoded.decode("uint8", frames.shape[1:]), find_layout("uint8", frames.shape[1:]))
            commit_ms += (time.process_time() - started) / len(frames) * 1e3
        print(f"| {storage} | {ms:.1f} | {share:.0%} | {commit_ms:.1f} | {num_bytes / frames.nbytes:.3f} |", flush=True)


def print_caches(side: int) -> None:
    """Print size and speed of every image cache, for rendered frames and for noisy ones."""
    rendered = kitchen(side)
    print(f"kitchen {side}²: {NUM_EPISODES} episodes of {FRAMES} frames; share of raw pictures; frames per CPU second")
    print("| version | frames | raw | encoded | none | raw/s | encoded/s | none/s |\n| --- | --- |" + " ---: |" * 6)
    for name, frames in (("rendered", rendered), ("with noise", add_noise(rendered))):
        for storage in ("png", "av1", "h264"):
            with tempfile.TemporaryDirectory() as folder:
                rows = list(measure_caches(frames, storage, Path(folder)))
            empty = [""] * (len(CACHES) - len(rows))
            shares, speeds = zip(*((f"{share:.3f}", f"{speed:,.0f}") for share, speed in rows), strict=True)
            print(f"| {storage} | {name} | " + " | ".join([*shares, *empty, *speeds, *empty]) + " |", flush=True)


def measure_caches(frames: np.ndarray, storage: str, folder: Path) -> Iterator[tuple[float, float]]:
    """Yield the share of the raw pictures that each image cache of a version takes, and its frames per CPU second."""
    records = make_records(frames)
    path = export(records, f"bench/{storage}", license="mit", store=folder, storage={"pixels": storage})
    psnr = Manifest.read(path).picture_loss.get("train", {}).get("pixels", {}).get("min_psnr", EQUAL)
    dataset = RoboHiveDataset(path, store=folder)
    for kind in CACHES if dataset.schema["pixels"].is_video else CACHES[:2]:
        speeds = [time_batches(dataset, kind, records, psnr)["frames_per_cpu_s"] for _ in range(TURNS)]
        target = open_packed(path, dataset.manifest, image_cache=kind, dtype="float32", store=folder).folder
        sizes = [file.stat().st_size for file in target.glob("wide-*") if file.stat().st_nlink == 1]
        yield sum(sizes) / (NUM_EPISODES * frames.nbytes), max(speeds)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--side", type=int, default=128, help="size of the pictures in pixels")
    parser.add_argument("--recording", action="store_true", help="measure the encoding of three cameras instead")
    parser.add_argument("--caches", action="store_true", help="measure the image caches instead")
    arguments = parser.parse_args()
    if arguments.recording:
        print_recording()
    elif arguments.caches:
        print_caches(arguments.side)
    else:
        print_reading(arguments.side)


if __name__ == "__main__":
    main()
