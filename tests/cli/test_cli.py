import json
import shutil
from importlib import metadata

import numpy as np
import pytest
from typer.testing import CliRunner

from rlhive.cli import app
from rlhive.envs._tasks import LEVELS, TASKS


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_help_lists_every_verb():
    shown = run("--help").stdout

    for verb in ("setup", "collect", "train", "evaluate", "show", "check", "list", "envs"):
        assert f" {verb} " in shown


def test_version_is_the_packages():
    assert run("--version").stdout == f"rlhive {metadata.version('rlhive')}\n"


@pytest.mark.usefixtures("filled")
def test_show_says_what_a_dataset_is():
    assert "expert: 8 episodes, 160 transitions" in run("show", "toy_point").stdout
    described = json.loads(run("show", "toy_point", "--json").stdout)
    assert described["splits"]["random"] == {"num_episodes": 8, "num_transitions": 160}
    assert described["version"] == "1.0.0"


def test_check_looks_at_everything_and_its_status_says_so(filled):
    folder = filled / "robohive/toy_point/1.0.0"

    clean = run("check", "toy_point", "--json")
    shard = folder / "data/random-00000-of-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-9])
    damaged = run("check", "toy_point")
    (folder / "rlhive.json").write_text("[]")
    unreadable = run("check", folder)

    assert clean.exit_code == 0
    assert {row["status"] for row in json.loads(clean.stdout)["checks"]} == {"passed"}
    assert damaged.exit_code == unreadable.exit_code == 1
    assert "files" in damaged.stdout
    assert "failed" in unreadable.stdout
    assert "Traceback" not in damaged.stderr + unreadable.stderr


def test_list_names_what_is_there_and_what_can_be_made(collected, store):
    before = json.loads(run("list", "--json").stdout)
    assert run("list").stdout.startswith(f"{store} holds no dataset yet.")
    shutil.copytree(collected, store)

    assert before == {f"robohive/{name}": [] for name in TASKS}
    assert json.loads(run("list", "--json").stdout)["robohive/toy_point"] == ["1.0.0"]
    shown = " ".join(run("list").stdout.split())
    assert "robohive/toy_point │ 1.0.0" in shown
    assert "rlhive collect NAME makes one of: franka_micro_close, " in shown
    assert "toy_point" not in shown.partition("makes one of")[2]


def test_envs_lists_the_catalogue():
    rows = json.loads(run("envs", "--json").stdout)

    assert rows.keys() == TASKS.keys()
    knob = rows["kitchen_knob1"]
    assert (knob["env_name"], knob["horizon"], knob["levels"]) == ("FK1_Knob1OnRandom-v4", 50, list(LEVELS))
    assert knob["recipe"] == {"version": "1.0.0", "episodes": {"expert": 100, "medium": 100, "random": 100}}
    assert knob["reference"]["expert"]["success_interval"][0] > 0.8
    assert rows["push"]["levels"] == list(LEVELS)
    assert knob["missing"] is None


@pytest.mark.parametrize("width", [80, 120])
def test_envs_shows_a_line_per_task(monkeypatch, width):
    from rich.console import Console

    from rlhive.cli import _envs

    monkeypatch.setattr(_envs, "out", Console(width=width))
    shown = run("envs").stdout
    assert "…" not in shown
    lines = {line.split()[0]: line.split() for line in shown.splitlines() if line.strip()}

    reference = TASKS["kitchen_knob1"].reference
    mean, half = reference.expert.return_mean, np.ptp(reference.expert.return_interval) / 2
    name = ["FK1_Knob1OnRandom-v4"] if width == 120 else []
    assert lines["kitchen_knob1"][1:-6] == [*name, "all", "50"]
    assert lines["kitchen_knob1"][-4:] == [f"{mean:.1f}", "±", f"{half:.1f}", f"{reference.random.return_mean:.1f}"]
    assert "all" in lines["push"]


def test_envs_says_what_a_task_lacks_without_building_it(monkeypatch, tmp_path):
    from rlhive.envs import _install

    monkeypatch.setattr(_install, "package_folder", lambda: tmp_path)
    assert f"expected them in {tmp_path}/simhive. Type: rlhive setup" in run("envs").stdout
    rows = json.loads(run("envs", "--json").stdout)
    assert {name for name, row in rows.items() if row["missing"] is None} == {"toy_point"}

    (tmp_path / "simhive" / "franka_sim").mkdir(parents=True)
    (tmp_path / "simhive" / "simhive-version").touch()
    assert "lack furniture_sim" in json.loads(run("envs", "--json").stdout)["reach"]["missing"]


def test_evaluate_shows_a_policy_beside_random_and_expert():
    ran = run("evaluate", "medium", "--env", "toy_point", "--episodes", 6, "--workers", 1, "--json")
    rows = json.loads(ran.stdout)

    assert [row["policy"] for row in rows] == ["medium", "random", "expert"]
    assert rows[2]["success_rate"] == 1.0
    assert rows[1]["return_mean"] < rows[0]["return_mean"] < rows[2]["return_mean"]


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
    ran = run(*arguments)

    assert ran.exit_code == 1
    assert ran.stderr.startswith("error: ")
    assert says in ran.stderr
    assert "Traceback" not in ran.stderr
    assert ran.stdout == ""


def test_a_mistyped_verb_is_a_usage_error():
    ran = run("shw")

    assert ran.exit_code == 2
    assert "Did you mean 'show'" in ran.stderr
