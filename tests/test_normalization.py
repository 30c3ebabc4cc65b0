"""The normalisation rule: its numbers, its parts, and that every user of it gives the same bits."""

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs.transforms import Compose, ObservationNorm

from rlhive import RoboHiveDataset, export, load_policy, make_config, make_env, make_policy, train, train_on_buffer
from rlhive.normalization import CLIP, ClippedObservationNorm, Normalizer, compute_scale, normalize
from rlhive.rollouts._rollout import rollout_episode
from rlhive.sim_algos.algorithms._bc import BehaviorCloning
from tests.sim_algos.toy import as_buffer, collect_buffer


def test_the_normalizer_by_hand() -> None:
    normalizer = Normalizer(torch.tensor([1.0, 5.0, 1e6]), torch.tensor([2.0, 0.0, 1e-4]))
    normalized = normalizer(torch.tensor([[5.0, 5.0, 1e6], [1.0, 5.5, 1e6 + 1]], dtype=torch.float64))
    # the second element is constant and the third varies by rounding errors alone: shifted, not divided
    assert normalized.tolist() == [[2.0, 0.0, 0.0], [0.0, 0.5, 1.0]]
    assert normalized.dtype == torch.float32


def test_the_normalizer_clips_outliers() -> None:
    normalizer = Normalizer(torch.tensor([1.0]), torch.tensor([1e-6]))
    observations = torch.tensor([[2.0], [0.0], [1.0 + 5e-6]], dtype=torch.float64)
    assert normalizer(observations).flatten().tolist() == pytest.approx([10.0, -10.0, 5.0])


def test_the_normalizer_subtracts_before_it_rounds() -> None:
    normalizer = Normalizer(torch.tensor([1e8], dtype=torch.float64), torch.tensor([1.5], dtype=torch.float64))
    assert normalizer(torch.tensor([1e8 + 3], dtype=torch.float64)).tolist() == [2.0]


def test_elements_that_do_not_vary_are_not_scaled() -> None:
    mean = torch.tensor([0.0, 0.0, 0.0, 1e8, 1e8, -1e8], dtype=torch.float64)
    std = torch.tensor([0.0, 1e-8, 1.1e-8, 1.0, 1.1, 1.0], dtype=torch.float64)
    assert compute_scale(mean, std).tolist() == [1.0, 1.0, 1.1e-8, 1.0, 1.1, 1.0]
    assert compute_scale(mean, compute_scale(mean, std)).equal(compute_scale(mean, std))
    assert compute_scale(mean.float(), std.float()).dtype == torch.float32


def test_normalize_clips_and_leaves_its_arguments_alone() -> None:
    value = torch.tensor([[0.0, -torch.inf], [torch.inf, torch.nan], [25.0, 3.0]], dtype=torch.float64)
    mean, scale = torch.tensor([5.0, 1.0], dtype=torch.float64), torch.tensor([0.5, 4.0], dtype=torch.float64)
    before = [tensor.clone() for tensor in (value, mean, scale)]
    expected = torch.tensor([[-CLIP, -CLIP], [CLIP, torch.nan], [CLIP, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(normalize(value, mean, scale), expected, rtol=0, atol=0, equal_nan=True)
    for tensor, copy in zip((value, mean, scale), before, strict=True):
        assert tensor.view(torch.int64).equal(copy.view(torch.int64))


def test_the_transform_is_torchrls_within_the_clip_and_keeps_the_dtype() -> None:
    mean, scale = torch.tensor([1.0, 1e8], dtype=torch.float64), torch.tensor([0.5, 2.0], dtype=torch.float64)
    ours = Compose(ClippedObservationNorm(loc=mean, scale=scale, in_keys=["observation"]))
    theirs = ObservationNorm(loc=mean, scale=scale, in_keys=["observation"], standard_normal=True)
    value = torch.tensor([[3.0, 1e8 + 8], [1.25, 1e8 - 24]])
    exact = theirs(TensorDict({"observation": value.clone()}, [2]))["observation"]
    assert exact.tolist() == [[4.0, 4.0], [0.5, -12.0]]
    clipped = ours(TensorDict({"observation": value.clone()}, [2]))["observation"]
    assert clipped.tolist() == [[4.0, 4.0], [0.5, -10.0]]
    assert clipped.dtype == torch.float32
    assert isinstance(ours[0], ObservationNorm)


# --- one rule everywhere ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kitchen_folder(tmp_path_factory):
    """Folder of a version with three random episodes in a kitchen, most of whose objects hardly move or do not move."""
    pytest.importorskip("robohive", reason="a kitchen needs pip install 'rlhive[robohive]'")
    env = make_env("FK1_Knob1OnRandom-v4")
    episodes = [rollout_episode(env, make_policy(env, "random"), seed=seed).transitions for seed in range(3)]
    env.close()
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(sum(map(len, episodes))))
    buffer.extend(torch.cat(episodes))
    return export(buffer, "my/kitchen", license="mit", store=tmp_path_factory.mktemp("kitchen"))


@pytest.fixture(params=["toy", "toy split", "toy view", "kitchen", "kitchen view"])
def dataset(request, filled):
    """A dataset, one of its splits, and a view that has statistics of its own."""
    if request.param.startswith("toy"):
        dataset = RoboHiveDataset("toy_point", store=filled)
    else:
        dataset = RoboHiveDataset(request.getfixturevalue("kitchen_folder"))
    if request.param.endswith("split"):
        return dataset["expert"]
    return dataset.select(dataset.episodes["episode"].to_pylist()[1:]) if request.param.endswith("view") else dataset


def test_buffer_transform_and_checkpoint_have_the_same_numbers_and_give_the_same_bits(dataset, tmp_path) -> None:
    transform = dataset.normalization("observation")
    buffer = dataset.as_replay_buffer(normalize=True)
    mean, scale = buffer.storage.window.normalize["observation"]
    overrides = ["train.num_steps=2", "train.batch_size=8", "network.hidden_sizes=[4]", "progress=false"]
    config = make_config("iql", overrides=overrides)
    train_on_buffer(buffer, config, env_name="ToyPoint-v0", output_dir=tmp_path)
    normalizer = load_policy(tmp_path).module[0]

    assert (
        mean.tolist() == transform.loc.tolist() == normalizer.mean.tolist() == dataset.statistics["observation"]["mean"]
    )
    assert scale.tolist() == transform.scale.tolist() == normalizer.std.tolist()
    assert {mean.dtype, transform.loc.dtype, normalizer.mean.dtype} == {torch.float64}

    raw, served = dataset.as_tensordict(dtype=torch.float32), buffer[:]
    transformed = transform(raw.clone())
    for key in ("observation", ("next", "observation")):
        assert served[key].contiguous().numpy().tobytes() == transformed[key].contiguous().numpy().tobytes()
        assert served[key].float().equal(normalizer(raw[key]))
        assert served[key].abs().max() <= CLIP


def test_training_learns_from_what_the_replay_buffer_serves(filled, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("RLHIVE_DATASETS_PATH", str(filled))
    dataset = RoboHiveDataset("toy_point", split="expert")
    overrides = ["train.num_steps=3", "train.batch_size=16", "network.hidden_sizes=[4]"]
    buffer = dataset.as_replay_buffer(16, normalize=True, seed=5)
    batches, options = [], []
    update, as_replay_buffer = BehaviorCloning.update, RoboHiveDataset.as_replay_buffer

    def keep_batch(self, batch):
        batches.append(batch.clone())
        return update(self, batch)

    def keep_options(self, **keywords):
        options.append(keywords)
        return as_replay_buffer(self, **keywords)

    monkeypatch.setattr(BehaviorCloning, "update", keep_batch)
    monkeypatch.setattr(RoboHiveDataset, "as_replay_buffer", keep_options)
    result = train("bc", "toy_point", seed=5, overrides=overrides, output_dir=tmp_path, progress=False)

    for batch in batches:
        expected = buffer.sample()
        assert batch["observation"][0].equal(expected["observation"])
        assert batch["action"][0].equal(expected["action"])
    assert len(batches) == 3
    assert options == [{"batch_size": 16, "normalize": True, "keys": ["action", "observation"]}]
    normalizer = load_policy(result.checkpoint).module[0]
    assert normalizer.mean.tolist() == dataset.normalization("observation").loc.tolist()


def test_float32_is_normalised_in_float64_and_rounded_once(tmp_path) -> None:
    rows = torch.tensor([[1e5 + 0.5], [1e5 + 1.0], [1e5 + 2.0]])
    transitions = collect_buffer("expert", num_episodes=1)[:3]
    transitions["observation"] = rows
    transitions["next", "observation"] = torch.cat([rows[1:], rows[:1]])
    transitions["next", "truncated"][-1] = transitions["next", "done"][-1] = True
    dataset = RoboHiveDataset(export(as_buffer(transitions), "my/far", license="mit", store=tmp_path))

    served = dataset.as_tensordict(normalize=True)["observation"]
    transformed = dataset.normalization("observation")(dataset.as_tensordict())["observation"]
    exact = rows.double().numpy()
    expected = ((exact - exact.mean()) / exact.std()).astype(np.float32)
    assert served.dtype == transformed.dtype == torch.float32
    np.testing.assert_allclose(served.numpy(), expected, rtol=1e-6)  # float32 would be off by 1e-3
    assert served.equal(transformed)


def test_own_numbers_follow_the_same_rule(filled) -> None:
    dataset = RoboHiveDataset("toy_point", split="random", store=filled)
    mean, std = torch.tensor([0.25, 0.5], dtype=torch.float64), torch.tensor([0.01, 0.0], dtype=torch.float64)
    raw = dataset.as_tensordict()["observation"]
    served = dataset.as_tensordict(normalize={("observation",): (mean, std)})["observation"]
    expected = ((raw - mean) / torch.tensor([0.01, 1.0], dtype=torch.float64)).clamp(-10, 10)
    assert served.equal(expected)
    assert served.abs().max() == CLIP
