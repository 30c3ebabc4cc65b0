"""Write files/rlds/ with TensorFlow Datasets' writer, as TFRecord and as Parquet, and the output of its reader.

    python -m benchmarks.peers.environments tfds     # builds benchmarks/.venvs/tfds: tensorflow-cpu 2.21, tfds 4.9.10
    benchmarks/.venvs/tfds/bin/python -m tests.data.formats.make_rlds

"closed" follows RLDS to the letter: the last step holds the final observation alone. "logged" is what conversions of
robot logs in Open X-Embodiment look like: the last step's action and reward count, no observation follows.
"""

import shutil
import tempfile
from pathlib import Path

import numpy as np

FILES = Path(__file__).parent / "files" / "rlds"
LENGTHS = (4, 1, 3, 5, 2)
#: Whether the task ended the episode; the others were cut off.
TERMINAL = (True, False, True, False, True)
SPLITS = {"train": (0, 1, 2), "val": (3, 4)}
#: Datasets and their file formats.
STORED = (("closed", "tfrecord"), ("closed", "parquet"), ("logged", "tfrecord"))
SIZE = 16


def truth(episode: int) -> dict[str, np.ndarray]:
    """Return an episode: T+1 rows of what is observed, T of the rest."""
    generator = np.random.default_rng(episode)
    length = LENGTHS[episode]
    rows = np.arange(length + 1)
    return {
        "state": generator.normal(size=(length + 1, 7)).astype(np.float32),
        "precise": generator.normal(size=(length + 1, 2)),
        "top": generator.integers(0, 256, (length + 1, SIZE, SIZE, 3), dtype=np.uint8),
        "wrist": np.stack([_smooth(row) for row in rows]),
        "depth": generator.normal(size=(length + 1, SIZE, SIZE, 1)).astype(np.float32),
        "millimetres": generator.integers(0, 2**16, (length + 1, SIZE, SIZE, 1)).astype(np.uint16),
        "touch": generator.integers(-128, 128, (length + 1, 3), dtype=np.int8),
        "corners": generator.normal(size=(length + 1, 4, 2)).astype(np.float32),
        "move": generator.uniform(-1, 1, (length, 6)).astype(np.float32),
        "grip": generator.integers(0, 3, length),
        "reward": generator.normal(size=length).astype(np.float32),
        "discount": np.where((np.arange(length) == length - 1) & TERMINAL[episode], 0.0, 1.0).astype(np.float32),
        "instruction": np.array([f"öffne Schublade {episode}"] * length, object),
        "forces": np.array([generator.normal(size=row % 3).astype(np.float32) for row in range(length)], object),
    }


def _smooth(row: int) -> np.ndarray:
    """Return a picture that JPEG stores well."""
    ramp = np.linspace(0, 200, SIZE).astype(np.uint8)
    return np.stack(
        [np.tile(ramp, (SIZE, 1)), np.tile(ramp[:, None], (1, SIZE)), np.full((SIZE, SIZE), 40 * row, np.uint8)], -1
    )


def steps(episode: int, *, closed: bool) -> list[dict]:
    """Return an episode as RLDS steps."""
    values, length = truth(episode), LENGTHS[episode]
    count = length + 1 if closed else length
    return [
        _step(values, row, last=row == count - 1, end=TERMINAL[episode], empty=row == length) for row in range(count)
    ]


def _step(values: dict[str, np.ndarray], row: int, *, last: bool, end: bool, empty: bool) -> dict:
    def taken(name: str) -> np.ndarray:
        """Return a value of the action taken here, zeros where none was."""
        return np.zeros_like(values[name][0]) if empty else values[name][row]

    state = ("state", "precise", "top", "wrist", "depth", "millimetres", "touch")
    return {
        "observation": {
            **{name: values[name][row] for name in state},
            "plan": {"corners": values["corners"][row]},
        },
        "action": {"move": taken("move"), "grip": taken("grip")},
        "reward": taken("reward"),
        "discount": taken("discount"),
        "is_first": row == 0,
        "is_last": last,
        "is_terminal": last and end,
        "language_instruction": values["instruction"][0],
        "forces": [] if empty else values["forces"][row],
    }


def main() -> None:
    """Write the datasets, and the JPEG pictures as TensorFlow decodes them."""
    import tensorflow_datasets as tfds

    feature = tfds.features
    observation = {
        "state": feature.Tensor(shape=(7,), dtype=np.float32),
        "precise": feature.Tensor(shape=(2,), dtype=np.float64, encoding="zlib"),
        "top": feature.Image(shape=(SIZE, SIZE, 3), encoding_format="png"),
        "wrist": feature.Image(shape=(SIZE, SIZE, 3), encoding_format="jpeg"),
        "depth": feature.Image(shape=(SIZE, SIZE, 1), dtype=np.float32),
        "millimetres": feature.Image(shape=(SIZE, SIZE, 1), dtype=np.uint16),
        "touch": feature.Tensor(shape=(3,), dtype=np.int8),
        "plan": {"corners": feature.Tensor(shape=(4, 2), dtype=np.float32)},
    }
    step = {
        "observation": observation,
        "action": {"move": feature.Tensor(shape=(6,), dtype=np.float32), "grip": feature.ClassLabel(num_classes=3)},
        "reward": feature.Scalar(dtype=np.float32),
        "discount": feature.Scalar(dtype=np.float32),
        **{name: feature.Scalar(dtype=np.bool_) for name in ("is_first", "is_last", "is_terminal")},
        "language_instruction": feature.Text(),
        "forces": feature.Sequence(feature.Scalar(dtype=np.float32)),
    }
    episode_features = {
        "number": feature.Scalar(dtype=np.int64),
        "operator": feature.Text(),
        "gains": feature.Tensor(shape=(2,), dtype=np.float32),
    }

    class Arm(tfds.core.GeneratorBasedBuilder):
        """A made-up arm."""

        VERSION = tfds.core.Version("1.2.0")
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in ("closed", "logged")]  # noqa: RUF012

        def _info(self) -> tfds.core.DatasetInfo:
            features = feature.FeaturesDict({"steps": feature.Dataset(step), "episode_metadata": episode_features})
            return tfds.core.DatasetInfo(
                builder=self, features=features, description="A made-up arm opens drawers.", license="cc-by-4.0"
            )

        def _split_generators(self, manager: object) -> dict:
            del manager
            return {split: self._generate_examples(split) for split in SPLITS}

        def _generate_examples(self, split: str) -> object:
            for episode in SPLITS[split]:
                metadata = {
                    "number": episode,
                    "operator": f"Åsa {episode}",
                    "gains": np.float32([episode, 0.1]),
                }
                taken = steps(episode, closed=self.builder_config.name == "closed")
                yield episode, {"steps": taken, "episode_metadata": metadata}

    shutil.rmtree(FILES, ignore_errors=True)
    FILES.mkdir()
    for config, kind in STORED:
        with tempfile.TemporaryDirectory() as folder:
            builder = Arm(config=config, data_dir=folder, file_format=kind)
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=2))
            shutil.copytree(builder.data_dir, FILES / f"{config}-{kind}")
            for split, episodes in SPLITS.items():  # what TFDS wrote, it can read
                assert len(list(builder.as_dataset(split=split))) == len(episodes)
    np.savez_compressed(FILES / "wrist_as_tensorflow_decodes_it.npz", **_pictures())


def _pictures() -> dict[str, np.ndarray]:
    """Return the JPEG pictures of every episode, with the exact transform; TensorFlow's default is a faster one."""
    import tensorflow as tf

    pictures = {}
    for path in sorted((FILES / "closed-tfrecord").glob("*.tfrecord-*")):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            features = tf.train.Example.FromString(record).features.feature
            number = features["episode_metadata/number"].int64_list.value[0]
            contents = features["steps/observation/wrist"].bytes_list.value
            frames = [tf.io.decode_jpeg(content, dct_method="INTEGER_ACCURATE").numpy() for content in contents]
            pictures[str(number)] = np.stack(frames)
    return pictures


if __name__ == "__main__":
    main()
