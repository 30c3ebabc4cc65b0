"""Offline training: determinism, success on a toy, and refused data."""

import numpy as np
import pytest
import torch
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

from rlhive import RoboHiveDataset, export, train
from rlhive.errors import InvalidOptionError, SchemaMismatchError, StoreNotWritableError
from rlhive.policies._checkpoint import load_policy, read_checkpoint
from rlhive.rollouts._evaluate import evaluate
from tests.data.strategies import teleoperated_records
from tests.sim_algos.toy import as_buffer, collect_buffer, quick_config, train_quickly


@pytest.mark.parametrize("model", ["bc", "iql"])
def test_the_same_seed_gives_the_same_weights_and_leaves_torch_alone(tmp_path, model) -> None:
    config = quick_config(model, "train.num_steps=20", "network.dropout=0.1")
    states = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        torch.manual_seed(0)
        threads = torch.get_num_threads()
        train_quickly(collect_buffer("expert", "random"), {**config, "seed": seed}, tmp_path / name)
        assert torch.initial_seed() == 0
        assert torch.get_num_threads() == threads
        states.append(load_policy(tmp_path / name).state_dict())
    first, again, other = states
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


@pytest.mark.slow
def test_bc_clones_the_toy_expert(tmp_path) -> None:
    result = train_quickly(collect_buffer("expert"), quick_config("bc"), tmp_path)
    evaluation = evaluate(result.checkpoint, "toy_point", num_episodes=40, num_workers=1, progress=False)
    assert evaluation.success_rate >= 0.9
    assert evaluation.policy == str(tmp_path)


@pytest.mark.slow
def test_iql_improves_on_data_that_bc_merely_repeats(tmp_path) -> None:
    buffer = collect_buffer("medium", "random", num_episodes=20)
    rates = {}
    for model, overrides in (("iql", ["loss.gamma=0.99", "loss.temperature=3.0", "loss.expectile=0.7"]), ("bc", [])):
        result = train_quickly(buffer, quick_config(model, *overrides), tmp_path / model)
        rates[model] = evaluate(result.checkpoint, "toy_point", num_workers=1, progress=False).success_rate
    rates["random"] = evaluate("random", "toy_point", num_workers=1, progress=False).success_rate
    assert rates["iql"] > max(rates["bc"], rates["random"]) + 0.3


def test_data_that_cannot_be_learned_from_are_refused(tmp_path) -> None:
    config = quick_config("iql")
    rows = collect_buffer("expert", num_episodes=1)[:]
    with pytest.raises(SchemaMismatchError, match="is empty"):
        train_quickly(TensorDictReplayBuffer(storage=LazyTensorStorage(4)), config, tmp_path)
    with pytest.raises(SchemaMismatchError, match=r"lack \[\('next', 'terminated'\)\]"):
        train_quickly(as_buffer(rows.exclude(("next", "terminated"))), config, tmp_path)
    rows["action"][3] = torch.nan
    with pytest.raises(SchemaMismatchError, match="'action': expected finite values"):
        train_quickly(as_buffer(rows), config, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_place_is_refused_before_the_training(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreNotWritableError, match="Choose another output_dir"):
        train_quickly(None, quick_config("bc"), tmp_path / "file" / "a")


def test_integer_observations_are_normalised_after_they_are_sampled(tmp_path) -> None:
    rows = collect_buffer("expert", num_episodes=3)[:]
    for key in ("observation", ("next", "observation")):
        rows[key] = (100 * rows[key]).long()
    folder = export(as_buffer(rows), "my/integers", license="mit", env_name="ToyPoint-v0", store=tmp_path)
    overrides = ["split=null", "train.num_steps=2", "train.batch_size=8", "network.hidden_sizes=[4]"]
    result = train("bc", folder, overrides=overrides, output_dir=tmp_path / "bc", progress=False)
    normalizer = load_policy(result.checkpoint).module[0]
    observations = rows["observation"].numpy()
    np.testing.assert_allclose(normalizer.mean.numpy(), observations.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(normalizer.std.numpy(), observations.std(axis=0), rtol=1e-12)


def test_fields_that_are_not_learned_from_are_named_and_not_read(tmp_path, caplog, monkeypatch) -> None:
    rows = collect_buffer("expert", num_episodes=3)[:]
    rows["pixels"] = torch.zeros(len(rows), 8, 8, 3, dtype=torch.uint8)
    rows["next", "pixels"] = torch.zeros(len(rows), 8, 8, 3, dtype=torch.uint8)
    folder = export(as_buffer(rows), "my/pictures", license="mit", env_name="ToyPoint-v0", store=tmp_path)
    served, sample = [], RoboHiveDataset.as_replay_buffer

    def keep_buffer(self, **options):
        served.append(sample(self, **options))
        return served[-1]

    monkeypatch.setattr(RoboHiveDataset, "as_replay_buffer", keep_buffer)
    overrides = ["split=null", "train.num_steps=2", "train.batch_size=8", "logger=null"]
    with pytest.raises(InvalidOptionError, match=r"pictures \(pixels\), which bc cannot read .* add encoder=cnn, or"):
        train("bc", folder, overrides=overrides, output_dir=tmp_path / "bc", progress=False)
    assert not (tmp_path / "bc").exists()
    overrides.append("obs_keys=[observation]")
    train("bc", folder, overrides=overrides, output_dir=tmp_path / "bc", progress=False)
    assert "bc does not learn from pixels: it reads no such field" in caplog.text
    assert served[0].sample().get("pixels", None) is None
    assert torch.equal(served[0][:]["action"], rows["action"].float())


def test_a_dataset_without_reward_trains_bc_and_is_refused_by_what_learns_from_rewards(tmp_path) -> None:
    folder = export(teleoperated_records([20, 20]), "lab/teleop", license="mit", store=tmp_path / "store")
    options = {"progress": False, "overrides": ["train.num_steps=2", "train.batch_size=8"]}

    assert train("bc", folder, split="train", output_dir=tmp_path / "bc", **options).curve[-1]["step"] == 2
    for model, env in (("iql", None), ("sac", "toy_point")):
        with pytest.raises(SchemaMismatchError, match="has no reward, which this algorithm learns from"):
            train(model, folder, env=env, output_dir=tmp_path / model, **options)
        assert not (tmp_path / model / "checkpoint.json").exists()


def test_the_best_episodes_alone_are_learned_from(tmp_path, filled, monkeypatch) -> None:
    dataset = RoboHiveDataset("toy_point", split="medium+random")
    returns = dict(zip(*(dataset.episodes[name].to_pylist() for name in ("episode", "return")), strict=True))
    best = sorted(sorted(returns, key=lambda episode: -returns[episode])[:4])
    served, sample = [], RoboHiveDataset.as_replay_buffer

    def keep_buffer(self, **options):
        served.append(self.episodes["episode"].to_pylist())
        return sample(self, **options)

    monkeypatch.setattr(RoboHiveDataset, "as_replay_buffer", keep_buffer)
    overrides = ["train.num_steps=2", "train.batch_size=8", "logger=null"]
    options = {"split": "medium+random", "output_dir": tmp_path / "bc", "progress": False}
    result = train("bc", "toy_point", overrides=[*overrides, "best_share=0.25"], **options)
    assert read_checkpoint(result.checkpoint)["config"]["best_share"] == 0.25
    train("bc", "toy_point", overrides=[*overrides, "where='return > 15'"], **options)
    assert served == [best, [episode for episode in returns if returns[episode] > 15]]
    for share in (0, 1.5, "half"):
        with pytest.raises(InvalidOptionError, match="best_share: expected a number above 0 and at most 1"):
            train("bc", "toy_point", overrides=[*overrides, f"best_share={share}"], **options)
