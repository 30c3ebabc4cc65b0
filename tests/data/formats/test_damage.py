"""Damaged files of every format: reading them raises one of RLHive's errors and leaves no version."""

import shutil
from functools import partial

import numpy as np
import pytest

from benchmarks.import_sources import SOURCES
from rlhive.data.formats._convert import import_dataset, open_source
from rlhive.errors import RLHiveError
from tests.data.formats import (
    make_diffusion_policy,
    make_lerobot,
    make_minari,
    make_ogbench,
    make_rlds,
    make_robomimic,
    test_aloha,
    test_parquet_dataset,
)

#: Name → kind and source; d4rl and roboset are made when they are needed.
COMMITTED = {
    **{f"minari-{name}": ("minari", make_minari.FILES / name) for name in (*make_minari.STORAGES, make_minari.LOSSY)},
    **{f"lerobot-{path.name}": ("lerobot", path) for path in sorted(make_lerobot.FILES.iterdir())},
    **{f"rlds-{path.name}": ("rlds", path) for path in sorted(make_rlds.FILES.iterdir()) if path.is_dir()},
    "d4rl": ("d4rl", make_minari.FILES.parent / "d4rl.hdf5"),
}
PLACES = (0.0, 0.02, 0.5, 0.99)


def damage(path, place, generator):
    """Return the ways in which a file is damaged at a place, as functions that do it."""
    content = path.read_bytes()
    at = int(place * len(content))
    wrong = content[:at] + generator.bytes(16) + content[at + 16 :]
    yield "cut", lambda: path.write_bytes(content[:at])
    yield "overwritten", lambda: path.write_bytes(wrong)
    path.write_bytes(content)


def read_all(kind, source):
    for record in open_source(kind, source).records():
        assert record.length


#: Kinds whose damaged files only make test-slow reads.
SLOW = {
    **{f"robomimic-{path.stem}": ("robomimic", path) for path in sorted(make_robomimic.FILES.iterdir())},
    "ogbench": ("ogbench", make_ogbench.FILES / "loaded"),
    "diffusion_policy": ("diffusion_policy", make_diffusion_policy.FILE),
}


@pytest.mark.parametrize("name", [*COMMITTED, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_damage_raises_an_rlhive_error_or_passes(name, tmp_path):
    """What no checksum covers may pass; what does not pass is foreseen."""
    kind, committed = (COMMITTED | SLOW)[name]
    source = tmp_path / committed.name
    (shutil.copytree if committed.is_dir() else shutil.copy)(committed, source)
    damage_every_file(kind, source, tmp_path / "store", np.random.default_rng(0))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "write"),
    [
        ("aloha", test_aloha.write),
        ("aloha", partial(test_aloha.write, compress=True)),
        ("parquet", test_parquet_dataset.write),
    ],
    ids=["aloha", "aloha-compressed", "parquet"],
)
def test_damage_of_a_written_source_raises_an_rlhive_error_or_passes(kind, write, tmp_path):
    damage_every_file(kind, write(tmp_path / "source"), tmp_path / "store", np.random.default_rng(0))


def damage_every_file(kind, source, store, generator):
    files = [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())
    refused = 0
    for path in files:
        for place in PLACES:
            for _, harm in damage(path, place, generator):
                harm()
                refused += not is_read(kind, source, store)
    assert refused >= len(files)
    read_all(kind, source)  # mended


def is_read(kind, source, store):
    try:
        import_dataset(kind, source, "lab/x", license="mit", store=store, progress=False)
    except RLHiveError as error:
        message = str(error)
    else:
        shutil.rmtree(store)
        return True
    assert "\n" not in message
    assert source.name in message
    assert not [path for path in store.rglob("*") if path.is_file() and not path.name.endswith(".lock")]
    return False


def test_a_roboset_log_that_was_cut_is_refused(tmp_path):
    kind, make = SOURCES["roboset"]
    source = tmp_path / "log.h5"
    make(source, 3)
    content = source.read_bytes()
    for place in PLACES:
        source.write_bytes(content[: int(place * len(content))])
        assert not is_read(kind, source, tmp_path / "store")
