"""The options reward and success of an import."""

import numpy as np
import pytest

from rlhive.data.formats._convert import open_source
from rlhive.errors import SchemaMismatchError
from tests.data.formats import make_lerobot, odd_sources
from tests.data.formats.make_lerobot import LENGTHS, SOLVED

PICTURES = make_lerobot.FILES / "v3.0-image"


@pytest.fixture
def demonstrations(tmp_path):
    """Two episodes without rewards and ends: state, action and a column of numbers."""
    features = odd_sources.PLAIN | {"distance": ("float32", [1])}
    episodes = [odd_sources.lerobot_episode(4, distance=[0.5, 0.2, 0.1, last]) for last in (0.0, 0.1)]
    return odd_sources.write_lerobot(tmp_path / "demos", episodes, features)


def read(folder, **options):
    return list(open_source("lerobot", folder, **options).records())


def column(record, name):
    return record.columns[name].ravel().tolist()


def test_demonstrations_get_a_sparse_reward_and_keep_their_last_action(demonstrations):
    for record in read(demonstrations, reward="sparse"):
        assert column(record, "next.reward") == [0, 0, 0, 1]
        assert column(record, "success") == [False] * 4
        assert record.final["success"].tolist() == [True]
        assert (record.ended, record.success) == ("terminated", True)
        assert record.metadata["final_observation"] == "unknown"
    assert {record.ended for record in read(demonstrations)} == {"unfinished"}


def test_success_is_that_of_the_files(tmp_path):
    """LeRobot's next.success: the second episode is cut off, so its last frame is its final observation."""
    for record, length, solved in zip(read(PICTURES, reward="sparse"), LENGTHS, SOLVED, strict=True):
        rows = length if solved else length - 1
        assert column(record, "next.reward") == [*[0] * (rows - 1), float(solved)]
        assert record.ended == ("terminated" if solved else "truncated")
    notes = "\n".join(open_source("lerobot", PICTURES, reward="sparse").notes)
    assert "the reward is sparse" in notes
    assert "left out: next.reward of the files, which the option reward replaces (in 3 episodes)" in notes


def test_functions_see_the_columns_of_an_episode(demonstrations):
    def closeness(columns):
        return -columns["distance"]

    solved, failed = read(demonstrations, reward=closeness, success=lambda columns: columns["distance"][-1] == 0)
    np.testing.assert_array_equal(column(solved, "next.reward"), [-0.5, -0.2, -0.1, 0])
    assert (solved.ended, failed.ended) == ("terminated", "truncated")
    assert (solved.length, failed.length) == (4, 3)
    assert (solved.success, failed.success) == (True, False)
    notes = "\n".join(open_source("lerobot", demonstrations, reward=closeness).notes)
    assert "the reward is the function test_functions_see_the_columns_of_an_episode" in notes


def test_a_column_is_the_reward_or_the_success(demonstrations):
    (record, _) = read(demonstrations, reward="distance", success="all")
    np.testing.assert_array_equal(column(record, "next.reward"), [0.5, 0.2, 0.1, 0])
    assert column(record, "distance") == column(record, "next.reward")
    (record, _) = read(demonstrations, success="distance")  # every row but the last one leads to a solved state
    assert column(record, "success") == [False, True, True]
    assert record.final["success"].tolist() == [True]
    assert record.ended == "truncated"


def test_a_success_on_the_way_does_not_end_an_episode(demonstrations):
    def passes(columns):
        return np.isclose(columns["distance"], 0.2)

    for record in read(demonstrations, reward="sparse", success=passes):
        assert column(record, "next.reward") == [0, 1, 0]
        assert column(record, "success") == [False, False, True]
        assert (record.ended, record.success) == ("truncated", True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reward": "speed"}, r"episode 0: reward='speed': expected 'sparse' or a column, one of action, distance"),
        ({"success": "speed"}, r"episode 0: success='speed': expected 'all' or a column, one of action, distance"),
        ({"reward": lambda columns: [1.0]}, r"expected 4 numbers, one for each row, got float64 \[1\]"),
        ({"success": lambda columns: np.array(["x"] * 4)}, r"expected 4 numbers, one for each row, got <U1 \[4\]"),
        ({"reward": 3}, r"reward=3: expected 'sparse', the name of a column, or a function"),
        ({"success": ""}, r"success='': expected 'all', the name of a column, or a function"),
    ],
)
def test_what_an_option_cannot_be_is_refused(demonstrations, options, message):
    with pytest.raises(SchemaMismatchError, match=message):
        read(demonstrations, **options)


def test_an_episode_that_was_cut_off_is_no_success(tmp_path):
    path = odd_sources.write_d4rl(tmp_path / "x.hdf5", terminals=np.arange(5) == 2, timeouts=np.arange(5) == 4)
    solved, cut = open_source("d4rl", path, reward="sparse").records()
    assert (column(solved, "next.reward"), column(cut, "next.reward")) == ([0, 0, 1], [0, 0])
    assert (solved.success, cut.success) == (True, False)
    assert (solved.ended, cut.ended) == ("terminated", "truncated")


def test_a_task_that_failed_stays_terminated(tmp_path):
    path = odd_sources.write_d4rl(
        tmp_path / "x.hdf5", terminals=np.array([0, 0, 1, 0, 0], bool), timeouts=np.zeros(5, bool)
    )
    records = list(open_source("d4rl", path, success=lambda columns: False, breaks="marked", horizon=2).records())
    assert records[0].ended == "terminated"
    assert records[0].success is False
