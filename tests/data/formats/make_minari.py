"""Write files/minari/ with Minari's writer, in its three storages; read an export of RLHive with Minari.

python -m benchmarks.peers.environments minari          # builds benchmarks/.venvs/minari
benchmarks/.venvs/minari/bin/python tests/data/formats/make_minari.py write
benchmarks/.venvs/minari/bin/python tests/data/formats/make_minari.py read FOLDER    # prints JSON
"""

import json
import sys
from pathlib import Path

import numpy as np

FILES = Path(__file__).parent / "files" / "minari"
STORAGES = ("hdf5", "arrow", "parquet")
#: The same in HDF5 with the pictures as JPEG, Minari's default.
LOSSY = "hdf5-jpeg"
LENGTHS = (5, 1, 3)
TERMINATED = (True, False, False)


def truth(episode: int) -> dict:
    """Return an episode of every kind of space, T+1 observations and infos, T of the rest; float values are exact."""
    generator = np.random.default_rng(episode)
    length = LENGTHS[episode]
    ends = np.arange(length) == length - 1
    return {
        "observations": {
            "pose": generator.normal(size=(length + 1, 3)),
            "goal": (
                generator.integers(1, 5, length + 1),
                generator.normal(size=(length + 1, 2, 2)).astype(np.float32),
            ),
            "camera": generator.integers(0, 256, (length + 1, 32, 32, 3), dtype=np.uint8),
            "order": [f"öffne Schublade {episode}.{row}" for row in range(length + 1)],
        },
        "actions": {
            "move": generator.uniform(-1, 1, (length, 2)).astype(np.float32),
            "grip": generator.integers(0, 3, length),
        },
        "rewards": generator.normal(size=length),
        "terminations": ends & TERMINATED[episode],
        "truncations": ends & (not TERMINATED[episode]),
        "infos": {
            "success": np.arange(length + 1) == length,
            "state": {"qpos": generator.normal(size=(length + 1, 4))},
        },
    }


def write() -> None:
    """Write one dataset per storage."""
    import gymnasium as gym
    from gymnasium import spaces
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    letters = "".join(sorted({letter for row in range(3) for letter in "".join(truth(row)["observations"]["order"])}))
    observation = spaces.Dict(
        {
            "pose": spaces.Box(-np.inf, np.inf, (3,), np.float64),
            "goal": spaces.Tuple((spaces.Discrete(4, start=1), spaces.Box(-9, 9, (2, 2), np.float32))),
            "camera": spaces.Box(0, 255, (32, 32, 3), np.uint8),
            "order": spaces.Text(40, charset=letters),
        }
    )
    action = spaces.Dict({"move": spaces.Box(-1, 1, (2,), np.float32), "grip": spaces.Discrete(3)})
    for name in (*STORAGES, LOSSY):
        folder = FILES / name / "data"
        folder.mkdir(parents=True)
        storage = MinariStorage.new(
            folder,
            observation,
            action,
            gym.spec("CartPole-v1"),
            data_format=name.split("-")[0],
            jpeg_encoding=name == LOSSY,
        )
        for episode in range(len(LENGTHS)):
            options = {"level": episode} if episode else None
            storage.update_episodes([EpisodeBuffer(seed=100 + episode, options=options, **truth(episode))])
        described = {"dataset_id": f"lab/spaces-{name}-v0", "minari_version": "0.5.4", "algorithm_name": "none"}
        storage.update_metadata({**described, "author": {"RLHive"}})


def read(folder: str) -> None:
    """Print what Minari makes of a dataset."""
    import minari

    dataset = minari.MinariDataset(Path(folder) / "data")
    metadata = list(dataset.storage.get_episode_metadata(range(dataset.total_episodes)))
    episodes = [
        {
            "seed": metadata[episode.id].get("seed"),
            **{
                name: plain(getattr(episode, name))
                for name in ("observations", "actions", "rewards", "terminations", "truncations", "infos")
            },
        }
        for episode in dataset.iterate_episodes()
    ]
    sys.stdout.write(json.dumps({"id": dataset.id, "steps": int(dataset.total_steps), "episodes": episodes}))


def plain(value: object) -> object:
    """Return nested arrays as lists."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple):
        return {str(index): plain(inner) for index, inner in enumerate(value)}
    return np.asarray(value).tolist()


if __name__ == "__main__":
    write() if sys.argv[1] == "write" else read(sys.argv[2])
