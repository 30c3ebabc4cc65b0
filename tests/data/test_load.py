"""From Parquet to the packed cache: slowly, interrupted, and by several processes."""

import time

import pytest

from rlhive.data import load
from rlhive.data.export import export
from rlhive.data.manifest import Manifest
from rlhive.data.packed.layout import PackedWriter
from rlhive.data.packed.storage import PackedStorage
from tests.data.packed.test_layout import LENGTHS, assert_holds
from tests.data.strategies import records


@pytest.fixture
def version(tmp_path):
    schema, made = records(LENGTHS, splits=("a",))
    return export(made, "my/knob", version="1.0.0", schema=schema, license="mit", store=tmp_path), made


def test_an_interrupt_leaves_nothing_and_the_next_call_builds(version, tmp_path, monkeypatch):
    folder, made = version
    write = PackedWriter.write

    def interrupted(self, columns):
        write(self, columns)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PackedWriter, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load.open_packed(folder, Manifest.read(folder), store=tmp_path)
    assert not [path for path in (tmp_path / ".cache").rglob("*") if path.suffix in (".bin", ".json")]

    assert_holds(load.open_packed(folder, Manifest.read(folder), store=tmp_path), made)


def test_a_build_of_more_than_a_second_shows_its_progress(version, tmp_path, monkeypatch, capsys):
    folder, _ = version
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    manifest = Manifest.read(folder)
    read = load.arrow.columns_of

    def slowly(batch, schema):
        time.sleep(1.2)
        return read(batch, schema)

    monkeypatch.setattr(load.arrow, "columns_of", slowly)
    load.open_packed(folder, manifest, store=tmp_path / "slow")
    assert "pack my/knob: 100%" in capsys.readouterr().err
    monkeypatch.setattr(load.arrow, "columns_of", read)
    load.open_packed(folder, manifest, store=tmp_path / "fast")
    assert capsys.readouterr().err == ""


def test_an_open_cache_needs_no_version(version, tmp_path):
    folder, made = version
    cache = load.open_packed(folder, Manifest.read(folder), store=tmp_path)
    for path in folder.rglob("*.parquet"):
        path.unlink()

    assert_holds(cache, made)
    assert PackedStorage(cache).get(0)["episode"] == made[0].episode
