"""Online training: SAC against numbers, what it collects, what it starts from, and what a toy can be learned to do."""

import pytest
import torch
from tensordict import TensorDict
from torchrl.envs.utils import RandomPolicy

from rlhive.dataset._dataset import RoboHiveDataset
from rlhive.envs._make import make_env
from rlhive.envs._tasks import EXPLORATION_SEED
from rlhive.errors import InvalidSetting, SimulationDiverged
from rlhive.policies._checkpoint import Normalizer, load_policy, read_checkpoint
from rlhive.rollouts._collect import collect
from rlhive.rollouts._evaluate import evaluate
from rlhive.rollouts._rollout import rollout_episode
from rlhive.sim_algos import make_config, train
from rlhive.sim_algos._online import _Run
from rlhive.sim_algos._preprocessing import Statistics
from rlhive.sim_algos._sac import SoftActorCritic
from tests.sim_algos.test_train import _make_constant, _row, _run

SMALL = [f"network.{name}hidden_sizes=[32]" for name in ("", "critic_", "scale_")]
QUICK = ["progress=false", *SMALL, "train.batch_size=64", "collect.init_random_frames=40"]


def _config(*overrides):
    config = make_config("sac", overrides=[*QUICK, *overrides])
    return {"dataset": None, "env": "toy_point", "exploration": None, **config}


def _train(folder, *overrides, **arguments):
    return train("sac", env="toy_point", overrides=[*QUICK, *overrides], output_dir=folder, progress=False, **arguments)


@pytest.mark.parametrize(
    ("ending", "target"),
    [
        ({}, 2 + 0.5 * 5.5),
        ({"truncated": True}, 2 + 0.5 * 5.5),  # cut off: the future still counts
        ({"terminated": True}, 2.0),  # over: no future
        ({"terminated": True, "truncated": True}, 2.0),
    ],
)
def test_sac_bootstraps_through_truncation_and_not_through_termination(ending, target) -> None:
    torch.manual_seed(0)
    config = _config("loss.gamma=0.5", "loss.reward_scale=2.0", "loss.alpha_init=1e-9")
    learner = SoftActorCritic(config, Statistics(torch.zeros(2), torch.ones(2), 1.0, action_dim=1))
    _make_constant(learner.loss.qvalue_network_params, [3.0, 4.0])
    _make_constant(learner.loss.target_qvalue_network_params, [5.5, 7.0])

    losses = learner.update(_row(reward=1.0, action=0.5, **ending))

    assert losses["loss_qvalue"].item() == pytest.approx((target - 3) ** 2 + (target - 4) ** 2, rel=1e-5)
    assert losses["loss_actor"].item() == pytest.approx(-3.0, rel=1e-5)  # the lower of the two
    parts = losses["loss_actor"] + losses["loss_qvalue"] + losses["loss_alpha"]
    assert losses["loss"].item() == pytest.approx(parts.item())


def test_sac_deploys_the_mode_of_what_collects() -> None:
    torch.manual_seed(0)
    learner = SoftActorCritic(_config(), Statistics(torch.zeros(2), torch.ones(2), 1.0, action_dim=3))
    observation = torch.randn(7, 2)

    distribution = learner.policy.get_dist(TensorDict({"observation": observation}, batch_size=[7]))

    assert torch.allclose(distribution.deterministic_sample, learner.actor(observation), atol=1e-6)


def test_sac_learns_the_toy(tmp_path) -> None:
    result = _train(tmp_path, "train.num_steps=1200", "optim.actor_lr=3e-3", "optim.critic_lr=3e-3")

    evaluation = evaluate(result.checkpoint, "toy_point", num_episodes=40, num_workers=1, progress=False)
    assert evaluation.success_rate >= 0.9
    assert result.curve[-1]["return"] > 15  # a random one's is 9
    record = read_checkpoint(result.checkpoint)
    assert (record["algorithm"], record["env_name"], record["collected"]) == ("sac", "ToyPoint-v0", True)
    assert 1200 <= record["num_transitions"] <= 1280  # one gradient step for each, the random ones beside


def test_the_same_seed_gives_the_same_weights_and_leaves_torch_alone(tmp_path) -> None:
    states = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        torch.manual_seed(0)
        before = torch.random.get_rng_state()
        _train(tmp_path / name, "+exploration=gaussian", "train.num_steps=45", seed=seed)
        assert torch.equal(torch.random.get_rng_state(), before)
        states.append(load_policy(tmp_path / name).state_dict())
    first, again, other = states
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_the_buffer_holds_the_episodes_as_they_were() -> None:
    env = make_env("toy_point")
    run = _Run(env, _config("collect.buffer_size=100", "seed=2"))

    run.collect_random(30)

    episodes, policy = [], RandomPolicy(env.action_spec)
    while sum(map(len, episodes)) < 30:
        seed = EXPLORATION_SEED + 200_000 + len(episodes)
        episodes.append(rollout_episode(env, policy, seed=seed).transitions)
    expected = torch.cat(episodes)
    assert len(run.buffer) == run.num_frames == len(expected)
    for key in SoftActorCritic.in_keys:
        assert torch.equal(run.buffer[:][key], expected[key]), key


def test_it_starts_from_a_dataset_and_goes_on_behind_it(tmp_path, store) -> None:
    collect("toy_point", progress=False)
    dataset = RoboHiveDataset("toy_point", split="expert")
    run = _Run(make_env("toy_point"), _config())

    run.start_from(dataset)
    run.collect_random(1)

    there, held = dataset.as_tensordict(), run.buffer[:]
    assert len(held) == len(there) + run.num_frames
    for key in SoftActorCritic.in_keys:
        assert torch.equal(held[key][: len(there)], there[key]), key
    assert held["episode"][len(there) :].unique().tolist() == [int(there["episode"].max()) + 1]

    result = train("sac", "toy_point", split="expert", overrides=[*QUICK, "train.num_steps=5"], output_dir=tmp_path)
    record = read_checkpoint(result.checkpoint)
    assert record["dataset"]["fingerprint"] == dataset.fingerprint
    assert record["env_name"] == "ToyPoint-v0"
    assert 5 <= record["num_transitions"] <= 24


def test_noise_is_added_within_the_bounds_and_dies_away() -> None:
    noise = ["+exploration=gaussian", "exploration.sigma_init=50", "exploration.annealing_num_steps=20"]
    run = _Run(make_env("toy_point"), _config(*noise))
    learner = SoftActorCritic(_config(), Statistics(torch.zeros(2), torch.ones(2), 1.0, action_dim=1))
    _make_constant(TensorDict({"module": learner.loss.actor_network_params["module", "0", "module", "scale"]}), [-9.0])
    policy = run.exploring(Normalizer(torch.zeros(2), torch.ones(2)), learner.policy)

    noisy, quiet = run.collect(policy).transitions, run.collect(policy).transitions

    assert noisy["action"].abs().max() == 1
    assert noisy["observation"].dtype == torch.float64  # as the environment gave it, not as the network saw it
    assert (quiet["action"] - learner.actor(quiet["observation"].float())).abs().max() < 0.05


def test_gradient_steps_keep_pace_with_what_is_collected() -> None:
    run = _Run(make_env("toy_point"), _config("collect.updates_per_frame=0.3"))

    assert [run.num_updates(frames) for frames in (1, 1, 1, 1, 10)] == [0, 0, 0, 1, 3]


def test_a_simulation_that_keeps_diverging_ends_the_training() -> None:
    env = make_env("toy_point")
    run = _Run(env, _config())

    def explode(tensordict):
        msg = "ToyPoint-v0 diverged in step 1"
        raise SimulationDiverged(msg, 1)

    with pytest.raises(SimulationDiverged, match="diverged in step 1"):
        run.collect(explode)
    assert run.num_frames == len(run.buffer) == 0


def test_what_makes_no_sense_is_refused(tmp_path) -> None:
    with pytest.raises(InvalidSetting, match="bc learns from a dataset: expected its name, got none"):
        train("bc", output_dir=tmp_path)
    with pytest.raises(InvalidSetting, match="expected no env, got reach"):
        train("iql", "toy_point", env="reach", output_dir=tmp_path)
    with pytest.raises(InvalidSetting, match="expected no exploration"):
        train("bc", "toy_point", overrides=["+exploration=gaussian"], output_dir=tmp_path)
    with pytest.raises(InvalidSetting, match=r"expected room for a batch of 64 transitions, got 8"):
        _train(tmp_path, "collect.buffer_size=8")
    assert list(tmp_path.iterdir()) == []


def test_the_command_needs_no_dataset(tmp_path) -> None:
    done = _run(
        *("+model=sac", "+exploration=gaussian", "+env=toy_point", "hydra.run.dir=a", "train.num_steps=3", *QUICK),
        cwd=tmp_path,
        store=tmp_path / "store",
    )

    assert done.returncode == 0, done.stderr
    record = read_checkpoint(tmp_path / "a")
    assert record["config"]["exploration"]["sigma_init"] == 0.5
    assert not (tmp_path / "store").exists()
    assert "torchrl" not in done.stderr
