"""What each option of as_replay_buffer() does, on a dataset of two splits."""

import numpy as np
import pyarrow.compute as pc
import pytest
import torch

from rlhive import RoboHiveDataset
from rlhive.data.replay._dataloader import make_dataloader
from rlhive.data.replay._options import DataLoaderOptions, ReadOptions, make_storage
from rlhive.data.replay._storage import PackedStorage
from rlhive.data.versions._export import export
from rlhive.errors import EpisodesTooShort, InvalidSetting, SchemaMismatch, SplitNotFound
from tests.data.replay.test_layout import LENGTHS, write
from tests.data.replay.test_samplers import assert_same
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
        buffer = dataset.as_replay_buffer(8, seed=0, **options)
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
def test_normalised_observations_have_mean_zero_and_deviation_one_over_what_was_chosen(dataset, options):
    plain = dataset.as_tensordict(**options)["observation"]
    got = dataset.as_tensordict(normalize=True, **options)

    torch.testing.assert_close(got["observation"], (plain - plain.mean(0)) / plain.std(0, correction=0))
    torch.testing.assert_close(got["observation"].mean(0), torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)
    again = dataset.as_tensordict(normalize={"observation": (plain.mean(0), plain.std(0, correction=0))}, **options)
    torch.testing.assert_close(again["next", "observation"], got["next", "observation"])


def test_a_constant_is_centred_and_not_scaled(tmp_path):
    cache, _ = write(tmp_path / "cache")
    one = torch.ones(2)
    told = {"action": {"mean": [1.0, 2.0], "std": [0.0, 2.0]}}
    plain = PackedStorage(cache).get(slice(None))["action"]
    got = make_storage(cache, None, ReadOptions(normalize=["action"]), statistics=told).get(slice(None))["action"]

    expected = (plain - torch.tensor([1.0, 2.0])) / torch.tensor([1.0, 2.0])
    assert torch.equal(got, expected.clamp(-10, 10))  # two of these actions are infinite
    infinite = {"observation": {"mean": [0.0, None, 0.0], "std": [1.0, None, 1.0]}}
    with pytest.raises(SchemaMismatch, match="expected finite mean and std of observation"):
        make_storage(cache, None, ReadOptions(normalize=True), statistics=infinite)
    with pytest.raises(SchemaMismatch, match="expected a field with statistics, got observation"):
        make_storage(cache, None, ReadOptions(normalize=True))
    with pytest.raises(SchemaMismatch, match="No field actoin"):
        make_storage(cache, None, ReadOptions(keys=["actoin"], normalize={"action": (one, one)}))


def test_wrong_choices_say_what_is_right(dataset):
    with pytest.raises(SplitNotFound, match="expected one of a, b"):
        dataset.as_replay_buffer(split="c")
    with pytest.raises(SplitNotFound, match="has no split 'b' here: expected one of a,"):
        RoboHiveDataset(dataset.path, split="a", store=dataset._view.store).as_replay_buffer(split="b")
    with pytest.raises(ValueError, match="slice_len=4: expected a batch_size that is a multiple of it, got 10"):
        dataset.as_replay_buffer(10, slice_len=4)
    with pytest.raises(EpisodesTooShort):
        dataset.as_replay_buffer(26, slice_len=13)
    with pytest.raises(ValueError, match="short_episodes='cut'"):
        dataset.as_replay_buffer(8, slice_len=4, short_episodes="cut")
    with pytest.raises(SchemaMismatch, match=r"keys='action': expected a list of keys.*Write keys=\['action'\]"):
        dataset.as_replay_buffer(keys="action")
    with pytest.raises(SchemaMismatch, match="normalize='observation': expected a list of keys"):
        dataset.as_replay_buffer(normalize="observation")
    with pytest.raises(ValueError, match="batch_size=0: expected a whole number of 1 or more"):
        dataset.as_replay_buffer(0)
    with pytest.raises(ValueError, match="prefetch=-1: expected a whole number of 0 or more"):
        dataset.as_replay_buffer(prefetch=-1)
    with pytest.raises(SchemaMismatch, match="have no transitions: expected at least one"):
        dataset.as_replay_buffer(where=pc.field("length") > 1000)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_a_sentence(dataset):
    with pytest.raises(InvalidSetting, match="device='cuda': expected a GPU that torch can use, got none"):
        dataset.as_replay_buffer(device="cuda")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_dataloader_gives_every_transition_once_per_epoch_with_any_number_of_workers(tmp_path, num_workers):
    cache, _ = write(tmp_path / "cache")
    everything = PackedStorage(cache).get(slice(None))
    loader = make_dataloader(PackedStorage(cache), DataLoaderOptions(batch_size=8, num_workers=num_workers, seed=3))
    plain = make_dataloader(PackedStorage(cache), DataLoaderOptions(batch_size=8, seed=3))

    assert len(loader) == 5
    orders = []
    for _ in range(2):
        epoch, expected = list(loader), list(plain)
        for got, wanted in zip(epoch, expected, strict=True):
            assert_same(got, wanted)
        orders.append(torch.cat([batch["next", "reward"] for batch in epoch]).flatten().tolist())
        assert sorted(orders[-1]) == sorted(everything["next", "reward"].flatten().tolist())
    assert orders[0] != orders[1]


def test_a_dataloader_of_windows_gives_every_window_once(tmp_path):
    cache, _ = write(tmp_path / "cache")
    everything = PackedStorage(cache).get(slice(None))
    loader = make_dataloader(
        PackedStorage(cache), DataLoaderOptions(batch_size=6, slice_len=5, shuffle=False, drop_last=True)
    )
    expected = [
        start for start in range(30) if (everything["episode"][start : start + 5] == everything["episode"][start]).all()
    ]

    batches = list(loader)
    assert len(batches) == len(loader) == len(expected) // 6
    for number, batch in enumerate(batches):
        for got, start in zip(batch, expected[6 * number : 6 * number + 6], strict=True):
            assert_same(got, everything[start : start + 5])
    with pytest.raises(EpisodesTooShort, match="got 12 at most"):
        make_dataloader(PackedStorage(cache), DataLoaderOptions(batch_size=6, slice_len=13))
