"""Versions found by the names of their folders: what is looked at, and how often."""

import json
import os

import pytest

from rlhive.data.versions import (
    _local,
    find_newest_version,
    find_stored_version,
    list_all_versions,
    list_folders,
    list_local_versions,
)
from rlhive.dataset import _lookup, delete


@pytest.fixture
def store(tmp_path):
    """Return a store with 30 versions of one dataset, an incomplete one after them, and what is no version."""
    for number in range(30):
        folder = tmp_path / "org" / "knob" / f"1.{number}.0"
        folder.mkdir(parents=True)
        (folder / "rlhive.json").write_text(json.dumps({"fingerprint": f"{number:064x}"}))
    (tmp_path / "org" / "knob" / "1.30.0").mkdir()
    for name in ("1.31", "note", ".1.32.0.lock"):
        (tmp_path / "org" / "knob" / name).mkdir()
    (tmp_path / "org" / "file").write_text("no dataset")
    (tmp_path / ".cache" / "knob" / "1.0.0").mkdir(parents=True)
    (tmp_path / ".cache" / "knob" / "1.0.0" / "rlhive.json").write_text("{}")
    (tmp_path / "org" / "bad--name" / "1.0.0").mkdir(parents=True)
    (tmp_path / "org" / "bad--name" / "1.0.0" / "rlhive.json").write_text("{}")
    return tmp_path


@pytest.fixture
def counts(monkeypatch):
    """Return how often a folder was listed and a manifest looked for."""
    counts = {"scandir": 0, "has_manifest": 0}

    def count(name, function):
        def counting(*args):
            counts[name] += 1
            return function(*args)

        return counting

    monkeypatch.setattr(_local, "has_manifest", count("has_manifest", _local.has_manifest))
    monkeypatch.setattr(_local.os, "scandir", count("scandir", os.scandir))
    return counts


def test_versions_are_listed_oldest_first(store):
    numbers = [f"1.{number}.0" for number in range(30)]

    assert list(list_local_versions("org/knob", store=store)) == numbers
    assert {name: list(versions) for name, versions in list_all_versions(store=store).items()} == {"org/knob": numbers}
    assert {folder.name for folder in list_folders(store=store)} == set(numbers)
    assert list_local_versions("org/file", store=store) == {}
    assert list_local_versions("org/nothing", store=store) == {}
    assert list_all_versions(store=store / "nothing") == {}


def test_a_version_is_found_by_its_number_without_a_listing(store, counts):
    assert find_stored_version("org/knob", "1.7.0", store=store) == store / "org" / "knob" / "1.7.0"
    assert counts == {"scandir": 0, "has_manifest": 1}
    assert find_stored_version("org/knob", "1.30.0", store=store) is None
    assert find_stored_version("org/knob", "1.8", store=store) is None


def test_the_newest_version_costs_one_listing_and_no_look_at_earlier_ones(store, counts):
    assert find_stored_version("org/knob", store=store) == store / "org" / "knob" / "1.29.0"
    assert counts == {"scandir": 1, "has_manifest": 3}  # the incomplete one, the newest one, and that once more
    assert find_newest_version("org/knob", below="1.7.0", store=store) == "1.6.0"
    assert find_newest_version("org/knob", below="1.0.0", store=store) is None


def test_a_listing_looks_at_every_version_once(store, counts):
    list_all_versions(store=store)

    assert counts["has_manifest"] <= 32


@pytest.mark.parametrize(("has_cache", "num_read"), [(False, 0), (True, 29)])
def test_a_deletion_looks_at_other_versions_only_for_the_sake_of_a_cache(store, monkeypatch, has_cache, num_read):
    read = []
    fingerprint = f"{3:064x}"
    cache = store / ".cache" / fingerprint
    if has_cache:
        cache.mkdir()
    monkeypatch.setattr(
        _lookup, "_read_fingerprint", lambda folder: json.loads((folder / "rlhive.json").read_text())["fingerprint"]
    )
    has_fingerprint = _lookup._has_fingerprint
    monkeypatch.setattr(_lookup, "_has_fingerprint", lambda *args: read.append(args) or has_fingerprint(*args))

    delete("org/knob", "1.3.0", store=store)

    assert len(read) == num_read
    assert not cache.exists()
    assert list(list_local_versions("org/knob", store=store))[3] == "1.4.0"
