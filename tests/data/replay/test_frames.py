"""Compressed pictures: the same bytes as raw rows, and small files for a camera that stands still."""

import errno
import logging
import pickle
import resource
import signal
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from torchrl.data import SamplerWithoutReplacement

from rlhive import RoboHiveDataset
from rlhive.data import _store
from rlhive.data._episodes import EpisodeRecord
from rlhive.data._schema import Field, Schema
from rlhive.data.replay import _frames, _packed_writer, open_packed
from rlhive.data.replay._frames import FrameFormat, FrameReader, FrameWriter
from rlhive.data.versions._export import export
from rlhive.data.versions._manifest import Manifest
from rlhive.dataset import _lookup
from rlhive.errors import CorruptDatasetError, DiskFullError
from tests.data.replay.caches import assert_holds, assert_same
from tests.data.strategies import records

KINDS = ("raw", "encoded")
SIDE = 40
LENGTHS = [6, 1, 9]


def pictures(length, seed, *, moving=()):
    """Frames ``[length + 1, 2, SIDE, SIDE, 3]`` of two cameras: a fixed background with a moving square, or noise."""
    generator = np.random.default_rng(seed)
    still = generator.integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8)
    made = np.repeat(still[None], length + 1, 0)
    for step in range(length + 1):
        made[step, :, step : step + 4, 5:9] = generator.integers(0, 256, 3)
        for camera in moving:
            made[step, camera] = generator.integers(0, 256, made.shape[2:], dtype=np.uint8)
    return made


@pytest.fixture
def episode_pictures():
    """Pictures of each episode; the second camera of the last one sees noise."""
    return [pictures(length, seed, moving=(1,) if seed == 2 else ()) for seed, length in enumerate(LENGTHS)]


def write(folder, blocks, *, pieces=1):
    """Compress rows of several episodes, in pieces of about a size; return what reads them, and the rows."""
    rows = np.concatenate(blocks)
    flat = rows.reshape(len(rows), -1).view(np.uint8)
    row_bytes = -(-flat.shape[1] // 8) * 8
    padded = np.zeros((len(rows), row_bytes), np.uint8)
    padded[:, : flat.shape[1]] = flat
    form = FrameFormat.from_shape(rows.shape[1:], rows.dtype.itemsize, row_bytes)
    lengths = [len(block) for block in blocks]
    writer = FrameWriter(folder, "wide-0", form, np.repeat(np.cumsum(lengths) - lengths, lengths))
    for piece in np.array_split(padded, pieces):
        writer.write(piece)
    for file in writer.files:
        file.close()
    return FrameReader(folder, "wide-0", form, len(rows)), flat


def taken(frames, rows, width):
    return frames.take(torch.as_tensor(rows)).numpy().view(np.uint8)[:, :width]


@pytest.mark.parametrize("pieces", [1, 2, 7, 19])
@pytest.mark.parametrize("threads", [1, 3])
def test_every_row_comes_back_bit_for_bit(tmp_path, episode_pictures, monkeypatch, pieces, threads):
    monkeypatch.setattr(_frames, "num_threads", lambda: threads)
    frames, rows = write(tmp_path, episode_pictures, pieces=pieces)
    index = np.random.default_rng(0).integers(0, len(rows), 200)  # any order, and most of them several times

    assert len(frames) == len(rows)
    assert np.array_equal(taken(frames, np.arange(len(rows)), rows.shape[1]), rows)
    assert np.array_equal(taken(frames, index, rows.shape[1]), rows[index])
    assert taken(frames, np.arange(0), rows.shape[1]).shape == (0, rows.shape[1])


@pytest.mark.parametrize(("dtype", "shape"), [("float32", (17, 19)), ("uint8", (5, 7, 3)), ("float64", (300,))])
def test_other_dtypes_and_shapes_come_back_bit_for_bit(tmp_path, dtype, shape):
    generator = np.random.default_rng(0)
    rows = generator.integers(0, 256, (11, int(np.prod(shape)) * np.dtype(dtype).itemsize), dtype=np.uint8)
    blocks = np.split(rows.view(dtype).reshape(11, *shape), [4])  # every bit pattern, NaNs as well
    frames, flat = write(tmp_path, blocks)

    assert np.array_equal(taken(frames, np.arange(11), flat.shape[1]), rows)


def test_a_static_camera_stores_differences_and_a_moving_camera_whole_frames(tmp_path, episode_pictures):
    _, rows = write(tmp_path, episode_pictures)
    index = np.fromfile(tmp_path / "wide-0.idx", np.int64).reshape(len(rows), 2, 3)
    sizes, keys = index[:, :, 1], index[:, :, 2]
    first = np.repeat(np.cumsum([0, 7, 2]), [7, 2, 10])
    frame_numbers = np.arange(len(rows) * 2).reshape(-1, 2)

    assert (keys[:, 0] == first * 2).all(), "the first camera's frames are differences from its episode's first"
    assert (keys[-10:, 1] == frame_numbers[-10:, 1]).all(), "frames that have nothing in common are kept as they are"
    assert sizes[keys != frame_numbers].max() < 0.1 * SIDE * SIDE * 3
    assert (tmp_path / "wide-0.lz4").stat().st_size == sizes.sum()


def test_the_files_do_not_depend_on_threads_or_pieces(tmp_path, episode_pictures, monkeypatch):
    content = []
    for name, threads, pieces in (("one", 1, 1), ("three", 3, 4)):
        monkeypatch.setattr(_frames, "num_threads", lambda threads=threads: threads)
        (tmp_path / name).mkdir()
        write(tmp_path / name, episode_pictures, pieces=pieces)
        content.append([(tmp_path / name / file).read_bytes() for file in ("wide-0.lz4", "wide-0.idx")])

    assert content[0] == content[1]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda index, content: content.__setitem__(slice(0, 4), 0), "bytes 0 to"),
        (lambda index, content: index.__setitem__((0, 0), -1), "frame 0: invalid start, size or key"),
        (lambda index, content: index.__setitem__((2, 1), 10**12), "frame 2: invalid start, size or key"),
        (lambda index, content: index.__setitem__((5, 2), 10**6), "frame 5: invalid start, size or key"),
        (lambda index, content: index.__setitem__((5, 2), 2), "frame 5: invalid start, size or key"),
    ],
    ids=["content", "start", "size", "key outside", "key that is a difference"],
)
def test_a_damaged_file_is_an_error_and_never_a_wrong_picture(tmp_path, episode_pictures, damage, message):
    frames, rows = write(tmp_path, episode_pictures)
    index = np.memmap(tmp_path / "wide-0.idx", np.int64, "r+", shape=(len(rows) * 2, 3))
    content = np.memmap(tmp_path / "wide-0.lz4", np.uint8, "r+")
    damage(index, content)
    index.flush(), content.flush()

    with pytest.raises(CorruptDatasetError, match=message):
        taken(frames, np.arange(len(rows)), rows.shape[1])


def test_files_of_another_size_are_an_error(tmp_path, episode_pictures):
    frames, rows = write(tmp_path, episode_pictures)
    (tmp_path / "wide-0.idx").write_bytes(b"\0" * 8)
    with pytest.raises(CorruptDatasetError, match=r"wide-0\.idx: expected \d+ bytes"):
        FrameReader(tmp_path, "wide-0", frames._format, len(rows))


@pytest.fixture
def version(tmp_path, episode_pictures):
    """A version of episodes with pictures, and its records split by split."""
    schema, made = records(LENGTHS)
    pixels = Field("pixels", "uint8", (2, SIDE, SIDE, 3), observed=True)
    schema = Schema(tuple(sorted((*schema.fields, pixels), key=lambda field: field.column)))
    made = [
        EpisodeRecord(
            **vars(record)
            | {
                "columns": record.columns | {"pixels": shown[:-1]},
                "final": record.final | {"pixels": shown[-1]},
            }
        )
        for record, shown in zip(made, episode_pictures, strict=True)
    ]
    return export(made, "my/knob", version="1.0.0", schema=schema, license="mit", store=tmp_path), sorted(
        made, key=lambda record: record.split
    )


@pytest.fixture
def dataset(version, tmp_path):
    return RoboHiveDataset(version[0], store=tmp_path)


def test_both_caches_hold_the_recorded_pictures(version, tmp_path, monkeypatch):
    folder, made = version
    monkeypatch.setattr(_packed_writer, "CHUNK_BYTES", 100_000)
    for kind in KINDS:
        packed = open_packed(folder, Manifest.read(folder), image_cache=kind, store=tmp_path)
        assert_holds(packed, made)
        assert {path.suffix for path in packed.folder.glob("wide-*")} == (
            {".bin"} if kind == "raw" else {".lz4", ".idx"}
        )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"slice_len": 4},
        {"slice_len": 4, "short_episodes": "pad"},
        {"n_step": 3},
        {"frame_stack": 3},
        {"frame_stack": 2, "n_step": 2, "return_to_go": True},
        {"split": "b"},
        {"where": pc.field("length") > 5},
        {"keys": ["pixels"]},
        {"keys": ["action"]},
        {"in_memory": True},
        {"prefetch": 2},
        {"sampler": SamplerWithoutReplacement},
    ],
    ids=str,
)
def test_an_encoded_buffer_gives_the_batches_of_a_raw_one(dataset, options):
    def buffer(kind):
        made = {"sampler": options["sampler"]()} if "sampler" in options else {}
        return dataset.as_replay_buffer(4, dtype=None, seed=0, image_cache=kind, **options | made)

    raw, encoded = buffer("raw"), buffer("encoded")
    assert encoded._storage._packed.folder != raw._storage._packed.folder
    for _ in range(5):
        assert_same(encoded.sample(), raw.sample())
    for _, got, expected in zip(range(4), encoded, raw, strict=False):
        assert_same(got, expected)
    assert_same(pickle.loads(pickle.dumps(encoded)).sample(), raw.sample())


@pytest.mark.slow
def test_loader_workers_decode_for_themselves(dataset):
    def batches(**how):
        return list(dataset.as_dataloader(4, dtype=None, seed=0, **how))

    expected = batches(image_cache="raw")
    for workers in (0, 2):
        for got, want in zip(batches(image_cache="encoded", num_workers=workers), expected, strict=True):
            assert_same(got, want)


def test_a_checkpoint_goes_from_one_cache_to_the_other(dataset, tmp_path):
    raw, encoded = (
        dataset.as_replay_buffer(4, dtype=None, seed=seed, image_cache=kind) for seed, kind in enumerate(KINDS)
    )
    raw.sample()
    raw.dumps(tmp_path / "checkpoint")
    encoded.loads(tmp_path / "checkpoint")

    assert_same(encoded.sample(), raw.sample())


@pytest.mark.parametrize(("memory", "free", "kind"), [(10**6, 10**9, "raw"), (10**5, 10**9, "encoded")])
def test_the_default_is_raw_as_long_as_it_fits(dataset, monkeypatch, caplog, memory, free, kind):
    """There are 19 rows of 9,600 bytes."""
    monkeypatch.setattr(_store, "memory_bytes", lambda: memory)
    monkeypatch.setattr(_store, "free_bytes", lambda store: free)
    with caplog.at_level(logging.INFO, "rlhive"):
        cache_folder = dataset.as_storage(dtype=None)._packed.folder
    assert sorted(path.name for path in cache_folder.glob("wide-0.*")) == (
        ["wide-0.bin"] if kind == "raw" else ["wide-0.idx", "wide-0.lz4"]
    )
    assert f"my/knob 1.0.0: {kind} image cache, since" in caplog.text

    monkeypatch.setattr(_store, "memory_bytes", lambda: 1)
    assert dataset.as_storage(dtype=None)._packed.folder == cache_folder, "an existing cache is opened"


def test_a_full_disk_also_makes_the_default_encoded(dataset, monkeypatch):
    monkeypatch.setattr(_store, "free_bytes", lambda store: 10**5)
    assert dataset.as_storage(dtype=None)._packed.folder.suffix == ".encoded"


def test_another_kind_is_an_error_and_without_pictures_there_is_one_cache(dataset, tmp_path):
    with pytest.raises(ValueError, match="image_cache='png': expected 'raw', 'encoded' or 'none'"):
        dataset.as_replay_buffer(dtype=None, image_cache="png")

    schema, made = records(LENGTHS)
    folder = export(made, "my/plain", version="1.0.0", schema=schema, license="mit", store=tmp_path)
    plain = RoboHiveDataset(folder, store=tmp_path)
    assert (
        plain.as_storage(dtype=None, image_cache="encoded")._packed.folder
        == plain.as_storage(dtype=None)._packed.folder
    )


def test_a_damaged_encoded_cache_is_built_again(dataset):
    expected = dataset.as_tensordict(image_cache="encoded")
    path = dataset.as_storage(dtype=None, image_cache="encoded")._packed.folder / "wide-0.lz4"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)

    assert_same(dataset.as_tensordict(image_cache="encoded"), expected)


def test_an_interrupt_leaves_no_partial_encoded_cache(dataset, version, tmp_path, monkeypatch):
    def interrupted(self, rows):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(FrameWriter, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            dataset.as_storage(dtype=None, image_cache="encoded")
    assert not [path for path in (tmp_path / ".cache").rglob("*") if path.suffix in (".lz4", ".idx", ".json")]
    assert_holds(open_packed(version[0], dataset.manifest, image_cache="encoded", store=tmp_path), version[1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("limit", [300, 40_000])
def test_a_full_disk_is_reported_and_leaves_nothing(dataset, version, tmp_path, kind, limit):
    """The operating system refuses to let a file grow beyond a limit, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        with pytest.raises(DiskFullError, match="No space left"):
            dataset.as_storage(dtype=None, image_cache=kind)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert not [path for path in (tmp_path / ".cache").rglob("*") if path.suffix in (".bin", ".lz4", ".idx", ".json")]
    assert_holds(open_packed(version[0], dataset.manifest, image_cache=kind, store=tmp_path), version[1])


@pytest.mark.parametrize("name", ["episodes.bin"])
def test_a_disk_that_is_full_for_the_last_file_is_reported(dataset, monkeypatch, name):
    write_bytes = Path.write_bytes

    def full(path, content):
        if path.name == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_bytes(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DiskFullError, match="No space left"):
        dataset.as_storage(dtype=None, image_cache="encoded")


def test_deleting_a_version_deletes_both_caches(dataset, tmp_path):
    folders = [dataset.as_storage(dtype=None, image_cache=kind)._packed.folder for kind in KINDS]
    assert all(folder.exists() for folder in folders)

    _lookup.delete("my/knob", "1.0.0", store=tmp_path)

    assert not any(folder.exists() for folder in folders)
