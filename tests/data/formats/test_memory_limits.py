"""Small foreign files that unpack to gigabytes: refused in one sentence, in bounded memory; all made here."""

import io
import json
import os
import resource
import zlib

import av
import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rlhive.data._parquet_sizes import measure_groups
from rlhive.data.formats._convert import open_source
from rlhive.data.formats._memory_limits import FREE_BYTES, MemoryBudget, format_bytes, require_memory
from rlhive.data.formats._tfrecord import build_example_class, mask_checksum
from rlhive.errors import SchemaMismatchError
from tests.data.limited import private_bytes

HEADROOM = 300 * 2**20
ROWS = 10
CAMERA = {"observation.images.cam": {"dtype": "image", "shape": [8, 8, 3]}}


def encode(size, picture_format):
    buffer = io.BytesIO()
    Image.new("RGB", (size, size)).save(buffer, picture_format)
    return buffer.getvalue()


def write_lerobot(folder, columns, features, *, rows=ROWS, **options):
    (folder / "meta").mkdir(parents=True)
    (folder / "data/chunk-000").mkdir(parents=True)
    action = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(2 * rows, np.float32)), 2)
    zeros = pa.array(np.zeros(rows, np.int64))
    bookkeeping = dict.fromkeys(["timestamp", "frame_index", "episode_index", "index", "task_index"], zeros)
    table = pa.table({"action": action, "observation.state": action, **bookkeeping, **columns})
    pq.write_table(table, folder / "data/chunk-000/episode_000000.parquet", compression="zstd", **options)
    vector = {"dtype": "float32", "shape": [2]}
    info = {"codebase_version": "v2.1", "fps": 10, "chunks_size": 1000, "video_path": "video.mp4"}
    info["features"] = {"action": vector, "observation.state": vector, **features}
    (folder / "meta/info.json").write_text(json.dumps(info))
    (folder / "meta/episodes.jsonl").write_text(json.dumps({"episode_index": 0, "length": rows, "tasks": ["t"]}))
    (folder / "meta/tasks.jsonl").write_text(json.dumps({"task_index": 0, "task": "t"}))
    return "lerobot", folder


def bomb_png(folder):
    pictures = pa.array([{"bytes": encode(6000, "PNG"), "path": None}] * ROWS)
    return write_lerobot(folder, {"observation.images.cam": pictures}, CAMERA)


def bomb_jpeg(folder):
    pictures = pa.array([{"bytes": encode(6000, "JPEG"), "path": None}] * ROWS)
    return write_lerobot(folder, {"observation.images.cam": pictures}, CAMERA)


def bomb_many_pictures(folder):
    """An episode of 2.4 GB, 200 times the same PNG of 12 kB."""
    pictures = pa.array([{"bytes": encode(2000, "PNG"), "path": None}] * 200)
    return write_lerobot(folder, {"observation.images.cam": pictures}, CAMERA, rows=200)


def bomb_rows(folder):
    """An episode of 2 million frames in one row group, run-length encoded."""
    return write_lerobot(folder, {}, {}, rows=2 * 10**6, row_group_size=2 * 10**6)


def bomb_wide_rows(folder):
    """Ten frames of 16 MB each."""
    wide = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(ROWS * 2**21)), 2**21)
    return write_lerobot(folder, {"wide": wide}, {"wide": {"dtype": "float64", "shape": [2**21]}})


def bomb_repeated_text(folder):
    texts = pa.DictionaryArray.from_arrays(pa.array(np.zeros(2000, np.int32)), ["x" * 10**6])
    return write_lerobot(folder, {"text": texts}, {"text": {"dtype": "string", "shape": [1]}}, rows=2000)


def bomb_page(folder):
    """One page of 100 MB."""
    texts = pa.array(["x" * 10**7] * ROWS)
    return write_lerobot(folder, {"text": texts}, {"text": {"dtype": "string", "shape": [1]}}, use_dictionary=False)


def bomb_shared_prefixes(folder):
    texts = pa.array(["x" * 10**6] * 300)
    options = {"use_dictionary": False, "column_encoding": {"text": "DELTA_BYTE_ARRAY"}}
    return write_lerobot(folder, {"text": texts}, {"text": {"dtype": "string", "shape": [1]}}, rows=300, **options)


def bomb_video(folder):
    """Black frames of 3 MB each."""
    size = 1000
    source = write_lerobot(
        folder, {}, {"observation.images.cam": {"dtype": "video", "shape": [size, size, 3]}}, rows=200
    )
    black = av.VideoFrame.from_ndarray(np.zeros((size, size, 3), np.uint8), format="rgb24")
    with av.open(folder / "video.mp4", "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=10)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for row in range(60):
            black.pts = row
            file.mux(stream.encode(black))
        file.mux(stream.encode())
    return source


def write_minari(folder, data_format):
    num_rows = 5 * 10**6
    box = json.dumps({"type": "Box", "dtype": "float64", "low": [-1.0], "high": [1.0], "shape": [1]})
    metadata = {"total_episodes": 1, "total_steps": num_rows - 1, "data_format": data_format}
    (folder / "0").mkdir(parents=True)
    (folder / "metadata.json").write_text(json.dumps(metadata | {"observation_space": box, "action_space": box}))
    (folder / "0/metadata.json").write_text(json.dumps({"id": 0, "total_steps": num_rows - 1}))
    values, flags = pa.array(np.zeros(num_rows)), pa.array(np.zeros(num_rows, bool))
    vectors = pa.FixedSizeListArray.from_arrays(values, 1)
    names = ["observations", "actions", "rewards", "terminations", "truncations"]
    table = pa.table(dict(zip(names, [vectors, vectors, values, flags, flags], strict=True)))
    if data_format == "parquet":
        pq.write_table(table, folder / "0/part-0.parquet")
    else:
        options = pyarrow.ipc.IpcWriteOptions(compression="zstd")
        with pyarrow.ipc.new_file(folder / "0/part-0.arrow", table.schema, options=options) as file:
            file.write_table(table)
    return "minari", folder


def bomb_minari_parquet(folder):
    return write_minari(folder, "parquet")


def bomb_minari_arrow(folder):
    return write_minari(folder, "arrow")


def write_rlds(folder, observation, add_values, rows=5):
    folder.mkdir()
    flags = ["is_first", "is_last", "is_terminal"]
    scalars = {name: describe_tensor("bool") for name in flags} | {"action": describe_tensor("float32", 1)}
    step = {"featuresDict": {"features": {"observation": observation, **scalars}}}
    tree = {"featuresDict": {"features": {"steps": {"sequence": {"feature": step}}}}}
    split = {"name": "train", "shardLengths": ["1"]}
    (folder / "features.json").write_text(json.dumps(tree))
    (folder / "dataset_info.json").write_text(json.dumps({"name": "x", "version": "1.0.0", "splits": [split]}))
    example = build_example_class()[0]()
    features = example.features.feature
    for name, row in zip(flags, (0, rows - 1, rows), strict=True):
        features[f"steps/{name}"].int64_list.value.extend((np.arange(rows) == row).astype(int).tolist())
    features["steps/action"].float_list.value.extend([1.0] * rows)
    add_values(features)
    content = example.SerializeToString()
    head = len(content).to_bytes(8, "little")
    record = [part for item in (head, content) for part in (item, checksum(item))]
    (folder / "x-train.tfrecord-00000-of-00001").write_bytes(b"".join(record))
    return "rlds", folder


def checksum(content):
    import google_crc32c

    return mask_checksum(google_crc32c.value(content)).to_bytes(4, "little")


def describe_tensor(dtype, *shape, encoding="none"):
    tensor = {"dtype": dtype, "shape": {"dimensions": [str(size) for size in shape]}, "encoding": encoding}
    return {"pythonClassName": "tfds.Tensor", "tensor": tensor}


def bomb_zlib_tensor(folder, size=10**8):
    tensors = [zlib.compress(bytes(10**8), 1)] * 5
    feature = describe_tensor("uint8", size, encoding="zlib")
    return write_rlds(folder, feature, lambda to: to["steps/observation"].bytes_list.value.extend(tensors))


def bomb_zlib_tensor_of_unknown_size(folder):
    return bomb_zlib_tensor(folder, -1)


def bomb_rlds_png(folder):
    feature = {"pythonClassName": "tfds.Image", "image": {"shape": {"dimensions": ["-1", "-1", "3"]}}}
    pictures = [encode(6000, "PNG")] * 5
    return write_rlds(folder, feature, lambda to: to["steps/observation"].bytes_list.value.extend(pictures))


def bomb_padding(folder, rows=1000):
    """One step of 100,000 numbers, to which 1,000 empty ones would be padded."""

    def add_values(features):
        features["steps/observation/ragged_flat_values"].float_list.value.extend([1.0] * 10**5)
        features["steps/observation/ragged_row_lengths_0"].int64_list.value.extend([10**5] + [0] * (rows - 1))

    sequence = {"pythonClassName": "tfds.Sequence", "sequence": {"feature": describe_tensor("float32")}}
    return write_rlds(folder, sequence, add_values, rows)


BOMBS = [function for name, function in list(globals().items()) if name.startswith("bomb_")]


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_small_file_that_unpacks_to_gigabytes_is_refused(bomb, tmp_path):
    """In a child whose memory may grow by 300 MB: what unpacks first is a MemoryError."""
    kind, folder = bomb(tmp_path / "source")
    options = {"last_step": "transition"} if kind == "rlds" else {}
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        limit = private_bytes() + HEADROOM
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        try:
            for _ in open_source(kind, folder, **options).records():
                pass
            message = "read"
        except BaseException as error:
            message = f"{type(error).__name__}: {error}"
        os.write(writer, message.encode()[:2000])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        message = file.read()
    os.waitpid(child, 0)

    assert message.startswith("SchemaMismatchError: ")
    assert str(folder) in message
    assert "that unpack to" in message or "more than 67.1 MB" in message


def test_what_the_file_accounts_for_is_read(tmp_path):
    """Noise does not compress, so that its episode may be larger than any limit."""
    noise = np.random.default_rng(0).normal(size=(2000, 64)).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(noise.ravel()), 64)
    source = write_lerobot(tmp_path / "x", {"x": column}, {"x": {"dtype": "float32", "shape": [64]}}, rows=2000)

    record = next(open_source(*source).records())

    assert np.array_equal(record.columns["x"], noise[:-1])
    require_memory(100 * FREE_BYTES, 10 * FREE_BYTES, "x")
    with pytest.raises(SchemaMismatchError, match=r"^x: .* got 67\.1 MB that unpack to 1\.1 GB"):
        require_memory(17 * FREE_BYTES + 1, FREE_BYTES, "x")


def test_a_budget_counts_what_exceeds_the_stored_bytes():
    budget = MemoryBudget("x")
    budget.add(FREE_BYTES, 0)
    budget.add(1600, 100)
    with pytest.raises(SchemaMismatchError, match="unpack to"):
        budget.add(1601, 100)


@pytest.mark.parametrize(
    ("num_bytes", "text"), [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (2**40, "1099.5 GB")]
)
def test_sizes_have_units(num_bytes, text):
    assert format_bytes(num_bytes) == text


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"data_page_version": "2.0", "compression": "zstd"},
        {"use_dictionary": False, "row_group_size": 300, "write_page_checksum": True},
        {"data_page_size": 1000, "write_page_index": True, "compression": "none"},
    ],
)
def test_the_size_of_a_row_is_that_of_its_values(options, tmp_path):
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.random.default_rng(0).normal(size=30_000)), 30)
    table = pa.table({"a": np.arange(1000.0), "vector": vectors, "list": [[1, 2]] * 1000, "flag": [True] * 1000})
    pq.write_table(table, tmp_path / "x.parquet", **options)

    sizes = measure_groups(tmp_path / "x.parquet")

    assert sum(size.num_rows for size in sizes) == 1000
    assert {size.row_bytes for size in sizes} == {8 + 240 + 16 + 1}
    assert measure_groups(tmp_path / "x.parquet", ["a"])[0].row_bytes == 8
