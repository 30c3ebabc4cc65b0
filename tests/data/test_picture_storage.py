"""Pictures stored with a loss or as videos: values, hashes, derived versions, and errors of damaged files."""

import io
import json
import shutil

import datasets
import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rlhive import RoboHiveDataset, check
from rlhive.data import EpisodeRecord, _arrow_pictures
from rlhive.data._picture_codecs import parse_storage, require_storage
from rlhive.data.versions import Manifest, export, read_records
from rlhive.data.versions._picture_loss import compute_ssim
from rlhive.errors import CorruptDatasetError, InvalidOptionError

av = pytest.importorskip("av")

LOSSY = ["jpeg", "av1", "h264"]
VIDEOS = ["ffv1", "av1", "h264"]
#: One video in the plain run, the others in the slow one.
SOME_VIDEOS = [pytest.param("ffv1", marks=pytest.mark.slow), pytest.param("av1", marks=pytest.mark.slow), "h264"]
SHAPE = (2, 32, 40, 3)


def draw_rows(num_rows, shape=SHAPE, dtype="uint8", seed=0):
    """Return smooth pictures that move, which a lossy codec keeps nearly as they are, with a little noise."""
    generator = np.random.default_rng(seed)
    limit = np.iinfo(dtype).max
    grid = np.linspace(0.2, 0.8, int(np.prod(shape))).reshape(shape)
    rows = np.stack([np.roll(grid, 3 * row + seed, axis=-2) for row in range(num_rows)]) * limit
    return np.clip(rows + generator.normal(0, limit / 200, rows.shape), 0, limit).astype(dtype)


def make_records(num_episodes=3, first=0, length=5, shapes=None):
    shapes = shapes or {"pixels": SHAPE}
    for episode in range(first, first + num_episodes):
        rows = {
            name: draw_rows(length + 1, shape, "uint16" if name == "depth" else "uint8", seed=episode)
            for name, shape in shapes.items()
        }
        ends = np.zeros((length, 1), bool)
        ends[-1] = True
        columns = {name: values[:-1] for name, values in rows.items()} | {
            "action": np.full((length, 2), episode, np.float32),
            "next.reward": np.ones((length, 1)),
            "next.terminated": np.zeros((length, 1), bool),
            "next.truncated": ends,
        }
        final = {name: values[-1] for name, values in rows.items()}
        yield EpisodeRecord(episode, "test" if episode == 1 else "train", columns, final, seed=episode)


def write(store, storage, records=None, **options):
    options = {"license": "mit", "store": store} | options
    return export(list(records or make_records()), "my/cameras", storage={"pixels": storage}, **options)


def read(folder):
    manifest = Manifest.read(folder)
    return manifest, {record.episode: record for record in read_records(folder, manifest, list(manifest.splits))}


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("raw", "raw"),
        ("png", "png"),
        ("jpeg", "jpeg:quality=90"),
        ("jpeg:80", "jpeg:quality=80"),
        ("jpeg:quality=80", "jpeg:quality=80"),
        ("av1", "av1:crf=30:gop=2:preset=10"),
        ("av1:gop=20:crf=40", "av1:crf=40:gop=20:preset=10"),
        ("ffv1", "ffv1"),
    ],
)
def test_a_storage_has_one_full_name(text, full):
    assert str(parse_storage(text)) == full
    assert str(parse_storage(full)) == full


@pytest.mark.parametrize(
    ("storage", "dtype", "shape", "message"),
    [
        ("gif", "uint8", (32, 40, 3), "expected one of raw, png, jpeg, ffv1, av1, h264, h265, got 'gif'"),
        (
            "av1:speed=3",
            "uint8",
            (32, 40, 3),
            "options of av1: expected crf, gop, preset, got 'speed' in 'av1:speed=3'",
        ),
        ("png:3", "uint8", (32, 40, 3), "options of png: expected none, got '3' in 'png:3'"),
        ("av1:crf=64", "uint8", (32, 40, 3), "crf of av1: expected a number from 0 to 63, got '64'"),
        ("jpeg:-1", "uint8", (32, 40, 3), "quality of jpeg: expected a number from 1 to 100, got '-1'"),
        ("jpeg:²", "uint8", (32, 40, 3), "quality of jpeg: expected a number from 1 to 100, got '²'"),
        ("raw:1", "uint8", (32, 40, 3), "expected one of raw"),
        (
            "h264",
            "uint8",
            (33, 40, 3),
            r"h264 holds pictures uint8 \[H, W, 3\] with even H and W, .*got uint8 \[33, 40",
        ),
        (
            "h265",
            "uint8",
            (62, 64, 3),
            r"h265 holds pictures uint8 \[H, W, 3\] with even H and W of 64 or more, .*62, 64",
        ),
        ("av1", "uint16", (32, 40, 1), r"av1 holds pictures uint8 \[H, W, 3\] with even"),
        ("jpeg", "uint8", (32, 40, 4), r"jpeg holds pictures uint8 \[H, W, 1 or 3\], or"),
        ("ffv1", "uint8", (32, 40, 2), r"ffv1 holds pictures uint8 \[H, W, 1 or 3 or 4\] or uint16 \[H, W, 1\], or"),
    ],
)
def test_a_storage_that_cannot_be_names_those_that_can(storage, dtype, shape, message):
    with pytest.raises(InvalidOptionError, match=f"storage of pixels: {message}"):
        require_storage(storage, dtype, shape, column="pixels")


@pytest.mark.parametrize("storage", LOSSY)
def test_a_lossy_version_gives_nearly_the_pictures_and_says_what_it_lost(tmp_path, storage):
    folder = write(tmp_path, storage)
    manifest, records = read(folder)

    assert manifest.schema["pixels"].storage == str(parse_storage(storage))
    assert json.loads((folder / "rlhive.json").read_text())["format_version"] == 3
    for split, ids in (("train", (0, 2)), ("test", (1,))):
        errors = [
            np.square(records[episode].columns["pixels"][row].astype(float) - original.columns["pixels"][row]).mean(
                (1, 2, 3)
            )
            for episode in ids
            for original in [list(make_records())[episode]]
            for row in range(5)
        ] + [
            np.square(
                records[episode].final["pixels"].astype(float) - list(make_records())[episode].final["pixels"]
            ).mean((1, 2, 3))
            for episode in ids
        ]
        loss = manifest.picture_loss[split]["pixels"]
        assert loss["num_pictures"] == 12 * len(ids)
        assert loss["psnr"] == pytest.approx(10 * np.log10(255**2 / np.mean(errors)), abs=0.01)
        assert loss["min_psnr"] == pytest.approx(10 * np.log10(255**2 / np.max(errors)), abs=0.01)
        assert loss["psnr"] > 28
        similarities = [
            compute_ssim(before, after)
            for episode in ids
            for original in [list(make_records())[episode]]
            for rows in [
                (original.columns["pixels"], records[episode].columns["pixels"]),
                (original.final["pixels"][None], records[episode].final["pixels"][None]),
            ]
            for before, after in zip(*(part.reshape(-1, *SHAPE[1:]) for part in rows), strict=True)
        ]
        assert len(similarities) == loss["num_pictures"]
        assert loss["ssim"] == pytest.approx(np.mean(similarities), abs=1e-4)
        assert loss["min_ssim"] == pytest.approx(np.min(similarities), abs=1e-4)
        assert 0.5 < loss["min_ssim"] < loss["ssim"] < 1


@pytest.mark.parametrize("shapes", [{"pixels": SHAPE}, {"pixels": (3, 33, 41)}, {"pixels": (32, 40, 4)}], ids=str)
def test_ffv1_gives_back_every_bit_under_the_fingerprint_of_png(tmp_path, shapes):
    folder = write(tmp_path / "ffv1", "ffv1", list(make_records(shapes=shapes)))
    png = write(tmp_path / "png", "png", list(make_records(shapes=shapes)))
    manifest, records = read(folder)

    assert manifest.fingerprint == Manifest.read(png).fingerprint
    assert manifest.picture_loss == {}
    for original in make_records(shapes=shapes):
        np.testing.assert_array_equal(records[original.episode].columns["pixels"], original.columns["pixels"])
        np.testing.assert_array_equal(records[original.episode].final["pixels"], original.final["pixels"])


def test_ffv1_holds_depth_of_16_bits(tmp_path):
    records = list(make_records(shapes={"depth": (1, 32, 40)}))
    folder = export(records, "my/depth", license="mit", store=tmp_path, storage={"depth": "ffv1"})

    _, read_back = read(folder)

    np.testing.assert_array_equal(read_back[2].columns["depth"], records[2].columns["depth"])


@pytest.mark.parametrize("storage", [pytest.param("jpeg", marks=pytest.mark.slow), "av1"])
def test_the_fingerprint_of_a_lossy_version_is_over_the_encoded_pictures(tmp_path, storage):
    first, second = (Manifest.read(write(tmp_path / name, storage)) for name in "ab")
    other = Manifest.read(write(tmp_path / "c", "jpeg:50" if storage == "jpeg" else "av1:crf=50"))
    png = Manifest.read(write(tmp_path / "d", "png"))

    assert first.fingerprint == second.fingerprint
    assert len({first.fingerprint, other.fingerprint, png.fingerprint}) == 3


@pytest.mark.parametrize("storage", VIDEOS)
def test_videos_are_plain_files_that_players_open(tmp_path, storage):
    folder = write(tmp_path, storage)
    manifest = Manifest.read(folder)

    assert [entry.path for entry in manifest.videos] == [
        f"videos/pixels.{camera}/chunk-000/file-{episode:03d}.mp4" for camera in (0, 1) for episode in (0, 1)
    ]
    with av.open(str(folder / "videos/pixels.1/chunk-000/file-000.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert container.streams.video[0].average_rate == 30
    assert len(frames) == 12  # episodes 0 and 2, each with its final observation
    records = read(folder)[1]
    np.testing.assert_array_equal(frames[5], records[0].final["pixels"][1])
    np.testing.assert_array_equal(frames[6], records[2].columns["pixels"][0, 1])
    rows = pq.read_table(folder / "data/train-00000-of-00001.parquet")["pixels"].to_pylist()
    assert rows[6][1] == {"path": "videos/pixels.1/chunk-000/file-000.mp4", "frame": 7}


@pytest.mark.parametrize("storage", ["jpeg", *SOME_VIDEOS])
def test_every_reader_gives_the_same_pictures(tmp_path, storage):
    folder = write(tmp_path, storage)
    records = read(folder)[1]
    dataset = RoboHiveDataset(folder, store=tmp_path)

    tensors = dataset.as_tensordict()
    expected = np.concatenate([records[episode].columns["pixels"] for episode in (0, 2, 1)])
    np.testing.assert_array_equal(tensors["pixels"].numpy(), expected)
    np.testing.assert_array_equal(tensors["next", "pixels"][4].numpy(), records[0].final["pixels"])
    episodes = {int(td["episode"][0]): td for td in dataset.iter_episodes()}
    np.testing.assert_array_equal(episodes[1]["pixels"].numpy(), records[1].columns["pixels"])
    batch = next(iter(dataset.iter_batches(5)))
    np.testing.assert_array_equal(batch["pixels"].numpy(), records[0].columns["pixels"])
    assert dataset.as_arrow().num_rows == 15
    report = check(folder)
    assert report.ok, str(report)


def test_other_tools_get_pictures_of_jpeg_and_the_address_of_a_frame_of_a_video(tmp_path, monkeypatch):
    """datasets' Video is a whole file to each row; see decision 045."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    shape = (32, 40, 3)
    made = list(make_records(shapes={"pixels": shape, "wrist": shape}))
    storage = {"pixels": "jpeg", "wrist": "h264"}
    folder = export(made, "my/cameras", license="mit", store=tmp_path, storage=storage)
    expected = read(folder)[1][0].columns
    shard = folder / "data/train-00000-of-00001.parquet"

    rows = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    from_pandas = pd.read_parquet(shard)
    from_duckdb = duckdb.sql(f"select pixels.bytes, wrist.path, wrist.frame from '{shard}'").fetchall()[3]

    assert isinstance(rows.features["pixels"], datasets.Image)
    assert type(rows[3]["pixels"]).__name__ == "JpegImageFile"
    for picture in (rows[3]["pixels"], *map(open_picture, (from_pandas["pixels"][3]["bytes"], from_duckdb[0]))):
        np.testing.assert_array_equal(np.asarray(picture), expected["pixels"][3])
    address = {"path": "videos/wrist/chunk-000/file-000.mp4", "frame": 3}
    assert rows[3]["wrist"] == from_pandas["wrist"][3] == dict(zip(address, from_duckdb[1:], strict=True)) == address
    with av.open(str(folder / address["path"])) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    np.testing.assert_array_equal(frames[address["frame"]], expected["wrist"][3])


def open_picture(content):
    return Image.open(io.BytesIO(content))


@pytest.mark.parametrize("storage", [pytest.param("jpeg", marks=pytest.mark.slow), *SOME_VIDEOS[1:]])
def test_derived_versions_keep_the_encoded_pictures(tmp_path, storage):
    """Selecting, appending, merging and renaming lose nothing more, and name no loss of their own."""
    folder = write(tmp_path, storage)
    dataset, records = RoboHiveDataset(folder, store=tmp_path), read(folder)[1]

    part = dataset.where("episode > 0").save("my/part", license="mit")
    renamed = dataset.rename_column("pixels", "camera", name="my/renamed")
    further = list(make_records(2, first=7))
    appended = export(further, "my/cameras", license="", store=tmp_path, append=True)
    merged = dataset.merge(part, name="my/merged")

    for path, column in (
        (part.path, "pixels"),
        (renamed.path, "camera"),
        (appended, "pixels"),
        (merged.path, "pixels"),
    ):
        manifest, copies = read(path)
        for episode in copies.keys() & records.keys():
            original, copy = records[episode], copies[episode]
            np.testing.assert_array_equal(copy.columns[column], original.columns["pixels"])
            np.testing.assert_array_equal(copy.final[column], original.final["pixels"])
            if column == "pixels":
                assert copy.content_hash() == original.content_hash()
        assert check(path).ok
        if path != appended:
            assert manifest.picture_loss == {}
    manifest = Manifest.read(appended)
    assert manifest.picture_loss["train"]["pixels"]["num_pictures"] == 24
    if storage != "jpeg":
        old, new = (folder / entry.path for entry in Manifest.read(folder).videos[:2]), manifest.videos
        assert all(path.samefile(appended / path.relative_to(folder)) for path in old)
        assert [entry.path for entry in new][-1] == "videos/pixels.1/chunk-000/file-003.mp4"


def test_encode_to_a_lossy_storage_is_a_minor_version_and_to_a_lossless_one_a_patch(tmp_path):
    dataset = RoboHiveDataset(write(tmp_path, "png"), store=tmp_path)

    ffv1 = dataset.encode({"pixels": "ffv1"})
    lossy = ffv1.encode({"pixels": "av1"})
    png = lossy.encode({"pixels": "png"})

    assert [ffv1.version, lossy.version, png.version] == ["1.0.1", "1.1.0", "1.1.1"]
    assert ffv1.fingerprint == dataset.fingerprint
    assert lossy.manifest.picture_loss["train"]["pixels"]["psnr"] > 28
    np.testing.assert_array_equal(png.as_tensordict()["pixels"], lossy.as_tensordict()["pixels"])
    assert check(png.path).ok
    ratio = min(loss["pixels"]["psnr"] for loss in lossy.manifest.picture_loss.values())
    assert f"stored as av1:crf=30:gop=2:preset=10 (PSNR {ratio:.1f} dB)" in repr(lossy)
    assert lossy.manifest.parents[0]["operations"] == ["encode({'pixels': 'av1'})"]


def test_exporting_the_same_episodes_again_makes_no_version(tmp_path):
    folder = write(tmp_path, "h264")

    assert write(tmp_path, "h264") == folder


def damage(path):
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 60] = bytes(60)
    path.write_bytes(content)


@pytest.mark.parametrize("storage", SOME_VIDEOS)
def test_a_changed_video_does_not_have_its_hash(tmp_path, storage):
    folder = write(tmp_path, storage)
    path = folder / "videos/pixels.0/chunk-000/file-000.mp4"
    damage(path)

    with pytest.raises(CorruptDatasetError, match=r"file-000.mp4: expected SHA-256"):
        read(folder)
    assert not check(folder).ok


def forge(folder, change):
    """Change a video and the manifest's hash of it, as whoever publishes a version can."""
    import hashlib

    path = folder / "videos/pixels.0/chunk-000/file-000.mp4"
    change(path)
    manifest = json.loads((folder / "rlhive.json").read_text())
    for entry in manifest["files"]:
        if entry["path"] == str(path.relative_to(folder)):
            entry |= {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}
    (folder / "rlhive.json").write_text(json.dumps(manifest))


def replace_video(folder, other):
    forge(folder, lambda path: shutil.copy(other, path))


def test_a_video_with_fewer_frames_than_the_table_says_is_named(tmp_path):
    folder = write(tmp_path / "a", "h264")
    short = write(tmp_path / "b", "h264", list(make_records(1)))
    replace_video(folder, short / "videos/pixels.0/chunk-000/file-000.mp4")

    with pytest.raises(
        CorruptDatasetError, match=r"file-000.mp4: expected 1[12] frames or more, as the table says, got 6"
    ):
        read(folder)
    report = check(folder)
    assert "frames or more, as the table says, got 6" in str(report)


def test_a_video_of_another_size_or_codec_is_not_decoded(tmp_path):
    folder = write(tmp_path / "a", "h264")
    large = write(tmp_path / "b", "h264", list(make_records(shapes={"pixels": (2, 64, 64, 3)})))
    other = write(tmp_path / "c", "ffv1")

    for source, message in ((large, "h264 of 64 x 64 pixels, not 40 x 32"), (other, "codec ffv1, not h264")):
        replace_video(folder, source / "videos/pixels.0/chunk-000/file-000.mp4")
        with pytest.raises(CorruptDatasetError, match=message):
            read(folder)


@pytest.mark.parametrize("storage", ["av1", "h264", "ffv1"])
def test_a_frame_that_cannot_be_decoded_is_named(tmp_path, storage):
    folder = write(tmp_path, storage)

    def spoil(path):
        from rlhive.data._video_files import VideoFile

        packets = VideoFile(path, "x").read(0, 12)
        content = path.read_bytes()
        path.write_bytes(content.replace(packets[8], b"\xff" * len(packets[8])))

    forge(folder, spoil)

    with pytest.raises(CorruptDatasetError, match=r"file-000.mp4, frame [78] of episode 2: expected a picture, got"):
        RoboHiveDataset(folder, store=tmp_path).as_tensordict()


def test_frames_are_decoded_episode_by_episode():
    """Frames of two episodes follow each other in a file where a column has no final values."""
    frames = [{"path": "a.mp4", "frame": frame} for frame in (4, 5, 6, 7, 9)]

    assert list(_arrow_pictures._find_runs(frames, np.array([0, 0, 1, 1, 1]))) == [(0, 2), (2, 4), (4, 5)]


@pytest.mark.parametrize(
    "content",
    [
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"",
        b"\0\0\0\x18ftypisom",
    ],
)
def test_other_files_are_not_opened_as_videos(tmp_path, content):
    folder = write(tmp_path, "h264")
    forge(folder, lambda path: path.write_bytes(content))

    with pytest.raises(CorruptDatasetError, match=r"file-000.mp4: expected an MP4 file of one video, got"):
        read(folder)


def test_rows_cannot_name_files_outside_of_the_manifest(tmp_path):
    folder = write(tmp_path, "h264")
    manifest = json.loads((folder / "rlhive.json").read_text())
    manifest["files"] = [entry for entry in manifest["files"] if not entry["path"].endswith("file-001.mp4")]
    (folder / "rlhive.json").write_text(json.dumps(manifest))

    with pytest.raises(CorruptDatasetError, match=r"rows name the video .*file-001.mp4, which is not in the manifest"):
        read(folder)


def test_h265_is_stored_and_read(tmp_path):
    records = list(make_records(shapes={"pixels": (64, 64, 3)}))
    manifest, read_back = read(write(tmp_path, "h265", records))

    assert manifest.picture_loss["train"]["pixels"]["psnr"] > 28
    error = np.abs(read_back[2].columns["pixels"].astype(int) - records[2].columns["pixels"]).mean()
    assert error < 8
    assert check(tmp_path / "my/cameras/1.0.0").ok


def test_long_episodes_are_encoded_in_order_and_new_files_begun(tmp_path):
    records = list(make_records(6, length=20, shapes={"pixels": (64, 64, 3)}))
    folder = write(tmp_path, "h264:gop=8", records, shard_bytes=4000)
    manifest, read_back = read(folder)

    assert len(manifest.videos) > 2
    assert len(manifest.shards()) > 1
    assert list(read_back) == [0, 2, 3, 4, 5, 1]
    for record in records:
        error = np.abs(read_back[record.episode].columns["pixels"].astype(int) - record.columns["pixels"]).mean()
        assert error < 8


def test_cards_and_descriptions_name_the_storage(tmp_path):
    records = list(make_records(shapes={"pixels": SHAPE, "wrist": (32, 40, 3)}))
    storage = {"pixels": "h264", "wrist": "jpeg"}
    folder = export(records, "my/cameras", license="mit", store=tmp_path, storage=storage)

    card = (folder / "README.md").read_text()
    assert "Pictures (`pixels`) are frames of the MP4 files below `videos/`" in card
    assert "Pictures (`wrist`) are JPEG files, with a loss that `rlhive.json` notes" in card


@pytest.mark.parametrize("storage", SOME_VIDEOS)
@pytest.mark.parametrize("shape", [(2, 64, 64, 3), (3, 64, 64)], ids=str)
def test_frames_are_read_from_the_videos_without_a_cache_of_pictures(tmp_path, storage, shape):
    folder = write(
        tmp_path, f"{storage}:gop=3" if storage == "h264" else storage, list(make_records(shapes={"pixels": shape}))
    )
    dataset = RoboHiveDataset(folder, store=tmp_path)
    options = {"batch_size": 16, "seed": 0}

    direct = dataset.as_replay_buffer(image_cache="none", **options).sample()
    cached = dataset.as_replay_buffer(image_cache="raw", **options).sample()

    assert direct["pixels"].shape == (16, *shape)
    for key in ("pixels", ("next", "pixels"), "episode", "action"):
        np.testing.assert_array_equal(direct[key].numpy(), cached[key].numpy())
    caches = {path.name.partition(".")[2]: path for path in tmp_path.glob(".cache/*")}
    assert sorted(path.suffix for path in caches["float32.none"].glob("wide*")) == [
        ".idx",
        *[".mp4"] * len(list(folder.rglob("*.mp4"))),
    ]
    np.testing.assert_array_equal(
        dataset.as_tensordict(image_cache="none")["pixels"].numpy(),
        dataset.as_tensordict(image_cache="raw")["pixels"].numpy(),
    )


def test_reading_without_a_cache_needs_videos(tmp_path):
    dataset = RoboHiveDataset(
        write(tmp_path, "png", list(make_records(shapes={"pixels": (64, 64, 3)}))), store=tmp_path
    )

    with pytest.raises(
        InvalidOptionError,
        match=r"image_cache='none': expected pictures in videos, my/cameras 1.0.0 has pixels as png.*"
        r"rlhive encode my/cameras --keys pixels=ffv1",
    ):
        dataset.as_replay_buffer(image_cache="none", batch_size=4)


def test_a_disk_that_is_too_small_says_the_size_before_anything_is_decoded(tmp_path, monkeypatch):
    from rlhive.data import _store
    from rlhive.errors import DiskFullError

    records = list(make_records(shapes={"pixels": (64, 64, 3)}))
    dataset = RoboHiveDataset(write(tmp_path, "h264", records), store=tmp_path)
    monkeypatch.setattr(_store, "free_bytes", lambda store=None: 100_000)

    with pytest.raises(
        DiskFullError, match=r"cache of my/cameras 1.0.0 takes 0 MB, and the disk of the store has 0 MB"
    ):
        dataset.as_replay_buffer(image_cache="raw", batch_size=4)
    assert [path.suffix for path in tmp_path.glob(".cache/*")] == [".lock"]


def test_a_recording_is_committed_in_a_storage_by_name(tmp_path):
    from rlhive.data.recording import Recorder

    frames = draw_rows(6, (32, 40, 3))
    episode = {
        "pixels": frames[:-1],
        "action": np.zeros((5, 2), np.float32),
        "next": {
            "pixels": frames[1:],
            "reward": np.zeros((5, 1)),
            "terminated": np.zeros((5, 1), bool),
            "truncated": np.arange(5)[:, None] == 4,
        },
    }
    recorder = Recorder("my/robot", policy="hand", split="train", store=tmp_path)
    recorder.add_episode(episode)
    with pytest.raises(InvalidOptionError, match="storage of pixels: expected one of raw, png"):
        recorder.commit(license="mit", storage={"pixels": "mp3"})

    folder = recorder.commit(license="mit", storage={"pixels": "ffv1"})

    assert Manifest.read(folder).schema["pixels"].storage == "ffv1"
    np.testing.assert_array_equal(RoboHiveDataset(folder, store=tmp_path).as_tensordict()["next", "pixels"], frames[1:])
