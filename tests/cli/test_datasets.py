"""The verbs show, check and list."""

import json
import shutil

import pytest

from rlhive.envs._tasks import TASKS
from tests.cli.conftest import invoke


@pytest.mark.usefixtures("filled")
def test_show_prints_splits_and_version():
    assert "expert: 8 episodes, 160 transitions" in invoke("show", "toy_point").stdout
    described = json.loads(invoke("show", "toy_point", "--json").stdout)
    assert described["splits"]["random"] == {"num_episodes": 8, "num_transitions": 160}
    assert described["version"] == "1.0.0"


def test_check_exits_with_1_for_damage_and_for_an_unreadable_manifest(filled):
    folder = filled / "robohive/toy_point/1.0.0"

    clean = invoke("check", "toy_point", "--json")
    shard = folder / "data/random-00000-of-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-9])
    damaged = invoke("check", "toy_point")
    (folder / "rlhive.json").write_text("[]")
    unreadable = invoke("check", folder)

    assert clean.exit_code == 0
    assert {row["status"] for row in json.loads(clean.stdout)["checks"]} == {"passed"}
    assert damaged.exit_code == unreadable.exit_code == 1
    assert "files" in damaged.stdout
    assert "failed" in unreadable.stdout
    assert "Traceback" not in damaged.stderr + unreadable.stderr


def test_list_names_stored_datasets_and_those_that_a_recipe_makes(collected, store):
    before = json.loads(invoke("list", "--json").stdout)
    assert invoke("list").stdout.startswith(f"{store} holds no dataset yet.")
    shutil.copytree(collected, store)

    assert before == {f"robohive/{name}": [] for name in TASKS}
    assert json.loads(invoke("list", "--json").stdout)["robohive/toy_point"] == ["1.0.0"]
    shown = " ".join(invoke("list").stdout.split())
    assert "robohive/toy_point │ 1.0.0" in shown
    assert "rlhive collect NAME makes one of: franka_micro_close, " in shown
    assert "toy_point" not in shown.partition("makes one of")[2]
