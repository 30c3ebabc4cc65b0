"""Decision transformer: loss against numbers, what a prediction may see, and learning with a return to aim at."""

import json

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torchrl.data import SliceSampler
from torchrl.data.replay_buffers import LazyTensorStorage, TensorDictReplayBuffer

from rlhive._threads import torch_threads
from rlhive.dataset import RoboHiveDataset
from rlhive.errors import CheckpointMismatchError, InvalidOptionError, SchemaMismatchError
from rlhive.policies import load_policy, make_network, predict_actions, read_checkpoint
from rlhive.rollouts import evaluate
from rlhive.sim_algos import _preprocessing, make_config, train, train_on_buffer
from rlhive.sim_algos._preprocessing import compute_training_statistics
from tests.sim_algos.algorithms.reference import make_algorithm, make_batch, to_numpy
from tests.sim_algos.test_training_state import interrupt_at, require_equal

SMALL = ["network.context=4", "network.num_layers=2", "network.num_heads=2", "network.width=8", "train.batch_size=12"]


@pytest.fixture(autouse=True)
def _one_thread():
    with torch_threads(1):  # as in a training
        yield


def norm(x: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> np.ndarray:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * scale + shift


def make_padded_batch(*, num_seeds: int = 1) -> TensorDict:
    """Return transitions in slices of four, of which the second one has two rows of padding."""
    batch = make_batch(num_seeds=num_seeds)
    row = torch.arange(batch.shape[1]).expand(batch.shape)
    batch["collector", "mask"] = (row != 6) & (row != 7)
    return batch


def make_random_dt(*overrides: str, num_seeds: int = 1):
    """Return an algorithm in whose networks every parameter matters."""
    algorithm = make_algorithm("dt", *SMALL, "network.dropout=0", *overrides, num_seeds=num_seeds)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for value in algorithm.weights.values():
            value.add_(0.4 * torch.randn(value.shape, generator=generator))
    return algorithm


def compute_actions(w: dict[str, np.ndarray], returns: np.ndarray, states: np.ndarray, actions: np.ndarray):
    """Return the predictions ``[N, steps, action_dim]`` of a transformer with two layers of two heads."""
    tokens = [
        x @ w[f"{name}_weight"] + w[f"{name}_bias"] + w["position_weight"][: x.shape[1]]
        for name, x in (("return", returns), ("observation", states), ("action", actions))
    ]
    x = np.stack(tokens, 2).reshape(len(states), -1, 8)
    x = norm(x, w["embedding_scale"], w["embedding_shift"])
    num_tokens = x.shape[1]
    allowed = np.arange(num_tokens)[:, None] >= np.arange(num_tokens)
    for layer in range(2):
        p = {name.removeprefix(f"layer_{layer}_"): value for name, value in w.items()}
        projected = norm(x, p["attention_scale"], p["attention_shift"]) @ p["query_key_value_weight"]
        query, key, value = (part.reshape(*x.shape[:2], 2, 4) for part in np.split(projected, 3, -1))
        scores = np.einsum("nihd,njhd->nhij", query, key) / 2.0
        weights = np.where(allowed, np.exp(scores), 0.0)
        weights /= weights.sum(-1, keepdims=True)
        attended = np.einsum("nhij,njhd->nihd", weights, value).reshape(x.shape)
        x = x + attended @ p["output_weight"] + p["output_bias"]
        hidden = np.maximum(norm(x, p["mlp_scale"], p["mlp_shift"]) @ p["up_weight"] + p["up_bias"], 0)
        x = x + hidden @ p["down_weight"] + p["down_bias"]
    return np.tanh(norm(x, w["final_scale"], w["final_shift"])[:, 1::3] @ w["head_weight"] + w["head_bias"])


def test_dt_loss_is_that_of_a_numpy_reference() -> None:
    algorithm = make_random_dt(num_seeds=2)
    batch = make_padded_batch(num_seeds=2)
    for seed_index in range(2):
        rows = to_numpy(batch[seed_index : seed_index + 1])
        returns = (np.cumsum(rows["r"][::-1])[::-1].reshape(3, 4, 1) - 0.5) / 2.0
        weights = {name: value[seed_index].detach().double().numpy() for name, value in algorithm.weights.items()}
        predicted = compute_actions(weights, returns, rows["s"].reshape(3, 4, 2), rows["a"].reshape(3, 4, 3))
        error = ((predicted.reshape(12, 3) - rows["a"]) ** 2).mean(1)
        expected = np.delete(error, [6, 7]).mean()  # which are padding
        assert algorithm.losses(batch)["loss_action"][seed_index].item() == pytest.approx(expected, rel=1e-5)


def compute_predictions(weights, inputs) -> torch.Tensor:
    """Return the predictions ``[steps, action_dim]`` of raw returns to go, as training computes them."""
    returns = (inputs["return_to_go"] - 0.5) / 2.0
    tokens = (returns[None, None], inputs["observation"][None, None], inputs["action"][None, None])
    with torch.no_grad():
        return predict_actions(weights, {"num_layers": 2, "num_heads": 2}, *tokens)[0, 0]


def test_a_prediction_sees_nothing_later_than_its_observation() -> None:
    algorithm = make_random_dt()
    values = {key: make_batch()[0, :4][key].clone() for key in ("return_to_go", "observation", "action")}

    def predict(changed: str | None = None, step: int = 0) -> torch.Tensor:
        inputs = {name: value.clone() for name, value in values.items()}
        if changed:
            inputs[changed][step] += 1.0
        return compute_predictions(dict(algorithm.weights), inputs)

    before = predict()
    for key in values:
        for step in range(4):
            differs = (predict(key, step) - before).abs().amax(-1) > 1e-6
            first = step + 1 if key == "action" else step
            assert differs.tolist() == [index >= first for index in range(4)], (key, step)


def test_padding_does_not_count() -> None:
    algorithm = make_random_dt()
    batch = make_padded_batch()
    changed = batch.clone()
    for key in ("action", "observation", "return_to_go"):
        changed[key][:, 6:8] += 1.0
    assert algorithm.losses(changed)["loss_action"].equal(algorithm.losses(batch)["loss_action"])
    del changed["collector"]
    assert not algorithm.losses(changed)["loss_action"].equal(algorithm.losses(batch)["loss_action"])


def test_the_deployed_policy_predicts_what_training_predicts_of_its_last_steps() -> None:
    algorithm = make_random_dt("loss.target_return=6.5", num_seeds=2)
    network = make_network(2, 3, algorithm.network)
    algorithm.copy_network(network, 1)
    alone = {name: value[1:] for name, value in algorithm.weights.items()}
    generator = torch.Generator().manual_seed(3)
    observations, rewards = torch.randn(9, 2, generator=generator), [0.5, -1.0, 2.0, 0.25, 1.0, 0.0, 3.0, 1.0, 1.0]
    for _ in range(2):  # an episode leaves nothing to the next one
        network.begin_episode(0)
        actions, to_go = [], []
        for step, observation in enumerate(observations):
            to_go.append(6.5 - sum(rewards[:step]))
            assert network.return_to_go == pytest.approx(to_go[-1])
            action = network(observation).detach()
            first = max(0, step - 3)
            inputs = {
                "return_to_go": torch.tensor(to_go[first:]).unsqueeze(-1),
                "observation": observations[first : step + 1],
                "action": torch.stack([*actions[first:], torch.zeros(3)]),
            }
            expected = compute_predictions(alone, inputs)[-1]
            torch.testing.assert_close(action, expected, rtol=1e-5, atol=1e-6)
            actions.append(action)
            network.observe_reward(rewards[step])
    rows = network(observations)  # a batch of first steps
    network.begin_episode(0)
    torch.testing.assert_close(rows[0], network(observations[0]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("context", 0, "expected an integer from 1 to 500, got 0"),
        ("context", 10**9, "expected an integer from 1 to 500"),
        ("num_layers", 2.0, "expected an integer from 1 to 100, got 2.0"),
        ("num_heads", True, "expected an integer from 1 to 64, got True"),
        ("num_heads", 3, "expected a multiple of num_heads=3, got 8"),
        ("width", None, "expected an integer from 1 to 16384, got None"),
        ("dropout", 1, "expected a probability below 1, got 1"),
        ("dropout", float("nan"), "expected a probability below 1, got nan"),
        ("target_return", float("nan"), "expected a finite number, got nan"),
        ("target_return", "7", "expected a finite number, got '7'"),
        ("return_mean", float("inf"), "expected a finite number, got inf"),
        ("return_std", 0.0, "expected a positive number, got 0.0"),
        ("return_std", [1], r"expected a finite number, got \[1\]"),
    ],
)
def test_hostile_options_are_refused(option, value, message) -> None:
    section = make_algorithm("dt", *SMALL).network
    with pytest.raises(InvalidOptionError, match=message):
        make_network(2, 3, {**section, option: value})
    missing = {name: entry for name, entry in section.items() if name != option}
    with pytest.raises(InvalidOptionError, match=rf"network.{option}: expected"):
        make_network(2, 3, missing)


def test_options_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InvalidOptionError, match=r"train.batch_size: expected a multiple of network.context=5 trans"):
        make_algorithm("dt", *SMALL, "network.context=5")
    with pytest.raises(InvalidOptionError, match=r"loss.target_return: expected a number or null, got 'high'"):
        make_algorithm("dt", *SMALL, "loss.target_return=high")
    batch = make_batch()
    batch["return_to_go"][0, 2] += 1.0
    with pytest.raises(SchemaMismatchError, match=r"expected slices of 4 consecutive transitions, whose return_to_go"):
        make_algorithm("dt", *SMALL).update(batch)


def make_slices(returns: list[list[float]]) -> TensorDictReplayBuffer:
    """Return a buffer of TorchRL whose episodes have given rewards."""
    rows = []
    for rewards in returns:
        done = torch.arange(len(rewards)).unsqueeze(1) == len(rewards) - 1
        reward = torch.tensor(rewards).unsqueeze(1)
        following = {"observation": torch.rand(len(rewards), 2), "reward": reward, "done": done, "truncated": done}
        data = {"observation": torch.rand(len(rewards), 2), "action": torch.rand(len(rewards), 1), "next": following}
        data["return_to_go"] = reward.flip(0).cumsum(0).flip(0)
        rows.append(TensorDict(data, batch_size=[len(rewards)]))
    sampler = SliceSampler(slice_len=3, end_key=("next", "done"), cache_values=True)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(20), sampler=sampler)
    buffer.extend(torch.cat(rows))
    return buffer


@pytest.mark.parametrize("chunk_rows", [1, 2, 3, 100])
def test_the_best_return_is_that_of_an_episode_and_not_of_its_rest(tmp_path, monkeypatch, chunk_rows) -> None:
    monkeypatch.setattr(_preprocessing, "_CHUNK_ROWS", chunk_rows)
    buffer = make_slices([[-2.0, -1.0, -3.0], [-1.0, -1.0, -1.5, -0.25]])
    config = make_config("dt", overrides=[*SMALL, "network.context=3", "train.num_steps=2", "progress=false"])
    statistics = compute_training_statistics(buffer, ["observation", "action", "return_to_go", ("next", "done")])
    to_go = [-6.0, -4.0, -3.0, -3.75, -2.75, -1.75, -0.25]
    assert statistics.returns.best == -3.75
    assert statistics.returns.mean == pytest.approx(np.mean(to_go))
    assert statistics.returns.std == pytest.approx(np.std(to_go))
    result = train_on_buffer(buffer, config, env_name="ToyPoint-v0", output_dir=tmp_path)
    assert read_checkpoint(result.checkpoint)["network"]["target_return"] == -3.75


TOY = ["train.batch_size=40", "network.context=5", "network.width=8", "network.num_layers=1", "train.num_steps=20"]


def test_a_trained_policy_comes_back_and_is_evaluated(tmp_path, filled) -> None:
    result = train("dt", "toy_point", overrides=TOY, output_dir=tmp_path, progress=False)
    record = read_checkpoint(tmp_path)
    returns = RoboHiveDataset("toy_point").episodes["return"].to_pylist()
    assert record["network"]["target_return"] == pytest.approx(max(returns), rel=1e-6)
    first = evaluate(result.checkpoint, "toy_point", num_episodes=2, num_workers=1, progress=False)
    policy = load_policy(tmp_path)
    assert evaluate(policy, "toy_point", num_episodes=2, num_workers=1, progress=False).returns == first.returns
    target = record["network"]["target_return"]
    assert policy.module[1].return_to_go > target - first.returns[-1]  # the last reward is not observed
    assert policy.module[1].return_to_go < target - first.returns[-1] + 1.0
    record["network"]["target_return"] = -40.0
    (tmp_path / "checkpoint.json").write_text(json.dumps(record))
    changed = evaluate(tmp_path, "toy_point", num_episodes=2, num_workers=1, progress=False)
    assert changed.returns != first.returns
    record["network"]["width"] = 16_384
    (tmp_path / "checkpoint.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointMismatchError, match="do not describe the same network"):
        load_policy(tmp_path)


def test_a_dataset_without_reward_is_refused(tmp_path, filled) -> None:
    RoboHiveDataset("toy_point").drop_column("next.reward", name="blind")
    with pytest.raises(SchemaMismatchError, match=r"blind 1\.0\.0 has no reward, which this algorithm learns from"):
        train("dt", "blind", overrides=TOY, output_dir=tmp_path, progress=False)


@pytest.mark.parametrize("num_seeds", [1, 2])
def test_a_training_goes_on_as_if_it_had_not_been_interrupted(tmp_path, filled, num_seeds) -> None:
    options = [*TOY, "train.eval_every=7", f"num_seeds={num_seeds}", "resume=auto", "logger=null"]
    arguments = {"overrides": options, "progress": False}
    train("dt", "toy_point", output_dir=tmp_path / "whole", callback=lambda step, policy: None, **arguments)
    with pytest.raises(KeyboardInterrupt):
        train("dt", "toy_point", output_dir=tmp_path / "parts", callback=interrupt_at(7), **arguments)
    train("dt", "toy_point", output_dir=tmp_path / "parts", callback=lambda step, policy: None, **arguments)
    for name in ["."] if num_seeds == 1 else ["seed_0", "seed_1"]:
        require_equal(tmp_path / "whole" / name, tmp_path / "parts" / name)


@pytest.mark.slow
def test_aiming_at_the_experts_return_beats_the_data(tmp_path, filled) -> None:
    data = RoboHiveDataset("toy_point", split="expert+random")
    returns = np.array(data.episodes["return"].to_pylist())
    overrides = ["train.batch_size=160", "network.context=5", "network.width=32", "network.dropout=0", "optim.lr=1e-3"]
    overrides += ["train.num_steps=600", "optim.warmup_steps=20", "optim.max_grad_norm=1", "optim.schedule=cosine"]
    train("dt", "toy_point", split="expert+random", overrides=overrides, output_dir=tmp_path, progress=False)

    def aim_at(target: float) -> float:
        record = read_checkpoint(tmp_path)
        record["network"]["target_return"] = target
        (tmp_path / "checkpoint.json").write_text(json.dumps(record))
        return evaluate(tmp_path, "toy_point", num_episodes=30, num_workers=1, progress=False).return_mean

    high, low = aim_at(19.0), aim_at(0.0)
    assert high > returns.mean() + 2
    assert high > low + 2
