"""The options of every importer: columns and episodes that are left out, and names."""

import logging

import numpy as np
import pytest

from rlhive import RoboHiveDataset
from rlhive.data.formats import EpisodeArrays, EpisodeSource, Format, end_flags, import_dataset, open_source
from rlhive.data.formats._import_rules import parse_rename
from rlhive.errors import SchemaMismatchError, UnsupportedFormatError
from tests.data.formats.odd_sources import (
    PLAIN,
    encode,
    lerobot_episode,
    minari_episode,
    to_pictures,
    write_d4rl,
    write_lerobot,
    write_minari,
)


class Flat(Format):
    """A format of another package, written as the page on formats says: it knows nothing of the common options."""

    name = "flat"

    def read(self, source):
        episodes = []
        for number in range(3):
            rows = np.arange(8.0).reshape(4, 2) + 10 * number
            columns = {
                "state": rows[:-1],
                "actions": rows[:-1, :1],
                "rewards": rows[:-1, 0],
                "note": np.full(3, np.nan),
            }
            columns |= end_flags(3, terminated=number == 1)
            episodes.append(EpisodeArrays(columns, {"state": rows[-1]}, f"{source}, episode {number}"))
        schema = episodes[0].infer_schema()
        records = lambda: (  # noqa: E731
            arrays.to_record(schema, episode=number, split="train") for number, arrays in enumerate(episodes)
        )
        return EpisodeSource(schema, records, num_episodes=3)


def test_the_options_work_in_a_format_that_does_not_know_them(tmp_path):
    folder = import_dataset(
        Flat(),
        "files",
        "lab/flat",
        license="mit",
        store=tmp_path,
        progress=False,
        rename={"state": "observation", "actions": "action"},
        drop="note",
        skip_episode=[1],
    )
    dataset = RoboHiveDataset(folder, store=tmp_path)
    assert dataset.episodes["episode"].to_pylist() == [0, 2]
    batch = dataset.as_tensordict()
    assert "note" not in set(batch.keys())
    np.testing.assert_array_equal(batch["observation"][:3].numpy(), np.arange(6.0).reshape(3, 2))
    np.testing.assert_array_equal(batch["next", "observation"][2].numpy(), [6, 7])
    assert batch["next", "reward"].tolist() == [[0], [2], [4], [20], [22], [24]]


def test_flat_names_of_lerobot_make_transitions(tmp_path, caplog):
    features = {
        "state": ("float32", [2]),
        "actions": ("float32", [1]),
        "reward": ("float32", [1]),
        "done": ("bool", [1]),
    }
    features["image"] = ("image", [2, 2, 3])
    picture = to_pictures([encode(np.full((2, 2, 3), row, np.uint8)) for row in range(3)])
    episodes = []
    for done in (True, False):
        rows = np.arange(6, dtype=np.float32).reshape(3, 2)
        columns = {"state": list(rows), "actions": list(rows[:, :1]), "reward": [1.0, 2.0, 3.0], "image": picture}
        episodes.append(columns | {"done": [False, False, done]})
    source = write_lerobot(tmp_path / "l", episodes, features)
    with caplog.at_level(logging.WARNING):
        folder = import_dataset("lerobot", source, "lab/flat", license="mit", store=tmp_path / "s", progress=False)
    for name, column in (
        ("state", "observation"),
        ("actions", "action"),
        ("reward", "next.reward"),
        ("done", "next.done"),
    ):
        assert f"{name} is taken as {column}" in caplog.text
    dataset = RoboHiveDataset(folder, store=tmp_path / "s")
    assert dataset.episodes["ended"].to_pylist() == ["terminated", "truncated"]
    assert dataset.episodes["return"].to_pylist() == [6.0, 3.0]  # the last frame of a cut episode is its observation
    batch = dataset.as_tensordict()
    assert batch["next", "pixels", "image"][:, 0, 0, 0].tolist() == [1, 2, 2, 1, 2]
    assert batch["next", "observation"][:, 0].tolist() == [2, 4, 4, 2, 4]


def test_a_rename_says_which_column_an_observation_is(tmp_path):
    features = {"joints": ("float32", [2]), "torque": ("float32", [1]), "gripper": ("float32", [1])}
    rows = np.arange(8, dtype=np.float32).reshape(4, 2)
    episode = {"joints": list(rows), "torque": list(rows[:, :1]), "gripper": list(rows[:, 1:])}
    source = write_lerobot(tmp_path / "l", [episode], features)
    rename = {"joints": "observation.joints", "gripper": "observation.gripper", "torque": "action"}
    (record,) = open_source("lerobot", source, rename=rename).records()
    np.testing.assert_array_equal(record.columns["observation.joints"], rows[:-1])
    np.testing.assert_array_equal(record.final["observation.joints"], rows[-1])
    np.testing.assert_array_equal(record.columns["action"], rows[:-1, :1])
    assert sorted(record.final) == ["observation.gripper", "observation.joints"]


def test_an_alias_never_displaces_a_column(tmp_path):
    features = PLAIN | {"state": ("float32", [1]), "obs": ("float32", [1]), "actions": ("float32", [1])}
    one = [np.ones(1, np.float32)] * 4
    source = write_lerobot(tmp_path / "l", [lerobot_episode(state=one, obs=one, actions=one)], features)
    opened = open_source("lerobot", source)
    (record,) = opened.records()
    assert {"observation", "action", "state", "obs", "actions"} < record.columns.keys()
    assert not any("taken as" in note for note in opened.notes)


def test_names_that_rlhive_needs_are_moved_not_lost(tmp_path):
    features = PLAIN | {"episode": ("int64", [1]), "done": ("bool", [1]), "next.done": ("bool", [1])}
    others = {"episode": [7, 7, 7, 7], "done": [True, False, True, False], "next.done": [False] * 4}
    (record,) = open_source("lerobot", write_lerobot(tmp_path / "l", [lerobot_episode(**others)], features)).records()
    assert record.columns["info.episode"].ravel().tolist() == [7, 7, 7]
    assert record.columns["info.done"].ravel().tolist() == [True, False, True]


def test_a_dropped_column_is_not_read(tmp_path):
    features = PLAIN | {"observation.images.top": ("image", [2, 2, 3])}
    pictures = to_pictures([b"no picture"] * 4)
    source = write_lerobot(tmp_path / "l", [lerobot_episode(**{"observation.images.top": pictures})], features)
    with pytest.raises(SchemaMismatchError, match="expected a PNG or JPEG picture"):
        open_source("lerobot", source)
    for name in ("pixels.top", "pixels", "observation.images.top", "observation/images"):
        (record,) = open_source("lerobot", source, drop=name).records()
        assert sorted(record.final) == ["observation"]


def test_a_name_or_an_id_that_is_not_there_is_refused_with_the_nearest(tmp_path):
    source = write_minari(tmp_path / "m", [minari_episode(**{"infos/force": np.arange(3)})])
    with pytest.raises(SchemaMismatchError, match=r"drop='info\.forse': nearest info\.force"):
        open_source("minari", source, drop="info.forse")
    with pytest.raises(SchemaMismatchError, match=r"rename='acts': nearest action"):
        open_source("minari", source, rename={"acts": "action"})
    with pytest.raises(SchemaMismatchError, match="skip_episode=9: expected the id of an episode, got ids from 0 to 0"):
        open_source("minari", source, skip_episode=9)
    with pytest.raises(SchemaMismatchError, match=r"episodes with a transition, got none: .*skip_episode says: 1"):
        open_source("minari", source, skip_episode=0)
    with pytest.raises(SchemaMismatchError, match="would be action, which is there"):
        open_source("minari", source, rename={"info.force": "action"})
    with pytest.raises(SchemaMismatchError, match="on_nan='drop': expected one of keep, skip, refuse"):
        open_source("minari", source, on_nan="drop")
    with pytest.raises(UnsupportedFormatError, match="no option 'skip_episodes': nearest skip_episode"):
        open_source("minari", source, skip_episodes=1)


def test_a_column_and_a_group_of_one_name_are_refused(tmp_path):
    source = write_d4rl(tmp_path / "d.hdf5", **{"infos/a": np.arange(5), "a.b": np.arange(5)})
    with pytest.raises(SchemaMismatchError, match=r"info\.a is a column and the group of info\.a\.b"):
        open_source("d4rl", source)
    assert len(list(open_source("d4rl", source, rename={"info.a": "info.c"}).records())) == 2


def test_pairs_are_read_from_texts():
    expected = {"actions": "action", "state": "observation"}
    assert parse_rename("actions=action state=observation") == expected
    assert parse_rename(["actions=action", "state=observation"]) == expected
    assert parse_rename({"r": "reward", "d": "done"}) == {"r": "next.reward", "d": "next.done"}
    for wrong in ("actions", "=action", {"a": 1}):
        with pytest.raises(SchemaMismatchError, match="expected names in the file and columns"):
            parse_rename(wrong)


def test_frames_without_any_end_flag_are_unfinished(tmp_path):
    features = {"state": ("float32", [2]), "actions": ("float32", [1])}
    rows = np.arange(8, dtype=np.float32).reshape(4, 2)
    source = write_lerobot(tmp_path / "l", [{"state": list(rows), "actions": list(rows[:, :1])}] * 2, features)

    folder = import_dataset("lerobot", source, "lab/flat", license="mit", store=tmp_path / "s", progress=False)

    episodes = RoboHiveDataset(folder).episodes
    assert episodes["ended"].to_pylist() == ["unfinished"] * 2
    assert episodes["length"].to_pylist() == [3, 3]
    assert episodes["return"].to_pylist() == episodes["success"].to_pylist() == [None, None]
