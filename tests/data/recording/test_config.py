from pathlib import Path

import pytest

from rlhive.data.recording._config import RecorderConfig, policy_name, recording_path, run_provenance
from rlhive.errors import InvalidNameError, InvalidOptionError


def test_a_dataset_name_gives_a_folder_in_the_store(store, tmp_path):
    assert recording_path("my/knob", "run7", None) == (store / ".recordings/my/knob/run7", "my/knob")
    assert recording_path("knob", "run7", tmp_path) == (tmp_path / ".recordings/robohive/knob/run7", "robohive/knob")


@pytest.mark.parametrize("name", ["./knob", "~/knob", "/knob", Path("knob")])
def test_a_path_is_the_folder_itself(name):
    assert recording_path(name, "run7", None) == (Path(name).expanduser().absolute(), "")


def test_a_name_that_no_dataset_may_have_is_refused():
    with pytest.raises(InvalidNameError, match="my/knob/more"):
        recording_path("my/knob/more", "run7", None)


def test_unknown_treatment_of_incomplete_episodes_is_refused():
    with pytest.raises(InvalidOptionError, match="on_incomplete: expected one of unfinished, truncated, got 'dropped'"):
        RecorderConfig(on_incomplete="dropped")


def test_the_provenance_of_a_run_describes_environment_and_policy():
    run = run_provenance("Knob-v0", "me", {"seeds": [1, 2]})

    assert run["env"] == {"env_name": "Knob-v0"}
    assert run["seeds"] == [1, 2]
    assert policy_name(run) == "me"
    assert policy_name(run_provenance(None, None, None)) == ""
