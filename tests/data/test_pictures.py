"""Pictures in Parquet: PNG that gives back every bit, that `datasets` shows, and that damage cannot spoil."""

import io

import datasets
import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rlhive import RoboHiveDataset
from rlhive.data import _arrow, _pictures
from rlhive.data._episodes import EpisodeRecord
from rlhive.data._schema import Field, Schema
from rlhive.data.versions import Manifest, export, read_records
from rlhive.errors import CorruptDatasetError, InvalidOptionError, SchemaMismatchError

LAYOUTS = [
    ("uint8", (32, 40, 3)),
    ("uint8", (3, 32, 40)),
    ("uint8", (2, 32, 40, 3)),
    ("uint8", (2, 1, 3, 33, 35)),
    ("uint8", (32, 40, 1)),
    ("uint8", (32, 40, 2)),
    ("uint8", (32, 40, 4)),
    ("uint16", (32, 40, 1)),
    ("uint16", (1, 32, 40)),
]


def random_rows(num_rows, dtype, shape, seed=0):
    generator = np.random.default_rng(seed)
    return generator.integers(0, np.iinfo(dtype).max, (num_rows, *shape), dtype=dtype, endpoint=True)


def make_records(num_episodes=3, length=4, shapes=None):
    """Return records with pictures that are observed, and an action."""
    shapes = shapes or {"pixels": ("uint8", (32, 40, 3)), "depth": ("uint16", (32, 40, 1))}
    for episode in range(num_episodes):
        rows = {name: random_rows(length + 1, *kind, seed=episode) for name, kind in shapes.items()}
        truncated = np.zeros((length, 1), bool)
        truncated[-1] = True
        columns = {name: values[:-1] for name, values in rows.items()}
        columns |= {
            "action": np.full((length, 2), episode, np.float32),
            "next.reward": np.ones((length, 1)),
            "next.terminated": np.zeros((length, 1), bool),
            "next.truncated": truncated,
        }
        yield EpisodeRecord(
            episode, "train", columns, {name: values[-1] for name, values in rows.items()}, seed=episode
        )


def write(store, **options):
    return export(list(make_records()), "my/cameras", license="mit", store=store, **options)


@pytest.mark.parametrize(("dtype", "shape"), LAYOUTS, ids=str)
def test_png_gives_back_every_bit(dtype, shape):
    rows = random_rows(9, dtype, shape)

    contents = _pictures.encode_rows(rows)

    np.testing.assert_array_equal(_pictures.decode_rows(contents, dtype, shape, context="x"), rows)
    assert all(content.startswith(b"\x89PNG") for content in contents)


@pytest.mark.parametrize(
    ("dtype", "shape", "expected"),
    [
        *((dtype, shape, "png") for dtype, shape in LAYOUTS),
        ("uint8", (31, 33, 3), "raw"),  # fewer than 1,024 pixels
        ("uint8", (64, 64), "raw"),  # perhaps a table
        ("uint8", (64, 64, 5), "raw"),
        ("uint16", (64, 64, 3), "raw"),  # which no encoder of Pillow takes
        ("float32", (64, 64, 1), "raw"),
        ("int16", (64, 64, 1), "raw"),
        ("uint8", (-1, 64, 3), "raw"),
        ("string", (), "raw"),
    ],
    ids=str,
)
def test_pictures_are_png_by_default_and_other_columns_raw(dtype, shape, expected):
    assert _pictures.choose_storage(dtype, shape) == expected


def test_the_default_storage_of_a_version_is_png_and_gives_the_recorded_values(tmp_path):
    folder = write(tmp_path)
    manifest = Manifest.read(folder)

    assert {field.column: field.storage for field in manifest.schema.fields} == {
        "action": "raw",
        "depth": "png",
        "next.reward": "raw",
        "next.terminated": "raw",
        "next.truncated": "raw",
        "pixels": "png",
    }
    for expected, record in zip(make_records(), read_records(folder, manifest, ["train"]), strict=True):
        assert record.content_hash() == expected.content_hash()
    buffer = RoboHiveDataset("my/cameras", store=tmp_path).as_tensordict()
    np.testing.assert_array_equal(
        buffer["pixels"].numpy(), np.concatenate([record.columns["pixels"] for record in make_records()])
    )
    np.testing.assert_array_equal(buffer["next", "depth"][3].numpy(), next(make_records()).final["depth"])


def test_storage_changes_files_but_neither_fingerprint_nor_values(tmp_path):
    png, raw = (
        Manifest.read(write(tmp_path / name, storage=dict.fromkeys(("pixels", "depth"), name)))
        for name in ("png", "raw")
    )

    assert png.fingerprint == raw.fingerprint
    assert png.num_bytes != raw.num_bytes
    columns = {field.column for field in raw.schema.fields if field.is_encoded}
    assert columns == set()


def test_versions_without_encoded_pictures_keep_layout_1(tmp_path):
    folder = write(tmp_path, storage={"pixels": "raw", "depth": "raw"})
    content = (folder / "rlhive.json").read_text()

    assert '"format_version": 1' in content
    assert "storage" not in content
    assert Manifest.read(folder).schema["pixels"].storage == "raw"


def test_a_derived_version_keeps_the_storage_of_its_source(tmp_path):
    write(tmp_path, storage={"pixels": "raw"})
    view = RoboHiveDataset("my/cameras", store=tmp_path).where("episode < 2")

    derived = Manifest.read(view.save("my/part", license="mit").path)

    assert (derived.schema["pixels"].storage, derived.schema["depth"].storage) == ("raw", "png")


def test_an_appended_version_keeps_the_storage_and_shares_the_shards(tmp_path):
    write(tmp_path, storage={"pixels": "raw"})
    further = list(make_records(length=5))

    folder = export(further, "my/cameras", license="", store=tmp_path, append=True)

    manifest = Manifest.read(folder)
    assert manifest.schema["pixels"].storage == "raw"
    assert manifest.num_episodes == 6
    with pytest.raises(InvalidOptionError, match=r"storage of pixels: expected that of my/cameras \d.0.0"):
        export(further, "my/cameras", license="", store=tmp_path, append=True, storage={"pixels": "png"})


def test_encode_writes_a_patch_version_with_the_same_fingerprint(tmp_path):
    before = RoboHiveDataset(write(tmp_path, storage={"pixels": "raw"}), store=tmp_path)

    after = before.encode({"pixels": "png", "depth": "raw"})

    assert (after.version, after.fingerprint) == ("1.0.1", before.fingerprint)
    assert [after.schema[name].storage for name in ("pixels", "depth")] == ["png", "raw"]
    np.testing.assert_array_equal(after.as_tensordict()["pixels"], before.as_tensordict()["pixels"])
    assert after.manifest.parents[0]["operations"] == ["encode({'pixels': 'png', 'depth': 'raw'})"]


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ({"camera": "png"}, r"storage: expected columns of action, depth, .*, got camera"),
        ({"pixels": "gif"}, r"storage of pixels: expected one of raw, png, jpeg, .*, got 'gif'"),
        ({"action": "png"}, r"storage of action: png holds pictures .*; got float32 \[2\]"),
    ],
    ids=["column", "storage", "kind"],
)
def test_a_storage_that_cannot_be_is_refused_before_anything_is_written(tmp_path, storage, message):
    with pytest.raises(InvalidOptionError, match=message):
        write(tmp_path, storage=storage)
    assert not list(tmp_path.glob("my/cameras/*.*.*"))


def test_datasets_gives_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = export(
        list(make_records(shapes={"pixels": ("uint8", (32, 40, 3)), "wrist": ("uint8", (2, 3, 32, 40))})),
        "my/two",
        license="mit",
        store=tmp_path,
    )
    first = next(make_records(shapes={"pixels": ("uint8", (32, 40, 3)), "wrist": ("uint8", (2, 3, 32, 40))}))

    rows = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    episodes = datasets.load_dataset(str(folder), "episodes", split="train", cache_dir=str(tmp_path / "cache"))

    assert isinstance(rows.features["pixels"], datasets.Image)
    np.testing.assert_array_equal(np.asarray(rows[1]["pixels"]), first.columns["pixels"][1])
    assert [type(camera).__name__ for camera in rows[1]["wrist"]] == ["PngImageFile"] * 2
    np.testing.assert_array_equal(np.asarray(rows[1]["wrist"][1]), np.moveaxis(first.columns["wrist"][1, 1], 0, 2))
    np.testing.assert_array_equal(np.asarray(episodes[0]["final.pixels"]), first.final["pixels"])


def test_pandas_and_duckdb_get_the_bytes_of_files(tmp_path):
    path = write(tmp_path) / "data/train-00000-of-00001.parquet"
    expected = next(make_records()).columns["pixels"][0]

    from_pandas = pd.read_parquet(path)["pixels"][0]["bytes"]
    from_duckdb = duckdb.sql(f"select pixels.bytes from '{path}' limit 1").fetchall()[0][0]

    for content in (from_pandas, from_duckdb):
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content))), expected)


def damaged_pictures():
    picture = random_rows(1, "uint8", (32, 40, 3))[0]
    good = _pictures.encode_png(picture)
    jpeg = io.BytesIO()
    Image.fromarray(picture).save(jpeg, "JPEG")
    return {
        "cut": good[: len(good) // 2],
        "empty": b"",
        "other size": _pictures.encode_png(picture[:-1]),
        "other kind": _pictures.encode_png(picture[:, :, :1]),
        "other format": jpeg.getvalue(),
        "bytes": good[:200] + bytes(40) + good[240:],
    }


@pytest.mark.parametrize("name", damaged_pictures())
def test_a_damaged_picture_is_named(name):
    with pytest.raises(
        CorruptDatasetError, match=r"^Column pixels, picture 0: expected a PNG of 40 x 32 pixels of the kind RGB"
    ):
        _pictures.decode_rows([damaged_pictures()[name]], "uint8", (32, 40, 3), context="Column pixels")


def test_a_small_file_that_claims_a_huge_picture_is_not_decoded():
    bomb = io.BytesIO()
    Image.new("L", (20_000, 20_000)).save(bomb, "PNG", compress_level=1)

    with pytest.raises(CorruptDatasetError, match=r"20000 x 20000 pixels|decompression bomb"):
        _pictures.decode_rows([bomb.getvalue()], "uint8", (32, 40, 3), context="Column pixels")


@pytest.mark.parametrize("is_list", [False, True])
def test_missing_pictures_are_named(is_list):
    field = Field("pixels", "uint8", (2, 32, 40, 3) if is_list else (32, 40, 3), False, storage="png")
    kind = _arrow.row_schema(Schema((field,))).field("pixels").type
    table = pa.table({"pixels": pa.nulls(2, kind)})

    with pytest.raises(CorruptDatasetError, match=r"Column pixels: expected \d pictures in every row, got fewer"):
        _arrow.table_to_columns(table, Schema((field,)))


def test_row_groups_of_other_programs_are_decoded_in_parts(tmp_path):
    """A row group may hold any number of rows; their pictures need memory only once they are decoded."""
    from rlhive.data import _parquet

    path, rows = tmp_path / "rows.parquet", 3000
    pq.write_table(pa.table({"pixels": [b"x"] * rows}), path)

    sizes = [len(batch) for batch in _parquet.read_batches([path], decoded_bytes=2**20)]

    assert max(sizes) <= 32
    assert sum(sizes) == rows


def test_a_hidden_mutation_of_a_picture_fails_the_content_hash(tmp_path):
    folder = write(tmp_path)
    manifest = Manifest.read(folder)
    rows = pq.read_table(folder / "data/train-00000-of-00001.parquet")
    episodes = pq.read_table(folder / "meta/episodes.parquet")
    pictures = rows["pixels"].to_pylist()
    pictures[0] = {"bytes": _pictures.encode_png(random_rows(1, "uint8", (32, 40, 3), seed=9)[0]), "path": None}
    index = rows.schema.get_field_index("pixels")
    changed = rows.set_column(index, rows.schema.field(index), pa.array(pictures, rows.schema.field(index).type))

    with pytest.raises(CorruptDatasetError, match="Episode 0: expected 4 transitions with content hash"):
        list(_arrow.table_to_records(changed, episodes, manifest.schema))


def test_recordings_hold_raw_pictures(tmp_path):
    """The schema of a dataset opens a recording; its pictures are encoded when the version is written."""
    from rlhive.data.recording import Recording

    schema = Manifest.read(write(tmp_path)).schema
    recording = Recording.create(tmp_path / "recording", schema=schema)

    assert {field.storage for field in recording.schema.fields} == {None}


def test_unknown_storage_in_a_manifest_is_refused():
    row = Field("pixels", "uint8", (32, 40, 3), False, storage="png")
    rows = Schema((row,)).to_json()

    assert Schema.from_json(rows).fields == (row,)
    with pytest.raises((SchemaMismatchError, InvalidOptionError), match="storage"):
        Schema.from_json([rows[0] | {"storage": "exe"}])
