"""Packed caches for tests, and comparisons bit for bit."""

import numpy as np
from tensordict import TensorDict

from rlhive.data.replay._layout import PackedCache
from rlhive.data.replay._packed_writer import PackedCacheWriter
from rlhive.data.replay._storage import PackedStorage
from tests.data.strategies import records

LENGTHS = [7, 1, 12, 5, 9]


def write_cache(folder, *, lengths=LENGTHS, claimed=None, ended="truncated", image_cache="raw"):
    """Write a cache of some episodes, each as one piece; the table may claim other lengths."""
    folder.mkdir()
    schema, made = records(lengths, ended=ended)
    lengths = claimed or lengths
    table = [(record.episode, index % 2, lengths[index]) for index, record in enumerate(made)]
    finals = {item.column: np.stack([record.final[item.column] for record in made]) for item in schema.observed}
    writer = PackedCacheWriter(folder, schema, ["a", "b"], np.array(table), finals, image_cache=image_cache)
    for record in made:
        writer.write(record.columns)
    writer.finish()
    return PackedCache(folder), made


def assert_holds(cache, made):
    got = PackedStorage(cache).get(slice(None))
    start = 0
    for record in made:
        rows = got[start : start + record.length]
        start += record.length
        assert (rows["episode"] == record.episode).all()
        for column, values in record.columns.items():
            key = tuple(column.split("."))
            assert rows[key].contiguous().numpy().tobytes() == values.tobytes(), column
        for column, value in record.final.items():
            last = rows[("next", *column.split("."))][-1]
            assert last.contiguous().numpy().tobytes() == value.tobytes(), column
    assert start == len(cache) == len(got)


def assert_same(got: TensorDict, expected: TensorDict):
    assert set(got.keys(True, True)) == set(expected.keys(True, True))
    for key in expected.keys(True, True):
        assert got[key].shape == expected[key].shape, key
        assert got[key].contiguous().numpy().tobytes() == expected[key].contiguous().numpy().tobytes(), key
