"""Fixtures of the tests of releases: one export serves all, and mlcroissant validates where the test is about it."""

import shutil

import pytest

from tests.data.release.samples import every_kind


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """The versions with one and with several shards per split."""
    folder = tmp_path_factory.mktemp("kinds")
    return [every_kind(folder / str(size), shard_bytes=size) for size in (2**20, 1)]


@pytest.fixture
def kinds(exported, tmp_path):
    """The folder of a version with a column of every kind, in a store of its own."""
    return shutil.copytree(exported[0], tmp_path / "own/org/kinds/1.0.0")


@pytest.fixture
def unvalidated(monkeypatch):
    """Leave mlcroissant out, which takes seconds to import."""
    monkeypatch.setattr("rlhive.data.release._write.validate_croissant", lambda path: None)
