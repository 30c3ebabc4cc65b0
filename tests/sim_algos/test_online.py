"""Online training: collected episodes, a start from a dataset, exploration noise, and success on a toy."""

import shutil
from dataclasses import replace

import pytest
import torch
from torchrl.envs.utils import RandomPolicy

from rlhive.data.recording import Recording, commit_recording
from rlhive.dataset._dataset import RoboHiveDataset
from rlhive.envs._make import make_env
from rlhive.envs._tasks import EXPLORATION_SEED
from rlhive.errors import InvalidOptionError, SimulationDivergedError
from rlhive.policies import load_policy, read_checkpoint
from rlhive.rollouts._collect import collect
from rlhive.rollouts._evaluate import evaluate
from rlhive.rollouts._replay import replay
from rlhive.rollouts._rollout import rollout_episode
from rlhive.sim_algos import train
from rlhive.sim_algos._online import EpisodeCollector
from rlhive.sim_algos.algorithms._sac import SoftActorCritic
from tests.data.strategies import same
from tests.sim_algos.toy import QUICK_SAC, run_command, sac_config


def train_sac(folder, *overrides, **arguments):
    return train(
        "sac", env="toy_point", overrides=[*QUICK_SAC, *overrides], output_dir=folder, progress=False, **arguments
    )


@pytest.mark.slow
def test_sac_learns_the_toy(tmp_path) -> None:
    result = train_sac(tmp_path, "train.num_steps=1200", "optim.actor_lr=3e-3", "optim.critic_lr=3e-3")

    evaluation = evaluate(result.checkpoint, "toy_point", num_episodes=40, num_workers=1, progress=False)
    assert evaluation.success_rate >= 0.9
    assert result.curve[-1]["return"] > 15  # that of a random policy is 9
    record = read_checkpoint(result.checkpoint)
    assert (record["algorithm"], record["env_name"], record["collected"]) == ("sac", "ToyPoint-v0", True)
    assert 1200 <= record["num_transitions"] <= 1280  # one gradient step per transition, after the random ones


def test_the_same_seed_gives_the_same_weights_and_leaves_torch_alone(tmp_path) -> None:
    states = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        torch.manual_seed(0)
        before = torch.random.get_rng_state()
        train_sac(tmp_path / name, "+exploration=gaussian", "train.num_steps=45", seed=seed)
        assert torch.equal(torch.random.get_rng_state(), before)
        states.append(load_policy(tmp_path / name).state_dict())
    first, again, other = states
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_the_buffer_holds_the_collected_episodes_unchanged() -> None:
    env = make_env("toy_point")
    collector = EpisodeCollector(env, sac_config("collect.buffer_size=100", "seed=2"))

    collector.collect_random(30)

    episodes, policy = [], RandomPolicy(env.action_spec)
    while sum(map(len, episodes)) < 30:
        seed = EXPLORATION_SEED + 200_000 + len(episodes)
        episodes.append(rollout_episode(env, policy, seed=seed).transitions)
    expected = torch.cat(episodes)
    assert len(collector.buffer) == collector.num_frames == len(expected)
    for key in SoftActorCritic.in_keys:
        assert torch.equal(collector.buffer[:][key], expected[key]), key


class KilledError(Exception):
    """Ends a training that saves no state any more."""


def read_recorded(folder):
    """Return the recorded episodes of a run by their seeds."""
    records = list(Recording(folder / "recording").sorted_records())
    assert len({record.seed for record in records}) == len(records)
    return {record.seed: record for record in records}


def test_the_collected_episodes_are_recorded_once_also_if_a_killed_training_goes_on(tmp_path, store) -> None:
    def kill(step: int, policy) -> None:
        if step == 50:
            raise KilledError

    overrides = ["collect.record=true", "train.num_steps=75", "train.eval_every=25", "train.save_every=20"]
    train_sac(tmp_path / "whole", *overrides, seed=3)
    with pytest.raises(KilledError):
        train_sac(tmp_path / "parts", *overrides, seed=3, callback=kill)
    num_killed = len(read_recorded(tmp_path / "parts"))
    train_sac(tmp_path / "parts", *overrides, seed=3, resume="auto")

    whole, parts = (read_recorded(tmp_path / name) for name in ("whole", "parts"))
    assert 0 < num_killed < len(parts)
    assert list(whole) == [EXPLORATION_SEED + 300_000 + index for index in range(len(whole))]
    assert whole.keys() == parts.keys()
    assert all(same(replace(record, episode=parts[seed].episode), parts[seed]) for seed, record in whole.items())
    assert [record.metadata["num_frames"] for record in whole.values()] == [20 * index for index in range(len(whole))]
    folder = commit_recording(Recording(tmp_path / "whole/recording"), "toy_replay", license="mit")
    assert replay(folder, progress=False).verdicts["bit-exact"] == len(whole)
    dataset = RoboHiveDataset("toy_replay", split="replay")
    assert (dataset.task_name, len(dataset.episodes)) == ("toy_point", len(whole))
    assert len(dataset.as_arrow()) == read_checkpoint(tmp_path / "whole")["num_transitions"]


def test_without_the_option_nothing_is_recorded(tmp_path) -> None:
    train_sac(tmp_path, "train.num_steps=10")
    assert not (tmp_path / "recording").exists()


def test_training_starts_from_a_dataset_and_appends_to_it(tmp_path, store) -> None:
    collect("toy_point", progress=False)
    dataset = RoboHiveDataset("toy_point", split="expert")
    collector = EpisodeCollector(make_env("toy_point"), sac_config())

    collector.add_dataset(dataset)
    collector.collect_random(1)

    dataset_rows, buffer_rows = dataset.as_tensordict(dtype=torch.float32), collector.buffer[:]
    assert len(buffer_rows) == len(dataset_rows) + collector.num_frames
    for key in SoftActorCritic.in_keys:
        assert torch.equal(buffer_rows[key][: len(dataset_rows)], dataset_rows[key]), key
    next_id = int(dataset_rows["episode"].max()) + 1
    assert buffer_rows["episode"][len(dataset_rows) :].unique().tolist() == [next_id]

    result = train("sac", "toy_point", split="expert", overrides=[*QUICK_SAC, "train.num_steps=5"], output_dir=tmp_path)
    record = read_checkpoint(result.checkpoint)
    assert record["dataset"]["fingerprint"] == dataset.fingerprint
    assert record["env_name"] == "ToyPoint-v0"
    assert 5 <= record["num_transitions"] <= 24


@pytest.mark.parametrize("model", ["iql", "td3_bc", "sac"])
def test_offline_steps_come_before_the_first_episode_and_online_ones_after_it(tmp_path, filled, model) -> None:
    overrides = ["train.num_steps=40", "train.batch_size=16", "train.log_every=5", "logger=null", "network=small"]
    overrides += ["collect.offline_steps=20", "exploration=gaussian"]
    dataset = RoboHiveDataset("toy_point", store=filled)
    result = train(model, dataset.path, overrides=overrides, output_dir=tmp_path, progress=False)
    assert [row["step"] for row in result.curve] == list(range(5, 41, 5))
    assert next(row["step"] for row in result.curve if "return" in row) == 25
    record = read_checkpoint(result.checkpoint)
    assert 20 <= record["num_transitions"] <= 40
    assert record["dataset"]["fingerprint"] == dataset.fingerprint


@pytest.mark.parametrize("noise", ["gaussian", "ou", "egreedy"])
def test_the_noise_decreases_with_the_collected_transitions(noise) -> None:
    names = {"gaussian": ("sigma_init", "sigma_end"), "ou": ("eps_init", "eps_end"), "egreedy": ("eps_init", "eps_end")}
    first, last = names[noise]
    size = 1 if noise == "egreedy" else 50
    options = [f"+exploration={noise}", f"exploration.{first}={size}", f"exploration.{last}=0"]
    collector = EpisodeCollector(make_env("toy_point"), sac_config(*options, "exploration.annealing_num_steps=5"))
    policy = collector.make_exploration_policy(
        lambda tensordict: tensordict["observation"].float().reshape(1, -1, 2),
        lambda observation: 0.25 * torch.ones(1, len(observation[0]), 1),
    )

    noisy, quiet = collector.collect(policy).transitions, collector.collect(policy).transitions

    assert noisy["action"].abs().max() <= 1
    assert (noisy["action"] - 0.25).abs().max() > 0.5
    assert noisy["observation"].dtype == torch.float64  # the environment's own, not the normalised one
    assert (quiet["action"] == 0.25).all()


def test_the_number_of_gradient_steps_follows_the_collected_transitions() -> None:
    collector = EpisodeCollector(make_env("toy_point"), sac_config("collect.updates_per_frame=0.3"))

    assert [collector.count_updates(frames) for frames in (1, 1, 1, 1, 10)] == [0, 0, 0, 1, 3]


def test_a_simulation_that_keeps_diverging_ends_the_training() -> None:
    env = make_env("toy_point")
    collector = EpisodeCollector(env, sac_config())

    def explode(tensordict):
        msg = "ToyPoint-v0 diverged in step 1"
        raise SimulationDivergedError(msg, 1)

    with pytest.raises(SimulationDivergedError, match="diverged in step 1"):
        collector.collect(explode)
    assert collector.num_frames == len(collector.buffer) == 0


def test_contradictory_configurations_are_refused(tmp_path) -> None:
    with pytest.raises(InvalidOptionError, match="bc learns from a dataset: expected its name, got none"):
        train("bc", output_dir=tmp_path)
    with pytest.raises(InvalidOptionError, match="expected no env, got reach"):
        train("iql", "toy_point", env="reach", output_dir=tmp_path)
    with pytest.raises(InvalidOptionError, match=r"With collect\.offline_steps=1000, iql collects episodes"):
        train("iql", "toy_point", overrides=["+exploration=gaussian"], output_dir=tmp_path)
    with pytest.raises(InvalidOptionError, match="expected a dataset to learn from, got none"):
        train_sac(tmp_path, "collect.offline_steps=3")
    with pytest.raises(InvalidOptionError, match=r"collect\.offline_steps: expected an integer of at least 0"):
        train_sac(tmp_path, "collect.offline_steps=-3")
    with pytest.raises(InvalidOptionError, match="expected no exploration"):
        train("bc", "toy_point", overrides=["+exploration=gaussian"], output_dir=tmp_path)
    with pytest.raises(InvalidOptionError, match=r"sac acts in an environment: expected num_seeds=1, got 2"):
        train_sac(tmp_path, num_seeds=2)
    with pytest.raises(InvalidOptionError, match=r"expected room for a batch of 64 transitions, got 8"):
        train_sac(tmp_path, "collect.buffer_size=8")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_command_needs_no_dataset(tmp_path) -> None:
    done = run_command(
        *(
            "+model=sac",
            "+exploration=gaussian",
            "+env=toy_point",
            "hydra.run.dir=a",
            "train.num_steps=3",
            *QUICK_SAC,
        ),
        cwd=tmp_path,
        store=tmp_path / "store",
    )

    assert done.returncode == 0, done.stderr
    record = read_checkpoint(tmp_path / "a")
    assert record["config"]["exploration"]["sigma_init"] == 0.5
    assert not (tmp_path / "store").exists()
    assert "torchrl" not in done.stderr


def test_a_buffer_that_the_disk_cannot_hold_is_refused(tmp_path, monkeypatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(InvalidOptionError, match=r"buffer_size: 90 transitions of \d+ bytes need 0.0 GB, expected at"):
        train_sac(tmp_path, "train.num_steps=100", "collect.buffer_size=90")
