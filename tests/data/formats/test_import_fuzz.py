"""Columns of any dtype, shape and nulls, drawn at random: exact, or refused by name; `make fuzz` draws more."""

import json
import os

import numpy as np
import pyarrow as pa
from hypothesis import HealthCheck, Phase, given, settings, strategies as st

from rlhive.data.formats import EpisodeArrays, EpisodeSource, Format, end_flags, open_source
from rlhive.data.formats._arrow_values import read_arrow_columns
from rlhive.errors import RLHiveError

fuzz = settings(
    max_examples=int(os.environ.get("RLHIVE_FUZZ", "25")),
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow],
)
DTYPES = [
    "<f2",
    ">f4",
    "<f8",
    ">f8",
    "?",
    "i1",
    ">i2",
    "<i4",
    ">i8",
    "u1",
    "<u2",
    ">u4",
    "<u8",
    "S3",
    "U2",
    "<c8",
    "V2",
]
ARROW = [
    pa.float32(),
    pa.float64(),
    pa.int8(),
    pa.int64(),
    pa.uint16(),
    pa.uint64(),
    pa.bool_(),
    pa.string(),
    pa.binary(),
]
LENGTH = 3


class Drawn(Format):
    """A format whose episodes are arrays that a test drew."""

    name = "drawn"

    def __init__(self, episodes):
        self.episodes = episodes

    def read(self, source):
        arrays = [self.complete(columns, number) for number, columns in enumerate(self.episodes)]
        schema = arrays[0].infer_schema()
        records = lambda: (item.to_record(schema, episode=i, split="train") for i, item in enumerate(arrays))  # noqa: E731
        return EpisodeSource(schema, records, num_episodes=len(arrays))

    def complete(self, columns, number):
        states = np.arange(2.0 * (LENGTH + 1)).reshape(-1, 2) + number
        columns = {"observation": states[:-1], "action": states[:-1], **columns, **end_flags(LENGTH, terminated=False)}
        return EpisodeArrays(columns, {"observation": states[-1]}, f"episode {number}")


@st.composite
def numpy_column(draw):
    dtype, width = np.dtype(draw(st.sampled_from(DTYPES))), draw(st.sampled_from([(), (1,), (2,), (2, 3)]))
    size = LENGTH * int(np.prod(width)) * dtype.itemsize
    content = draw(st.binary(min_size=size, max_size=size))
    if dtype.kind == "U":
        return np.full((LENGTH, *width), draw(st.text(max_size=2)), dtype)
    if dtype.kind == "b":
        return (np.frombuffer(content, np.uint8) % 2).astype(bool).reshape(LENGTH, *width)
    return np.frombuffer(content, dtype).reshape(LENGTH, *width)


@st.composite
def arrow_column(draw):
    dtype = draw(st.sampled_from(ARROW))
    scalars = {
        "f": st.floats(width=32),
        "i": st.integers(0, 100),
        "b": st.booleans(),
        "s": st.text(max_size=3),
        "y": st.binary(max_size=3),
    }
    kind = "f" if pa.types.is_floating(dtype) else "b" if dtype == pa.bool_() else "i"
    kind = "s" if dtype == pa.string() else "y" if dtype == pa.binary() else kind
    value = st.none() | scalars[kind]
    depth = draw(st.integers(0, 2))
    for _ in range(depth):
        value, dtype = st.none() | st.lists(value, max_size=3), pa.list_(dtype)
    items = draw(st.lists(value, min_size=LENGTH, max_size=LENGTH))
    return items, pa.array(items, dtype)


def require_named(error):
    """An error names the column, and does not call a whole file damaged."""
    message = str(error)
    assert "info.x" in message
    assert "damaged" not in message


def same_value(stored, read):
    """Return whether a stored element is the one that was read, or a null that became NaN."""
    if stored.dtype.kind == "c":
        return np.array_equal(stored.view(stored.real.dtype).reshape(read.shape), read, equal_nan=True)
    if stored.dtype.kind == "V":
        return np.array_equal(np.frombuffer(stored.tobytes(), np.uint8), read.ravel())
    if stored.dtype.kind in "SU":
        items = [item.decode("utf-8", "backslashreplace") if isinstance(item, bytes) else item for item in stored.flat]
        return items == read.ravel().tolist()
    if read.dtype == object:  # numbers beyond int64
        rows = [np.ravel(np.array(json.loads(text), object)).tolist() for text in read]
        return rows == [row.ravel().tolist() for row in stored]
    return np.array_equal(stored, read.reshape(stored.shape), equal_nan=stored.dtype.kind == "f")


@fuzz
@given(first=numpy_column(), second=numpy_column())
def test_numpy_columns_are_exact_or_refused(first, second):
    source = Drawn([{"info.x": first}, {"info.x": second}])
    try:
        records = list(open_source(source, "drawn").records())
    except RLHiveError as error:
        require_named(error)
        return
    for stored, record in zip((first, second), records, strict=True):
        parts = [record.columns[name] for name in sorted(record.columns) if name.split(".")[:2] == ["info", "x"]]
        read = parts[0] if len(parts) == 1 else np.stack(parts, axis=1)
        assert same_value(stored if len(parts) == 1 else stored.reshape(LENGTH, -1), read) or len(parts) > 1


@fuzz
@given(drawn=arrow_column())
def test_arrow_columns_are_exact_or_refused(drawn):
    items, array = drawn
    try:
        columns = dict(read_arrow_columns("info.x", array, context="file"))
        (record,) = open_source(Drawn([columns]), "drawn").records()
    except RLHiveError as error:
        require_named(error)
        return
    if "info.x" not in record.columns:
        return  # nothing but nulls and empty lists, or lists of texts, one column each
    for stored, read in zip(items, record.columns["info.x"], strict=True):
        if stored is None:
            assert np.all(read == "" if isinstance(read, str) else (read != read) | (read == 0))
        elif isinstance(stored, (str, bytes)):
            assert read == (stored.decode("utf-8", "backslashreplace") if isinstance(stored, bytes) else stored)
        elif isinstance(stored, list) and stored and all(isinstance(item, (int, float)) for item in stored):
            np.testing.assert_array_equal(np.ravel(read)[: len(stored)], np.array(stored, np.float64))
        elif isinstance(stored, (int, float)):
            np.testing.assert_array_equal(np.ravel(read), [stored])
