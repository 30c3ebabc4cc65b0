"""The command line of training."""

import pytest
import torch

from rlhive.policies._checkpoint import load_policy, read_checkpoint
from tests.sim_algos.toy import run_command


@pytest.mark.slow
def test_the_command_trains_what_the_function_trains(tmp_path, monkeypatch) -> None:
    from rlhive.sim_algos import train

    monkeypatch.setenv("RLHIVE_DATASETS_PATH", str(tmp_path / "store"))
    overrides = ["train.num_steps=20", "train.batch_size=16", "network.hidden_sizes=[8]"]
    arguments = {"split": "expert+random", "seed": 3, "output_dir": tmp_path / "a", "progress": False}
    result = train("bc", "toy_point", overrides=overrides, **arguments)
    done = run_command(
        *("+model=bc", "+dataset=robohive/toy_point", "split=expert+random", "seed=3", "hydra.run.dir=b", *overrides),
        cwd=tmp_path,
        store=tmp_path / "store",
    )
    assert done.returncode == 0, done.stderr
    ours, theirs = (load_policy(tmp_path / name).state_dict() for name in "ab")
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    record = read_checkpoint(result.checkpoint)
    assert record["dataset"]["name"] == "robohive/toy_point"
    assert record["dataset"]["version"] == "1.0.0"
    assert len(record["dataset"]["fingerprint"]) == 64
    assert record["env_name"] == "ToyPoint-v0"
    assert record["split"] == "expert+random"


def test_the_command_without_a_model_is_an_error_that_shows_the_arguments(tmp_path) -> None:
    done = run_command("+dataset=toy_point", cwd=tmp_path, store=tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip() == "Nothing to train: expected +model=bc +dataset=kitchen_knob1, got no model."
    assert list(tmp_path.iterdir()) == []
