from dataclasses import replace

import numpy as np
import pytest

from rlhive.data.versions._export import export
from rlhive.data.versions._manifest import Manifest
from rlhive.data.versions._numbering import MAJOR, MINOR, PATCH, list_local_versions, next_version
from rlhive.errors import DatasetExists, WrongVersion
from tests.data.strategies import records


def write(made, store, version=None, **kwargs):
    folder = export(made, "my/knob", version=version, license="mit", store=store, **kwargs)
    return folder.name


def with_column(made, name="extra"):
    """The same episodes with one more column."""
    return [
        replace(record, columns=record.columns | {name: np.arange(record.length, dtype=np.int64)}) for record in made
    ]


def without_column(made, name):
    return [
        replace(record, columns={key: array for key, array in record.columns.items() if key != name}) for record in made
    ]


def changed(made):
    action = made[0].columns["action"].copy()
    action[0, 0] += 1
    return [replace(made[0], columns=made[0].columns | {"action": action}), *made[1:]]


CASES = {
    "described differently": (lambda made: made, {"description": "other words"}, PATCH),
    "another policy name": (lambda made: [replace(record, policy="clone") for record in made], {}, PATCH),
    "one more column": (with_column, {}, MINOR),
    "one column less": (lambda made: without_column(made, "gripper"), {}, MAJOR),
    "one value": (changed, {}, MAJOR),
    "one value and one more column": (lambda made: with_column(changed(made)), {}, MAJOR),
    "one episode less": (lambda made: made[1:], {}, MAJOR),
    "another split": (lambda made: [replace(made[0], split="b"), *made[1:]], {}, MAJOR),
    "another id": (lambda made: [replace(made[0], episode=1), *made[1:]], {}, MAJOR),
    "another seed": (lambda made: [replace(made[0], seed=77), *made[1:]], {}, MAJOR),
}
NEXT = {PATCH: "1.2.4", MINOR: "1.3.0", MAJOR: "2.0.0"}


@pytest.mark.parametrize("case", CASES)
def test_the_number_says_what_changed_and_a_wrong_one_is_refused_with_the_right_one(case, tmp_path):
    change, kwargs, level = CASES[case]
    _, made = records([4, 2, 3])
    write(made, tmp_path, "1.2.3")

    for wrong in set(NEXT.values()) - {NEXT[level]}:
        with pytest.raises(WrongVersion, match=rf"Use {NEXT[level]}, or leave"):
            write(change(made), tmp_path, wrong, **kwargs)
    assert list(list_local_versions("my/knob", store=tmp_path)) == ["1.2.3"]

    assert write(change(made), tmp_path, **kwargs) == NEXT[level]


def test_the_first_version_is_free_and_1_0_0_by_default(tmp_path):
    _, made = records([4])

    assert write(made, tmp_path / "a") == "1.0.0"
    assert write(made, tmp_path / "b", "0.1.0") == "0.1.0"


def test_numbers_may_be_skipped_and_old_lines_go_on(tmp_path):
    _, made = records([4, 2])
    write(made, tmp_path, "1.0.0")
    write(made[1:], tmp_path, "4.0.0")

    assert write(made, tmp_path, "1.0.9") == "1.0.9"
    assert write(made[1:], tmp_path, description="newer") == "4.0.1"
    with pytest.raises(WrongVersion, match="expected a PATCH step, got a MINOR step"):
        write(made, tmp_path, "1.1.0")


def test_what_is_there_already_is_returned_and_never_written_again(tmp_path):
    _, made = records([4, 2])
    write(made, tmp_path)
    before = (tmp_path / "my/knob/1.0.0/rlhive.json").stat().st_mtime_ns

    assert write(made, tmp_path) == "1.0.0"
    with pytest.raises(DatasetExists):
        write(made, tmp_path, "1.0.0")

    assert list(list_local_versions("my/knob", store=tmp_path)) == ["1.0.0"]
    assert (tmp_path / "my/knob/1.0.0/rlhive.json").stat().st_mtime_ns == before
    assert Manifest.read(tmp_path / "my/knob/1.0.0").version == "1.0.0"


def test_next_version():
    assert [next_version("1.2.3", level) for level in (MAJOR, MINOR, PATCH)] == ["2.0.0", "1.3.0", "1.2.4"]
