"""The trainer: learning curve, callback, record, interruption and divergence."""

import json

import pytest
import torch
from tensordict import TensorDict

from rlhive.errors import TrainingDivergedError
from rlhive.policies._checkpoint import read_checkpoint
from tests.sim_algos.toy import collect_buffer, quick_config, train_quickly


def test_the_curve_and_the_record_describe_the_training(tmp_path) -> None:
    seen = []

    def callback(step: int, policy) -> dict[str, float]:
        data = TensorDict({"observation": torch.zeros(64, 2, dtype=torch.float64)}, batch_size=[64])
        seen.append((step, torch.equal(policy(data.clone())["action"], policy(data.clone())["action"])))
        return {"success_rate": 0.25}

    steps = ["train.num_steps=25", "train.log_every=10", "train.eval_every=20", "train.batch_size=16"]
    config = quick_config("iql", *steps, "network.dropout=0.5")
    result = train_quickly(
        collect_buffer("expert"), config, tmp_path, source={"task_name": "toy_point"}, callback=callback
    )
    assert [row["step"] for row in result.curve] == [10, 20, 25]
    assert [row.get("success_rate") for row in result.curve] == [None, 0.25, 0.25]
    assert seen == [(20, True), (25, True)]  # no dropout in what the callback is given
    assert {"loss", "loss_actor", "loss_qvalue", "loss_value", "seconds"} < set(result.curve[0])
    assert result.samples_per_s == pytest.approx(25 * 16 / result.seconds)
    assert json.loads((tmp_path / "curve.json").read_text()) == result.curve
    record = read_checkpoint(tmp_path)
    assert record["config"] == config
    assert record["algorithm"] == "iql"
    assert record["task_name"] == "toy_point"
    assert (record["observation_dim"], record["action_dim"], record["num_transitions"]) == (2, 1, 160)
    assert record["versions"]["torch"] == torch.__version__.split("+")[0]


def test_a_row_of_the_curve_is_the_mean_since_the_last_one(tmp_path) -> None:
    buffer, each_step, every_other = collect_buffer("expert", num_episodes=2), "train.log_every=1", "train.log_every=2"
    single, paired = (
        [row["loss"] for row in train_quickly(buffer, quick_config("bc", "train.num_steps=4", name), tmp_path).curve]
        for name in (each_step, every_other)
    )
    assert len(set(single)) == 4
    assert paired == pytest.approx([(single[0] + single[1]) / 2, (single[2] + single[3]) / 2], rel=1e-5)


def test_an_interrupt_leaves_the_last_whole_checkpoint(tmp_path) -> None:
    buffer, config = collect_buffer("expert"), quick_config("bc", "train.num_steps=5", "train.eval_every=2")

    def interrupt(step: int, policy) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_quickly(buffer, config, tmp_path / "new", callback=interrupt)
    assert not (tmp_path / "new").exists()
    train_quickly(buffer, config, tmp_path / "old")
    before = {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir()}
    with pytest.raises(KeyboardInterrupt):
        train_quickly(buffer, {**config, "seed": 1}, tmp_path / "old", callback=interrupt)
    assert {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir()} == before


def test_divergence_ends_the_training_with_an_error_in_one_sentence(tmp_path) -> None:
    config = quick_config("bc", "optim.lr=1e38", "train.log_every=5")
    with pytest.raises(TrainingDivergedError, match="expected a finite loss, got"):
        train_quickly(collect_buffer("random"), config, tmp_path / "a")
    assert not (tmp_path / "a").exists()
