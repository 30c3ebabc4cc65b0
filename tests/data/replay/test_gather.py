import pickle

import pytest
import torch
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs.transforms import CatFrames, MultiStepTransform, ObservationNorm, Reward2GoTransform

from rlhive.data.replay import _layout
from rlhive.data.replay._buffer import make_replay_buffer
from rlhive.data.replay._gather import Window
from rlhive.data.replay._options import SamplingOptions
from rlhive.data.replay._samplers import EpisodeSliceSampler
from rlhive.data.replay._storage import PackedStorage
from rlhive.data.versions._export import export
from rlhive.dataset._dataset import RoboHiveDataset
from rlhive.errors import SchemaMismatchError
from tests.data.replay.caches import LENGTHS, assert_same, write_cache
from tests.data.strategies import teleoperated_records

ALL = slice(None)


@pytest.fixture(params=["records", "wide", "encoded"])
def cache(tmp_path, monkeypatch, request):
    """Episodes in one block of records, or with observations in blocks of their own, raw or compressed."""
    if request.param != "records":
        monkeypatch.setattr(_layout, "WIDE", 16)
    image_cache = "encoded" if request.param == "encoded" else "raw"
    return write_cache(tmp_path / "cache", ended="terminated", image_cache=image_cache)[0]


def episodes_of(td):
    return td.split(LENGTHS)


def multi_step(td, n_step, gamma):
    """What TorchRL's buffer holds after ``extend`` with its transform, which keeps the last n_step rows back."""
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(len(td) + n_step), transform=MultiStepTransform(n_step, gamma), batch_size=1
    )
    buffer.extend(torch.cat([td, td[-n_step:]]).contiguous())
    return buffer[: len(td)]


@pytest.mark.parametrize("n_step", [2, 3, 8, 20])
def test_n_step_is_torchrls_multi_step_transform(cache, n_step):
    expected = multi_step(PackedStorage(cache).get(ALL), n_step, 0.9)
    got = PackedStorage(cache, window=Window(n_step=n_step, gamma=0.9)).get(ALL)

    assert set(expected.keys(True, True)) - set(got.keys(True, True)) <= {"index"}
    torch.testing.assert_close(got["next", "reward"], expected["next", "reward"], rtol=1e-13, atol=1e-13)
    for key in got.exclude(("next", "reward")).keys(True, True):
        assert got[key].dtype == expected[key].dtype, key
        assert got[key].contiguous().numpy().tobytes() == expected[key].contiguous().numpy().tobytes(), key


@pytest.mark.parametrize("frames", [2, 3, 9])
def test_a_frame_stack_is_torchrls_cat_frames(cache, frames):
    keys = ["observation", ("next", "observation")]
    plain = PackedStorage(cache).get(ALL).select("observation", "next")
    got = PackedStorage(cache, window=Window(frame_stack=frames)).get(ALL)

    expected = []
    for episode in episodes_of(plain):
        cat = CatFrames(frames, dim=-1, in_keys=keys, padding="same")
        expected.append(cat(episode.clone().unsqueeze(0).refine_names(None, "time")).squeeze(0).rename(None))
    expected = torch.cat(expected)
    for key in keys:
        assert torch.equal(got[key].nan_to_num(7.0), expected[key].nan_to_num(7.0)), key
    assert torch.equal(got["parts", "camera"], PackedStorage(cache).get(ALL)["parts", "camera"])


def test_frames_are_those_before_a_transition_clamped_to_its_episode(cache):
    """Against a loop over rows, together with n_step."""
    plain = PackedStorage(cache).get(ALL)
    got = PackedStorage(cache, window=Window(frame_stack=3, n_step=2)).get(ALL)
    row = 0
    for episode in episodes_of(plain):
        states = torch.cat([episode["observation"], episode["next", "observation"][-1:]])
        for step in range(len(episode)):
            target = min(step + 2, len(episode))
            root = torch.cat([states[max(0, step - back)] for back in (2, 1, 0)])
            following = torch.cat([states[max(0, target - back)] for back in (2, 1, 0)])
            assert torch.equal(got["observation"][row], root)
            assert torch.equal(got["next", "observation"][row], following)
            row += 1


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_return_to_go_is_torchrls_transform(cache, gamma):
    plain = PackedStorage(cache).get(ALL)
    got = PackedStorage(cache, return_to_go=gamma).get(ALL)

    discount = torch.tensor(gamma, dtype=torch.float64)  # a Python float becomes float32 in there
    expected = [
        Reward2GoTransform(discount, out_keys=["return_to_go"]).inv(episode.clone())["return_to_go"]
        for episode in episodes_of(plain)
    ]
    torch.testing.assert_close(got["return_to_go"], torch.cat(expected), rtol=1e-12, atol=1e-12)
    assert_same(got.exclude("return_to_go"), plain)


def test_normalised_values_are_torchrls_observation_norm_clipped_to_ten(cache):
    plain = PackedStorage(cache, keys=["action"]).get(ALL)
    loc, scale = torch.tensor([0.5, -2.0]), torch.tensor([3.0, 0.1])
    got = PackedStorage(cache, keys=["action"], window=Window(normalize={"action": (loc, scale)})).get(ALL)
    norm = ObservationNorm(loc=loc, scale=scale, in_keys=["action"], standard_normal=True)

    expected = norm(plain.clone())
    assert not torch.equal(expected["action"], plain["action"])
    assert expected["action"].abs().gt(10).any()
    expected["action"].clamp_(-10, 10)
    assert_same(got, expected)


def test_the_two_stacks_of_a_batch_of_one_share_no_memory(cache):
    storage = PackedStorage(cache, keys=["observation"], window=Window(frame_stack=2))
    batch = storage.get(torch.tensor([2]))
    expected = batch["next", "observation"].clone()
    batch["observation"].fill_(-7.0)

    assert torch.equal(batch["next", "observation"].nan_to_num(5.0), expected.nan_to_num(5.0))


def test_invalid_normalisation_and_windows_are_errors(cache):
    one = torch.ones(1)
    with pytest.raises(SchemaMismatchError, match="gripper, got int64"):
        PackedStorage(cache, window=Window(normalize={"gripper": (one, one)}))
    for wrong in ({"n_step": 0}, {"frame_stack": 1.5}, {"gamma": 1.2}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Window(**wrong)


@pytest.mark.parametrize("episodes", [None, [0, 1, 2], [3, 0, 4], [0, 2, 1, 3]])
@pytest.mark.parametrize("window", [Window(), Window(n_step=3, frame_stack=2)], ids=["pair", "window"])
def test_in_memory_and_pickled_storages_serve_the_same(cache, episodes, window):
    episodes = None if episodes is None else torch.tensor(episodes)
    arguments = {"window": window, "return_to_go": 0.5}
    mapped = PackedStorage(cache, episodes, **arguments)
    resident = PackedStorage(cache, episodes, resident=True, **arguments)
    index = torch.tensor([0, 3, -1, len(mapped) - 2])

    for storage in (resident, pickle.loads(pickle.dumps(mapped)), pickle.loads(pickle.dumps(resident))):
        assert_same(storage.get(ALL), mapped.get(ALL))
        assert_same(storage.get(index), mapped.get(index))
    cache.data[0].zero_()  # a private mapping: the file keeps its content
    assert resident.get(ALL)["next", "reward"].any()


def test_another_device_gets_every_leaf(cache):
    """Without a GPU: the device that has shapes and no values."""
    plain = PackedStorage(cache).get(ALL)
    got = PackedStorage(cache, device="meta").get(ALL)

    assert got.device.type == "meta"
    for key in plain.keys(True, True):
        assert got[key].is_meta
        assert (got[key].shape, got[key].dtype) == (plain[key].shape, plain[key].dtype)


def test_slices_go_together_with_windows(cache):
    storage = PackedStorage(cache, window=Window(n_step=2, frame_stack=2), return_to_go=1.0)
    everything = storage.get(ALL)
    buffer = make_replay_buffer(
        storage, SamplingOptions(batch_size=8, sampler=EpisodeSliceSampler(storage, slice_len=4), seed=0)
    )

    batch = buffer.sample()
    flags = [("next", flag) for flag in ("done", "terminated", "truncated")]
    expected = everything[batch["index"].squeeze(1)]
    assert_same(batch.exclude("index", *flags), expected.exclude(*flags))


def test_options_that_sum_rewards_say_that_none_were_recorded(tmp_path):
    dataset = RoboHiveDataset(export(teleoperated_records([5, 6]), "lab/teleop", license="mit", store=tmp_path))

    batch = dataset.as_replay_buffer(batch_size=4).sample()

    assert ("next", "reward") not in batch.keys(include_nested=True)
    for options, name in ({"n_step": 3}, "n_step=3"), ({"return_to_go": True}, "return_to_go"):
        with pytest.raises(SchemaMismatchError, match=f"{name}: expected rewards to sum, .* no reward was recorded"):
            dataset.as_replay_buffer(batch_size=4, **options)
