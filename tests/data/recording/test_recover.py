import json

import pytest
from typer.testing import CliRunner

from rlhive.cli import app
from rlhive.data.recording._recorder import Recorder
from rlhive.data.recording._recover import find_recording, recordings
from rlhive.dataset._dataset import RoboHiveDataset
from rlhive.errors import DatasetNotFoundError
from tests.data.strategies import transitions


def run(*arguments):
    return CliRunner().invoke(app, ["recover", *(str(argument) for argument in arguments)])


def recorded(name, *lengths, close=True):
    recorder = Recorder(name)
    for seed, length in enumerate(lengths):
        recorder.add_episode(transitions(length, seed))
    if close:
        recorder.close()
    return recorder


def test_uncommitted_recordings_are_listed(store):
    recorded("my/knob", 3, 2)
    held = recorded("my/door", 4, close=False)
    recorded("my/empty")
    (held.path / "000000.arrows").open("ab").write(b"half an episode")

    rows = {row["name"]: row for row in json.loads(run("--json").stdout)}

    assert {name: (row["num_episodes"], row["num_transitions"], row["in_use"]) for name, row in rows.items()} == {
        "my/knob": (2, 5, False),
        "my/door": (1, 4, True),
        "my/empty": (0, 0, False),
    }
    assert rows["my/door"]["unreadable_bytes"] == 15
    assert 0 <= rows["my/knob"]["age_s"] < 60
    assert "my/knob" in run().stdout
    held.close()


def test_a_recording_is_committed_or_discarded(store):
    knob, door = recorded("my/knob", 3, 2), recorded("my/door", 4)

    made = run("my/knob", "--commit", "--license", "mit", "--version", "0.2.0")
    gone = run(door.path, "--discard", "--json")

    assert made.exit_code == 0
    assert "my/knob/0.2.0" in made.stdout.replace("\n", "")
    assert len(RoboHiveDataset("my/knob", version="0.2.0")) == 5
    assert json.loads(gone.stdout) == {"discarded": str(door.path)}
    assert not knob.path.exists()
    assert not door.path.exists()
    assert recordings() == []


def test_a_single_recording_needs_no_argument_and_can_be_renamed(store):
    recorded("my/knob", 3)

    assert run("--commit", "--license", "mit", "--name", "your/knob").exit_code == 0
    assert len(RoboHiveDataset("your/knob")) == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["my/knob", "--commit", "--license", "mit"], "no live process holds"),
        (["my/knob", "--discard"], "no live process holds"),
        (["my/other", "--discard"], "expected one match, got 0; recordings: "),
        (["--discard"], "expected one match, got 2; recordings: "),
        (["my/empty", "--commit", "--license", "mit"], "holds no complete episode"),
    ],
)
def test_an_impossible_request_is_an_error_in_one_sentence(arguments, says, store):
    held = recorded("my/knob", 3, close=False)
    recorded("my/empty")

    ran = run(*arguments)

    assert ran.exit_code == 1
    assert says in ran.stderr
    assert len(recordings()) == 2
    held.close()


@pytest.mark.parametrize("arguments", [["my/knob"], ["--commit", "--discard"], ["--commit"], ["--license", "mit"]])
def test_half_a_request_is_a_usage_error(arguments, store):
    recorded("my/knob", 3)

    assert run(*arguments).exit_code == 2
    assert len(recordings()) == 1


def test_a_recording_is_found_by_its_folder_its_last_part_and_its_dataset(store):
    path = recorded("my/knob", 3).path

    for name in ("", "knob", "my/knob", path.name, str(path)):
        assert find_recording(name).path == path
    with pytest.raises(DatasetNotFoundError, match="expected one match, got 0; recordings: "):
        find_recording("door")


def test_an_empty_list_is_printed_as_a_sentence(store):
    assert run().stdout == "No recordings: all recorded episodes are in a version, or were removed.\n"
    assert json.loads(run("--json").stdout) == []


def test_the_name_of_a_recording_is_not_truncated_in_a_narrow_terminal(store):
    path = recorded("my/a_long_name_of_a_dataset", 3).path

    words = [word for line in run().stdout.splitlines() for word in line.split()]

    assert path.name in words
    assert "my/a_long_name_of_a_dataset" in words
