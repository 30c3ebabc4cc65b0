"""The trainer: learning curve, callback, record, interruption and divergence."""

import json

import pytest
import torch
from tensordict import TensorDict

from rlhive.errors import InvalidOptionError, TrainingDivergedError
from rlhive.policies._checkpoint import read_checkpoint
from rlhive.rollouts import evaluate
from rlhive.sim_algos import gather_results
from tests.sim_algos.toy import as_buffer, collect_buffer, quick_config, train_quickly


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


def test_divergence_ends_the_training_and_leaves_the_batch(tmp_path) -> None:
    rows = collect_buffer("random")[:]
    rows["episode"] = torch.arange(len(rows)) // 19
    config = quick_config("bc", "optim.lr=1e38", "train.log_every=5", "train.batch_size=8")
    with pytest.raises(TrainingDivergedError, match="expected a finite loss, got") as error:
        train_quickly(as_buffer(rows), config, tmp_path / "a")
    batch = torch.load(tmp_path / "a" / "diverged_batch.pt", weights_only=True)
    assert batch["observation"].shape == (8, 2)
    episodes = sorted(set(batch["episode"].tolist()))
    assert f"of the episodes {', '.join(map(str, episodes))}." in str(error.value)
    assert not (tmp_path / "a" / "checkpoint.json").exists()


def test_several_seeds_have_a_folder_each_and_learn_from_their_own_batches(tmp_path) -> None:
    config = quick_config("bc", "train.num_steps=12", "train.log_every=6", "num_seeds=2", "seed=5")
    buffers = [collect_buffer("expert", num_episodes=2) for _ in range(2)]
    result = train_quickly(buffers, config, tmp_path)
    assert result.checkpoints == (tmp_path / "seed_5", tmp_path / "seed_6")
    assert result.samples_per_s == pytest.approx(2 * 12 * 256 / result.seconds)
    for index, seed in enumerate((5, 6)):
        alone = train_quickly(buffers[0], {**config, "num_seeds": 1, "seed": seed}, tmp_path / "alone")
        assert read_checkpoint(result.checkpoints[index])["seed"] == seed
        losses, expected = ([row["loss"] for row in curve] for curve in (result.curves[index], alone.curve))
        assert losses == pytest.approx(expected, rel=1e-4)
    assert result.curves[0][0]["loss"] != result.curves[1][0]["loss"]
    with pytest.raises(InvalidOptionError, match="num_seeds=2: expected one buffer per seed, got 1"):
        train_quickly(buffers[0], config, tmp_path)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.num_steps=0", "train.num_steps: expected an integer of at least 1, got 0"),
        ("train.log_every=1.5", "train.log_every: expected an integer of at least 1, got 1.5"),
        ("seed=-1", "seed: expected an integer of at least 0, got -1"),
        ("train.precision=int8", "expected one of float32, bfloat16, got 'int8'"),
        ("optim.schedule=linear", "optim.schedule: expected one of constant, cosine, got 'linear'"),
    ],
)
def test_values_out_of_range_are_refused(tmp_path, override, message) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        train_quickly(collect_buffer("expert", num_episodes=1), quick_config("bc", override), tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_evaluations_join_the_curve_and_the_best_policy_is_kept(tmp_path) -> None:
    config = quick_config(
        "bc", "train.num_steps=60", "train.eval_every=20", "+evaluation=heldout", "evaluation.episodes=3"
    )
    config["evaluation"]["workers"] = 1
    result = train_quickly(collect_buffer("expert"), config, tmp_path)
    evaluations = json.loads((tmp_path / "evaluations.json").read_text())
    assert [entry["step"] for entry in evaluations] == [20, 40, 60]
    assert [row["eval/return"] for row in result.curve] == [entry["return_mean"] for entry in evaluations]
    assert all(len(entry["returns"]) == 3 and entry["first_seed"] == 2_700_000 for entry in evaluations)
    for row, entry in zip(result.curve, evaluations, strict=True):
        assert row["eval/success_rate"] == sum(entry["successes"]) / 3
    group = gather_results([tmp_path]).groups[0]
    assert group.final["success"].seed_means == (result.curve[-1]["eval/success_rate"],)
    best = max(evaluations, key=lambda entry: entry["return_mean"])
    assert read_checkpoint(tmp_path / "best")["step"] == best["step"]
    again = evaluate(tmp_path / "best", "toy_point", num_episodes=3, seed=2_700_000, num_workers=1, progress=False)
    assert again.return_mean == best["return_mean"]


def test_bfloat16_gives_nearly_the_same_losses(tmp_path) -> None:
    buffer, steps = collect_buffer("expert", num_episodes=2), ["train.num_steps=6", "train.log_every=6"]
    exact, rounded = (
        train_quickly(buffer, quick_config("iql", *steps, *options), tmp_path).curve[-1]["loss"]
        for options in ([], ["train.precision=bfloat16"])
    )
    assert rounded != exact
    assert rounded == pytest.approx(exact, rel=0.1)
