"""Healthy files of unusual kinds come in whole: every value, or an error that names the option that helps."""

import logging

import numpy as np
import pyarrow as pa
import pytest

from rlhive import RoboHiveDataset, check
from rlhive.data.formats import export_to, import_dataset, open_source
from rlhive.data.formats._import_pass import split_seed
from rlhive.errors import RLHiveError, SchemaMismatchError
from tests.data.formats.odd_sources import (
    PLAIN,
    lerobot_episode,
    minari_episode,
    write_d4rl,
    write_lerobot,
    write_minari,
    write_roboset,
)


@pytest.fixture
def imported(tmp_path):
    """Import a source and return the dataset."""

    def run(kind, source, **options):
        folder = import_dataset(
            kind, source, "lab/odd", license="mit", store=tmp_path / "store", progress=False, **options
        )
        return RoboHiveDataset(folder, store=tmp_path / "store")

    return run


def read(kind, source, **options):
    return list(open_source(kind, source, **options).records())


@pytest.mark.parametrize("seed", [0, 2**31, 2**63 - 1, 2**63, 2**64 - 1])
def test_a_seed_of_64_bits_is_kept_exactly(seed, tmp_path, imported):
    source = write_minari(tmp_path / "m", [minari_episode(seed=np.uint64(seed))])
    dataset = imported("minari", source)
    (episode,) = dataset.episodes.to_pylist()
    assert (episode["seed"], "seed" in episode["metadata"]) == ((seed, False) if seed < 2**63 else (None, True))
    (record,) = read("minari", source)
    assert record.metadata.get("seed", record.seed) == seed
    written = export_to("minari", dataset.path, tmp_path / "out", progress=False)
    (again,) = read("minari", written)
    assert (again.seed, again.metadata.get("seed")) == (record.seed, record.metadata.get("seed"))


@pytest.mark.parametrize(
    ("seed", "expected"),
    [
        (None, (None, None)),
        (np.uint64(2**64 - 1), (None, {"seed": 2**64 - 1})),
        (np.int64(-3), (-3, None)),
        (3.0, (3, None)),
        (2.5, (None, {"seed": 2.5})),
        (b"abc", (None, {"seed": "abc"})),
        (np.array([1, 2]), (None, {"seed": [1, 2]})),
        (10**30, (None, {"seed": 10**30})),
    ],
)
def test_any_seed_is_an_int64_or_stands_in_the_metadata(seed, expected):
    assert split_seed(seed, {}) == expected


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (np.array([0, 7, 65535], np.uint16), np.array([0, 7, 65535], np.uint16)),
        (np.array([0, 7, 2**32 - 1], np.uint32), np.array([0, 7, 2**32 - 1], np.uint32)),
        (np.array([0, 7, 2**63 - 1], np.uint64), np.array([0, 7, 2**63 - 1], np.int64)),
        (np.array([0, 7, 2**64 - 1], np.uint64), np.array(["0", "7", str(2**64 - 1)], object)),
        (np.array([1.5, -2, 1e300], ">f8"), np.array([1.5, -2, 1e300])),
        (np.array([1, -2, 3], ">i2"), np.array([1, -2, 3], np.int16)),
        (np.array([b"grip", b"lift", b"\xff"]), np.array(["grip", "lift", "\\xff"], object)),
        (np.array([1 + 2j, 3, 0]), np.array([[1, 2], [3, 0], [0, 0]], np.float64)),
        (np.array([[b"a", b"b"]] * 3), None),
        (np.array([True, False, True]), np.array([True, False, True])),
    ],
    ids=lambda value: str(getattr(value, "dtype", "")),
)
@pytest.mark.parametrize("kind", ["minari", "d4rl"])
def test_every_dtype_of_hdf5_is_kept(kind, stored, expected, tmp_path, imported):
    if kind == "minari":
        source = write_minari(tmp_path / "m", [minari_episode(3, **{"infos/x": stored})])
    else:
        source = write_d4rl(tmp_path / "d.hdf5", (3,), **{"infos/x": stored})
    (record,) = read(kind, source)
    if expected is None:
        assert record.columns["info.x.0"].tolist() == ["a"] * 3
        assert record.columns["info.x.1"].tolist() == ["b"] * 3
    else:
        assert record.columns["info.x"].dtype == expected.dtype
        np.testing.assert_array_equal(record.columns["info.x"], expected)
    assert imported(kind, source).manifest.num_transitions == 3


def test_a_compound_dataset_becomes_one_column_a_field(tmp_path):
    rows = np.array([(1, 2.5), (3, 4.5), (5, 6.5)], [("joint", "<u2"), ("force", ">f4")])
    (record,) = read("d4rl", write_d4rl(tmp_path / "d.hdf5", (3,), **{"infos/touch": rows}))
    np.testing.assert_array_equal(record.columns["info.touch.joint"], np.array([1, 3, 5], np.int32))
    np.testing.assert_array_equal(record.columns["info.touch.force"], np.array([2.5, 4.5, 6.5], np.float32))


def test_big_endian_files_have_the_same_values_and_hashes(tmp_path):
    little = read("d4rl", write_d4rl(tmp_path / "little.hdf5"))
    states = np.arange(12, dtype=">f4").reshape(-1, 2)
    others = {"observations": states[:-1], "next_observations": states[1:], "rewards": np.arange(5, dtype=">f4")}
    big = read("d4rl", write_d4rl(tmp_path / "big.hdf5", **others))
    assert [record.content_hash() for record in big] == [record.content_hash() for record in little]


def test_the_dtype_of_a_column_is_that_of_all_episodes(tmp_path, imported, caplog):
    episodes = [
        minari_episode(rewards=np.zeros(3, np.int64), **{"infos/x": np.array([1, 2, 3])}),
        minari_episode(rewards=np.array([0, 0.75, 2**40 + 0.5]), **{"infos/x": np.array([0.5, 1, 2], np.float32)}),
        minari_episode(rewards=np.zeros(3, bool), **{"infos/x": np.array([7, 8, 9], np.uint16)}),
    ]
    source = write_minari(tmp_path / "m", episodes)
    with caplog.at_level(logging.WARNING):
        dataset = imported("minari", source)
    assert dataset.manifest.schema["next.reward"].dtype == "float64"
    rewards = dataset.as_tensordict()["next", "reward"].ravel().tolist()
    assert rewards == [0, 0, 0, 0, 0.75, 2**40 + 0.5, 0, 0, 0]
    assert dataset.as_tensordict()["info", "x"].tolist() == [1, 2, 3, 0.5, 1, 2, 7, 8, 9]
    assert "next.reward (bool, float64, int64 to float64)" in caplog.text
    assert "info.x (float32, int64, uint16 to float64)" in caplog.text


def test_a_number_that_the_common_dtype_would_change_is_refused(tmp_path):
    episodes = [
        minari_episode(**{"infos/stamp": np.array([1, 2, 2**60 + 1])}),
        minari_episode(**{"infos/stamp": np.array([1, 2, 3.5])}),
    ]
    source = write_minari(tmp_path / "m", episodes)
    with pytest.raises(SchemaMismatchError, match=r"info\.stamp: not understood: int64 numbers that float64 cannot"):
        read("minari", source)
    assert len(read("minari", source, drop="info.stamp")) == 2


def test_nanosecond_stamps_are_exact(tmp_path):
    stamps = [1_700_000_000_123_456_789 + row for row in range(4)]
    features = PLAIN | {"stamp": ("float32", [1]), "time": ("int64", [1])}
    episode = lerobot_episode(stamp=stamps, time=pa.array(stamps, pa.timestamp("ns")))
    source = open_source("lerobot", write_lerobot(tmp_path / "l", [episode], features))
    (record,) = source.records()
    assert record.columns["stamp"].ravel().tolist() == record.columns["time"].ravel().tolist() == stamps[:-1]
    assert any("stamp: info.json declares float32, the files hold int64" in note for note in source.notes)


@pytest.mark.parametrize(
    ("declared", "stored", "expected"),
    [
        (("int64", [1]), pa.array([0.75, 1.75, 2.5, 3.5]), np.array([[0.75], [1.75], [2.5]])),
        (("float32", [1]), pa.array([0.1, 0.2, 0.3, 0.4]), np.array([[0.1], [0.2], [0.3]])),
        (("float32", [2]), pa.array([[1, 2, 3]] * 4, pa.list_(pa.int16())), np.full((3, 3), [1, 2, 3], np.int16)),
        (("uint16", [1]), pa.array([1, 2, 65535, 4], pa.uint16()), np.array([[1], [2], [65535]], np.uint16)),
        (("float32", [2, 2]), pa.array([[1.0, 2, 3, 4]] * 4), np.full((3, 2, 2), [[1.0, 2], [3, 4]])),
        (("float32", [1]), pa.array(["a", "b", "c", "d"]), np.array(["a", "b", "c"], object)),
        (("string", [1]), pa.array(["a", None, "c", "d"]).dictionary_encode(), np.array(["a", "", "c"], object)),
        (("float32", [1]), pa.array([1.0, None, 3.0, 4.0]), np.array([[1], [np.nan], [3]])),
        (("int64", [1]), pa.array([1, None, 3, 4]), np.array([[1], [np.nan], [3]])),
        (("float32", [2]), pa.array([[1.0, 2], None, [3, 4], [5, 6]]), np.array([[1, 2], [np.nan] * 2, [3, 4]])),
        (("float32", [2]), pa.array([[1.0, 2], [3.0], [], [5, 6]]), np.array([[1, 2], [3, 0], [0, 0]], np.float64)),
        (("bool", [1]), pa.array([True, None, False, True]), np.array([[1], [np.nan], [0]])),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_a_lerobot_column_holds_what_the_file_holds(declared, stored, expected, tmp_path, imported):
    source = write_lerobot(tmp_path / "l", [lerobot_episode(extra=stored)], PLAIN | {"extra": declared})
    (record,) = read("lerobot", source)
    assert record.columns["extra"].dtype == expected.dtype
    np.testing.assert_array_equal(record.columns["extra"], expected)
    np.testing.assert_array_equal(record.columns["observation"], np.arange(6, dtype=np.float32).reshape(3, 2))
    assert imported("lerobot", source).manifest.num_transitions == 3


def test_ragged_lists_are_padded_to_the_longest_of_all_episodes(tmp_path):
    features = PLAIN | {"observation.points": ("float32", [2])}
    episodes = [
        lerobot_episode(**{"observation.points": pa.array([[1.0], [2.0], [3.0], [4.0]])}),
        lerobot_episode(**{"observation.points": pa.array([[1.0, 2, 3], [], [5.0], [6.0, 7]])}),
    ]
    source = open_source("lerobot", write_lerobot(tmp_path / "l", episodes, features))
    first, second = source.records()
    np.testing.assert_array_equal(first.columns["observation.points"], [[1, 0, 0], [2, 0, 0], [3, 0, 0]])
    np.testing.assert_array_equal(second.columns["observation.points"], [[1, 2, 3], [0, 0, 0], [5, 0, 0]])
    assert second.columns["observation.points_length"].tolist() == [3, 0, 1]
    np.testing.assert_array_equal(second.final["observation.points"], [6, 7, 0])
    assert second.final["observation.points_length"] == 2
    assert any("padded with zeros to the longest: observation.points" in note for note in source.notes)


def test_a_column_that_an_episode_lacks_is_null_there(tmp_path):
    episodes = [minari_episode(**{"infos/force": np.array([1, 2, 3]), "infos/text": ["a", "b", "c"]}), minari_episode()]
    records = read("minari", write_minari(tmp_path / "m", episodes))
    np.testing.assert_array_equal(records[0].columns["info.force"], [1.0, 2, 3])
    assert np.isnan(records[1].columns["info.force"]).all()
    assert records[1].columns["info.text"].tolist() == ["", "", ""]


def test_nan_in_a_side_column_is_kept_counted_and_passes_the_check(tmp_path, imported, caplog):
    episodes = [minari_episode(**{"infos/x": np.array([1, np.nan, 3])}), minari_episode(**{"infos/x": np.ones(3)})]
    source = write_minari(tmp_path / "m", episodes)
    with caplog.at_level(logging.WARNING):
        dataset = imported("minari", source)
    np.testing.assert_array_equal(dataset.as_tensordict()["info", "x"].numpy(), [1, np.nan, 3, 1, 1, 1])
    assert "NaN, kept: info.x (in 1 episodes)" in caplog.text
    report = check(dataset.path)
    assert report.ok
    assert report.results["nan_elsewhere"].count == 1
    assert dataset.as_replay_buffer(4, seed=0).sample()["info", "x"].shape == (4,)


@pytest.mark.parametrize("kind", ["minari", "d4rl", "lerobot", "roboset"])
def test_nan_in_an_observation_is_refused_with_the_options_that_help(kind, tmp_path, imported):
    source = nan_source(kind, tmp_path)
    with pytest.raises(SchemaMismatchError, match=r"row 1: column observation is NaN\. .*skip_episode=1.*on_nan"):
        imported(kind, source)
    assert not list((tmp_path / "store").rglob("*.parquet"))
    assert [record.episode for record in read(kind, source, on_nan="skip")] == [0, 2]
    assert [record.episode for record in read(kind, source, skip_episode=1)] == [0, 2]
    kept = read(kind, source, on_nan="keep")
    assert np.isnan(kept[1].columns["observation"][1]).any()
    dataset = imported(kind, source, on_nan="skip")
    assert dataset.episodes["episode"].to_pylist() == [0, 2]


def nan_source(kind, tmp_path):
    """A source of three episodes, the second with a NaN in row 1 of its observation."""
    if kind == "minari":
        episodes = [minari_episode(first=number * 10.0) for number in range(3)]
        episodes[1]["observations"][1, 0] = np.nan
        return write_minari(tmp_path / "m", episodes)
    if kind == "d4rl":
        states = np.arange(20, dtype=np.float32).reshape(-1, 2)
        broken = states.copy()
        broken[4, 0] = np.nan
        following = np.where(np.arange(9)[:, None] == 3, broken[1:], states[1:])
        others = {"observations": broken[:-1], "next_observations": following}
        return write_d4rl(tmp_path / "d.hdf5", (3, 3, 3), **others)
    if kind == "lerobot":
        episodes = [lerobot_episode() for _ in range(3)]
        episodes[1]["observation.state"][1] = np.array([np.nan, 1], np.float32)
        return write_lerobot(tmp_path / "l", episodes, PLAIN)
    rows = np.arange(8.0).reshape(-1, 2)
    rows[1, 0] = np.nan
    return write_roboset(tmp_path / "r.h5", [{}, {"observations": rows}, {}])


def test_refuse_refuses_every_nan_and_skip_leaves_the_episode_out(tmp_path):
    episodes = [minari_episode(**{"infos/x": np.array([1, np.nan, 3])}), minari_episode(**{"infos/x": np.ones(3)})]
    source = write_minari(tmp_path / "m", episodes)
    with pytest.raises(SchemaMismatchError, match=r"column info\.x is NaN\. The option drop=info\.x"):
        read("minari", source, on_nan="refuse")
    opened = open_source("minari", source, on_nan="skip")
    assert [record.episode for record in opened.records()] == [1]
    assert "episodes left out, since a value is NaN: 1 (ids 0)" in opened.notes
    assert [len(record.columns) for record in read("minari", source, drop=["info"])] == [5, 5]


@pytest.mark.parametrize("kind", ["minari", "d4rl", "lerobot", "roboset"])
def test_an_episode_without_a_transition_is_left_out_and_counted(kind, tmp_path):
    source = {
        "minari": lambda: write_minari(tmp_path / "m", [minari_episode(), minari_episode(0), minari_episode()]),
        "d4rl": lambda: write_d4rl(tmp_path / "maze2d.hdf5", (3, 1, 3)),
        "lerobot": lambda: write_lerobot(tmp_path / "l", [lerobot_episode(n) for n in (4, 1, 4)], PLAIN),
        "roboset": lambda: write_roboset(tmp_path / "r.h5", [{}, {"length": 0}, {}]),
    }[kind]()
    opened = open_source(kind, source, **({"alignment": "state"} if kind in ("d4rl", "roboset") else {}))
    assert len(list(opened.records())) == opened.num_episodes == 2
    assert any("left out: 1" in note for note in opened.notes), opened.notes


def test_what_is_left_out_is_named_and_counted(tmp_path):
    others = {"infos/a/b": np.arange(5), "images": np.zeros((5, 4, 4, 3), np.uint8), "metadata/algorithm": b"sac"}
    opened = open_source("d4rl", write_d4rl(tmp_path / "d.hdf5", **others))
    records = list(opened.records())
    assert records[1].columns["info.a.b"].tolist() == [3, 4]
    assert records[0].columns["info.images"].shape == (3, 4, 4, 3)
    assert any("metadata/algorithm" in note for note in opened.notes)

    episode = minari_episode(**{"infos/short": np.arange(2), "infos/said": ["a", "b", "c"], "extra/x": np.arange(3)})
    opened = open_source("minari", write_minari(tmp_path / "m", [episode]))
    assert next(opened.records()).columns["info.said"].tolist() == ["a", "b", "c"]
    assert any("info.short (2 rows for 3 actions) (in 1 episodes)" in note for note in opened.notes)
    assert any("extra" in note for note in opened.notes)

    features = PLAIN | {"gone": ("float32", [1])}
    source = write_lerobot(tmp_path / "l", [lerobot_episode(other=[1, 2, 3, 4])], features)
    (note,) = [note for note in open_source("lerobot", source).notes if note.startswith("left out")]
    assert "gone, which info.json names and no file holds" in note
    assert "other, which info.json does not name" in note

    trials = [{"env_infos/extra": np.arange(4)}, {"userdata": np.arange(2)}]
    notes = " ".join(open_source("roboset", write_roboset(tmp_path / "r.h5", trials)).notes)
    assert "env_infos/extra (in 1 episodes)" in notes
    assert "userdata (in 1 episodes)" in notes


@pytest.mark.parametrize(
    "stored",
    [
        pa.array([[{"a": 1}]] * 4),
        pa.array([[[1], [2, 3]], [[1]], [[1]], [[1]]]),
        pa.array([[("a", 1)]] * 4, pa.map_(pa.string(), pa.int8())),
        pa.array([1, 2**60, None, 4]),
    ],
    ids=lambda array: str(array.type),
)
def test_a_whole_file_that_no_column_can_hold_is_never_called_damaged(stored, tmp_path):
    source = write_lerobot(tmp_path / "l", [lerobot_episode(extra=stored)], PLAIN | {"extra": ("float32", [1])})
    with pytest.raises(RLHiveError) as refused:
        read("lerobot", source)
    message = str(refused.value)
    assert "not understood" in message
    assert "extra" in message
    assert "drop" in message
    assert not any(word in message for word in ("damaged", "Fetch", "corrupt", "complete files"))
    assert len(read("lerobot", source, drop="extra")) == 1


def test_a_reader_that_did_not_foresee_a_file_does_not_call_it_damaged(tmp_path):
    source = write_minari(tmp_path / "m", [minari_episode(), {"observations": np.zeros((2, 2))}])
    with pytest.raises(SchemaMismatchError, match=r"episode 1: not understood as minari: KeyError.*skip_episode=1"):
        read("minari", source)
    assert [record.episode for record in read("minari", source, skip_episode=[1])] == [0]
