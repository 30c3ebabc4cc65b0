"""Versions in an object store: whole or absent, whoever writes at the same time and whatever lies in the bucket."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from rlhive.data import _store
from rlhive.data.versions import (
    Manifest,
    ObjectAddress,
    _objects,
    find_stored_version,
    list_all_versions,
    list_incomplete_versions,
    list_local_datasets,
    list_local_versions,
    next_patch,
    read_records,
)
from rlhive.data.versions._export import export
from rlhive.errors import (
    CorruptDatasetError,
    DatasetExistsError,
    DatasetNotFoundError,
    InvalidNameError,
    InvalidOptionError,
)
from tests.data.strategies import records
from tests.object_server import SLOW_DOWN

LENGTHS = [3, 2, 4, 5]


def write(lengths=LENGTHS, **options):
    """Export an episode of each length."""
    schema, episodes = records(lengths)
    options = {"license": "mit", "schema": schema, "shard_bytes": 1, **options}
    return export(episodes, "org/knob", **options)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A version in a folder."""
    return write(store=tmp_path_factory.mktemp("local"))


@pytest.fixture
def stored(made, object_store):
    """The folder in the mirror, which does not exist, of that version, which the object store has."""
    folder = _store.version_dir("org/knob", "1.0.0")
    _objects.commit_version(made, folder)
    object_store.server.reset()
    return folder


def forget(folder):
    """Remove the mirror, as on another machine."""
    shutil.rmtree(folder.parents[2])


def identities(folder):
    manifest = Manifest.read(folder)
    return [record.identity() for record in read_records(folder, manifest, manifest.splits)]


def test_an_address_has_a_mirror_whose_name_tells_it(monkeypatch, tmp_path):
    monkeypatch.setenv("RLHIVE_CACHE_PATH", str(tmp_path))
    monkeypatch.setenv("RLHIVE_DATASETS_PATH", "s3://bucket/a b/")

    assert _store.store_dir() == tmp_path / "s3%3A%2F%2Fbucket%2Fa%20b"
    assert _store.store_url() == _store.store_url(_store.store_dir()) == _store.describe_store() == "s3://bucket/a b"
    assert _store.store_url(tmp_path) is None
    assert _store.describe_store(tmp_path) == str(tmp_path)
    assert ObjectAddress.of(_store.version_dir("knob", "1.0.0")).folder_key == "robohive/knob/1.0.0"
    assert ObjectAddress.of(tmp_path / "org/knob/1.0.0") is None
    for url in ("s3://key:secret@bucket", f"s3://{'b' * 200}"):
        monkeypatch.setenv("RLHIVE_DATASETS_PATH", url)
        with pytest.raises(InvalidNameError, match="without a password") as error:
            _store.store_dir()
        assert "secret" not in str(error.value)


def test_a_version_has_the_content_of_a_local_one(object_store, made):
    local, folder = made, write()
    expected = Manifest.read(local)
    forget(folder)

    assert list_local_versions("org/knob") == {"1.0.0": folder}
    assert find_stored_version("org/knob") == folder
    assert Manifest.read(folder).fingerprint == expected.fingerprint
    assert Manifest.read(folder).files == expected.files
    assert identities(folder) == identities(local)
    for entry in expected.files:
        assert (folder / entry.path).read_bytes() == (local / entry.path).read_bytes()
        assert object_store.get(f"org/knob/1.0.0/{_key(entry)}") == (local / entry.path).read_bytes()
    assert object_store.get("org/knob/1.0.0.json") == (folder / "rlhive.json").read_bytes()


def _key(entry):
    path = Path(entry.path)
    return path.with_name(f"{path.stem}.{entry.sha256[:16]}{path.suffix}")


def test_the_manifest_is_sent_last(object_store):
    write()

    puts = [path for method, path in object_store.server.requests if method == "PUT"]
    assert puts[-1].endswith("/org/knob/1.0.0.json")
    assert len(puts) == 1 + len(Manifest.read(find_stored_version("org/knob")).files)


def test_only_requested_splits_are_fetched(object_store, stored):
    folder = stored

    find_stored_version("org/knob", splits=["b"])
    assert {path.name[0] for path in folder.glob("data/*")} == {"b"}
    find_stored_version("org/knob", splits=())
    assert {path.name[0] for path in folder.glob("data/*")} == {"b"}
    find_stored_version("org/knob")
    assert {path.name[0] for path in folder.glob("data/*")} == {"a", "b"}
    count = object_store.server.count("GET", "/data/")
    find_stored_version("org/knob")
    assert object_store.server.count("GET", "/data/") == count == len(list(folder.glob("data/*")))


def test_an_append_copies_the_shards_inside_the_store(object_store):
    first = write([3, 2])
    forget(first)
    object_store.server.requests.clear()

    second = write([7], append=True, license="")

    assert second.name == "2.0.0"
    shards = list(second.glob("data/*"))
    sent = [path for method, path in object_store.server.requests if method == "PUT" and "/2.0.0/data/" in path]
    assert len(shards) == len(sent) == 3
    assert _count_uploaded(object_store) == 1
    forget(second)
    assert [record.split(" ")[0] for record in identities(find_stored_version("org/knob"))]
    assert len(identities(second)) == 3
    assert identities(second)[:1] == identities(find_stored_version("org/knob", "1.0.0"))[:1]


def test_a_version_that_only_the_mirror_has_can_be_continued(object_store, made):
    folder = _store.version_dir("org/pulled", "1.0.0")  # where a dataset of the Hub is opened
    shutil.copytree(made, folder)

    continued = write([7], append=folder, license="")

    assert len(identities(continued)) == 5
    assert len(identities(find_stored_version("org/knob"))) == 5
    assert list(list_all_versions()) == ["org/knob"]


def _count_uploaded(object_store):
    """Return how many shards of 2.0.0 came from this machine."""
    return sum("/2.0.0/data/" in path for path in object_store.server.uploads)


def test_the_next_number_and_an_unchanged_version(object_store):
    first = write()
    forget(first)
    assert write() == first
    assert write([3, 2, 4, 5, 6]).name == "2.0.0"
    assert next_patch("org/knob", "1.0.0") == "1.0.1"
    forget(first)
    with pytest.raises(DatasetExistsError, match=r"lab/org/knob/1\.0\.0: expected no such version, the store has it"):
        write(version="1.0.0")
    assert list(list_local_versions("org/knob")) == ["1.0.0", "2.0.0"]


def test_a_number_that_the_store_has_is_refused_before_an_episode_is_read_or_sent(object_store, stored):
    schema, _ = records(LENGTHS)

    with pytest.raises(DatasetExistsError, match=r"lab/org/knob/1\.0\.0: expected no such version, the store has it"):
        export(
            iter(lambda: pytest.fail("an episode was read"), None),
            "org/knob",
            version="1.0.0",
            license="mit",
            schema=schema,
        )
    assert object_store.server.count("PUT") == 0


def test_a_listing_costs_a_request_for_each_folder_and_none_for_each_version(object_store):
    for index in range(30):
        object_store.put(f"org/knob/1.0.{index}.json", b"{}")
    object_store.put("org/other/1.0.0.json", b"{}")

    assert list(list_local_versions("org/knob")) == [f"1.0.{index}" for index in range(30)]
    assert len(object_store.server.requests) == 1
    object_store.server.requests.clear()
    assert {name: len(folders) for name, folders in list_all_versions().items()} == {"org/knob": 30, "org/other": 1}
    assert len(object_store.server.requests) == 4  # the root, org, and two datasets


def test_names_in_the_bucket_that_no_version_has_are_ignored(object_store, stored, tmp_path):
    for key in (
        "org/knob/../../etc.json",
        "org/knob/1.0.json",
        "org/knob/01.0.0.json",
        "org/..",
        ".cache/a/1.0.0.json",
    ):
        object_store.put(key.replace("..", "%2E%2E"), b"{}")
    for key in ("con/knob/1.0.0.json", "org/a b/1.0.0.json".replace(" ", "%20"), "org/knob/2.0.0.json/x", "1.0.0.json"):
        object_store.put(key, b"{}")

    assert list(list_local_versions("org/knob")) == ["1.0.0"]
    assert list_local_datasets() == ["org/knob"]
    assert not list(tmp_path.rglob("etc*"))


def test_of_two_writers_of_a_number_one_wins_and_nothing_is_lost(object_store, monkeypatch, tmp_path):
    first = write([3])
    forget(first)
    waiting = iter([True])
    send = _objects._send_files

    def send_and_let_another_commit(address, folder, *arguments):
        send(address, folder, *arguments)
        if next(waiting, False):
            monkeypatch.setattr(_objects, "_send_files", send)
            monkeypatch.setenv("RLHIVE_CACHE_PATH", str(tmp_path / "another"))
            assert write([3, 4]).name == "2.0.0"
            monkeypatch.setenv("RLHIVE_CACHE_PATH", str(tmp_path / "stores"))

    monkeypatch.setattr(_objects, "_send_files", send_and_let_another_commit)
    with pytest.raises(DatasetExistsError, match=r"2\.0\.0: expected no such version.*committed meanwhile"):
        write([5])

    shutil.rmtree(tmp_path / "stores")
    winner = find_stored_version("org/knob")
    assert [record.split for record in read_records(winner, Manifest.read(winner), ["a", "b"])] == ["a", "b"]
    named = {str(_key(entry)) for entry in Manifest.read(winner).files}
    assert {key.removeprefix("org/knob/2.0.0/") for key in object_store.list_keys() if "/2.0.0/" in key} == named
    assert write([5]).name == "3.0.0"  # the same call again


def test_many_writers_at_once_leave_whole_versions(object_store, monkeypatch, tmp_path):
    stores = [_mirror(tmp_path / f"machine{index}", object_store.url) for index in range(4)]

    def commit(index):
        try:
            return write([index + 2], store=stores[index]).name
        except DatasetExistsError:
            return None

    with ThreadPoolExecutor(4) as pool:
        names = list(pool.map(commit, range(4)))

    won = [name for name in names if name]
    assert won
    assert sorted(won) == list(list_local_versions("org/knob"))
    assert list_incomplete_versions("org/knob") == []
    for index, name in enumerate(names):
        if name:
            folder = find_stored_version("org/knob", name)
            assert Manifest.read(folder).num_transitions == index + 2
            assert len(identities(folder)) == 1


def _mirror(folder, url):
    return folder / _store._mirror_dir(url).name


def test_files_that_vanish_during_a_commit_are_sent_again(object_store, monkeypatch):
    create = _objects.ObjectAddress.of(_store.version_dir("org/knob", "1.0.0")).store.__class__.create

    def remove_and_create(self, key, content):
        object_store.remove(object_store.find("episodes"))
        return create(self, key, content)

    monkeypatch.setattr("rlhive.data._object_store.ObjectStore.create", remove_and_create)
    folder = write()
    forget(folder)

    assert len(identities(find_stored_version("org/knob"))) == 4


def test_a_deletion_that_is_killed_leaves_no_version(object_store, stored, monkeypatch):
    folder = stored
    remove = _objects.ObjectAddress.of(folder).store.__class__.remove

    def remove_the_manifest(self, keys):
        keys = list(keys)
        if not keys[0].endswith(".json"):
            raise KeyboardInterrupt
        remove(self, keys)

    with monkeypatch.context() as killed:
        killed.setattr("rlhive.data._object_store.ObjectStore.remove", remove_the_manifest)
        with pytest.raises(KeyboardInterrupt):
            _objects.delete_stored_version(folder)

    assert list_local_versions("org/knob") == {}
    assert list_incomplete_versions("org/knob") == ["1.0.0"]
    _objects.delete_stored_version(folder)
    assert object_store.list_keys() == []
    assert list_incomplete_versions("org/knob") == []


def test_a_version_that_was_deleted_and_made_again_elsewhere_replaces_the_mirrored_one(object_store, tmp_path):
    folder = write()
    other = _mirror(tmp_path / "other", object_store.url)
    _objects.delete_stored_version(folder)
    write([6, 7], store=other)

    assert find_stored_version("org/knob") == folder
    assert Manifest.read(folder).num_transitions == 13
    assert len(identities(folder)) == 2
    _objects.delete_stored_version(folder)
    assert write().name == "1.0.0"
    assert len(identities(folder)) == 4


@pytest.mark.parametrize("damage", ["content", "shorter", "longer", "missing"])
def test_a_damaged_file_is_refused_by_its_address(object_store, stored, damage):
    folder = stored
    key = object_store.find(r"/data/a-00000")
    content = object_store.get(key)
    damaged = {"content": content[:-1] + bytes([content[-1] ^ 1]), "shorter": content[:-1], "longer": content + b"x"}
    object_store.remove(key)
    if damage in damaged:
        object_store.put(key, damaged[damage])

    expected = {"content": "expected SHA-256", "missing": "expected .* bytes, got no such file"}
    with pytest.raises(
        CorruptDatasetError, match=f"{object_store.url}/{key}: {expected.get(damage, 'expected .* bytes')}"
    ):
        find_stored_version("org/knob")
    assert not (folder / "data").exists() or len(list(folder.glob("data/*"))) < 4


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"[1]", b'{"format_version": 1}'])
def test_a_damaged_manifest_is_refused_by_its_address(object_store, stored, content):
    object_store.put("org/knob/1.0.0.json", content)

    with pytest.raises(CorruptDatasetError, match=rf"{object_store.url}/org/knob/1\.0\.0\.json: .*is not a manifest"):
        find_stored_version("org/knob")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"version": "2.0.0"}, r"expected a manifest of org/knob 1\.0\.0, got one of org/knob 2\.0\.0"),
        ({"name": "org/other"}, "got one of org/other"),
        ({"path": "../../../escaped"}, "leaves the version's folder"),
        ({"path": "/tmp/escaped"}, "leaves the version's folder"),
        ({"bytes": 2**62}, "expected 4611686018427387904 bytes"),
        ({"bytes": -1}, "expected a count"),
        ({"sha256": "../" * 20}, "expected a SHA-256"),
    ],
)
def test_a_hostile_manifest_writes_nothing_outside(object_store, stored, tmp_path, change, match):
    content = json.loads(object_store.get("org/knob/1.0.0.json"))
    (content["files"][0] if change.keys() & {"path", "bytes", "sha256"} else content).update(change)
    object_store.put("org/knob/1.0.0.json", json.dumps(content).encode())

    with pytest.raises(CorruptDatasetError, match=match):
        find_stored_version("org/knob")
    assert not list(tmp_path.rglob("escaped*"))


def test_a_manifest_that_is_too_large_is_not_read(object_store, stored, monkeypatch):
    monkeypatch.setattr(_objects, "MAX_MANIFEST_BYTES", 100)

    with pytest.raises(CorruptDatasetError, match="expected at most 100 bytes"):
        find_stored_version("org/knob")
    assert object_store.server.count("GET", ".json") == 0


def test_a_version_that_was_deleted_since_it_was_listed_is_a_sentence(object_store, stored):
    object_store.remove("org/knob/1.0.0.json")

    with pytest.raises(DatasetNotFoundError, match=r"org/knob/1\.0\.0: expected a version"):
        _objects.fetch_stored_version(stored)


def test_versions_that_were_opened_longest_ago_make_room(object_store, made, monkeypatch):
    folders = [_store.version_dir(f"org/part{index}", "1.0.0") for index in range(4)]
    for folder in folders:
        _objects.commit_version(_rename(made, folder), folder)
    size = Manifest.read(made).num_bytes
    for days, folder in zip((2, 4, 3), folders[:3], strict=True):
        _objects.fetch_stored_version(folder)
        moment = time.time() - days * 24 * 3600
        os.utime(folder / "rlhive.json", (moment, moment))
    monkeypatch.setenv("RLHIVE_CACHE_GB", str(2.9 * size / 1e9))

    _objects.fetch_stored_version(folders[3])
    assert [folder.exists() for folder in folders] == [True, False, False, True]
    _objects.fetch_stored_version(folders[1])
    assert [folder.exists() for folder in folders] == [False, True, False, True]
    _objects.fetch_stored_version(folders[2])  # the others may be in use
    assert [folder.exists() for folder in folders] == [False, True, True, True]
    monkeypatch.setenv("RLHIVE_CACHE_GB", "none")
    with pytest.raises(InvalidOptionError, match="RLHIVE_CACHE_GB='none': expected a positive number of gigabytes"):
        _objects.fetch_stored_version(folders[0])


def _rename(made, folder):
    """Return a folder with the version under the name of another dataset."""
    target = folder.parents[4] / "renamed" / folder.parent.name
    shutil.copytree(made, target)
    replace(Manifest.read(made), name=f"org/{folder.parent.name}").write(target)
    return target


COMMIT = """
from tests.data.versions.test_objects import write
print(write().name)
"""


@pytest.mark.slow
@pytest.mark.parametrize("num_sent", [0, 3, 8])
def test_a_commit_that_is_killed_shows_no_version_and_the_next_one_goes_through(object_store, num_sent):
    commit = [sys.executable, "-c", COMMIT]
    arrivals, stuck = itertools.count(), threading.Event()

    def stop_after_some_files(method, _):
        if method != "PUT" or next(arrivals) < num_sent:
            return None
        stuck.set()
        time.sleep(60)
        return 503, SLOW_DOWN

    object_store.server.fault = stop_after_some_files
    process = subprocess.Popen(commit, stdout=subprocess.PIPE)
    assert stuck.wait(200)
    while len(object_store.list_keys()) < num_sent:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    object_store.server.reset()

    assert list_local_versions("org/knob") == {}
    assert list_incomplete_versions("org/knob") == (["1.0.0"] if num_sent else [])
    completed = subprocess.run(commit, check=True, capture_output=True, text=True)
    assert completed.stdout.split() == ["1.0.0"]
    assert len(object_store.server.uploads) <= 9 - min(num_sent, 6)  # the card and the manifest hold the time
    forget(_store.version_dir("org/knob", "1.0.0"))
    assert len(identities(find_stored_version("org/knob"))) == 4
