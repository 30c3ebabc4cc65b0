"""The command as a whole: help, version, and errors as one sentence."""

import os
import subprocess
import sys
from importlib import metadata

import pytest

from rlhive.cli import app
from tests.cli.conftest import invoke


def test_help_lists_every_verb():
    verbs = (
        "setup envs collect recover train evaluate results show view plot video check score replay diff list select "
        "split merge append rename drop embed render encode versions pull scrub release push delete import export-to"
    )
    listed = invoke("--help").stdout.partition("Commands:\n")[2].splitlines()

    assert [line.split()[0] for line in listed] == verbs.split()
    assert not [line for line in listed if line.endswith("...")], "a summary does not fit into 80 columns"


def test_every_verb_explains_itself():
    for command in app.registered_commands:
        ran = invoke(command.name, "--help")
        summary = command.callback.__doc__.splitlines()[0]

        assert ran.exit_code == 0, command.name
        assert summary in " ".join(ran.stdout.split()), command.name


def test_version_prints_the_version_of_the_package():
    assert invoke("--version").stdout == f"rlhive {metadata.version('rlhive')}\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["show", "toy_pont"], "Nearest: toy_point"),
        (["show", "toy_point"], "rlhive collect toy_point"),
        (["collect", "kitchen_knob"], "kitchen_knob1"),
        (["evaluate", "expert", "--env", "nowhere"], "No task named"),
        (["evaluate", "no/such/folder", "--env", "toy_point"], "No policy"),
        (["evaluate", "expert"], "--env"),
    ],
)
def test_bad_input_is_one_sentence_and_status_1(arguments, says):
    ran = invoke(*arguments)

    assert ran.exit_code == 1
    assert ran.stderr.startswith("error: ")
    assert says in ran.stderr
    assert "Traceback" not in ran.stderr
    assert ran.stdout == ""


def test_a_mistyped_verb_is_a_usage_error():
    ran = invoke("shw")

    assert ran.exit_code == 2
    assert "Did you mean 'show'" in ran.stderr


@pytest.mark.slow
def test_progress_in_a_log_is_a_line_every_ten_seconds(tmp_path):
    """The recipe of 24 episodes takes less: the bar is printed when it begins and when it ends."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "RLHIVE_DATASETS_PATH": str(tmp_path)}
    command = [sys.executable, "-m", "rlhive.cli", "collect", "toy_point", "--workers", "1"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)

    assert "24/24" in ran.stderr
    assert ran.stderr.count("ep/s") <= 3
