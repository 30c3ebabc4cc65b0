"""The options of as_replay_buffer(), on a dataset of two splits, and their validation."""

import inspect
import re
from dataclasses import fields

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from torchrl.data import RandomSampler

from rlhive import RoboHiveDataset
from rlhive.data.replay._options import DataLoaderOptions, ReadOptions, SamplingOptions, make_storage
from rlhive.data.replay._storage import PackedStorage
from rlhive.data.versions._export import export
from rlhive.errors import EpisodesTooShortError, InvalidOptionError, SchemaMismatchError, SplitNotFoundError
from tests.data.replay.caches import LENGTHS, assert_same, write_cache
from tests.data.strategies import records


@pytest.fixture
def dataset(tmp_path):
    schema, made = records(LENGTHS)
    for index, record in enumerate(made):  # finite values, so that there are moments
        for columns in (record.columns, record.final):
            generator = np.random.default_rng(index)
            columns["observation"] = generator.normal(size=np.shape(columns["observation"]))
    folder = export(made, "my/knob", version="1.0.0", schema=schema, license="mit", store=tmp_path)
    return RoboHiveDataset(folder, store=tmp_path)


def test_the_options_reach_the_batches(dataset):
    everything = dataset.as_tensordict()
    rows = everything["episode"]

    def index(**options):
        buffer = dataset.as_replay_buffer(8, seed=0, dtype=None, **options)
        return buffer[:], buffer.sample()

    some, _ = index(split="b")
    assert_same(some, everything[torch.isin(rows, torch.tensor([6, 12]))])
    some, _ = index(where=pc.field("length") > 5)
    assert_same(some, everything[torch.isin(rows, torch.tensor([3, 9, 15]))])
    some, _ = index(split="a", where=lambda table: [length < 8 for length in table["length"].to_pylist()])
    assert_same(some, everything[rows == 3])
    some, batch = index(keys=["action"], n_step=2, frame_stack=2, return_to_go=True)
    assert "observation" not in some.keys() | batch.keys()
    assert {"action", "steps_to_next_obs", "return_to_go", "index"} <= set(batch.keys())
    _, batch = index(slice_len=4, short_episodes="pad")
    assert batch["collector", "mask"].shape == (8,)
    in_memory, _ = index(in_memory=True)
    assert_same(in_memory, everything)
    _, transformed = index(transform=lambda batch: batch.set("doubled", 2 * batch["action"]))
    assert torch.equal(transformed["doubled"], 2 * transformed["action"])


@pytest.mark.parametrize("options", [{}, {"split": "a"}, {"where": pc.field("length") > 5}], ids=str)
def test_normalised_observations_have_mean_zero_and_deviation_one_over_the_selection(dataset, options):
    plain = dataset.as_tensordict(**options)["observation"]
    got = dataset.as_tensordict(normalize=True, **options)

    torch.testing.assert_close(got["observation"], (plain - plain.mean(0)) / plain.std(0, correction=0))
    torch.testing.assert_close(got["observation"].mean(0), torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)
    again = dataset.as_tensordict(normalize={"observation": (plain.mean(0), plain.std(0, correction=0))}, **options)
    torch.testing.assert_close(again["next", "observation"], got["next", "observation"])


def test_a_constant_is_centred_and_not_scaled(tmp_path):
    cache, _ = write_cache(tmp_path / "cache")
    one = torch.ones(2)
    statistics = {"action": {"mean": [1.0, 2.0], "std": [0.0, 2.0]}}
    plain = PackedStorage(cache).get(slice(None))["action"]
    got = make_storage(cache, None, ReadOptions(normalize=["action"]), statistics=statistics).get(slice(None))["action"]

    expected = (plain - torch.tensor([1.0, 2.0])) / torch.tensor([1.0, 2.0])
    assert torch.equal(got, expected.clamp(-10, 10))  # two of these actions are infinite
    infinite = {"observation": {"mean": [0.0, None, 0.0], "std": [1.0, None, 1.0]}}
    with pytest.raises(SchemaMismatchError, match="expected finite mean and std of observation"):
        make_storage(cache, None, ReadOptions(normalize=True), statistics=infinite)
    with pytest.raises(SchemaMismatchError, match="expected a field with statistics, got observation"):
        make_storage(cache, None, ReadOptions(normalize=True))
    with pytest.raises(SchemaMismatchError, match="No field actoin"):
        make_storage(cache, None, ReadOptions(keys=["actoin"], normalize={"action": (one, one)}))


def test_errors_of_wrong_options_name_the_expected_value(dataset):
    with pytest.raises(SplitNotFoundError, match="expected one of a, b"):
        dataset.as_replay_buffer(split="c")
    with pytest.raises(SplitNotFoundError, match="has no split 'b' here: expected one of a,"):
        RoboHiveDataset(dataset.path, split="a", store=dataset._view.store).as_replay_buffer(split="b")
    with pytest.raises(ValueError, match="slice_len=4: expected a batch_size that is a multiple of it, got 10"):
        dataset.as_replay_buffer(10, slice_len=4)
    with pytest.raises(EpisodesTooShortError):
        dataset.as_replay_buffer(26, slice_len=13)
    with pytest.raises(ValueError, match="short_episodes='cut'"):
        dataset.as_replay_buffer(8, slice_len=4, short_episodes="cut")
    with pytest.raises(SchemaMismatchError, match=r"keys='action': expected a list of keys.*Write keys=\['action'\]"):
        dataset.as_replay_buffer(keys="action")
    with pytest.raises(SchemaMismatchError, match="normalize='observation': expected a list of keys"):
        dataset.as_replay_buffer(normalize="observation")
    with pytest.raises(ValueError, match="batch_size=0: expected a whole number of 1 or more"):
        dataset.as_replay_buffer(0)
    with pytest.raises(ValueError, match="prefetch=-1: expected a whole number of 0 or more"):
        dataset.as_replay_buffer(prefetch=-1)
    with pytest.raises(SchemaMismatchError, match="have no transitions: expected at least one"):
        dataset.as_replay_buffer(where=pc.field("length") > 1000)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_torch_cannot_use_is_an_error(dataset):
    with pytest.raises(InvalidOptionError, match="device='cuda': expected a GPU that torch can use, got none"):
        dataset.as_replay_buffer(device="cuda")


@pytest.mark.parametrize(
    ("make_options", "error", "message"),
    [
        (lambda: ReadOptions(n_step=0), ValueError, "n_step=0: expected a whole number of 1 or more"),
        (lambda: ReadOptions(frame_stack=1.5), ValueError, "frame_stack=1.5: expected a whole number of 1 or more"),
        (lambda: ReadOptions(gamma=0.0), ValueError, "gamma=0.0: expected a discount above 0 and at most 1"),
        (lambda: ReadOptions(image_cache="png"), ValueError, "image_cache='png': expected 'raw', 'encoded'"),
        (lambda: ReadOptions(keys="action"), SchemaMismatchError, "keys='action': expected a list of keys"),
        (lambda: SamplingOptions(batch_size=True), ValueError, "batch_size=True: expected a whole number of 1 or more"),
        (lambda: SamplingOptions(slice_len=0), ValueError, "slice_len=0: expected a whole number of 1 or more"),
        (lambda: SamplingOptions(short_episodes="cut"), ValueError, "short_episodes='cut': expected 'drop', 'pad' or"),
        (
            lambda: SamplingOptions(slice_len=4, sampler=RandomSampler()),
            ValueError,
            "slice_len=4: expected no sampler besides slice_len",
        ),
        (lambda: DataLoaderOptions(batch_size=0), ValueError, "batch_size=0: expected a whole number of 1 or more"),
        (lambda: DataLoaderOptions(num_workers=-1), ValueError, "num_workers=-1: expected a whole number of 0 or"),
    ],
)
def test_an_option_out_of_range_is_refused_when_the_options_are_made(make_options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make_options()


@pytest.mark.parametrize(
    ("options", "n_step_gamma", "return_to_go_gamma"),
    [
        (ReadOptions(), 0.99, None),
        (ReadOptions(return_to_go=True), 0.99, 1.0),
        (ReadOptions(return_to_go=True, gamma=0.5), 0.5, 0.5),
    ],
    ids=["default", "undiscounted", "discounted"],
)
def test_gamma_has_a_default_for_each_of_its_uses(options, n_step_gamma, return_to_go_gamma):
    assert options.window().gamma == n_step_gamma
    assert options.return_to_go_gamma == return_to_go_gamma


def test_as_replay_buffer_has_the_keywords_and_defaults_of_the_options():
    parameters = inspect.signature(RoboHiveDataset.as_replay_buffer).parameters
    options = {field.name: field.default for kind in (ReadOptions, SamplingOptions) for field in fields(kind)}

    defaults = {name: parameter.default for name, parameter in parameters.items()}
    assert {name: defaults[name] for name in options} == options
    assert set(defaults) - set(options) == {"self", "split", "where"}
