"""Training on a mixture of datasets."""

import json

import pytest

from rlhive import RoboHiveDataset, make_env
from rlhive.errors import CheckpointMismatchError, InvalidOptionError
from rlhive.policies import load_policy
from rlhive.sim_algos import train
from tests.sim_algos.toy import QUICK

SMALL = [*QUICK, "train.num_steps=40", "train.batch_size=32", "train.log_every=10", "split=null"]


@pytest.fixture
def halves(filled):
    """Two datasets of the toy task: good episodes and poor ones."""
    dataset = RoboHiveDataset("toy_point")
    dataset["expert"].save("good", license="mit")
    dataset["random"].save("poor", license="mit")
    return RoboHiveDataset("good"), RoboHiveDataset("poor")


@pytest.mark.parametrize("model", ["bc", "iql"])
def test_a_mixture_is_learned_from_and_its_recipe_is_in_the_checkpoint(halves, tmp_path, model):
    result = train(model, {"good": 3, "poor": 1}, overrides=SMALL, output_dir=tmp_path / "run", num_seeds=2)
    assert len(result.checkpoints) == 2
    record = json.loads((result.checkpoints[0] / "checkpoint.json").read_text())

    assert [(source["name"], source["weight"]) for source in record["mixture"]] == [
        ("robohive/good", 0.75),
        ("robohive/poor", 0.25),
    ]
    assert [source["fingerprint"] for source in record["mixture"]] == [half.fingerprint for half in halves]
    assert record["config"]["mix"] == {"good": 3, "poor": 1}
    assert record["dataset"]["name"] == "mix"


def test_the_best_share_is_that_of_each_dataset(halves, tmp_path):
    overrides = [*SMALL, "best_share=0.25"]
    result = train("bc", {"good": 1, "poor": 1}, overrides=overrides, output_dir=tmp_path)
    record = json.loads((result.checkpoint / "checkpoint.json").read_text())

    for source, half in zip(record["mixture"], halves, strict=True):
        lengths = half.episodes.sort_by([("return", "descending")])["length"].to_pylist()
        num_best = round(len(lengths) / 4)
        assert source["operations"] == [f"select({num_best} ids)"]
        assert source["num_transitions"] == sum(lengths[:num_best])


def test_an_interrupted_training_on_a_mixture_ends_as_one_that_was_not(halves, tmp_path):
    def stop(step, policy):
        if step == 20:
            raise KeyboardInterrupt

    options = {"dataset": {"good": 1, "poor": 2}, "overrides": [*SMALL, "train.eval_every=20", "train.save_every=10"]}
    whole = train("bc", output_dir=tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        train("bc", output_dir=tmp_path / "cut", callback=stop, **options)
    cut = train("bc", output_dir=tmp_path / "cut", resume="auto", **options)

    policies = [(result.checkpoint / "policy.pt").read_bytes() for result in (whole, cut)]
    assert policies[0] == policies[1]


@pytest.mark.parametrize(
    ("dataset", "overrides", "message"),
    [
        ("mix", [], "expected dataset=mix together with the weights"),
        ("good", ["mix={good:1}"], "dataset=good, mix={'good': 1}: expected dataset=mix"),
        ({"good": 1, "poor": -1}, [], "Weight of robohive/poor 1.0.0: expected a finite number of 0 or more, got -1"),
        ({"good": 1}, ["exploration=gaussian"], "bc learns from a dataset alone: expected no exploration"),
        ({"good": 1}, ["version=1.0.0"], "version=1.0.0: expected none with a mixture"),
    ],
    ids=str,
)
def test_what_is_no_mixture_is_refused(halves, tmp_path, dataset, overrides, message):
    with pytest.raises(InvalidOptionError, match=message):
        train("bc", dataset, overrides=[*SMALL, *overrides], output_dir=tmp_path)


def test_datasets_of_several_tasks_need_the_task_of_the_policy(halves, tmp_path, monkeypatch):
    monkeypatch.setattr(RoboHiveDataset, "task_name", property(lambda self: self.name))
    with pytest.raises(InvalidOptionError, match="expected env=TASK"):
        train("bc", {"good": 1, "poor": 1}, overrides=SMALL, output_dir=tmp_path / "a")
    result = train("bc", {"good": 1, "poor": 1}, env="toy_point", overrides=SMALL, output_dir=tmp_path / "b")
    record = json.loads((result.checkpoint / "checkpoint.json").read_text())
    assert (record["env_name"], record["task_name"]) == ("ToyPoint-v0", "toy_point")


def test_a_policy_acts_in_every_environment_whose_data_it_learned_from(halves, tmp_path, monkeypatch):
    env_names = {"good": "ToyPoint-v0", "poor": "ToyPoint-v1"}
    monkeypatch.setattr(RoboHiveDataset, "env_name", property(lambda self: env_names[self.name.split("/")[1]]))
    result = train("bc", {"good": 1, "poor": 1}, env="toy_point", overrides=SMALL, output_dir=tmp_path)

    env = make_env("toy_point")
    for env_name in ("ToyPoint-v0", "ToyPoint-v1"):
        monkeypatch.setattr(env, "env_name", env_name)
        load_policy(result.checkpoint, env=env)
    monkeypatch.setattr(env, "env_name", "ToyPoint-v2")
    with pytest.raises(CheckpointMismatchError, match="does not fit ToyPoint-v2"):
        load_policy(result.checkpoint, env=env)
