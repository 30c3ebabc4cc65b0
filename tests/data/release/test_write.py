"""The release of a version: what mlcroissant reads of it is what the buffer serves; nothing is left half-written."""

import hashlib
import io
import json
import shutil
import subprocess
from urllib.parse import unquote

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from rlhive import RoboHiveDataset
from rlhive.data import release_dir
from rlhive.data._dtypes import BFLOAT16
from rlhive.data.release import RELEASE_FILES, write_release
from rlhive.data.versions import MANIFEST_NAME, Manifest, export, list_local_datasets, list_local_versions
from rlhive.errors import (
    CheckFailedError,
    CorruptDatasetError,
    DiskFullError,
    InvalidOptionError,
    StoreNotWritableError,
)
from rlhive.rollouts import check
from tests.data.release.samples import ANSWERS, SCHEMA, every_kind
from tests.hub_client import read_files


@pytest.fixture(params=[0, 1], ids=["one shard", "several shards"])
def version(request, exported, tmp_path):
    return shutil.copytree(exported[request.param], tmp_path / "one/org/kinds/1.0.0")


def read_records(path, name, **options):
    mlcroissant = pytest.importorskip("mlcroissant")
    dataset = mlcroissant.Dataset(path, **options)
    assert dataset.metadata.issues.report() == ""
    return list(dataset.records(name))


def column_of(rows, name, dtype):
    """Return the values of a field as one flat array."""
    return np.concatenate([np.asarray(open_pictures(row[name])).reshape(-1) for row in rows]).astype(dtype)


def open_pictures(value):
    """Return the pictures of a list of PNG files; any other value as it is."""
    is_list = isinstance(value, list) and isinstance(value[0], bytes)
    return [np.asarray(Image.open(io.BytesIO(content))) for content in value] if is_list else value


def field_ids(rows):
    """Return the id of each column's field."""
    return {unquote(name.partition("/")[2]): name for name in rows[0]}


def test_mlcroissant_reads_the_values_of_the_replay_buffer_bit_for_bit(version):
    release = write_release(version, ANSWERS)

    for split in ("a", "b"):
        rows = read_records(release / "croissant.json", split)
        buffer = RoboHiveDataset(version, split=split).as_replay_buffer(16, dtype=None, ragged="nested")
        batch = buffer[:]
        names = field_ids(rows)
        assert set(names) == {"episode", "step_count", *SCHEMA.columns}
        assert len(rows) == len(batch)
        for field in SCHEMA.tensors:
            served = batch[field.key]
            if field.dtype == "bfloat16":
                got = column_of(rows, names[field.column], np.uint16)
                assert np.array_equal(got, served.view(torch.int16).numpy().view(np.uint16).ravel())
                continue
            expected = served.numpy().ravel()
            got = column_of(rows, names[field.column], expected.dtype)
            assert got.tobytes() == expected.tobytes(), field
        for field in SCHEMA.ragged:
            for row, served in zip(rows, batch[field.key].unbind(), strict=True):
                got = np.asarray(row[names[field.column]], served.numpy().dtype)
                assert got.tobytes() == served.numpy().tobytes()


def test_mlcroissant_reads_texts_indices_and_the_episode_table(version):
    release = write_release(version, ANSWERS)
    dataset = RoboHiveDataset(version)

    rows = read_records(release / "croissant.json", "a")
    stored = RoboHiveDataset(version, split="a").as_arrow()
    for column in ("episode", "step_count"):
        assert [row[f"a/{column}"] for row in rows] == stored[column].to_pylist()
    assert [row["a/instruction"].decode() for row in rows] == stored["instruction"].to_pylist()

    episodes = read_records(release / "croissant.json", "episode-table")
    for column in ("episode", "length", "return", "success", "seed"):
        assert [row[f"episode-table/{column}"] for row in episodes] == dataset.episodes[column].to_pylist()
    assert [row["episode-table/split"].decode() for row in episodes] == dataset.episodes["split"].to_pylist()
    for column in ("final.observation", "start.qpos"):
        values = [row[f"episode-table/{column}"] for row in episodes]
        assert values == dataset.episodes[column].to_pylist()


@pytest.mark.usefixtures("unvalidated")
def test_the_version_stays_and_the_checksums_hold(kinds):
    version = kinds
    before = read_files(version)
    times = {path: path.stat().st_mtime_ns for path in version.rglob("*")}
    release = write_release(version, ANSWERS)

    assert release == version.with_name("1.0.0.release") == release_dir(version)
    assert read_files(version) == before
    assert {path: path.stat().st_mtime_ns for path in version.rglob("*")} == times
    files = read_files(release)
    assert files.keys() == {*before, *RELEASE_FILES}
    assert {path: files[path] for path in before} == before
    for path in before:
        assert (release / path).samefile(version / path)
    command = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    checked = subprocess.run(command, cwd=release, capture_output=True, text=True, check=True)
    assert len(checked.stdout.splitlines()) == len(files) - 1
    damaged = shutil.copytree(release, release.parent / "copy")
    (damaged / "data/a-00000-of-00001.parquet").write_bytes(b"damaged")
    assert subprocess.run(command, cwd=damaged, capture_output=True, check=False).returncode == 1


@pytest.mark.usefixtures("unvalidated")
def test_check_lists_and_fingerprint_take_no_notice_of_a_release(kinds):
    version, store = kinds, kinds.parents[2]
    before = check(version).to_json()
    fingerprint = Manifest.read(version).fingerprint
    write_release(version, ANSWERS)

    assert check(version).to_json() == before
    assert list(list_local_versions("org/kinds", store=store)) == ["1.0.0"]
    assert RoboHiveDataset("org/kinds", store=store).fingerprint == fingerprint
    shutil.rmtree(version)
    assert list_local_datasets(store=store) == []


@pytest.mark.usefixtures("unvalidated")
def test_answers_are_kept_replaced_and_taken_over_by_the_next_version(kinds):
    version = kinds
    asked = []
    release = write_release(version, ANSWERS)
    write_release(version, ask=lambda name, question: asked.append(name))
    write_release(version, {"limitations": "Two robots."})
    following = every_kind(kinds.parents[2], description="Another one.")
    assert following.name == "1.0.1"
    second = write_release(following)

    assert asked == []
    assert yaml.safe_load((second / "release.yaml").read_text()) == ANSWERS | {"limitations": "Two robots."}
    assert yaml.safe_load((release / "release.yaml").read_text()) == ANSWERS | {"limitations": "Two robots."}
    assert json.loads((release / "croissant.json").read_text())["rai:dataLimitations"] == "Two robots."
    assert sorted(path.name for path in version.parent.glob("[!.]*")) == [
        "1.0.0",
        "1.0.0.release",
        "1.0.1",
        "1.0.1.release",
    ]


@pytest.mark.usefixtures("unvalidated")
def test_answers_of_another_dataset_or_a_later_version_are_not_taken(kinds):
    later = shutil.copytree(kinds, kinds.with_name("1.0.1"))
    write_release(later, ANSWERS)
    with pytest.raises(InvalidOptionError, match="needs an answer to intended_use, limitations, personal_information"):
        write_release(kinds)
    release_dir(later).rename(release_dir(kinds.with_name("0.9.0")))
    manifest = kinds.with_name("0.9.0.release") / MANIFEST_NAME
    content = manifest.read_text()
    manifest.unlink()
    manifest.write_text(content.replace("org/kinds", "org/other"))
    with pytest.raises(InvalidOptionError):
        write_release(kinds)
    manifest.write_text(content)
    write_release(kinds)


@pytest.mark.parametrize("failure", ["answer", "corrupt", "croissant", "disk", "interrupt"])
@pytest.mark.usefixtures("unvalidated")
def test_a_failure_leaves_the_release_as_it_was(failure, kinds, monkeypatch):
    version = kinds
    release = write_release(version, ANSWERS)
    before = read_files(release)
    new_answers, error = {"limitations": "New."}, InvalidOptionError
    if failure == "answer":
        new_answers = {"limitations": " "}
    elif failure == "corrupt":
        for path in (version, release):
            shard = path / "data/a-00000-of-00001.parquet"
            content = shard.read_bytes()
            shard.unlink()
            shard.write_bytes(content if path == release else content[:-1] + b"?")
        error = CorruptDatasetError
    else:
        error = {"croissant": CheckFailedError, "disk": DiskFullError, "interrupt": KeyboardInterrupt}[failure]
        raised = {
            "croissant": CheckFailedError("bad"),
            "disk": OSError(28, "No space left on device"),
            "interrupt": KeyboardInterrupt(),
        }[failure]

        def fail(path):
            raise raised

        monkeypatch.setattr("rlhive.data.release._write.validate_croissant", fail)

    with pytest.raises(error):
        write_release(version, new_answers)
    assert read_files(release) == before
    assert sorted(path.name for path in version.parent.glob("[!.]*")) == ["1.0.0", "1.0.0.release"]


@pytest.mark.usefixtures("unvalidated")
def test_answers_survive_a_kill_between_two_renames(kinds):
    version = kinds
    release = write_release(version, ANSWERS)
    release.rename(release.with_name(f"{release.name}.partial-0123abcd"))

    assert write_release(version) == release
    assert [path.name for path in release.parent.glob("*.partial-*")] == []


@pytest.mark.usefixtures("unvalidated")
def test_the_manifest_that_is_hashed_is_the_file(kinds):
    version = kinds
    release = write_release(version, ANSWERS)
    sums = dict(line.split("  ")[::-1] for line in (release / "SHA256SUMS").read_text().splitlines())

    assert sums[MANIFEST_NAME] == hashlib.sha256((version / MANIFEST_NAME).read_bytes()).hexdigest()


@pytest.mark.usefixtures("unvalidated")
def test_a_store_that_cannot_be_written_is_an_error(kinds, monkeypatch):
    version = kinds

    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("rlhive.data._store.link_or_copy", refuse)
    with pytest.raises(StoreNotWritableError):
        write_release(version, ANSWERS)
    assert not release_dir(version).exists()


@pytest.mark.usefixtures("unvalidated")
def test_bfloat16_is_described_as_its_bits(kinds):
    release = write_release(kinds, ANSWERS)
    content = json.loads((release / "croissant.json").read_text())
    fields = {field["name"]: field for field in content["recordSet"][0]["field"]}

    assert SCHEMA["half"].kind[0] == BFLOAT16
    assert fields["half"]["dataType"] == "cr:UInt16"
    assert fields["half"]["description"] == "The 16 bits of a bfloat16."
    assert fields["points"]["arrayShape"] == "-1,3"
    assert (fields["float64_2"]["arrayShape"], fields["observation"]["description"]) == ("2,3", "Unit: rad.")


def test_mlcroissant_reads_jpeg_files_and_the_paths_of_videos(tmp_path):
    pytest.importorskip("av")
    from tests.data.test_picture_storage import make_records as make_camera_records

    shapes = {"pixels": (2, 32, 40, 3), "front": (32, 40, 3), "wrist": (32, 40, 3)}
    storage = {"pixels": "h264", "front": "ffv1", "wrist": "jpeg"}
    episodes = make_camera_records(shapes=shapes)
    folder = export(list(episodes), "my/cameras", license="mit", store=tmp_path, storage=storage)
    release = write_release(folder, ANSWERS)

    rows = read_records(release / "croissant.json", "train")
    finals = read_records(release / "croissant.json", "episode-table")

    video = "videos/front/chunk-000/file-000.mp4"
    cameras = [f"videos/pixels.{camera}/chunk-000/file-000.mp4" for camera in (0, 1)]
    wrist = RoboHiveDataset(folder, split="train").as_tensordict()["wrist"].numpy()
    for prefix, row in (("train/", rows[0]), ("episode-table/final.", finals[0])):
        assert row[f"{prefix}front"].decode() == video
        assert [path.decode() for path in row[f"{prefix}pixels"]] == cameras
    np.testing.assert_array_equal(np.asarray(rows[0]["train/wrist"]), wrist[0])
    content = json.loads((release / "croissant.json").read_text())
    texts = {item["@id"]: item.get("description") for item in content["recordSet"][0]["field"]}
    assert texts["train/wrist"] == "Encoded with a loss, jpeg:quality=90: each picture as the bytes of a JPEG file."
    assert texts["train/front"] == "Frames of MP4 files, ffv1: the path of the file, and the number of the frame in it."
