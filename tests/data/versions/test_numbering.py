"""Version numbers: the versions in a store, and the number that follows from what changed."""

from dataclasses import replace

import numpy as np
import pytest

from rlhive.data.versions._export import export
from rlhive.data.versions._local import list_local_datasets, list_local_versions
from rlhive.data.versions._manifest import Manifest
from rlhive.data.versions._numbering import (
    MAJOR,
    MINOR,
    PATCH,
    VersionChange,
    find_earlier_version,
    next_version,
)
from rlhive.errors import CorruptDatasetError, DatasetExistsError, WrongVersionError
from tests.data.strategies import records


def write(episodes, store, version=None, **kwargs):
    folder = export(episodes, "my/knob", version=version, license="mit", store=store, **kwargs)
    return folder.name


def with_column(episodes, name="extra"):
    """Return the episodes with an additional column."""
    return [
        replace(record, columns=record.columns | {name: np.arange(record.length, dtype=np.int64)})
        for record in episodes
    ]


def without_column(episodes, name):
    return [
        replace(record, columns={key: array for key, array in record.columns.items() if key != name})
        for record in episodes
    ]


def with_another_action(episodes):
    action = episodes[0].columns["action"].copy()
    action[0, 0] += 1
    return [replace(episodes[0], columns=episodes[0].columns | {"action": action}), *episodes[1:]]


CASES = {
    "described differently": (lambda episodes: episodes, {"description": "other words"}, PATCH),
    "another policy name": (lambda episodes: [replace(record, policy="clone") for record in episodes], {}, PATCH),
    "one more column": (with_column, {}, MINOR),
    "one column less": (lambda episodes: without_column(episodes, "gripper"), {}, MAJOR),
    "one value": (with_another_action, {}, MAJOR),
    "one value and one more column": (lambda episodes: with_column(with_another_action(episodes)), {}, MAJOR),
    "one episode less": (lambda episodes: episodes[1:], {}, MAJOR),
    "another split": (lambda episodes: [replace(episodes[0], split="b"), *episodes[1:]], {}, MAJOR),
    "another id": (lambda episodes: [replace(episodes[0], episode=1), *episodes[1:]], {}, MAJOR),
    "another seed": (lambda episodes: [replace(episodes[0], seed=77), *episodes[1:]], {}, MAJOR),
}
NEXT = {PATCH: "1.2.4", MINOR: "1.3.0", MAJOR: "2.0.0"}


@pytest.mark.parametrize("case", CASES)
def test_the_number_follows_from_what_changed_and_the_error_names_the_right_one(case, tmp_path):
    change, kwargs, level = CASES[case]
    _, episodes = records([4, 2, 3])
    write(episodes, tmp_path, "1.2.3")

    for wrong in set(NEXT.values()) - {NEXT[level]}:
        with pytest.raises(WrongVersionError, match=rf"Use {NEXT[level]}, or leave"):
            write(change(episodes), tmp_path, wrong, **kwargs)
    assert list(list_local_versions("my/knob", store=tmp_path)) == ["1.2.3"]

    assert write(change(episodes), tmp_path, **kwargs) == NEXT[level]


def test_the_first_version_is_1_0_0_by_default_and_can_be_any_number(tmp_path):
    _, episodes = records([4])

    assert write(episodes, tmp_path / "a") == "1.0.0"
    assert write(episodes, tmp_path / "b", "0.1.0") == "0.1.0"


def test_numbers_may_be_skipped_and_an_older_minor_version_can_be_continued(tmp_path):
    _, episodes = records([4, 2])
    write(episodes, tmp_path, "1.0.0")
    write(episodes[1:], tmp_path, "4.0.0")

    assert write(episodes, tmp_path, "1.0.9") == "1.0.9"
    assert write(episodes[1:], tmp_path, description="newer") == "4.0.1"
    with pytest.raises(WrongVersionError, match="expected a PATCH step, got a MINOR step"):
        write(episodes, tmp_path, "1.1.0")


def test_an_unchanged_export_returns_the_existing_version(tmp_path):
    _, episodes = records([4, 2])
    write(episodes, tmp_path)
    before = (tmp_path / "my/knob/1.0.0/rlhive.json").stat().st_mtime_ns

    assert write(episodes, tmp_path) == "1.0.0"
    with pytest.raises(DatasetExistsError):
        write(episodes, tmp_path, "1.0.0")

    assert list(list_local_versions("my/knob", store=tmp_path)) == ["1.0.0"]
    assert (tmp_path / "my/knob/1.0.0/rlhive.json").stat().st_mtime_ns == before
    assert [path.name for path in (tmp_path / "my/knob").iterdir() if path.is_dir()] == ["1.0.0"]
    assert Manifest.read(tmp_path / "my/knob/1.0.0").version == "1.0.0"


@pytest.fixture
def filled_store(tmp_path):
    """A filled_store with three complete versions of my/knob, an incomplete one, and folders of other names."""
    for name in ("my/knob/1.10.0", "my/knob/1.9.0", "my/knob/1.2.0", "my/knob/next", "other/knob/0.1.0"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "rlhive.json").touch()
    (tmp_path / "my/knob/3.0.0").mkdir()
    (tmp_path / ".cache/x/1.0.0").mkdir(parents=True)
    (tmp_path / ".cache/x/1.0.0/rlhive.json").touch()
    return tmp_path


def test_versions_are_in_the_order_of_their_numbers_and_only_complete_ones(filled_store):
    versions = list_local_versions("my/knob", store=filled_store)

    assert list(versions) == ["1.2.0", "1.9.0", "1.10.0"]
    assert versions["1.9.0"] == filled_store / "my/knob/1.9.0"
    assert list_local_versions("my/nothing", store=filled_store) == {}


def test_datasets_are_those_with_a_version(filled_store):
    assert list_local_datasets(store=filled_store) == ["my/knob", "other/knob"]


@pytest.mark.parametrize(
    ("version", "earlier"),
    [(None, "1.10.0"), ("2.0.0", "1.10.0"), ("1.10.0", "1.9.0"), ("1.9.5", "1.9.0"), ("1.2.0", None), ("1.0.0", None)],
)
def test_the_earlier_version_is_the_newest_below(version, earlier, filled_store):
    folder = find_earlier_version("my/knob", version, store=filled_store)

    assert folder == (earlier and filled_store / "my/knob" / earlier)


def test_a_damaged_episode_table_of_the_earlier_version_is_not_compared(tmp_path):
    schema, episodes = records([2])
    folder = tmp_path / "my/knob" / write(episodes, tmp_path)
    path = folder / "meta/episodes.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)

    with pytest.raises(CorruptDatasetError, match="expected SHA-256"):
        VersionChange(folder, schema)


def test_next_version():
    assert [next_version("1.2.3", level) for level in (MAJOR, MINOR, PATCH)] == ["2.0.0", "1.3.0", "1.2.4"]
