"""Whatever stands in a version's folder: what comes out is the data, or an error that RLHive documents.

The suite tries some dozens of damages drawn anew each time; `make fuzz` tries many more.
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

#: What JSON can hold, at its worst.
ODD = st.one_of(
    st.sampled_from([None, True, False, 0, -1, 1, 2**31, 2**63, 10**40, 1.5, -0.0, 1e308, float("nan"), float("inf")]),
    st.sampled_from(["", "..", "/etc/passwd", "../../x", "a\\b", "C:x", "\x00", "\x1b[2J", "nul", "é", "x" * 5000]),
    st.sampled_from([[], {}, [[]], [None], {"": None}, [[[[[]]]]], {"a": {"b": {"c": 1}}}, [2**40, 2**40]]),
    st.text(max_size=5),
)


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """A version, and what it holds."""
    store = tmp_path_factory.mktemp("clean")
    schema, made = records([4, 1, 7, 3])
    runs = [{"run": "run", "env": {"horizon": 7}}]
    folder = export(made, "my/knob", version="1.0.0", schema=schema, license="mit", store=store, runs=runs)
    return folder, RoboHiveDataset(folder, store=store).as_tensordict()


@pytest.fixture
def copied(clean, tmp_path_factory):
    def make():
        folder = tmp_path_factory.mktemp("fuzz") / "my/knob/1.0.0"
        shutil.copytree(clean[0], folder)
        return folder

    return make


def everything(folder):
    """Use a version in every way; return what it serves."""
    dataset = RoboHiveDataset(folder, store=folder.parents[2] / "store")
    repr(dataset), describe(dataset), len(dataset)
    _ = dataset.statistics, dataset.episodes
    dataset.as_arrow()
    list(_reader.read_records(folder, dataset.manifest, dataset.splits))
    return dataset.as_tensordict()


def attempt(folder):
    """Return what the version serves, or None, and the error in words."""
    try:
        return everything(folder), ""
    except RLHiveError as error:
        return None, str(error)


def same(left, right):
    names = set(left.keys(True, True))
    return names == set(right.keys(True, True)) and all(bits(left[name]) == bits(right[name]) for name in names)


def bits(value):
    return value.contiguous().numpy().tobytes() if isinstance(value, torch.Tensor) else list(value)


def places(value, path=()):
    """Yield the path of everything inside a JSON value."""
    if path:
        yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in children:
        yield from places(inner, (*path, key))


def mutate(content, draw):
    """Replace, remove or repeat one to three things of the JSON."""
    for _ in range(draw(st.integers(1, 3))):
        there = list(places(content))
        if not there:
            return content
        *way, last = draw(st.sampled_from(there))
        parent = content
        for key in way:
            parent = parent[key]
        action = draw(st.sampled_from(["replace", "replace", "replace", "remove", "repeat"]))
        if action == "replace":
            parent[last] = draw(ODD)
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

    said = attempt(folder)[1]

    assert "\n" not in said, "an error is one sentence"
    json.dumps(run_checks(folder).to_json())


@fuzz
@given(
    content=st.one_of(st.binary(max_size=40), st.text(max_size=40).map(str.encode), ODD.map(json.dumps).map(str.encode))
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
    where = data.draw(st.integers(0, max(0, len(content) - 1)))
    if kind == "flip" and content:
        content[where] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "cut" and content:
        del content[where:]
    else:
        content += b"\0" * 8
    path.write_bytes(content)


@fuzz
@given(data=st.data())
def test_a_damaged_file_is_never_served(copied, data):
    folder = copied()
    files = sorted(path for path in folder.rglob("*.parquet"))
    damage(data.draw(st.sampled_from(files)), data)

    assert attempt(folder)[0] is None, "a file that the manifest does not describe was taken"
    assert not run_checks(folder).ok


@fuzz
@given(data=st.data())
def test_a_damaged_file_with_a_manifest_that_agrees_gives_an_error_or_the_data(copied, clean, data):
    """Page checksums and content hashes are the second line, where somebody recorded the damaged file's hash."""
    folder = copied()
    files = sorted(path for path in folder.rglob("data/*.parquet"))
    damage(data.draw(st.sampled_from(files)), data)
    update_hashes(folder)

    served = attempt(folder)[0]

    assert served is None or same(served, clean[1])
    run_checks(folder)


@fuzz
@given(data=st.data())
def test_a_damaged_cache_is_never_served(clean, cached, data):
    """A cache is derived: whatever happens to it, it is made again from the version."""
    folder, (store, names) = clean[0], cached
    path = store / data.draw(st.sampled_from(names))
    damage(path, data)

    served = RoboHiveDataset(folder, store=store).as_tensordict()

    assert same(served, clean[1])


@pytest.fixture(scope="module")
def cached(clean, tmp_path_factory):
    """A store that holds the cache of the clean version, and the names of its files."""
    store = tmp_path_factory.mktemp("cached")
    RoboHiveDataset(clean[0], store=store).as_tensordict()
    return store, sorted(str(path.relative_to(store)) for path in store.glob(".cache/*/[!.]*"))
