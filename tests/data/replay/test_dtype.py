"""The dtype of batches: float32 by default, the stored one on request, and no finite number becomes infinite."""

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.data import PrioritizedSampler
from torchrl.envs import TransformedEnv, check_env_specs
from torchrl.modules import NormalParamExtractor, ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives import SACLoss, TD3BCLoss

from rlhive import RoboHiveDataset, make_env
from rlhive.data.versions._export import export
from rlhive.errors import InvalidOptionError, SchemaMismatchError
from tests.data.replay.caches import assert_same
from tests.data.strategies import records

FLOATS = ("observation", ("parts", "half"), ("next", "reward"), ("next", "observation"), ("next", "parts", "half"))


def make_dataset(store, *, observation=None):
    """Return a dataset with float64, float32, float16 and integer columns; all numbers fit into float32."""
    schema, made = records([6, 9, 4])
    for number, record in enumerate(made):
        for columns in (record.columns, record.final):
            generator = np.random.default_rng(number)
            columns["observation"] = generator.normal(size=np.shape(columns["observation"]))
        generator = np.random.default_rng(number)
        record.columns["next.reward"] = generator.normal(size=(record.length, 1))
        record.columns["action"] = generator.uniform(-1, 1, size=(record.length, 2)).astype(np.float32)
    if observation is not None:
        made[1].columns["observation"][3, 1] = observation
    folder = export(made, "my/knob", version="1.0.0", schema=schema, license="mit", store=store)
    return RoboHiveDataset(folder, store=store)


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path)


def served(dataset, **options):
    """Every way to batches, all transitions in order."""
    yield dataset.as_replay_buffer(4, **options)[:]
    yield dataset.as_storage(**options).get(slice(None))
    yield next(iter(dataset.as_dataloader(100, shuffle=False, **options)))
    yield next(dataset.iter_batches(100, **options))


def test_batches_are_float32_by_default(dataset):
    stored = dataset.as_tensordict()
    for batch in served(dataset):
        for key in FLOATS:
            assert batch[key].equal(stored[key].float()), key
        for key, value in stored.items(True, True):
            if not value.is_floating_point():
                assert batch[key].dtype == value.dtype
                assert batch[key].equal(value), key


def test_none_serves_what_was_stored(dataset):
    stored = dataset.as_tensordict()
    assert stored["observation"].dtype == stored["next", "reward"].dtype == torch.float64
    assert stored["parts", "half"].dtype == torch.float16
    for batch in served(dataset, dtype=None):
        assert_same(batch.select(*stored.keys(True, True)), stored)
    episodes = torch.cat([episode["observation"] for episode in dataset.iter_episodes()])
    assert episodes.equal(stored["observation"])


def test_any_float_can_be_asked_for(dataset):
    stored = dataset.as_tensordict()
    for dtype in (torch.float64, torch.float16):
        batch = dataset.as_replay_buffer(4, dtype=dtype)[:]
        for key in (*FLOATS, "action"):
            assert batch[key].dtype == dtype
            assert batch[key].equal(stored[key].to(dtype)), key


def test_float32_halves_what_is_read_and_an_equal_schema_shares_the_cache(dataset, tmp_path):
    narrow, wide = dataset.as_storage(keys=["observation"]), dataset.as_storage(keys=["observation"], dtype=None)
    assert narrow.item_bytes < wide.item_bytes
    assert narrow._packed.folder != wide._packed.folder
    as_stored = RoboHiveDataset(
        export(float32_records(), "my/narrow", version="1.0.0", license="mit", store=tmp_path), store=tmp_path
    )
    assert as_stored.as_storage()._packed.folder == as_stored.as_storage(dtype=None)._packed.folder


def float32_records():
    schema, made = records([3, 4])
    wide = [field.column for field in schema.fields if field.dtype in ("float64", "float16")]
    for record in made:
        for columns in (record.columns, record.final):
            for name in set(wide) & set(columns):
                columns[name] = np.zeros(np.shape(columns[name]), np.float32)
    return made


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_infinities_and_nan_stay(tmp_path, value):
    dataset = make_dataset(tmp_path, observation=value)
    for batch in served(dataset):
        special = batch["observation"][~batch["observation"].isfinite()]
        np.testing.assert_array_equal(special, [np.float32(value)])


@pytest.mark.parametrize("options", [{}, {"dtype": torch.float16}])
def test_a_number_that_float32_cannot_represent_is_an_error_and_leaves_nothing(tmp_path, options):
    dataset = make_dataset(tmp_path, observation=-1e300)
    dtype = "float16" if options else "float32"
    message = rf"my/knob 1\.0\.0: column observation holds 1e\+300, which {dtype} cannot represent .*dtype=None serves"
    for read in (
        lambda: dataset.as_replay_buffer(**options),
        lambda: dataset.as_tensordict(dtype=torch.float32) if not options else dataset.as_tensordict(**options),
        lambda: list(dataset.iter_batches(4, **options)),
    ):
        with pytest.raises(SchemaMismatchError, match=message):
            read()
    assert not [path for path in (tmp_path / ".cache").glob("*") if path.suffix != ".lock"]
    assert dataset.as_replay_buffer(dtype=None)[:]["observation"].min() == -1e300


@pytest.mark.parametrize("dtype", ["float32", torch.int64, torch.bfloat16, np.float32, 32])
def test_a_dtype_that_no_field_can_have_is_an_error(dataset, dtype):
    for read in (dataset.as_replay_buffer, dataset.as_storage, dataset.as_tensordict, dataset.iter_batches):
        with pytest.raises(
            InvalidOptionError, match=r"dtype=.*expected torch.float64, torch.float32, torch.float16, or"
        ):
            read(dtype=dtype)


# --- the one line trains ---


def actor_network():
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2), nn.Tanh())


def make_value():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 1))

        def forward(self, observation, action):
            return self.net(torch.cat([observation, action], -1))

    return ValueOperator(Net(), in_keys=["observation", "action"])


def make_td3bc():
    actor = TensorDictModule(actor_network(), in_keys=["observation"], out_keys=["action"])
    return TD3BCLoss(actor, make_value(), bounds=(-1.0, 1.0))


def make_sac():
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4), NormalParamExtractor())
    module = TensorDictModule(net, in_keys=["observation"], out_keys=["loc", "scale"])
    actor = ProbabilisticActor(module, in_keys=["loc", "scale"], distribution_class=TanhNormal)
    return SACLoss(actor, make_value(), action_spec=None, target_entropy=-2.0)


@pytest.mark.parametrize("make_loss", [make_td3bc, make_sac])
@pytest.mark.parametrize("options", [{}, {"normalize": True}, {"n_step": 3}], ids=str)
def test_torchrls_losses_take_a_batch(dataset, make_loss, options):
    loss, buffer = make_loss(), dataset.as_replay_buffer(8, **options)
    values = loss(buffer.sample())
    total = sum(value.mean() for name, value in values.items() if name.startswith("loss_"))
    total.backward()
    assert torch.isfinite(total)


def test_priorities_of_a_loss_are_taken(dataset):
    loss = make_td3bc()
    sampler = PrioritizedSampler(len(dataset), alpha=0.7, beta=0.5)
    buffer = dataset.as_replay_buffer(8, sampler=sampler)
    for _ in range(3):
        batch = buffer.sample()
        loss(batch)
        buffer.update_tensordict_priority(batch.set("td_error", batch["td_error"]))
    assert len({round(float(value), 6) for value in sampler._sum_tree[list(range(len(dataset)))]}) > 2


def test_the_normalisation_is_the_first_module_of_a_policy(dataset):
    actor = TensorDictModule(actor_network(), in_keys=["observation"], out_keys=["action"])
    policy = TensorDictSequential(dataset.normalization("observation"), actor)
    stored = dataset.as_tensordict().select("observation")
    action = policy(stored.clone())["action"]
    batch = dataset.as_replay_buffer(normalize=True)[:].select("observation")
    torch.testing.assert_close(action, actor(batch)["action"], rtol=1e-5, atol=1e-6)
    assert action.dtype == torch.float32


def test_a_policy_without_its_observation_is_an_error(dataset):
    with pytest.raises(KeyError, match=r"expected 'observation', got the keys \['state'\]"):
        dataset.normalization("observation")(TensorDict({"state": torch.zeros(2, 3)}, [2]))


def test_the_normalisation_is_a_transform_of_an_environment(filled):
    dataset = RoboHiveDataset("toy_point", store=filled)
    env = TransformedEnv(make_env("toy_point"), dataset.normalization("observation"))
    check_env_specs(env)
    rollout = env.rollout(5)
    assert rollout["observation"].dtype == rollout["next", "observation"].dtype == torch.float32
    assert env.observation_spec["observation"].dtype == torch.float32
