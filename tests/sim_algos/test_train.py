"""Training: losses against numbers, determinism, what a toy can be learned to do, and what is left on disk."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

from rlhive.envs._make import make_env, make_policy
from rlhive.errors import SchemaMismatch, StoreNotWritable, TrainingDiverged
from rlhive.policies._checkpoint import Normalizer, load_policy, read_checkpoint
from rlhive.rollouts._evaluate import evaluate
from rlhive.rollouts._rollout import rollout_episode
from rlhive.sim_algos import make_config, train_on_buffer
from rlhive.sim_algos._bc import BehaviorCloning
from rlhive.sim_algos._iql import ImplicitQLearning
from rlhive.sim_algos._preprocessing import Preparation, Statistics, measure

QUICK = ["progress=false", "network.hidden_sizes=[64,64]", "network.dropout=0", "train.num_steps=1000"]


def _buffer(*levels: str, num_episodes: int = 8) -> TensorDictReplayBuffer:
    env = make_env("toy_point")
    episodes = [
        rollout_episode(env, make_policy(env, level), seed=1000 * index + seed).transitions
        for index, level in enumerate(levels)
        for seed in range(num_episodes)
    ]
    return _as_buffer(torch.cat(episodes))


def _as_buffer(transitions: TensorDict) -> TensorDictReplayBuffer:
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(len(transitions)))
    buffer.extend(transitions)
    return buffer


def _config(model: str, *overrides: str) -> dict:
    return make_config(model, "toy_point", overrides=[*QUICK, *overrides])


def _train(buffer, config, folder, **kwargs):
    return train_on_buffer(buffer, config, env_name="ToyPoint-v0", output_dir=folder, **kwargs)


# --- losses ---------------------------------------------------------------------------------------------------------


def _statistics(reward_std: float = 0.0, action_dim: int = 1) -> Statistics:
    return Statistics(torch.zeros(2), torch.ones(2), reward_std, action_dim)


def _iql(*overrides: str, reward_std: float = 1.0) -> ImplicitQLearning:
    torch.manual_seed(0)
    config = _config("iql", *(f"network.{name}hidden_sizes=[4]" for name in ("", "critic_", "scale_")), *overrides)
    return ImplicitQLearning(config, _statistics(reward_std=reward_std))


def _row(*, reward: float, terminated: bool = False, truncated: bool = False, action: float = 0.0) -> TensorDict:
    flags = {"terminated": terminated, "truncated": truncated, "done": terminated or truncated}
    after = {name: torch.tensor([[flag]]) for name, flag in flags.items()}
    after |= {"observation": torch.tensor([[0.5, -1.0]]), "reward": torch.tensor([[reward]])}
    data = {"observation": torch.tensor([[0.25, 2.0]]), "action": torch.tensor([[action]]), "next": after}
    return TensorDict(data, batch_size=[1])


@pytest.mark.parametrize(
    ("ending", "target"),
    [
        ({}, 2 + 0.5 * 5),
        ({"truncated": True}, 2 + 0.5 * 5),  # cut off: the future still counts
        ({"terminated": True}, 2.0),  # over: no future
        ({"terminated": True, "truncated": True}, 2.0),
    ],
)
def test_iql_bootstraps_through_truncation_and_not_through_termination(ending, target) -> None:
    learner = _iql("loss.gamma=0.5", "loss.expectile=0.7", "loss.temperature=2.0", "loss.reward_scale=2.0")
    _make_constant(learner.loss.value_network_params, [5.0])
    _make_constant(learner.loss.qvalue_network_params, [3.0, 4.0])
    _make_constant(learner.loss.target_qvalue_network_params, [5.5, 7.0])
    with torch.no_grad():
        learner.actor[0][-1].weight.zero_()
        learner.actor[0][-1].bias.zero_()
    _make_constant(_scale_parameters(learner), [np.log(2.0)])
    losses = learner.update(_row(reward=1.0, action=0.5, **ending))
    assert losses["loss_qvalue"].item() == pytest.approx((target - 3) ** 2 + (target - 4) ** 2)
    assert losses["loss_value"].item() == pytest.approx(0.7 * (5.5 - 5) ** 2)  # Q above V weighs the expectile
    log_prob = -0.5 / 2 - np.log(2 * 2)  # of a Laplace distribution of scale 2 around 0, at 0.5
    assert losses["loss_actor"].item() == pytest.approx(-np.exp(2.0 * (5.5 - 5)) * log_prob)
    parts = losses["loss_actor"] + losses["loss_qvalue"] + losses["loss_value"]
    assert losses["loss"].item() == pytest.approx(parts.item())


def _scale_parameters(learner: ImplicitQLearning) -> TensorDict:
    return TensorDict({"module": learner.loss.actor_network_params["module", "0", "module", "scale"]})


def _make_constant(parameters, outputs: list[float]) -> None:
    """Make a network, or an ensemble of them, give these outputs whatever it is given."""
    with torch.no_grad():
        parameters["module", "2", "weight"].zero_()
        parameters["module", "2", "bias"].copy_(torch.tensor(outputs).reshape_as(parameters["module", "2", "bias"]))


def _mlp(parameters, inputs: np.ndarray, index: int | None = None) -> np.ndarray:
    def get(*key: str) -> np.ndarray:
        value = parameters[("module", *key)].detach().numpy().astype(np.float64)
        return value if index is None else value[index]

    hidden = np.maximum(inputs @ get("0", "weight").T + get("0", "bias"), 0)
    return (hidden @ get("2", "weight").T + get("2", "bias"))[:, 0]


def test_iql_losses_are_those_of_a_numpy_reference() -> None:
    learner = _iql("loss.gamma=0.9", "loss.expectile=0.9", "loss.temperature=3.0", reward_std=0.5)
    generator = torch.Generator().manual_seed(1)
    batch = torch.cat([_row(reward=float(k), terminated=k % 3 == 0, truncated=k % 2 == 0) for k in range(12)])
    for key in ("observation", "action", ("next", "observation")):
        batch[key] = torch.rand(batch[key].shape, generator=generator) * 2 - 1
    observation, action, after = (batch[k].double().numpy() for k in ("observation", "action", ("next", "observation")))
    pairs = np.concatenate([observation, action], axis=1)
    parameters = learner.loss
    q = [_mlp(parameters.qvalue_network_params, pairs, i) for i in range(2)]
    q_min = np.minimum(*[_mlp(parameters.target_qvalue_network_params, pairs, i) for i in range(2)])
    v, v_after = (_mlp(parameters.value_network_params, x) for x in (observation, after))
    location = learner.actor(batch["observation"]).detach().double().numpy()
    terminated = batch["next", "terminated"].numpy()[:, 0]
    target = batch["next", "reward"].numpy()[:, 0] / 0.5 + 0.9 * (1 - terminated) * v_after
    weight = np.where(q_min > v, 0.9, 0.1)
    scale = np.exp(_mlp(_scale_parameters(learner), observation))[:, None]
    log_prob = (-np.abs(action - location) / scale - np.log(2 * scale)).sum(1)
    losses = learner.update(batch)
    assert losses["loss_qvalue"].item() == pytest.approx(sum((target - x) ** 2 for x in q).mean(), rel=1e-5)
    assert losses["loss_value"].item() == pytest.approx((weight * (q_min - v) ** 2).mean(), rel=1e-5)
    expected = -(np.minimum(np.exp(3.0 * (q_min - v)), 100) * log_prob).mean()
    assert losses["loss_actor"].item() == pytest.approx(expected, rel=1e-5)


def test_iql_moves_the_targets_by_tau_and_the_actor_at_its_own_rate() -> None:
    learner = _iql("loss.tau=0.25", "optim.actor_lr=0.5", "optim.critic_lr=0.125")
    key = ("module", "2", "bias")
    before = learner.loss.qvalue_network_params[key].detach().clone()
    target_before = learner.loss.target_qvalue_network_params[key].clone()
    actor_before = learner.actor[0][-1].bias.detach().clone()
    learner.update(_row(reward=3.0, action=0.5))
    after = learner.loss.qvalue_network_params[key].detach()
    # Adam's first step has the length of the rate, whatever the gradient
    assert (after - before).abs().flatten().tolist() == pytest.approx([0.125] * 2, rel=1e-4)
    assert (learner.actor[0][-1].bias - actor_before).abs().item() == pytest.approx(0.5, rel=1e-4)
    expected = 0.75 * target_before + 0.25 * after
    assert torch.allclose(learner.loss.target_qvalue_network_params[key], expected)


def test_bc_loss_is_that_of_a_numpy_reference_and_one_step_follows_it() -> None:
    torch.manual_seed(0)
    learner = BehaviorCloning(
        _config("bc", "network.hidden_sizes=[4]", "loss.loss_function=l2"),
        _statistics(action_dim=3),
    )
    batch = TensorDict({"observation": torch.randn(5, 2), "action": torch.rand(5, 3) * 2 - 1}, batch_size=[5])
    weights = {name: value.detach().double().numpy() for name, value in learner.actor[0].named_parameters()}
    hidden = np.maximum(batch["observation"].double().numpy() @ weights["0.weight"].T + weights["0.bias"], 0)
    predicted = np.tanh(hidden @ weights["2.weight"].T + weights["2.bias"])
    expected = ((predicted - batch["action"].double().numpy()) ** 2).mean()
    assert learner.update(batch)["loss"].item() == pytest.approx(expected, rel=1e-5)
    assert learner.update(batch)["loss"].item() < expected


# --- the loop -------------------------------------------------------------------------------------------------------


def test_statistics_and_preparation_by_hand() -> None:
    rows = torch.cat([_row(reward=r) for r in (0.0, 4.0)])
    rows["observation"] = torch.tensor([[1.0, 7.0], [5.0, 7.0]], dtype=torch.float64)
    rows["next", "observation"] = torch.tensor([[3.0, 8.0], [7.0, 7.0]], dtype=torch.float64)
    rows["next", "reward"] = rows["next", "reward"].double()
    buffer = _as_buffer(rows)
    statistics = measure(buffer, ImplicitQLearning.in_keys)
    assert statistics.mean.tolist() == [3.0, 7.0]
    assert statistics.std.tolist() == [2.0, 0.0]
    assert (statistics.reward_std, statistics.action_dim) == (2.0, 1)
    prepare = Preparation(Normalizer(statistics.mean, statistics.std), ImplicitQLearning.in_keys, torch.device("cpu"))
    batch = prepare(buffer[:])
    assert batch["observation"].tolist() == [[-1.0, 0.0], [1.0, 0.0]]
    assert batch["next", "observation"].tolist() == [[0.0, 1.0], [2.0, 0.0]]
    assert batch["next", "reward"].dtype == batch["observation"].dtype == torch.float32
    assert batch["next", "terminated"].dtype == torch.bool
    assert set(batch.keys(True, True)) == set(ImplicitQLearning.in_keys)
    assert buffer[:]["observation"].tolist() == [[1.0, 7.0], [5.0, 7.0]]  # the data were left alone


@pytest.mark.parametrize("model", ["bc", "iql"])
def test_the_same_seed_gives_the_same_weights_and_leaves_torch_alone(tmp_path, model) -> None:
    config = _config(model, "train.num_steps=20", "network.dropout=0.1")
    states = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        torch.manual_seed(0)
        threads = torch.get_num_threads()
        _train(_buffer("expert", "random"), {**config, "seed": seed}, tmp_path / name)
        assert torch.initial_seed() == 0
        assert torch.get_num_threads() == threads
        states.append(load_policy(tmp_path / name).state_dict())
    first, again, other = states
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_bc_clones_the_toy_expert(tmp_path) -> None:
    result = _train(_buffer("expert"), _config("bc"), tmp_path)
    evaluation = evaluate(result.checkpoint, "toy_point", num_episodes=40, num_workers=1, progress=False)
    assert evaluation.success_rate >= 0.9
    assert evaluation.policy == str(tmp_path)


def test_iql_improves_on_data_that_bc_merely_repeats(tmp_path) -> None:
    buffer = _buffer("medium", "random", num_episodes=20)
    rates = {}
    for model, overrides in (("iql", ["loss.gamma=0.99", "loss.temperature=3.0", "loss.expectile=0.7"]), ("bc", [])):
        result = _train(buffer, _config(model, *overrides), tmp_path / model)
        rates[model] = evaluate(result.checkpoint, "toy_point", num_workers=1, progress=False).success_rate
    rates["random"] = evaluate("random", "toy_point", num_workers=1, progress=False).success_rate
    assert rates["iql"] > max(rates["bc"], rates["random"]) + 0.3


def test_the_curve_and_the_record_say_what_happened(tmp_path) -> None:
    seen = []

    def callback(step: int, policy) -> dict[str, float]:
        data = TensorDict({"observation": torch.zeros(64, 2, dtype=torch.float64)}, batch_size=[64])
        seen.append((step, torch.equal(policy(data.clone())["action"], policy(data.clone())["action"])))
        return {"success_rate": 0.25}

    steps = ["train.num_steps=25", "train.log_every=10", "train.eval_every=20", "train.batch_size=16"]
    config = _config("iql", *steps, "network.dropout=0.5")
    result = _train(_buffer("expert"), config, tmp_path, source={"task_name": "toy_point"}, callback=callback)
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
    buffer, each_step, every_other = _buffer("expert", num_episodes=2), "train.log_every=1", "train.log_every=2"
    single, paired = (
        [row["loss"] for row in _train(buffer, _config("bc", "train.num_steps=4", name), tmp_path).curve]
        for name in (each_step, every_other)
    )
    assert len(set(single)) == 4
    assert paired == pytest.approx([(single[0] + single[1]) / 2, (single[2] + single[3]) / 2], rel=1e-5)


def test_an_interrupt_leaves_the_last_whole_checkpoint(tmp_path) -> None:
    buffer, config = _buffer("expert"), _config("bc", "train.num_steps=5", "train.eval_every=2")

    def interrupt(step: int, policy) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _train(buffer, config, tmp_path / "new", callback=interrupt)
    assert not (tmp_path / "new").exists()
    _train(buffer, config, tmp_path / "old")
    before = {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir()}
    with pytest.raises(KeyboardInterrupt):
        _train(buffer, {**config, "seed": 1}, tmp_path / "old", callback=interrupt)
    assert {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir()} == before


def test_data_that_cannot_be_learned_from_are_refused(tmp_path) -> None:
    config = _config("iql")
    rows = _buffer("expert", num_episodes=1)[:]
    with pytest.raises(SchemaMismatch, match="is empty"):
        _train(TensorDictReplayBuffer(storage=LazyTensorStorage(4)), config, tmp_path)
    with pytest.raises(SchemaMismatch, match=r"lack \[\('next', 'terminated'\)\]"):
        _train(_as_buffer(rows.exclude(("next", "terminated"))), config, tmp_path)
    rows["action"][3] = torch.nan
    with pytest.raises(SchemaMismatch, match="'action': expected finite values"):
        _train(_as_buffer(rows), config, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_divergence_ends_the_training_with_a_sentence(tmp_path) -> None:
    config = _config("bc", "optim.lr=1e38", "train.log_every=5")
    with pytest.raises(TrainingDiverged, match="expected a finite loss, got"):
        _train(_buffer("random"), config, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_an_unwritable_place_is_refused_before_the_training(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreNotWritable, match="Choose another output_dir"):
        _train(None, _config("bc"), tmp_path / "file" / "a")


# --- configuration and command line -----------------------------------------------------------------------------------


def test_overrides_and_groups_compose() -> None:
    config = make_config("iql", "my_org/my_data", overrides=["train.batch_size=8", "split=expert+random", "seed=7"])
    assert config["dataset"] == "my_org/my_data"
    assert (config["train"]["batch_size"], config["split"], config["seed"]) == (8, "expert+random", 7)
    assert make_config("bc", "kitchen_knob1")["split"] == "expert"
    assert make_config("iql", "kitchen_knob1")["split"] is None


def test_bad_configurations_name_what_is_expected() -> None:
    with pytest.raises(ValueError, match="expected one of bc, iql, sac"):
        make_config("ppo", "toy_point")
    with pytest.raises(ValueError, match="nm_steps"):
        make_config("bc", "toy_point", overrides=["train.nm_steps=5"])


def _run(*arguments: str, cwd: Path, store: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "rlhive.sim_algos.run", *arguments],
        cwd=cwd,
        env={"PATH": "/usr/bin:/bin", "HOME": str(cwd), "RLHIVE_DATASETS_PATH": str(store), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_command_trains_what_the_function_trains(tmp_path, monkeypatch) -> None:
    from rlhive.sim_algos import train

    monkeypatch.setenv("RLHIVE_DATASETS_PATH", str(tmp_path / "store"))
    overrides = ["train.num_steps=20", "train.batch_size=16", "network.hidden_sizes=[8]"]
    arguments = {"split": "expert+random", "seed": 3, "output_dir": tmp_path / "a", "progress": False}
    result = train("bc", "toy_point", overrides=overrides, **arguments)
    done = _run(
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


def test_the_command_without_a_model_says_what_to_type(tmp_path) -> None:
    done = _run("+dataset=toy_point", cwd=tmp_path, store=tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip() == "Nothing to train: expected +model=bc +dataset=kitchen_knob1, got no model."
    assert list(tmp_path.iterdir()) == []
