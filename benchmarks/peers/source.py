"""The episodes that every peer stores and serves, and the verification of served batches.

A source is a folder of NumPy files; episode ``e`` of length T has T + 1 observations::

    lengths.npy       int64   [E]
    observation.npy   float32 [N + E, 75]    the final observation follows those of its episode
    action.npy        float32 [N, 9]
    reward.npy        float32 [N]
    terminated.npy    bool    [N]
    truncated.npy     bool    [N]
    pixels.npy        uint8   [N + E, H, W, 3]     only of the kind "pixels"

Element 0 of an observation is its row number. It identifies the transitions of a served batch, which are compared with
the source bit for bit after the timing. Without that comparison, a loader of zeros would win.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

OBSERVATION, ACTION = 75, 9
GAMMA, NUM_STEPS, STACK = 0.99, 3, 3
#: Largest number up to which float32 holds every integer, as element 0 of an observation needs.
MAX_ROWS = 2**24

KINDS = ("walk", "noise", "pixels")
_MOVING = 24


class WrongValuesError(AssertionError):
    """A peer served values that differ from the source."""


@dataclass(frozen=True)
class Episode:
    """One episode, as views of the arrays of the source."""

    index: int
    observation: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    pixels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.action)


class Source:
    """An open source; its arrays are mapped read-only.

    Args:
        folder: Folder that :func:`make` filled.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.kind: str = json.loads((self.folder / "source.json").read_text())["kind"]
        self.lengths = np.load(self.folder / "lengths.npy")
        self.first = np.cumsum(self.lengths) - self.lengths
        self.observation, self.action, self.reward, self.terminated, self.truncated = (
            np.load(self.folder / f"{name}.npy", mmap_mode="r")
            for name in ("observation", "action", "reward", "terminated", "truncated")
        )
        pixels = self.folder / "pixels.npy"
        self.pixels = np.load(pixels, mmap_mode="r") if pixels.exists() else None

    def __len__(self) -> int:
        return len(self.action)

    @property
    def raw_bytes(self) -> int:
        """Bytes of all arrays."""
        return sum(path.stat().st_size for path in self.folder.glob("*.npy"))

    def episodes(self) -> Iterator[Episode]:
        """Yield every episode in order."""
        for index, (first, length) in enumerate(zip(self.first.tolist(), self.lengths.tolist(), strict=True)):
            rows, observed_rows = slice(first, first + length), slice(first + index, first + index + length + 1)
            yield Episode(
                index,
                self.observation[observed_rows],
                self.action[rows],
                self.reward[rows],
                self.terminated[rows],
                self.truncated[rows],
                None if self.pixels is None else self.pixels[observed_rows],
            )

    def rows(self) -> np.ndarray:
        """Return the row of the observation of every transition, int64 ``[N]``."""
        return np.arange(len(self)) + np.repeat(np.arange(len(self.lengths)), self.lengths)

    def check(self, batches: list[Mapping[str, np.ndarray]], kind: str) -> dict[str, dict[str, float]]:
        """Compare served batches with the source.

        Args:
            batches: Arrays ``[B, …]`` named ``observation``, ``action``, ``reward``, ``next_observation``,
                ``terminated``, ``truncated``, ``pixels``; arrays that a peer does not serve are left out. A next
                observation of NaN is one that the peer does not store.
            kind: ``"transitions"``, ``"slices:16"`` (concatenated windows of 16 rows), ``"nstep"``, ``"stack"``
                (observation ``[B, 3 * 75]``, the newest last) or ``"first"`` (the first batch of several openings,
                which may repeat).

        Returns:
            Mean of each key in the served batches and in the source.

        Raises:
            WrongValuesError: A key differs from the source, or the same few rows were served again and again.
        """
        served = {name: np.concatenate([np.asarray(batch[name]) for batch in batches]) for name in batches[0]}
        count = len(served["observation"])
        served["observation"] = served["observation"].reshape(count, -1)
        row = served["observation"][:, -OBSERVATION].astype(np.int64)
        episode = np.searchsorted(self.first + np.arange(len(self.first)), row, side="right") - 1
        step = row - episode - self.first[episode]
        if (step < 0).any() or (step >= self.lengths[episode]).any():
            msg = (
                f"observation: row {int(row[(step < 0) | (step >= self.lengths[episode])][0])} belongs to no transition"
            )
            raise WrongValuesError(msg)
        self._compare(served, row, row - episode, step, self.lengths[episode] - step, kind)
        _require_variety(row, len(self), kind)
        return self._means(served)

    def _compare(
        self,
        served: dict[str, np.ndarray],
        row: np.ndarray,
        index: np.ndarray,
        step: np.ndarray,
        remaining: np.ndarray,
        kind: str,
    ) -> None:
        if kind.startswith("slices"):
            window = row.reshape(-1, int(kind.partition(":")[2]))
            if (np.diff(window, axis=1) != 1).any() or (np.ptp((row - index).reshape(window.shape), axis=1) != 0).any():
                msg = f"a window is not one piece of one episode: rows {window[0].tolist()}"
                raise WrongValuesError(msg)
        comparable = np.ones(len(row), bool)
        if kind == "nstep":  # libraries differ in n-step returns near the end of an episode
            comparable = remaining >= NUM_STEPS
            ahead = index[comparable][:, None] + np.arange(NUM_STEPS)
            expected = {"reward": (self.reward[ahead] * GAMMA ** np.arange(NUM_STEPS)).sum(1)}
            expected["next_observation"] = self.observation[row[comparable] + NUM_STEPS]
        elif kind == "stack":
            comparable = step >= STACK - 1
            behind = row[comparable][:, None] + np.arange(1 - STACK, 1)
            expected = {"observation": self.observation[behind].reshape(comparable.sum(), -1)}
        else:
            expected = {"reward": self.reward[index], "next_observation": self.observation[row + 1]}
            expected |= {"terminated": self.terminated[index], "truncated": self.truncated[index]}
            expected["observation"] = self.observation[row]
        expected["action"] = self.action[index[comparable]]
        if self.pixels is not None:
            expected["pixels"] = self.pixels[row[comparable]]
        for name in served.keys() & expected.keys():
            actual = served[name][comparable].reshape(expected[name].shape)
            equal = (
                self._lossy(name, actual, expected[name]) if name in ("pixels", "reward") else actual == expected[name]
            )
            if name == "next_observation":
                equal |= np.isnan(actual)
            if name == "truncated" and kind.startswith("slices"):  # TorchRL marks the end of every window as truncated
                equal[int(kind.partition(":")[2]) - 1 :: int(kind.partition(":")[2])] = True
            if not np.all(equal):
                msg = f"{name}: expected {expected[name][~equal][:3]}, got {actual[~equal][:3]}"
                raise WrongValuesError(msg)

    @staticmethod
    def _lossy(name: str, actual: np.ndarray, expected: np.ndarray) -> np.ndarray:
        """Compare within a tolerance: a video codec changes pictures, a sum rounds rewards."""
        if name == "reward":
            return np.isclose(actual, expected, rtol=1e-5, atol=1e-5)
        return np.abs(actual.astype(float) - expected).mean(axis=tuple(range(1, actual.ndim))) < 12

    def _means(self, served: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
        arrays = {name: getattr(self, name, None) for name in served}
        arrays["next_observation"] = self.observation
        return {
            name: {"drawn": float(np.nanmean(values)), "source": float(arrays[name][:200_000].mean())}
            for name, values in served.items()
            if arrays.get(name) is not None
        }


def _require_variety(row: np.ndarray, size: int, kind: str) -> None:
    if kind == "first":
        return
    width = int(kind.partition(":")[2] or 1)
    draws = len(row) // width
    expected = size * (1 - np.exp(-draws / size))
    distinct = len(np.unique(row[::width]))
    if distinct < 0.5 * expected:
        msg = f"{draws} draws gave {distinct} different rows; expected about {int(expected)}"
        raise WrongValuesError(msg)


def make(
    folder: Path, *, num_transitions: int, length: int = 50, kind: str = "walk", seed: int = 0, side: int = 128
) -> Source:
    """Fill a folder with episodes of one length, or open it if it holds them already.

    Args:
        folder: Folder of the source.
        num_transitions: Number of transitions, rounded down to whole episodes.
        length: Transitions of an episode.
        kind: ``"walk"``: positions and velocities of 24 joints change smoothly and 26 elements are constant within
            an episode, as in RoboHive's kitchens; ``"noise"``: all elements are independent, hence incompressible;
            ``"pixels"``: like "walk", with pictures.
        seed: Seed of the generator.
        side: Width and height of a picture, in pixels.
    """
    folder = Path(folder)
    parameters = {"kind": kind, "num_transitions": num_transitions, "length": length, "seed": seed, "side": side}
    parameters_path = folder / "source.json"
    if parameters_path.exists() and json.loads(parameters_path.read_text()) == parameters:
        return Source(folder)
    folder.mkdir(parents=True, exist_ok=True)
    count = num_transitions // length
    if count * (length + 1) > MAX_ROWS:
        msg = f"{num_transitions} transitions: expected at most {MAX_ROWS} rows, got {count * (length + 1)}"
        raise ValueError(msg)
    arrays = {
        "observation": _new(folder, "observation", np.float32, (count * (length + 1), OBSERVATION)),
        "action": _new(folder, "action", np.float32, (count * length, ACTION)),
        "reward": _new(folder, "reward", np.float32, (count * length,)),
    }
    generator = np.random.default_rng(seed)
    for start in range(0, count, 2_000):
        stop = min(start + 2_000, count)
        part = _walk(generator, stop - start, length) if kind != "noise" else _noise(generator, stop - start, length)
        for name, values in part.items():
            rows = values.shape[1]
            arrays[name][start * rows : stop * rows] = values.reshape(-1, *values.shape[2:])
    arrays["observation"][:, 0] = np.arange(len(arrays["observation"]))
    if kind == "pixels":
        _draw(_new(folder, "pixels", np.uint8, (count * (length + 1), side, side, 3)), arrays["observation"])
    last = np.zeros((count, length), bool)
    last[:, -1] = True
    solved = (np.arange(count) % 2 == 0)[:, None]  # every second episode ends with a success
    np.save(folder / "lengths.npy", np.full(count, length))
    np.save(folder / "terminated.npy", (last & solved).ravel())
    np.save(folder / "truncated.npy", (last & ~solved).ravel())
    for array in arrays.values():
        array.flush()
    parameters_path.write_text(json.dumps(parameters))
    return Source(folder)


def _new(folder: Path, name: str, dtype: type, shape: tuple[int, ...]) -> np.memmap:
    return np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, shape)


def _walk(generator: np.random.Generator, count: int, length: int) -> dict[str, np.ndarray]:
    drive = generator.standard_normal((count, length + 1, _MOVING), dtype=np.float32)
    velocity = np.cumsum(0.1 * drive, axis=1)
    position = generator.standard_normal((count, 1, _MOVING), dtype=np.float32) + np.cumsum(0.08 * velocity, axis=1)
    constants = generator.standard_normal((count, 1, OBSERVATION - 1 - 2 * _MOVING), dtype=np.float32)
    constants = np.broadcast_to(constants, (count, length + 1, constants.shape[2]))
    number = np.zeros((count, length + 1, 1), np.float32)
    observation = np.concatenate([number, position, velocity, constants], axis=2)
    action = np.tanh(drive[:, :-1, :ACTION])
    reward = -np.abs(position[:, 1:, :3]).sum(axis=2)
    return {"observation": observation, "action": action, "reward": reward}


def _noise(generator: np.random.Generator, count: int, length: int) -> dict[str, np.ndarray]:
    shapes = {"observation": (length + 1, OBSERVATION), "action": (length, ACTION), "reward": (length,)}
    return {name: generator.standard_normal((count, *shape), dtype=np.float32) for name, shape in shapes.items()}


def _draw(pictures: np.memmap, observation: np.ndarray) -> None:
    """Fill pictures: a shaded background with a fixed grain, and three discs whose positions the observation gives."""
    side = pictures.shape[1]
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
    grain = np.random.default_rng(1).normal(0, 4, (side, side, 1))
    background = np.stack([90 + 80 * x, 110 + 60 * y, 140 - 50 * x * y], axis=2) + grain
    colours = np.array([[200, 60, 50], [60, 160, 80], [70, 80, 200]], np.float32)
    for row in range(len(pictures)):
        picture = background.copy()
        for disc, colour in enumerate(colours):
            centre = 0.5 + 0.35 * np.tanh(observation[row, 1 + 2 * disc : 3 + 2 * disc])
            inside = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < 0.012
            picture[inside] = colour
        pictures[row] = np.clip(picture, 0, 255).astype(np.uint8)
