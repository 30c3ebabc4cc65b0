"""From Parquet to the packed cache: slowly, interrupted, and by several processes."""

import time

import pytest

from rlhive.data import _arrow
from rlhive.data.replay import open_packed
from rlhive.data.replay._layout import PackedCacheWriter
from rlhive.data.replay._storage import PackedStorage
from rlhive.data.versions._export import export
from rlhive.data.versions._manifest import Manifest
from tests.data.replay.test_layout import LENGTHS, assert_holds
from tests.data.strategies import records


@pytest.fixture
def version(tmp_path):
    schema, made = records(LENGTHS, splits=("a",))
    return export(made, "my/knob", version="1.0.0", schema=schema, license="mit", store=tmp_path), made


def test_an_interrupt_leaves_nothing_and_the_next_call_builds(version, tmp_path, monkeypatch):
    folder, made = version
    write = PackedCacheWriter.write

    def interrupted(self, columns):
        write(self, columns)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PackedCacheWriter, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            open_packed(folder, Manifest.read(folder), store=tmp_path)
    assert not [path for path in (tmp_path / ".cache").rglob("*") if path.suffix in (".bin", ".json")]

    assert_holds(open_packed(folder, Manifest.read(folder), store=tmp_path), made)


def test_a_build_of_more_than_a_second_shows_its_progress(version, tmp_path, monkeypatch, capsys):
    folder, _ = version
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    manifest = Manifest.read(folder)
    read = _arrow.table_to_columns

    def slowly(batch, schema):
        time.sleep(1.2)
        return read(batch, schema)

    monkeypatch.setattr(_arrow, "table_to_columns", slowly)
    open_packed(folder, manifest, store=tmp_path / "slow")
    assert "pack my/knob: 100%" in capsys.readouterr().err
    monkeypatch.setattr(_arrow, "table_to_columns", read)
    open_packed(folder, manifest, store=tmp_path / "fast")
    assert capsys.readouterr().err == ""


def test_an_open_cache_needs_no_version(version, tmp_path):
    folder, made = version
    cache = open_packed(folder, Manifest.read(folder), store=tmp_path)
    for path in folder.rglob("*.parquet"):
        path.unlink()

    assert_holds(cache, made)
    assert PackedStorage(cache).get(0)["episode"] == made[0].episode
