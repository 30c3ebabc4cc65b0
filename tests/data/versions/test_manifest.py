"""The manifest: a written manifest is read back, and files and content are compared with the recorded hashes."""

import json
from dataclasses import replace

import numpy as np
import pytest

from rlhive.data._schema import Schema
from rlhive.data.versions._export import export
from rlhive.data.versions._manifest import (
    EPISODES_PATH,
    FileEntry,
    Fingerprint,
    Manifest,
    compute_fingerprint,
    compute_sha256,
    verify_files,
)
from rlhive.data.versions._manifest_file import read_summary
from rlhive.errors import CorruptDatasetError, DatasetNotFoundError, UnsupportedFormatError
from tests.data.strategies import records

CONTENT = b"the content of a file"


@pytest.fixture
def folder(tmp_path):
    """A version of two splits with two shards each."""
    schema, episodes = records([4, 1, 7, 3])
    return export(
        episodes, "my/knob", version="1.0.0", schema=schema, license="mit", store=tmp_path / "store", shard_bytes=1
    )


@pytest.fixture
def entry(tmp_path):
    """A file and its entry."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/file").write_bytes(CONTENT)
    return FileEntry("data/file", compute_sha256(tmp_path / "data/file"), len(CONTENT))


def test_a_written_manifest_is_read_back(folder, tmp_path):
    manifest = Manifest.read(folder)
    changed = replace(
        manifest,
        description="№ 1",
        env_name="ToyPoint-v0",
        task="toy_point",
        runs=({"run": "r", "seeds": [1]},),
        parents=({"name": "my/other", "version": "2.0.0"},),
    )

    changed.write(tmp_path)

    assert Manifest.read(tmp_path) == changed
    assert json.loads((tmp_path / "rlhive.json").read_text())["format_version"] == 1


def test_the_sums_are_those_of_splits_and_files(folder):
    manifest = Manifest.read(folder)

    assert manifest.splits == {
        "a": {"num_episodes": 2, "num_transitions": 11},
        "b": {"num_episodes": 2, "num_transitions": 4},
    }
    assert (manifest.num_episodes, manifest.num_transitions) == (4, 15)
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "rlhive.json"]
    assert manifest.num_bytes == sum(path.stat().st_size for path in files)
    assert [(shard.split, shard.num_transitions) for shard in manifest.shards()] == [
        ("a", 4),
        ("a", 7),
        ("b", 1),
        ("b", 3),
    ]
    assert [shard.num_transitions for shard in manifest.shards("b")] == [1, 3]


def test_a_file_with_the_recorded_bytes_is_accepted(tmp_path, entry):
    verify_files(tmp_path, [entry])


def test_a_file_of_the_same_size_with_one_other_bit_is_refused(tmp_path, entry):
    for position in range(len(CONTENT)):
        damaged = bytearray(CONTENT)
        damaged[position] ^= 1
        (tmp_path / "data/file").write_bytes(damaged)

        with pytest.raises(CorruptDatasetError, match=rf"data/file: expected SHA-256 {entry.sha256}, got"):
            verify_files(tmp_path, [entry])


@pytest.mark.parametrize("content", [b"", CONTENT[:-1], CONTENT + b"\0"])
def test_a_file_of_another_size_is_refused(content, tmp_path, entry):
    (tmp_path / "data/file").write_bytes(content)

    with pytest.raises(
        CorruptDatasetError, match=rf"data/file: expected {len(CONTENT)} bytes, got {len(content)} bytes"
    ):
        verify_files(tmp_path, [entry])


def test_a_file_that_is_missing_or_a_folder_is_refused(tmp_path, entry):
    (tmp_path / "data/file").unlink()
    with pytest.raises(CorruptDatasetError, match="got no such file"):
        verify_files(tmp_path, [entry])

    (tmp_path / "data/file").mkdir()
    with pytest.raises(CorruptDatasetError, match="got no such file"):
        verify_files(tmp_path, [entry])


def test_a_link_that_leaves_the_folder_is_refused_and_one_inside_is_followed(tmp_path, entry):
    version = tmp_path / "version"
    (version / "data").mkdir(parents=True)
    (version / "data/file").symlink_to(tmp_path / "data/file")
    with pytest.raises(CorruptDatasetError, match="link that leaves the version's folder"):
        verify_files(version, [entry])

    (version / "data/file").unlink()
    (version / "copy").write_bytes(CONTENT)
    (version / "data/file").symlink_to(version / "copy")
    verify_files(version, [entry])


def test_every_file_is_verified_and_the_first_bad_one_is_named(tmp_path, entry):
    (tmp_path / "second").write_bytes(b"second")
    second = FileEntry("second", "0" * 64, 6)

    with pytest.raises(CorruptDatasetError, match="second: expected SHA-256 0000"):
        verify_files(tmp_path, [entry, second])


def test_the_hash_is_sha256(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")

    assert compute_sha256(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_the_fingerprint_depends_on_identities_their_order_and_the_schema():
    schema, episodes = records([2, 3])
    identities = [record.identity() for record in episodes]
    fingerprint = compute_fingerprint(schema, identities)

    assert fingerprint == compute_fingerprint(schema, iter(identities))
    assert fingerprint != compute_fingerprint(schema, identities[::-1])
    assert fingerprint != compute_fingerprint(schema, identities[:1])
    assert fingerprint != compute_fingerprint(Schema(schema.fields[1:]), identities)


def test_the_fingerprint_depends_on_the_ids_of_the_episodes():
    schema, episodes = records([2, 3])
    renumbered = [episodes[0], replace(episodes[1], episode=episodes[1].episode + 1)]

    first = compute_fingerprint(schema, [record.identity() for record in episodes])

    assert first != compute_fingerprint(schema, [record.identity() for record in renumbered])


def test_an_incremental_fingerprint_is_that_of_all_at_once():
    schema, episodes = records([2, 3, 4])
    fingerprint = Fingerprint(schema)
    for count, record in enumerate(episodes, start=1):
        fingerprint.add(record.identity())
        expected = compute_fingerprint(schema, [record.identity() for record in episodes[:count]])
        assert fingerprint.hexdigest() == expected


def test_a_manifest_of_some_shards_counts_them_and_has_a_fingerprint_of_its_own(folder):
    manifest = Manifest.read(folder)
    first, _, _, last = manifest.shards()

    part = manifest.restrict_to_shards([last, first])

    assert part.splits == {
        "a": {"num_episodes": 1, "num_transitions": 4},
        "b": {"num_episodes": 1, "num_transitions": 3},
    }
    assert part.shards() == (first, last)
    assert EPISODES_PATH in [entry.path for entry in part.files]
    assert part.statistics == {}
    assert part.fingerprint == manifest.restrict_to_shards([first, last]).fingerprint
    assert len({part.fingerprint, manifest.fingerprint, manifest.restrict_to_shards([first]).fingerprint}) == 3
    assert list(manifest.restrict_to_shards([last]).splits) == ["b"]


def test_the_data_key_covers_what_is_served_and_nothing_else(folder):
    manifest = Manifest.read(folder)
    other_shard = (replace(manifest.files[0], sha256="0" * 64), *manifest.files[1:])
    other_splits = dict(reversed(manifest.splits.items()))
    video = FileEntry("videos/pixels/chunk-000/file-000.mp4", "0" * 64, 1)

    assert replace(manifest, description="new", license="gpl-3.0", version="3.0.0").data_key == manifest.data_key
    for changed in (
        replace(manifest, files=other_shard),
        replace(manifest, files=(*manifest.files, video)),
        replace(manifest, splits=other_splits),
        replace(manifest, fingerprint="0" * 64),
        replace(manifest, schema=Schema(manifest.schema.fields[1:])),
    ):
        assert changed.data_key != manifest.data_key


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"format_version": 4}, UnsupportedFormatError, "format_version 1 to 3, got 4"),
        ({"format_version": 0}, UnsupportedFormatError, "format_version 1 to 3, got 0"),
        ({"fingerprint": "abc"}, CorruptDatasetError, "expected a SHA-256"),
        ({"name": "../../etc"}, CorruptDatasetError, "Dataset name"),
        ({"version": "1.0"}, CorruptDatasetError, "Version '1.0'"),
        ({"schema": [{"column": "x"}]}, CorruptDatasetError, "Schema"),
        ({"files": [{"path": "../x"}]}, CorruptDatasetError, "leaves the version's folder"),
        ({"files": [{"path": "/etc/passwd"}]}, CorruptDatasetError, "leaves the version's folder"),
        ({"files": [{"path": "rlhive.json"}]}, CorruptDatasetError, r"rlhive\.json itself is listed"),
        ({"splits": {"a": {"num_episodes": -1, "num_transitions": 0}}}, CorruptDatasetError, "expected a count"),
        ({"license": None}, CorruptDatasetError, "expected a string"),
    ],
)
def test_a_manifest_with_false_values_is_refused(change, error, says, folder):
    content = json.loads((folder / "rlhive.json").read_text())
    if "files" in change:
        change = {"files": [content["files"][0] | change["files"][0]]}
    (folder / "rlhive.json").write_text(json.dumps(content | change))

    with pytest.raises(error, match=says):
        Manifest.read(folder)


def test_a_file_that_is_listed_twice_is_refused(folder):
    content = json.loads((folder / "rlhive.json").read_text())
    content["files"].append(content["files"][0])
    (folder / "rlhive.json").write_text(json.dumps(content))

    with pytest.raises(CorruptDatasetError, match="a file is listed twice"):
        Manifest.read(folder)


def test_end_flags_that_are_not_bool_are_refused(folder):
    content = json.loads((folder / "rlhive.json").read_text())
    for field in content["schema"]:
        if field["column"] == "next.terminated":
            field["dtype"] = "float32"
    (folder / "rlhive.json").write_text(json.dumps(content))

    with pytest.raises(CorruptDatasetError, match=r"column next\.terminated is float32, not bool"):
        Manifest.read(folder)


def test_a_folder_without_manifest_is_no_version(tmp_path):
    with pytest.raises(DatasetNotFoundError, match=r"folder without rlhive\.json"):
        Manifest.read(tmp_path)
    with pytest.raises(DatasetNotFoundError, match="no such folder"):
        Manifest.read(tmp_path / "nothing")


def test_the_success_rates_are_those_of_the_episode_table(tmp_path):
    schema, episodes = records([3, 2, 4, 1], splits=("a", "b"))
    folder = export(episodes, "my/rates", license="mit", schema=schema, store=tmp_path)
    expected = {
        split: float(np.mean([record.success for record in episodes if record.split == split])) for split in ("a", "b")
    }

    assert Manifest.read(folder).success_rates == expected
    assert read_summary(folder).success_rates == expected
    content = json.loads((folder / "rlhive.json").read_text())
    for rates in ({"a": 1.5}, {"a": -0.1}, {"a": True}, {"a": "1"}, {"c": 0.5}, {"a": float("nan")}, [0.5]):
        (folder / "rlhive.json").write_text(json.dumps(content | {"success_rates": rates}))
        for read in (Manifest.read, read_summary):
            with pytest.raises(CorruptDatasetError, match="is not a manifest that RLHive wrote"):
                read(folder)
    del content["success_rates"]  # as older versions are
    (folder / "rlhive.json").write_text(json.dumps(content))
    assert Manifest.read(folder).success_rates == {}
    assert read_summary(folder).num_episodes == 4
