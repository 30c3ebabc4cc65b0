"""The verb envs: the catalogue as a table and as JSON."""

import json

import numpy as np
import pytest

from rlhive.envs._tasks import LEVELS, TASKS
from tests.cli.conftest import invoke


def test_envs_lists_the_catalogue():
    rows = json.loads(invoke("envs", "--json").stdout)

    assert rows.keys() == TASKS.keys()
    knob = rows["kitchen_knob1"]
    assert (knob["env_name"], knob["horizon"], knob["levels"]) == ("FK1_Knob1OnRandom-v4", 50, list(LEVELS))
    assert knob["recipe"] == {"version": "1.0.0", "episodes": {"expert": 100, "medium": 100, "random": 100}}
    assert knob["reference"]["expert"]["success_interval"][0] > 0.8
    assert rows["push"]["levels"] == list(LEVELS)
    assert knob["missing"] is None


@pytest.mark.parametrize("width", [80, 120])
def test_envs_prints_a_line_per_task(monkeypatch, width):
    from rich.console import Console

    from rlhive.cli import _envs

    monkeypatch.setattr(_envs, "out", Console(width=width))
    shown = invoke("envs").stdout
    assert "…" not in shown
    lines = {line.split()[0]: line.split() for line in shown.splitlines() if line.strip()}

    reference = TASKS["kitchen_knob1"].reference
    mean, half = reference.expert.return_mean, np.ptp(reference.expert.return_interval) / 2
    name = ["FK1_Knob1OnRandom-v4"] if width == 120 else []
    assert lines["kitchen_knob1"][1:-6] == [*name, "all", "50"]
    assert lines["kitchen_knob1"][-4:] == [f"{mean:.1f}", "±", f"{half:.1f}", f"{reference.random.return_mean:.1f}"]
    assert "all" in lines["push"]


def test_envs_reports_missing_assets_without_building_an_environment(monkeypatch, tmp_path):
    from rlhive.envs import _install

    monkeypatch.setattr(_install, "package_folder", lambda: tmp_path)
    assert f"expected them in {tmp_path}/simhive. Type: rlhive setup" in invoke("envs").stdout
    rows = json.loads(invoke("envs", "--json").stdout)
    assert {name for name, row in rows.items() if row["missing"] is None} == {"toy_point"}

    (tmp_path / "simhive" / "franka_sim").mkdir(parents=True)
    (tmp_path / "simhive" / "simhive-version").touch()
    rows = json.loads(invoke("envs", "--json").stdout)
    assert "lack furniture_sim" in rows["reach"]["missing"]
    assert rows["robotiq_pose"]["missing"].endswith("Type: rlhive setup")
    assert rows["myo_elbow_pose"]["missing"].endswith("Type: rlhive setup --assets git")
