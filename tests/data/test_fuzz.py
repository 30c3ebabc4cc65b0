"""Damaged versions: reading one gives the original data or an error that RLHive documents, never other data.

Each run draws some dozens of damages at random; `make fuzz` draws many more.
"""

import copy
import json
import os
import shutil

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings, strategies as st

from rlhive.data.checks._check import run_checks
from rlhive.data.versions import _reader
from rlhive.data.versions._export import export
from rlhive.data.versions._manifest import Manifest
from rlhive.dataset._dataset import RoboHiveDataset, describe
from rlhive.errors import RLHiveError
from tests.data.checks.walks import update_hashes
from tests.data.strategies import records

EXAMPLES = int(os.environ.get("RLHIVE_FUZZ", "25"))
#: Shrinking a failure takes minutes; the drawn damage is printed whole, and small.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=PHASES,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

#: Unusual JSON values.
UNUSUAL = st.one_of(
    st.sampled_from([None, True, False, 0, -1, 1, 2**31, 2**63, 10**40, 1.5, -0.0, 1e308, float("nan"), float("inf")]),
    st.sampled_from(["", "..", "/etc/passwd", "../../x", "a\\b", "C:x", "\x00", "\x1b[2J", "nul", "é", "x" * 5000]),
    st.sampled_from([[], {}, [[]], [None], {"": None}, [[[[[]]]]], {"a": {"b": {"c": 1}}}, [2**40, 2**40]]),
    st.text(max_size=5),
)


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """The folder of a version, and its transitions."""
    store = tmp_path_factory.mktemp("clean")
    schema, episodes = records([4, 1, 7, 3])
    runs = [{"run": "run", "env": {"horizon": 7}}]
    folder = export(episodes, "my/knob", version="1.0.0", schema=schema, license="mit", store=store, runs=runs)
    return folder, RoboHiveDataset(folder, store=store).as_tensordict()


@pytest.fixture
def copied(clean, tmp_path_factory):
    def make():
        folder = tmp_path_factory.mktemp("fuzz") / "my/knob/1.0.0"
        shutil.copytree(clean[0], folder)
        return folder

    return make


def read_everything(folder):
    """Read a version in every way and return its transitions."""
    dataset = RoboHiveDataset(folder, store=folder.parents[2] / "store")
    repr(dataset), describe(dataset), len(dataset)
    _ = dataset.statistics, dataset.episodes
    dataset.as_arrow()
    list(_reader.read_records(folder, dataset.manifest, dataset.splits))
    return dataset.as_tensordict()


def attempt(folder):
    """Return the transitions of a version and no message, or None and the error message."""
    try:
        return read_everything(folder), ""
    except RLHiveError as error:
        return None, str(error)


def same(left, right):
    names = set(left.keys(True, True))
    return names == set(right.keys(True, True)) and all(bits(left[name]) == bits(right[name]) for name in names)


def bits(value):
    return value.contiguous().numpy().tobytes() if isinstance(value, torch.Tensor) else list(value)


def iterate_paths(value, path=()):
    """Yield the path of everything inside a JSON value."""
    if path:
        yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in children:
        yield from iterate_paths(inner, (*path, key))


def mutate(content, draw):
    """Replace, remove or repeat one to three values of the JSON."""
    for _ in range(draw(st.integers(1, 3))):
        paths = list(iterate_paths(content))
        if not paths:
            return content
        *parents, last = draw(st.sampled_from(paths))
        parent = content
        for key in parents:
            parent = parent[key]
        action = draw(st.sampled_from(["replace", "replace", "replace", "remove", "repeat"]))
        if action == "replace":
            parent[last] = draw(UNUSUAL)
        elif action == "remove":
            del parent[last]
        elif isinstance(parent, list):
            parent.append(copy.deepcopy(parent[last]))
        else:
            parent[draw(st.text(max_size=3))] = copy.deepcopy(parent[last])
    return content


@fuzz
@given(data=st.data())
def test_a_manifest_of_any_json_gives_data_or_a_documented_error(copied, data):
    folder = copied()
    path = folder / "rlhive.json"
    path.write_text(json.dumps(mutate(json.loads(path.read_text()), data.draw)))

    _, message = attempt(folder)

    assert "\n" not in message, "an error message is one line"
    json.dumps(run_checks(folder).to_json())


@fuzz
@given(
    content=st.one_of(
        st.binary(max_size=40), st.text(max_size=40).map(str.encode), UNUSUAL.map(json.dumps).map(str.encode)
    )
)
def test_a_manifest_of_any_bytes_is_refused(copied, content):
    folder = copied()
    (folder / "rlhive.json").write_bytes(content)

    with pytest.raises(RLHiveError):
        Manifest.read(folder)
    assert not run_checks(folder).ok


def damage(path, data):
    """Flip a bit, cut a file short, or add to it."""
    content = bytearray(path.read_bytes())
    kind = data.draw(st.sampled_from(["flip", "flip", "flip", "cut", "grow"]))
    # The checksums of a cache hold times, so that the size of their file varies; what is drawn may not.
    position = data.draw(st.integers(0, 2**20)) % max(1, len(content))
    if kind == "flip" and content:
        content[position] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "cut" and content:
        del content[position:]
    else:
        content += b"\0" * 8
    path.write_bytes(content)


@fuzz
@given(data=st.data())
def test_a_damaged_file_is_never_served(copied, data):
    folder = copied()
    files = sorted(path for path in folder.rglob("*.parquet"))
    damage(data.draw(st.sampled_from(files)), data)

    assert attempt(folder)[0] is None, "a file with another hash than the manifest's was read"
    assert not run_checks(folder).ok


@fuzz
@given(data=st.data())
def test_a_damaged_file_whose_hash_the_manifest_has_gives_an_error_or_the_data(copied, clean, data):
    """Page checksums and content hashes detect the damage where the manifest has the hash of the damaged file."""
    folder = copied()
    files = sorted(path for path in folder.rglob("data/*.parquet"))
    damage(data.draw(st.sampled_from(files)), data)
    update_hashes(folder)

    transitions, _ = attempt(folder)

    assert transitions is None or same(transitions, clean[1])
    run_checks(folder)


@fuzz
@given(data=st.data())
def test_a_damaged_cache_is_never_served(clean, cached, data):
    """A damaged cache is built again from the version."""
    folder, _ = clean
    store, names = cached
    path = store / data.draw(st.sampled_from(names))
    damage(path, data)

    transitions = RoboHiveDataset(folder, store=store).as_tensordict()

    assert same(transitions, clean[1])


@pytest.fixture(scope="module")
def cached(clean, tmp_path_factory):
    """A store that holds the cache of the clean version, and the names of its files."""
    store = tmp_path_factory.mktemp("cached")
    RoboHiveDataset(clean[0], store=store).as_tensordict()
    return store, sorted(str(path.relative_to(store)) for path in store.glob(".cache/*/[!.]*"))
