"""D4RL files, written by D4RL's writer (make_d4rl.py), with and without the defects of published files."""

import shutil

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from rlhive import RoboHiveDataset
from rlhive.cli import app
from rlhive.data._episodes import REWARD
from rlhive.data.formats._builtin import D4RL
from rlhive.data.formats._convert import import_dataset
from rlhive.data.formats._d4rl import read_d4rl
from rlhive.errors import SchemaMismatchError, UnsupportedFormatError
from rlhive.testing import ExpectedEpisode, FormatTests
from tests.data.formats.make_d4rl import FILES, HORIZON, LENGTHS, TERMINAL, walk

TRUTH = [walk(episode) for episode in range(len(LENGTHS))]
ENDED = list(zip(TRUTH, TERMINAL, strict=True))


@pytest.fixture
def file(tmp_path):
    """A copy to break, opened for writing."""
    path = tmp_path / "walk.hdf5"
    shutil.copy(FILES / "d4rl.hdf5", path)
    with h5py.File(path, "r+") as h5:
        yield path, h5


def add(h5, *names):
    """Add what newer files have."""
    ends = np.zeros(sum(LENGTHS), bool)
    ends[np.cumsum(LENGTHS) - 1] = True
    if "timeouts" in names:
        h5["timeouts"] = ends & ~np.asarray(h5["terminals"])
    if "next_observations" in names:
        h5["next_observations"] = np.concatenate([truth["states"][1:] for truth in TRUTH])
    h5.flush()


def assert_true(record, truth, *, length=None):
    length = len(truth["actions"]) if length is None else length
    np.testing.assert_array_equal(record.columns["observation"], truth["states"][:length])
    np.testing.assert_array_equal(record.columns["action"], truth["actions"][:length])
    np.testing.assert_array_equal(record.columns[REWARD].ravel(), truth["rewards"][:length])
    np.testing.assert_array_equal(record.final["observation"], truth["states"][length])


class TestD4RL(FormatTests):
    """A complete file of today."""

    format = D4RL()

    @pytest.fixture
    def source(self, file):
        path, h5 = file
        add(h5, "timeouts", "next_observations")
        h5.close()
        return path

    @pytest.fixture
    def expected(self):
        return [expected_episode(truth, terminal, len(truth["actions"])) for truth, terminal in ENDED]


class TestD4RLWithoutNextObservations(FormatTests):
    """The last state is not in the file: it is neither invented nor is a transition without it kept."""

    format = D4RL()

    @pytest.fixture
    def source(self, file):
        path, h5 = file
        add(h5, "timeouts")
        h5.close()
        return path

    @pytest.fixture
    def expected(self):
        lengths = [len(truth["actions"]) - (not terminal) for truth, terminal in ENDED]
        return [
            expected_episode(truth, terminal, length, final=truth["states"][-2])
            for (truth, terminal), length in zip(ENDED, lengths, strict=True)
        ]


def expected_episode(truth, terminal, length, *, final=None):
    columns = {
        "observation": truth["states"][:length],
        "action": truth["actions"][:length],
        REWARD: truth["rewards"][:length, None],
        "info.qpos": truth["states"][:length, :2],
        "info.qvel": truth["states"][:length, 2:],
    }
    final = truth["states"][-1] if final is None else final
    return ExpectedEpisode(columns, {"observation": final}, "terminated" if terminal else "truncated")


def test_a_complete_file_is_read_completely(file, tmp_path):
    path, h5 = file
    add(h5, "timeouts", "next_observations")
    folder = import_dataset("d4rl", path, "lab/walk", license="cc-by-4.0", store=tmp_path, progress=False)
    dataset = RoboHiveDataset(folder)
    records = list(read_d4rl(path).records())
    for record, truth, terminal in zip(records, TRUTH, TERMINAL, strict=True):
        assert_true(record, truth)
        assert record.ended == ("terminated" if terminal else "truncated")
        np.testing.assert_array_equal(record.start_state["qpos"], truth["states"][0, :2])
        np.testing.assert_array_equal(record.columns["info.qvel"], truth["states"][:-1, 2:])
    td = dataset.as_tensordict()
    np.testing.assert_array_equal(td["next", "observation"], np.concatenate([truth["states"][1:] for truth in TRUTH]))
    assert td["next", "done"].sum() == len(LENGTHS)
    assert dataset.manifest.runs[0]["file"] == "walk.hdf5"


def test_without_next_observations_the_last_state_is_not_invented(file):
    path, h5 = file
    add(h5, "timeouts")
    source = read_d4rl(path)
    records = list(source.records())
    for record, truth, terminal in zip(records, TRUTH, TERMINAL, strict=True):
        if terminal:
            np.testing.assert_array_equal(record.columns["action"], truth["actions"])
            np.testing.assert_array_equal(record.final["observation"], truth["states"][-2])
            assert record.metadata == {"final_observation": "unknown"}
        else:
            assert_true(record, truth, length=len(truth["actions"]) - 1)
    assert any("3 episodes whose last observation is not in the file" in note for note in source.notes)
    assert any("3 episodes whose last row serves as the final" in note for note in source.notes)


def test_files_without_next_observations_and_timeouts_are_split_by_the_horizon(file):
    # D4RL's own reader counts on after an end of the task and cuts the following episode a row too early.
    for record, truth, terminal in zip(read_d4rl(file[0], horizon=HORIZON).records(), TRUTH, TERMINAL, strict=True):
        if not terminal:
            assert_true(record, truth, length=len(truth["actions"]) - 1)
        assert record.columns["next.terminated"].ravel()[-1] == terminal


def test_the_transitions_equal_those_of_d4rls_reader(file):
    path, h5 = file
    add(h5, "timeouts")
    records = list(read_d4rl(path).records())
    theirs = np.load(FILES / "d4rl_qlearning.npz")
    ends = theirs["terminals"]
    # D4RL drops the file's last row as well, whatever it is.
    count = len(ends)
    for name, their_name in (
        ("observation", "observations"),
        ("action", "actions"),
        (REWARD, "rewards"),
        ("next.terminated", "terminals"),
    ):
        ours = np.concatenate([record.columns[name] for record in records])
        assert len(ours) == count + 1
        np.testing.assert_array_equal(ours[:count].reshape(theirs[their_name].shape), theirs[their_name])
    # At an end of the task D4RL gives the next episode's first observation for the following one.
    pairs = [(record.columns["observation"][1:], record.final["observation"][None]) for record in records]
    following = np.concatenate([part for pair in pairs for part in pair])
    np.testing.assert_array_equal(following[:count][~ends], theirs["next_observations"][~ends])


def test_unmarked_episode_ends_are_detected(file):
    path, h5 = file
    add(h5, "next_observations")
    source = read_d4rl(path)
    for record, truth in zip(source.records(), TRUTH, strict=True):
        assert_true(record, truth)
    assert "ends are where the observations jump" in source.notes[0]


@pytest.mark.parametrize("arrays", [(), ("next_observations",)])
def test_misplaced_timeouts_are_refused_without_an_option(file, arrays):
    path, h5 = file
    add(h5, "timeouts", *arrays)
    h5["timeouts"][...] = np.roll(h5["timeouts"], -1)  # as in antmaze's first files: a row too early
    h5.flush()
    with pytest.raises(SchemaMismatchError, match="jump after row 19, and at 3 places in all"):
        read_d4rl(path)
    records = list(read_d4rl(path, breaks="found").records())
    assert len(records) == len(LENGTHS)
    short = 0 if arrays else 1
    for record, truth, terminal in zip(records, TRUTH, TERMINAL, strict=True):
        if not terminal:
            assert_true(record, truth, length=len(truth["actions"]) - short)
    marked = next(read_d4rl(path, breaks="marked").records())
    assert marked.length == LENGTHS[0] - 1 - short


def test_rewards_stored_with_their_state_move_one_row_up(file):
    path, h5 = file
    add(h5, "timeouts")
    rewards = np.concatenate([truth["states"][:-1, 0] for truth in TRUTH])
    h5["rewards"][...] = rewards
    h5.flush()
    maze = path.with_name("maze2d-umaze-v1.hdf5")
    shutil.copy(path, maze)
    with pytest.raises(SchemaMismatchError, match="alignment='state' moves it"):
        read_d4rl(maze)
    records = list(read_d4rl(maze, alignment="state").records())
    whole = [truth for truth in TRUTH if len(truth["actions"]) > 1]
    for record, truth in zip(records, whole, strict=True):
        assert_true(record, truth, length=len(truth["actions"]) - 1)


def test_a_file_of_another_layout_is_refused(file, tmp_path):
    path, h5 = file
    del h5["terminals"]
    h5.flush()
    with pytest.raises(SchemaMismatchError, match="got no terminals"):
        read_d4rl(path)
    with pytest.raises(SchemaMismatchError, match="readable HDF5"):
        read_d4rl(tmp_path / "nothing.hdf5")


def test_an_option_of_another_format_is_refused(file, tmp_path):
    with pytest.raises(
        UnsupportedFormatError, match="no option 'fps': expected one of alignment, horizon, breaks, split"
    ):
        import_dataset("d4rl", file[0], "lab/walk", license="mit", store=tmp_path, fps=3)


def test_the_command_imports_and_exports(file, tmp_path, monkeypatch):
    monkeypatch.setenv("RLHIVE_DATASETS_PATH", str(tmp_path))
    path, h5 = file
    add(h5, "timeouts", "next_observations")
    run = CliRunner().invoke
    result = run(app, ["import", "d4rl", str(path), "lab/walk", "--license", "mit", "--env", "Walk-v0"])
    assert (result.exit_code, "environment  Walk-v0" in result.stdout) == (0, True), result.output
    for kind, options in (("minari", []), ("lerobot", ["--fps", "10"])):
        result = run(app, ["export-to", kind, "lab/walk", str(tmp_path / kind), *options])
        assert result.exit_code == 0, result.output
    assert (tmp_path / "lerobot" / "meta" / "info.json").is_file()
