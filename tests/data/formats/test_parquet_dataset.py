"""Parquet datasets of the Hub, written by Hugging Face's `datasets`."""

import datasets
import numpy as np
import pandas as pd
import pytest

from rlhive.data.formats._builtin import Parquet
from rlhive.data.formats._convert import open_source
from rlhive.errors import SchemaMismatchError
from rlhive.testing import ExpectedEpisode, FormatTests

LENGTHS = {"train": (4, 3, 5), "test": (3,)}


def walk(split, number):
    generator = np.random.default_rng(100 * (split == "test") + number)
    length = LENGTHS[split][number]
    return {
        "observation": generator.normal(size=(length, 3)).astype(np.float32),
        "image": generator.integers(0, 256, (length, 8, 8, 3), dtype=np.uint8),
        "action": generator.normal(size=(length, 2)).astype(np.float32),
        "reward": generator.normal(size=length),
        "done": np.arange(length) == length - 1,
    }


def write(folder, *, name="episode_index"):
    """Write a shard a split, with pictures in datasets.Image, as `datasets` pushes them."""
    folder.mkdir()
    for split, lengths in LENGTHS.items():
        arrays = [walk(split, number) for number in range(len(lengths))]
        columns = {key: [row for item in arrays for row in item[key]] for key in arrays[0]}
        columns[name] = np.repeat(np.arange(len(lengths)), lengths)
        columns["frame_index"] = np.concatenate([np.arange(length) for length in lengths])
        features = datasets.Features(
            {
                "observation": datasets.Sequence(datasets.Value("float32"), 3),
                "image": datasets.Image(),
                "action": datasets.Sequence(datasets.Value("float32"), 2),
                "reward": datasets.Value("float64"),
                "done": datasets.Value("bool"),
                name: datasets.Value("int64"),
                "frame_index": datasets.Value("int64"),
            }
        )
        made = datasets.Dataset.from_dict(columns, features=features)
        made.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder


@pytest.mark.slow
class TestParquet(FormatTests):
    format = Parquet()

    @pytest.fixture
    def source(self, tmp_path):
        return write(tmp_path / "demos")

    @pytest.fixture
    def expected(self):
        episodes = []
        for split in sorted(LENGTHS):  # the order of the files
            for number in range(len(LENGTHS[split])):
                truth = walk(split, number)
                columns = {name: truth[name] for name in ("observation", "action")}
                columns |= {"pixels.image": truth["image"], "next.reward": truth["reward"][:, None]}
                final = {"observation": truth["observation"][-1], "pixels.image": truth["image"][-1]}
                episodes.append(ExpectedEpisode(columns, final, "terminated", split=split))
        return episodes


def test_another_column_may_number_the_episodes(tmp_path):
    folder = write(tmp_path / "demos", name="demo")
    with pytest.raises(SchemaMismatchError, match="expected a column that numbers the episodes, one of episode_index"):
        open_source("parquet", folder)
    records = list(open_source("parquet", folder, episode="demo", split="all").records())
    assert [record.metadata["demo"] for record in records] == [0, 0, 1, 2]
    assert {record.split for record in records} == {"all"}


def test_episodes_may_be_named_by_texts_and_span_files(tmp_path):
    frame = pd.DataFrame({"episode_id": ["b"] * 3 + ["a"] * 4, "action": np.arange(7.0), "state": np.arange(7.0)})
    (tmp_path / "demos").mkdir()
    frame[:5].to_parquet(tmp_path / "demos/0.parquet")
    frame[5:].to_parquet(tmp_path / "demos/1.parquet")
    records = list(open_source("parquet", tmp_path / "demos").records())
    assert [(record.metadata["episode_id"], record.length) for record in records] == [("b", 2), ("a", 3)]
    np.testing.assert_array_equal(records[1].columns["action"].ravel(), [3, 4, 5])
    np.testing.assert_array_equal(records[1].final["observation"].ravel(), [6])


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([0, 1, 0], "rows of an episode to lie together, got episode_index 0 twice. Sort"),
        ([0, None, 1], "expected integers or texts without nulls"),
        ([0.5, 0.5, 1.5], "expected integers or texts without nulls, got double"),
    ],
)
def test_episodes_that_cannot_be_told_apart_are_refused(tmp_path, ids, message):
    path = tmp_path / "x.parquet"
    pd.DataFrame({"episode_index": ids, "action": [0.0, 1.0, 2.0]}).to_parquet(path)
    with pytest.raises(SchemaMismatchError, match=message):
        open_source("parquet", path)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [("frame_index", [0, 2, 1, 3]), ("index", [7, 7, 8, 9]), ("step_index", [0, None, 2, 3]), ("index", list("abcd"))],
)
def test_rows_in_another_order_than_their_numbers_are_refused(tmp_path, name, numbers):
    path = tmp_path / "x.parquet"
    pd.DataFrame({"episode_index": [0] * 4, name: numbers, "action": np.arange(4.0)}).to_parquet(path)
    with pytest.raises(SchemaMismatchError, match=f"episode 0: expected the rows in the order of {name}, .* Sort the"):
        open_source("parquet", path)
    (record,) = open_source("parquet", path, drop=name).records()
    np.testing.assert_array_equal(record.columns["action"].ravel(), [0, 1, 2])


def test_row_numbers_may_have_gaps(tmp_path):
    """Every second frame of a recording, and an episode in two files."""
    frame = pd.DataFrame({"episode_index": [3] * 5, "frame_index": np.arange(0, 10, 2, np.uint64), "action": 1.0})
    (tmp_path / "demos").mkdir()
    frame[:2].to_parquet(tmp_path / "demos/0.parquet")
    frame[2:].to_parquet(tmp_path / "demos/1.parquet")
    (record,) = open_source("parquet", tmp_path / "demos").records()
    assert (record.length, sorted(record.columns)) == (4, ["action", "next.terminated", "next.truncated"])
