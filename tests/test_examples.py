"""The examples run, at small size, as a user would run them."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rlhive import RoboHiveDataset
from rlhive.cli import app
from rlhive.envs._install import require_robohive
from rlhive.errors import RoboHiveMissingError
from rlhive.sim_algos import gather_results

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(autouse=True)
def _robohive():
    try:
        require_robohive()
    except RoboHiveMissingError as error:
        pytest.skip(str(error))


def run(name, *arguments, env=None):
    command = [sys.executable, EXAMPLES / name, *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, env=env)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "Traceback" not in ran.stderr
    return ran.stdout


def test_basic():
    assert "return " in run("basic.py", "--steps", 5)


@pytest.mark.slow
def test_an_algorithm_of_ones_own_is_trained_saved_and_evaluated(tmp_path):
    lines = (EXAMPLES / "td3_bc.py").read_text().splitlines()
    output = run("td3_bc.py", "--dataset", "toy_point", "--steps", 1500, "--output", tmp_path / "td3_bc").splitlines()

    assert len(lines) < 80
    assert output[0] == output[1]  # in memory, and loaded from disk
    assert output[0].startswith("success 100%")


@pytest.mark.slow
def test_the_quickstart_compares_policies_on_the_same_data(tmp_path, monkeypatch, capsys, store):
    """On the toy, with few steps, in 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    quickstart = runpy.run_path(str(EXAMPLES / "quickstart.py"))
    changed = quickstart["main"].__globals__
    for run in quickstart["RUNS"].values():
        object.__setattr__(run, "num_steps", 3)
    changed.update(TASK="toy_point", NUM_SEEDS=2, EPISODES=2)

    quickstart["main"]()

    lines = capsys.readouterr().out.splitlines()
    rows = {re.split(r"  +", line.strip())[0]: re.split(r"  +", line.strip())[1:] for line in lines}
    dataset = RoboHiveDataset("toy_point")
    assert [rows[name][0] for name in ("bc on experts", "bc", "iql")] == ["8 experts", "24 episodes", "24 episodes"]
    assert rows["expert"][1] == "100% (51% to 100%)"
    assert f"  outcomes     {dataset.outcome_fingerprint[:16]}" in lines
    group = next(group for group in gather_results(["quickstart-results"]).groups if group.algorithm == "iql")
    assert rows["iql"][2] == "{:.1f} ({:.1f} to {:.1f})".format(
        group.final["return"].mean, *group.final["return"].interval
    )
    assert group.config["split"] == "null"
    assert (tmp_path / "quickstart-results/quickstart.pdf").stat().st_size > 1000
    verbs = [line.split()[1] for line in lines if line.startswith("  rlhive ")]
    assert verbs == ["view", "show", "plot", "video", "results"]
    assert set(verbs) <= {command.name or command.callback.__name__.rstrip("_") for command in app.registered_commands}


@pytest.mark.slow
def test_parallel():
    assert "batch_size=torch.Size([2, 4])" in run("parallel.py", "--num-envs", 2, "--steps", 4)


@pytest.mark.slow
@pytest.mark.usefixtures("opengl")
def test_r3m_takes_its_weights_from_a_local_file(tmp_path):
    from torchrl.envs import R3MTransform

    torch.manual_seed(0)
    network = R3MTransform("resnet18", ["pixels"], ["pixels_embed"], size=224)[-1]
    weights = {f"module.convnet.{name}": value for name, value in network.convnet.state_dict().items()}
    torch.save({"r3m": weights}, tmp_path / "r3m_18.pt")

    output = run("r3m.py", "--weights", tmp_path, "--num-envs", 2, "--steps", 2)

    assert "embeddings (2, 2, 1, 512) torch.float32" in output


@pytest.mark.slow
@pytest.mark.usefixtures("opengl")
def test_the_asynchronous_collector_fills_the_buffer():
    arguments = ["--frames", 40, "--num-envs", 1, "--frames-per-batch", 20, "--norm-iter", 3]

    assert "40 frames; a batch of pictures is (32, 1, 4, 84, 84)" in run("collect_async.py", *arguments)
