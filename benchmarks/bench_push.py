"""Bytes that a second push sends for one more episode, compared with the first push of the dataset.

    python -m benchmarks.bench_push --episodes 500

The unmodified client pushes to the tests' loopback Hub. "lfs" transfers whole files, identified by their hash; the
result is the size of the request bodies. "xet" transfers the client's content-defined chunks into the file store that
hf_xet provides; the result is the growth of that store. The benchmark sends no request to the real Hub.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from rlhive.data._episodes import EpisodeRecord
from rlhive.data._schema import Field, Schema
from rlhive.data.versions._export import export
from tests.hub_client import Clients
from tests.hub_server import serving

LENGTH = 200
SCHEMA = Schema(
    (
        Field("action", "float32", (9,), observed=False),
        Field("next.reward", "float64", (1,), observed=False),
        Field("next.terminated", "bool", (1,), observed=False),
        Field("next.truncated", "bool", (1,), observed=False),
        Field("observation", "float64", (75,), observed=True),
    )
)
PUSH = """
from pathlib import Path
from rlhive import RoboHiveDataset
answer = vars(RoboHiveDataset(Path(folder)).push_to_hub("org/walk", progress=False))
"""


def episode(number: int) -> EpisodeRecord:
    """Return a random walk with the dimensions of a kitchen episode: 75 observations, 9 actions, 200 steps."""
    generator = np.random.default_rng(number)
    states = generator.normal(size=(LENGTH + 1, 75)).cumsum(axis=0)
    columns = {
        "action": generator.uniform(-1, 1, (LENGTH, 9)).astype(np.float32),
        "next.reward": -np.abs(states[1:, :1]),
        "next.terminated": np.zeros((LENGTH, 1), bool),
        "next.truncated": np.arange(LENGTH)[:, None] == LENGTH - 1,
        "observation": states[:-1],
    }
    return EpisodeRecord(number, "train", columns, {"observation": states[-1]}, seed=number)


def stored(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measure(num_episodes: int, position: str, transport: str, shard_bytes: int, folder: Path) -> dict[str, object]:
    """Push two versions over one transport; return the bytes that each push sent."""
    ids = list(range(num_episodes + 1))
    missing_id = {"end": ids[-1], "start": ids[0]}[position]
    versions = {"1.0.0": [number for number in ids if number != missing_id], "2.0.0": ids}
    sent_bytes = []
    with serving() as hub, Clients(folder) as clients:
        if transport == "xet":
            hub.xet_store = folder / "xet"
            hub.xet_store.mkdir()
        client = clients.start(hub.url, HF_HUB_DISABLE_XET="0" if transport == "xet" else "1")
        for version, numbers in versions.items():
            options = {"version": version, "schema": SCHEMA, "license": "mit", "store": folder / "store"}
            version_folder = export(map(episode, numbers), "org/walk", shard_bytes=shard_bytes, **options)
            xet_bytes_before = stored(folder / "xet")
            hub.received.clear()
            client.run(PUSH, folder=str(version_folder))
            sent_bytes.append(sum(hub.received.values()) + stored(folder / "xet") - xet_bytes_before)
    return {
        "transport": transport,
        "shard_bytes": shard_bytes,
        "new_episode_at": position,
        "first_bytes": sent_bytes[0],
        "second_bytes": sent_bytes[1],
        "second_of_first": round(sent_bytes[1] / sent_bytes[0], 4),
    }


def main() -> None:
    """Measure every case and print one JSON line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=500)
    episodes = parser.parse_args().episodes
    cases = [("lfs", 256 * 2**20), ("lfs", 8 * 2**20), ("xet", 256 * 2**20)]
    for transport, shard_bytes in cases:
        for position in ("end", "start"):
            with tempfile.TemporaryDirectory() as folder:
                row = measure(episodes, position, transport, shard_bytes, Path(folder))
            sys.stdout.write(json.dumps(row) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
