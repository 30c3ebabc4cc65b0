"""Packed caches: built from Parquet, interrupted, damaged, and with the fingerprint of another version."""

import json
import shutil
import time

import pytest

from rlhive.data import _arrow
from rlhive.data.replay import _cache, open_packed
from rlhive.data.replay._packed_writer import PackedCacheWriter
from rlhive.data.replay._storage import PackedStorage
from rlhive.data.versions._export import export
from rlhive.data.versions._manifest import Manifest
from rlhive.errors import CorruptDatasetError
from tests.data.replay.caches import LENGTHS, assert_holds
from tests.data.strategies import records


@pytest.fixture
def version(tmp_path):
    schema, made = records(LENGTHS, splits=("a",))
    return export(made, "my/knob", version="1.0.0", schema=schema, license="mit", store=tmp_path), made


def test_an_interrupted_build_leaves_nothing_and_the_next_call_builds(version, tmp_path, monkeypatch):
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

    def slowly(batch, schema, videos=None):
        time.sleep(1.2)
        return read(batch, schema, videos)

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


@pytest.mark.parametrize("name", ["records.bin", "rows.bin", "episodes.bin", "layout.json"])
def test_a_cache_whose_content_does_not_match_its_checksums_is_built_again(version, tmp_path, name):
    folder, made = version
    cache = open_packed(folder, Manifest.read(folder), store=tmp_path)
    path = cache.folder / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # same size, other content
    path.write_bytes(content)

    rebuilt = open_packed(folder, Manifest.read(folder), store=tmp_path)

    assert path.read_bytes() != bytes(content)
    assert_holds(rebuilt, made)


def test_a_cache_that_is_damaged_again_and_again_is_an_error(version, tmp_path, monkeypatch):
    def refuse(folder):
        msg = "damaged by another process"
        raise CorruptDatasetError(msg)

    monkeypatch.setattr(_cache, "require_intact", refuse)
    with pytest.raises(
        CorruptDatasetError, match="was built 4 times, and each time another process removed or damaged it"
    ):
        open_packed(version[0], Manifest.read(version[0]), store=tmp_path)


def test_a_cache_of_another_version_that_claims_the_fingerprint_is_not_opened(tmp_path):
    schema, made = records([3, 2])
    honest = export(made, "my/knob", version="1.0.0", schema=schema, license="mit", store=tmp_path)
    manifest = Manifest.read(honest)
    made[0].columns["action"][0] = 7
    impostor = export(made, "other/knob", version="1.0.0", schema=schema, license="mit", store=tmp_path)
    content = json.loads((impostor / "rlhive.json").read_text())
    (impostor / "rlhive.json").write_text(json.dumps(content | {"fingerprint": manifest.fingerprint}))

    other = PackedStorage(open_packed(impostor, Manifest.read(impostor), store=tmp_path)).get(slice(None))
    first = PackedStorage(open_packed(honest, manifest, store=tmp_path)).get(slice(None))
    shutil.rmtree(honest / "data")
    again = PackedStorage(open_packed(honest, manifest, store=tmp_path)).get(slice(None))

    assert (other["action"] == 7).any()
    assert not (first["action"] == 7).any()
    assert (first == again).all()
