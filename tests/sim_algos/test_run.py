"""The command line of training."""

from pathlib import Path

import pytest
import torch

from rlhive.policies._checkpoint import load_policy, read_checkpoint
from rlhive.sim_algos import make_config
from rlhive.sim_algos._training_state import save_training_state
from rlhive.sim_algos.run import prepare_arguments
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["+model=bc"], "Nothing to train: expected +model=bc +dataset=kitchen_knob1, got no dataset."),
        (["+model=bc", "+dataset=x", "+typo=1"], "bc has no option typo."),
        (
            ["+model=sac", "+exploration=gausian"],
            "exploration=gausian: expected one of egreedy, gaussian, ou, or null.",
        ),
        (["-m", "+model=bc,iql", "+dataset=x", "optim.lr=1,2"], "iql has no option optim.lr."),
        (["+model=bcc", "+dataset=x"], "No algorithm named 'bcc'"),
    ],
)
def test_a_wrong_command_line_ends_with_one_sentence(arguments, message) -> None:
    with pytest.raises(SystemExit) as stop:
        prepare_arguments(arguments)
    assert str(stop.value).startswith(message)


def test_the_command_line_for_hydra_has_no_plus_and_the_folder_of_an_interrupted_run(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["+model=bc", "+dataset=toy_point", "seed=3"]
    assert prepare_arguments(arguments) == ["model=bc", "dataset=toy_point", "seed=3"]
    assert prepare_arguments(["--help"]) == ["--help"]
    assert prepare_arguments([*arguments, "resume=auto"]) == ["model=bc", "dataset=toy_point", "seed=3", "resume=auto"]
    config = make_config("bc", "toy_point", overrides=["seed=3"])
    for name in ("a", "b"):
        save_training_state(Path("outputs/bc") / name, {}, step=1, config=config, source={})
    save_training_state(Path("outputs/bc/c"), {}, step=1, config={**config, "seed": 4}, source={})
    assert prepare_arguments([*arguments, "resume=auto"])[-1] == "hydra.run.dir='outputs/bc/b'"
    assert prepare_arguments([*arguments, "resume=outputs/bc/a"])[-1] == "hydra.run.dir='outputs/bc/a'"
