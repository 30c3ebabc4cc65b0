"""``mix()``: batches with a fixed share of each source, and the values that each source's own buffer gives."""

import pickle

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torchrl.data import SamplerWithoutReplacement
from torchrl.envs.transforms import MultiStepTransform

from rlhive import Recorder, RoboHiveDataset, extend, mix
from rlhive.data.replay._mixture_samplers import Shares
from rlhive.errors import (
    CheckpointMismatchError,
    EpisodesTooShortError,
    InvalidOptionError,
    SchemaMismatchError,
)

FAMILY = ("near", "far", "wide")


def record(name, lengths, *, width=3, seed=0, task=None, extra=False, store=None):
    """Write a dataset whose episodes have some lengths."""
    generator = torch.Generator().manual_seed(seed)
    recorder = Recorder(name, store=store)
    for number, length in enumerate(lengths):
        observations = torch.randn(length + 1, width, generator=generator) * (seed + 1) + 10 * seed
        flags = torch.zeros(length, 1, dtype=torch.bool)
        truncated = flags.clone()
        truncated[-1] = True
        fields = {
            "observation": observations[:-1],
            "action": torch.randn(length, 2, generator=generator),
            "next": {
                "observation": observations[1:],
                "reward": torch.randn(length, 1, generator=generator),
                "terminated": flags,
                "truncated": truncated,
                "done": truncated,
            },
        }
        if extra:
            fields["grip"] = torch.randn(length, 1, generator=generator)
        metadata = {} if task is None else {"task": task[number % len(task)]}
        recorder.add_episode(TensorDict(fields, [length]), metadata=metadata)
    return recorder.commit(license="mit")


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory):
    return tmp_path_factory.mktemp("mixture")


@pytest.fixture(scope="module")
def family(shared_store):
    """Three datasets of one layout, and of different sizes and episode lengths."""
    for seed, (name, lengths) in enumerate(zip(FAMILY, ([5, 9, 30], [40] * 10, [3, 8] * 20), strict=True)):
        record(f"my/{name}", lengths, seed=seed, store=shared_store)
    return [RoboHiveDataset(f"my/{name}", store=shared_store) for name in FAMILY]


def require_same_values(buffer, datasets, batch, **options):
    """Compare every transition with that of the source's own storage."""
    first = np.cumsum([0, *map(len, datasets)])
    for number, dataset in enumerate(datasets):
        rows = batch[batch["source"] == number]
        expected = dataset.as_storage(**options).get(rows["index"].flatten() - int(first[number]))
        assert len(rows)
        for key in expected.keys(True, True):
            assert torch.equal(rows.get(key), expected.get(key)), (number, key)


@pytest.mark.parametrize(
    "options",
    [{}, {"n_step": 3}, {"frame_stack": 2}, {"action_chunk": 4, "return_to_go": True}, {"in_memory": True}],
    ids=str,
)
def test_a_batch_has_the_values_of_its_sources(family, options):
    buffer = mix(family, 256, temperature=0, seed=0, **options)
    require_same_values(buffer, family, buffer.sample(), **options)
    for _, batch in zip(range(40), buffer, strict=False):
        require_same_values(buffer, family, batch, **options)


def test_views_keep_their_selection(family):
    views = [family[0].select([1]), family[1].where("episode < 3"), family[2]]
    buffer = mix(views, 128, temperature=0, seed=0)
    batch = buffer.sample()

    assert set(batch["episode"][batch["source"] == 0].tolist()) == {1}
    assert set(batch["episode"][batch["source"] == 1].tolist()) == {0, 1, 2}
    require_same_values(buffer, views, batch)
    assert buffer.sources[1].operations == ("where('episode < 3')",)


@pytest.mark.parametrize("weights", [(0.5, 0.3, 0.2), (1, 1, 1), (97, 2, 1), (0.1, 0.2, 3)], ids=str)
@pytest.mark.parametrize("batch_size", [1, 7, 256])
def test_counts_differ_from_the_shares_by_less_than_one_in_a_batch_and_over_all(family, weights, batch_size):
    buffer = mix(dict(zip(family, weights, strict=True)), batch_size, seed=0)
    shares = np.array(weights) / sum(weights)
    total = np.zeros(3)
    for number in range(1, 101):
        counts = buffer.sample()["source"].bincount(minlength=3).numpy()
        total += counts
        assert counts.sum() == batch_size
        assert (np.abs(counts - batch_size * shares) < 1).all()
        assert (np.abs(total - number * batch_size * shares) < 3).all()


def test_what_rounding_owes_does_not_grow():
    generator = np.random.default_rng(0)
    for _ in range(60):
        weights = generator.random(generator.integers(2, 12)) ** 2
        shares = Shares((weights / weights.sum()).tolist())
        batch_size, total = int(generator.choice([1, 3, 16, 250])), np.zeros(len(weights))
        for number in range(1, 301):
            total += shares.take(batch_size)
            assert (np.abs(total - number * batch_size * weights / weights.sum()) < 2).all()


@pytest.mark.parametrize(
    "options", [{}, {"n_step": 3}, {"normalize": True}, {"normalize": True, "frame_stack": 3}], ids=str
)
def test_a_batch_takes_no_thread_but_the_callers(family, count_new_threads, options):
    buffer = mix(family, 20_000, temperature=0, seed=0, **options)
    assert count_new_threads(buffer.sample) == 0


def test_large_batches_are_normalised_as_small_ones(family):
    buffer = mix(family, 4_000, temperature=0, seed=0, normalize=True)
    batch = buffer.sample()
    for number, dataset in enumerate(family):
        rows = batch[batch["source"] == number]
        expected = dataset.as_storage(normalize=True).get(rows["index"] - sum(map(len, family[:number])))
        assert torch.equal(rows["observation"], expected["observation"])


def test_ragged_fields_are_left_out_or_refused(shared_store):
    for name in ("sound", "noise"):
        recorder = Recorder(f"my/{name}", ragged=["audio"], store=shared_store)
        for length in (3, 5):
            observations = np.random.default_rng(length).normal(size=(length + 1, 2)).astype(np.float32)
            arrays = {
                "observation": observations[:-1],
                "action": np.zeros((length, 1), np.float32),
                "audio": [np.ones((row + 1, 1), np.float32) for row in range(length)],
                "next": {
                    "observation": observations[1:],
                    "reward": np.ones((length, 1), np.float32),
                    "terminated": np.zeros((length, 1), np.bool_),
                    "truncated": np.arange(length)[:, None] == length - 1,
                },
            }
            recorder.add_episode(arrays)
        recorder.commit(license="mit")
    sources = [RoboHiveDataset(f"my/{name}", store=shared_store) for name in ("sound", "noise")]
    buffer = mix(sources, 64, seed=0, ragged="drop")
    require_same_values(buffer, sources, buffer.sample(), ragged="drop")
    with pytest.raises(SchemaMismatchError, match="audio"):
        mix(sources, 64)
    with pytest.raises(InvalidOptionError, match='ragged="nested": expected "error" or "drop" in a mixture'):
        mix(sources, 64, ragged="nested")


def test_sources_are_spread_over_a_batch(family):
    sources = mix(dict(zip(family, (2, 1, 1), strict=True)), 256, seed=0).sample()["source"]
    for part in sources.split(32):
        assert part.bincount(minlength=3).tolist() == [16, 8, 8]


def test_the_transitions_of_a_source_are_drawn_uniformly(family):
    buffer = mix(dict(zip(family, (0.2, 0.4, 0.4), strict=True)), 1000, seed=0)
    counts = torch.zeros(sum(map(len, family)))
    for _ in range(100):
        counts += buffer.sample()["index"].bincount(minlength=len(counts))
    for part, share in zip(counts.split([len(dataset) for dataset in family]), (0.2, 0.4, 0.4), strict=True):
        expected = 100_000 * share / len(part)
        assert ((part - expected) ** 2 / expected).sum() < len(part) + 5 * (2 * len(part)) ** 0.5  # chi squared


@pytest.mark.parametrize(
    ("temperature", "shares"), [(1.0, [44 / 664, 400 / 664, 220 / 664]), (0.0, [1 / 3] * 3)], ids=str
)
def test_sources_without_weights_have_shares_by_size_and_temperature(family, temperature, shares):
    buffer = mix(family, 8, temperature=temperature)
    assert [source.weight for source in buffer.sources] == pytest.approx(shares)


def test_slices_have_the_shares_and_lie_inside_an_episode(family):
    buffer = mix(dict(zip(family, (0.5, 0.25, 0.25), strict=True)), 64, slice_len=8, seed=0)
    for _ in range(20):
        batch = buffer.sample()
        slices = batch.reshape(8, 8)
        assert slices["source"][:, 0].bincount(minlength=3).tolist() == [4, 2, 2]
        assert (slices["source"] == slices["source"][:, :1]).all()
        assert (slices["episode"] == slices["episode"][:, :1]).all()
        assert torch.equal(slices["observation"][:, 1:], slices["next", "observation"][:, :-1])
        assert slices["next", "truncated"][:, -1].all()


def test_a_source_without_an_episode_as_long_as_a_slice_is_refused(family):
    with pytest.raises(EpisodesTooShortError, match="none in source 2"):
        mix(family, 90, slice_len=9)
    batch = mix(family, 90, slice_len=9, short_episodes="pad", seed=0).sample()
    assert not batch["collector", "mask"][batch["source"] == 2].all()


@pytest.mark.parametrize("prefetch", [0, 3])
def test_the_same_seed_gives_the_same_batches_in_calls_loops_and_threads(family, prefetch):
    plain = mix(family, 50, seed=5)
    expected = [plain.sample() for _ in range(30)]
    loop = mix(family, 50, seed=5, prefetch=prefetch)
    for batch, other in zip(expected, loop, strict=False):
        assert (batch == other).all()
    again = mix(family, 50, seed=5, prefetch=prefetch)
    for number, batch in enumerate(expected):
        other = again.sample() if number % 3 else next(iter(again))
        assert (batch == other).all()


def test_a_checkpoint_goes_on_with_the_next_batch(family, tmp_path):
    weights = dict(zip(family, (0.5, 0.3, 0.2), strict=True))
    buffer, undisturbed = mix(weights, 7, seed=0), mix(weights, 7, seed=0)
    for _ in range(3):
        assert (buffer.sample() == undisturbed.sample()).all()
    buffer.dumps(tmp_path / "buffer")
    state, generator = buffer.state_dict(), buffer._rng.get_state()
    expected = [undisturbed.sample() for _ in range(5)]
    assert all((buffer.sample() == batch).all() for batch in expected)

    for load in (lambda other: other.load_state_dict(state), lambda other: other.loads(tmp_path / "buffer")):
        other = mix(weights, 7)
        load(other)
        other._rng.set_state(generator)
        assert all((other.sample() == batch).all() for batch in expected)
    with pytest.raises(CheckpointMismatchError, match=r"expected shares \[0.5, 0.25, 0.25\]"):
        mix(dict(zip(family, (2, 1, 1), strict=True)), 7).load_state_dict(state)


def test_another_sampler_draws_and_sources_are_still_named(family):
    buffer = mix(family, 300, temperature=0, seed=0)
    buffer.sample()
    buffer.set_sampler(SamplerWithoutReplacement())
    epoch = torch.cat(list(buffer))
    assert sorted(epoch["index"].tolist()) == list(range(664))
    require_same_values(buffer, family, epoch)


def test_a_copy_by_pickle_gives_the_same_batches(family):
    buffer = mix(family, 20, seed=0)
    copied = pickle.loads(pickle.dumps(buffer.storage))
    index = torch.arange(len(copied))
    assert (copied.get(index) == buffer.storage.get(index)).all()


def test_normalisation_takes_the_statistics_of_each_source(family):
    plain, normalized = (mix(family, 400, temperature=0, seed=0, normalize=option) for option in (False, True))
    batch, other = plain.sample(), normalized.sample()
    for number, dataset in enumerate(family):
        rows = batch["source"] == number
        expected = dataset.as_storage(normalize=True).get(batch["index"][rows] - sum(map(len, family[:number])))
        for key in ("observation", ("next", "observation")):
            torch.testing.assert_close(other.get(key)[rows], expected.get(key))
            assert not torch.equal(other.get(key)[rows], batch.get(key)[rows])
    stacked = mix(family, 60, frame_stack=2, temperature=0, seed=0, normalize=["observation"]).sample()
    rows = stacked["source"] == 1
    expected = family[1].as_storage(frame_stack=2, normalize=True).get(stacked["index"][rows] - len(family[0]))
    torch.testing.assert_close(stacked["observation"][rows], expected["observation"])


def test_given_numbers_normalise_all_sources(family):
    mean, std = torch.ones(3), torch.full((3,), 2.0)
    batch = mix(family, 60, seed=0, normalize={"observation": (mean, std)}).sample()
    plain = mix(family, 60, seed=0).sample()
    torch.testing.assert_close(batch["observation"], ((plain["observation"] - 1) / 2).clamp(-10, 10))


def test_every_transition_has_the_position_of_its_instruction(family):
    record("my/told", [4] * 6, task=("open the door", "close the door"))
    told = RoboHiveDataset("my/told")
    buffer = mix([family[0], told], 64, temperature=0, seed=0)
    batch = buffer.sample()

    assert buffer.tasks == ("my/near", "open the door", "close the door")
    assert set(batch["task"][batch["source"] == 0].tolist()) == {0}
    for episode, task in zip(batch["episode"].tolist(), batch["task"].tolist(), strict=True):
        assert task == 0 or buffer.tasks[task] == ("open the door", "close the door")[episode % 2]
    assert set(batch["task"].tolist()) == {0, 1, 2}


def test_sources_with_other_keys_are_refused_by_name_or_filled_and_masked(family):
    record("my/gripper", [6] * 4, extra=True)
    gripper = RoboHiveDataset("my/gripper")
    sources = [family[0], family[1], gripper]
    with pytest.raises(SchemaMismatchError, match=r"grip: in my/gripper 1.0.0, not in my/near 1.0.0, my/far 1.0.0"):
        mix(sources)
    buffer = mix(sources, 90, temperature=0, missing="mask", seed=0)
    batch = buffer.sample()
    has_grip = batch["source"] == 2

    assert torch.equal(batch["present", "grip"], has_grip)
    assert (batch["grip"][~has_grip] == 0).all()
    assert (batch["grip"][has_grip] != 0).all()
    require_same_values(buffer, sources[:2], batch)
    selected = mix(sources, 90, temperature=0, seed=0, keys=["observation", "action", ("next", "reward")]).sample()
    assert torch.equal(selected["observation"], batch["observation"])
    for _, looped in zip(range(20), buffer, strict=False):
        assert looped["source"].bincount().tolist() == [30, 30, 30]


def test_keys_of_different_shapes_are_refused(family):
    record("my/other", [6] * 4, width=5)
    message = r"observation: float32 \[3\] in my/near 1.0.0, float32 \[5\] in my/other 1.0.0"
    for missing in ("error", "mask"):
        with pytest.raises(SchemaMismatchError, match=message):
            mix([family[0], RoboHiveDataset("my/other")], missing=missing)


def test_a_buffer_that_grows_is_a_source_like_others(family):
    online = extend(family[0].as_replay_buffer(), 500)
    buffer = mix({family[1]: 0.75, online: 0.25}, 40, seed=0)
    batch = buffer.sample()
    assert batch["source"].bincount().tolist() == [30, 10]
    rows = family[2].as_tensordict()[:200]
    online.extend(rows)
    seen = torch.cat([buffer.sample() for _ in range(100)])
    seen = seen[seen["source"] == 1]

    is_new = (seen["observation"][:, None] == rows["observation"]).all(-1).any(1)
    assert 0.7 < is_new.float().mean() < 0.95  # 200 of 244
    assert buffer.sources[1].name == "online"
    with pytest.raises(InvalidOptionError, match="slice_len=4"):
        mix({family[1]: 0.5, online: 0.5}, 40, slice_len=4)
    with pytest.raises(InvalidOptionError, match="no statistics"):
        mix({family[1]: 0.5, online: 0.5}, 40, normalize=True)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((1, -1, 1), "Weight of my/far 1.0.0: expected a finite number of 0 or more, got -1"),
        ((1, float("nan"), 1), "got nan"),
        ((1, "much", 1), "got 'much'"),
        ((0, 0, 0), r"expected a weight above 0, got \[0, 0, 0\]"),
    ],
    ids=str,
)
def test_weights_that_give_no_shares_are_refused(family, weights, message):
    with pytest.raises(InvalidOptionError, match=message):
        mix(dict(zip(family, weights, strict=True)))


def test_a_source_of_weight_zero_is_left_out_and_no_source_is_refused(family):
    buffer = mix(dict(zip(family, (1, 0, 1), strict=True)), 10)
    assert [source.name for source in buffer.sources] == ["my/near", "my/wide"]
    with pytest.raises(InvalidOptionError, match="at least one source"):
        mix([])
    with pytest.raises(InvalidOptionError, match="temperature=-1"):
        mix(family, temperature=-1)
    with pytest.raises(InvalidOptionError, match="expected 0 for a source without transitions"):
        mix({family[0].where("episode > 100"): 1.0, family[1]: 1.0})


def test_names_are_opened_and_the_recipe_has_versions_and_fingerprints(family, shared_store, monkeypatch):
    monkeypatch.setenv("RLHIVE_DATASETS_PATH", str(shared_store))
    buffer = mix({"my/near": 3, "my/far": 1}, 16)
    assert buffer.to_json()[0] == {
        "name": "my/near",
        "version": "1.0.0",
        "fingerprint": family[0].fingerprint,
        "operations": [],
        "num_transitions": 44,
        "weight": 0.75,
    }
    assert "75.0%  my/near 1.0.0, 44" in repr(buffer)


def test_a_mixture_of_one_source_and_one_of_a_transform(family):
    single = mix([family[1]], 32, seed=0, transform=lambda batch: batch.set("twice", 2 * batch["source"] + 1))
    batch = single.sample()
    assert (batch["twice"] == 1).all()
    transform = MultiStepTransform(3, 0.9)
    fused, computed = (
        mix(family, 64, seed=0, transform=transform).sample(),
        mix(family, 64, seed=0, n_step=3, gamma=0.9),
    )
    assert torch.equal(fused["next", "reward"], computed.sample()["next", "reward"])
    online = extend(family[0].as_replay_buffer(), 500)
    with pytest.raises(InvalidOptionError, match="MultiStepTransform"):
        mix({family[1]: 0.5, online: 0.5}, transform=transform)
