"""uint16, uint32 and bfloat16 through every layer, bit for bit: recording, versions, checks, buffers, exports."""

import json
import os
import re
import shutil

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from tensordict import TensorDict
from torchrl.data import PrioritizedSampler, SamplerWithoutReplacement

import rlhive
from rlhive import Recorder, RoboHiveDataset, export_to, extend, import_dataset
from rlhive.data import BFLOAT16, Schema, cast_array, to_numbers
from rlhive.data._dtypes import DTYPES, array_to_tensor, dtype_name, tensor_to_array, to_numpy_dtype, view_bits
from rlhive.data.checks import run_checks
from rlhive.data.recording import Recording, _journal, commit_recording
from rlhive.data.versions import diff
from rlhive.errors import SchemaMismatchError

EXAMPLES = int(os.environ.get("RLHIVE_FUZZ", "25"))
LENGTHS = (6, 4)
#: Column: dtype, shape of a row, and whether it is observed.
COLUMNS = {
    ("depth", "top"): (torch.uint16, (3, 4)),
    "depth_mm": (torch.uint16, (1,)),
    "ticks": (torch.uint32, (2,)),
    "observation": (torch.bfloat16, (3,)),
}
#: Columns that have no next value, and the reward.
ACTIONS = {"action": (torch.bfloat16, (2,)), "counter": (torch.uint32, ())}
BITS = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.bfloat16: torch.int16}


def draw(generator, dtype, shape):
    """Return values over the whole range; bfloat16 without NaN, which a recorder refuses."""
    if dtype == torch.bfloat16:
        return torch.from_numpy(generator.normal(size=shape) * 10.0 ** generator.integers(-30, 30, shape)).to(dtype)
    size = np.iinfo(str(dtype).removeprefix("torch.")).bits
    return array_to_tensor(generator.integers(0, 2**size, shape, dtype=f"uint{size}"))


def episode(number, length):
    generator = np.random.default_rng(number)
    td = TensorDict({}, [length])
    for key, (dtype, shape) in COLUMNS.items():
        states = draw(generator, dtype, (length + 1, *shape))
        td[key] = states[:-1].clone()
        td[("next", *([key] if isinstance(key, str) else key))] = states[1:].clone()
    for key, (dtype, shape) in ACTIONS.items():
        td[key] = draw(generator, dtype, (length, *shape))
    td["next", "reward"] = torch.from_numpy(generator.normal(size=(length, 1))).to(torch.bfloat16)
    td["next", "terminated"] = torch.zeros(length, 1, dtype=torch.bool)
    td["next", "truncated"] = torch.arange(length)[:, None] == length - 1
    return td


EPISODES = [episode(number, length) for number, length in enumerate(LENGTHS)]
STORED = torch.cat(EPISODES)
KEYS = [key for key in STORED.keys(True, True) if STORED[key].dtype in BITS]


def assert_same_bits(got, expected, keys=KEYS):
    """Compare values as integers of their bits, whatever kernels torch has for the dtype."""
    for key in keys:
        assert got[key].dtype == expected[key].dtype, key
        bits = BITS[expected[key].dtype]
        assert torch.equal(got[key].contiguous().view(bits), expected[key].contiguous().view(bits)), key


def rows(td, index):
    """Return some rows of a TensorDict; torch indexes no unsigned integers by a tensor, so the bits are."""
    return {key: td[key].view(BITS[td[key].dtype])[index.flatten()].view(td[key].dtype) for key in KEYS}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def dataset(store):
    with Recorder("lab/depth", policy="operator", store=store) as recorder:
        recorder.extend(EPISODES[0])
        for row in EPISODES[1]:
            recorder.step(row)
        assert recorder.num_episodes == 2
    return RoboHiveDataset(recorder.commit(license="mit"), store=store)


def test_a_recording_and_a_version_hold_every_bit(dataset):
    assert dataset.schema["depth.top"].dtype == dataset.schema["depth_mm"].dtype == "uint16"
    assert dataset.schema["ticks"].dtype == dataset.schema["counter"].dtype == "uint32"
    assert dataset.schema["observation"].dtype == dataset.schema["next.reward"].dtype == "bfloat16"
    assert_same_bits(dataset.as_tensordict(), STORED)
    for got, expected in zip(dataset.iter_episodes(), EPISODES, strict=True):
        assert_same_bits(got, expected)
    assert_same_bits(next(dataset.iter_batches(10, dtype=None)), STORED)
    shuffled = next(dataset.iter_batches(10, dtype=None, shuffle=10, seed=0))
    order = torch.tensor([dataset.as_arrow()["counter"].to_pylist().index(int(value)) for value in shuffled["counter"]])
    assert_same_bits(shuffled, rows(STORED, order))


def test_an_interrupted_episode_is_recovered_with_its_bits(store, monkeypatch):
    monkeypatch.setattr(_journal, "SAVE_SECONDS", 0.0)
    killed = Recorder("lab/killed", store=store)
    for row in EPISODES[0][:4]:
        killed.step(row)
    path = killed.path
    shutil.copytree(path, path.with_name("copy"))  # what a kill would leave
    killed.close()
    (recorded,) = commit_and_read(path.with_name("copy"), store)
    assert_same_bits(recorded, EPISODES[0][:4])


def commit_and_read(path, store):
    recording = Recording(path)
    return RoboHiveDataset(commit_recording(recording, license="mit", store=store), store=store).iter_episodes()


def test_parquet_holds_plain_columns_and_the_bits_of_bfloat16(dataset):
    read = datasets.load_dataset("parquet", data_files=str(dataset.path / "data/*.parquet"), split="train")
    assert str(read.features["counter"].dtype) == "uint32"
    assert str(read.features["depth.top"].feature.dtype) == "uint16"
    depth = np.array(read["depth.top"], np.uint16).reshape(-1, 3, 4)
    np.testing.assert_array_equal(depth, STORED["depth", "top"].numpy())
    bits = torch.tensor(np.array(read["observation"], np.uint16))
    assert torch.equal(bits.view(torch.bfloat16), STORED["observation"])
    card = (dataset.path / "README.md").read_text()
    assert "bfloat16" in card
    assert "torch.tensor(values, dtype=torch.uint16).view(torch.bfloat16)" in card


def test_statistics_are_those_of_the_numbers(dataset):
    statistics = dataset.statistics
    for name in ("observation", "action", "next.reward", "ticks", "depth_mm"):
        values = STORED[tuple(name.split("."))].to(torch.float64)
        np.testing.assert_allclose(statistics[name]["mean"], values.mean(0).numpy(), rtol=1e-12)
        assert statistics[name]["min"] == values.amin(0).tolist()
        assert statistics[name]["max"] == values.amax(0).tolist()
        assert statistics[name]["q50"] is not None
    returns = [float(td["next", "reward"].double().sum()) for td in EPISODES]
    np.testing.assert_allclose(dataset.episodes["return"].to_pylist(), returns, rtol=1e-12)


def test_checks_pass_and_see_nan_and_infinity(dataset, store):
    report = run_checks(dataset.path)
    assert report.ok, [result for result in report.results.values() if result.status == "failed"]
    assert report.results["infinite"].status == report.results["nan_elsewhere"].status == "passed"

    def spoil(columns, final):
        values = np.zeros((len(columns["observation"]) + 1, 1), np.float32)
        values[1], values[-1] = np.nan, np.inf
        return cast_array(values, BFLOAT16)

    spoilt = dataset.add_column("extra", spoil, name="lab/spoilt")
    results = run_checks(spoilt.path).results
    assert (
        results["nan_elsewhere"].findings
        == [f"episode {number} (train), row 1: extra is NaN." for number in (0, 1)][: results["nan_elsewhere"].count]
    )
    assert "final value: extra is infinite" in results["infinite"].findings[0]


def test_a_nan_in_bfloat16_is_refused_when_it_is_recorded(store):
    spoilt = EPISODES[0].clone()
    spoilt["action"][2, 1] = float("nan")
    with (
        Recorder("lab/nan", store=store) as recorder,
        pytest.raises(SchemaMismatchError, match="row 2: key action is NaN"),
    ):
        recorder.add_episode(spoilt)


def test_every_kind_of_batch_has_the_bits(dataset):
    plain = dataset.as_replay_buffer(5, dtype=None, seed=0)
    assert_same_bits(plain[:], STORED)
    for options in (
        {"seed": 0},
        {"seed": 0, "prefetch": 2},
        {"sampler": SamplerWithoutReplacement()},
        {"sampler": PrioritizedSampler(10, 0.7, 0.9)},
        {"in_memory": True, "seed": 1},
    ):
        buffer = dataset.as_replay_buffer(5, dtype=None, **options)
        for _ in range(3):
            batch = buffer.sample()
            assert_same_bits(batch, rows(STORED, batch["index"]))
    for batch in dataset.as_dataloader(4, shuffle=False, dtype=None):
        assert batch["ticks"].dtype == torch.uint32
    slices = dataset.as_replay_buffer(8, slice_len=4, dtype=None, seed=0).sample()
    assert_same_bits(slices, rows(STORED, slices["index"]))
    padded = dataset.as_replay_buffer(10, slice_len=5, short_episodes="pad", dtype=None, seed=0).sample()
    assert padded["depth_mm"].dtype == torch.uint16
    encoded = dataset.as_replay_buffer(5, dtype=None, image_cache="encoded")[:]
    assert_same_bits(encoded, STORED)


def test_a_batch_is_cloned_cast_indexed_and_saved(dataset, tmp_path):
    batch = dataset.as_replay_buffer(5, dtype=None, seed=0).sample()
    expected = rows(STORED, batch["index"])
    assert_same_bits(batch.clone(), expected)
    assert_same_bits(batch[torch.arange(5)], expected)
    assert_same_bits(torch.stack([batch, batch])[1], expected)
    torch.save(batch, tmp_path / "batch.pt")
    assert_same_bits(torch.load(tmp_path / "batch.pt", weights_only=False), expected)
    assert torch.equal(batch.to(torch.float32)["ticks"], expected["ticks"].float())


def test_windows_join_and_sum(dataset):
    stacked = dataset.as_replay_buffer(5, frame_stack=2, dtype=None)[:]
    assert stacked["observation"].dtype == torch.bfloat16
    assert torch.equal(stacked["observation"][2], torch.cat([STORED["observation"][1], STORED["observation"][2]]))
    stepped = dataset.as_replay_buffer(5, n_step=2)[:]
    assert torch.equal(stepped["next", "ticks"][0].long(), STORED["next", "ticks"][1].long())
    rewards = STORED["next", "reward"].float()
    torch.testing.assert_close(stepped["next", "reward"][0], rewards[0] + 0.99 * rewards[1])
    with pytest.raises(SchemaMismatchError, match="expected a floating-point field depth_mm, got uint16"):
        dataset.as_replay_buffer(5, normalize={"depth_mm": (torch.zeros(1), torch.ones(1))})
    normalized = dataset.as_replay_buffer(5, normalize=["action"])[:]["action"]
    statistics = dataset.statistics["action"]
    expected = (STORED["action"].double() - torch.tensor(statistics["mean"])) / torch.tensor(statistics["std"])
    torch.testing.assert_close(normalized.double(), expected.clamp(-10, 10), rtol=1e-5, atol=1e-6)


def test_batches_are_float32_where_columns_are_floating_point(dataset):
    batch = dataset.as_replay_buffer(5)[:]
    for key in KEYS:
        expected = torch.float32 if STORED[key].dtype == torch.bfloat16 else STORED[key].dtype
        assert batch[key].dtype == expected, key
        assert torch.equal(batch[key].double(), STORED[key].double()), key
    assert torch.equal(next(dataset.iter_batches(10))["observation"], STORED["observation"].float())


def test_an_online_buffer_grows_and_is_exported(dataset, store):
    online = extend(dataset.as_replay_buffer(dtype=None), 100)
    online.extend(next(dataset.iter_episodes()).exclude("episode"))
    assert_same_bits(online[:10], STORED)
    sampled = online.sample(7)
    assert_same_bits(sampled.clone(), rows(torch.cat([*EPISODES, EPISODES[0]]), sampled["index"]))
    assert_same_bits(online[10:16], EPISODES[0])
    folder = rlhive.export(online, "lab/online", license="mit", store=store)
    assert [td["ticks"].dtype for td in RoboHiveDataset(folder, store=store).iter_episodes()] == [torch.uint32] * 3


def test_versions_are_merged_appended_changed_and_compared(dataset, store):
    with Recorder("lab/more", store=store) as recorder:
        recorder.add_episode(episode(2, 3))
    more = RoboHiveDataset(recorder.commit(license="mit"), store=store)
    both = dataset.merge(more, name="lab/both")
    assert_same_bits(both.as_tensordict(), torch.cat([*EPISODES, episode(2, 3)]))
    assert_same_bits(dataset.select([1]).save("lab/one").as_tensordict(), EPISODES[1])
    named = dataset.rename_column("depth_mm", "range_mm", name="lab/named")
    assert torch.equal(named.as_tensordict()["range_mm"], STORED["depth_mm"])
    wider = dataset.add_column("metres", lambda columns, _: columns["depth_mm"] * np.float32(1e-3), name="lab/wider")
    torch.testing.assert_close(wider.as_tensordict()["metres"], STORED["depth_mm"].float() * 1e-3)
    added = dataset.add_column("half", lambda columns, _: array_to_tensor(columns["action"]) / 2, name="lab/half")
    assert added.schema["half"].dtype == "bfloat16"
    assert torch.equal(added.as_tensordict()["half"], STORED["action"] / 2)
    relabelled = dataset.relabel(lambda columns, _: to_numbers(columns["action"])[:, :1], name="lab/relabelled")
    assert torch.equal(relabelled.as_tensordict()["next", "reward"], STORED["action"][:, :1])
    for other in (both, named, wider, added, relabelled):
        assert run_checks(other.path).ok
    columns = diff(dataset.path, dataset.drop_column("ticks", name="lab/dropped").path).columns
    assert columns["dropped"] == {"ticks": "uint32 (2,), with next"}
    assert diff(dataset.path, dataset.path).num_same == 2


def test_conditions_and_hashes_tell_bits_from_integers(dataset):
    records = list(dataset.as_source().records())
    assert records[0].columns["observation"].dtype == BFLOAT16
    as_integers = {**records[0].columns, "observation": view_bits(records[0].columns["observation"])}
    changed = type(records[0])(episode=0, split="train", columns=as_integers, final=records[0].final)
    assert changed.content_hash() != records[0].content_hash()


def test_other_formats_hold_the_numbers(dataset, store, tmp_path, caplog):
    flat = dataset.drop_column("depth.top", name="lab/flat")
    for kind in ("minari", "lerobot"):
        caplog.clear()
        options = {"fps": 10} if kind == "lerobot" else {}
        export_to(kind, flat.path, tmp_path / kind, progress=False, **options)
        assert (
            f"{kind} has no bfloat16: written as float32, the same numbers: action, next.reward, observation"
            in caplog.text
        )
        folder = import_dataset(kind, tmp_path / kind, f"lab/{kind}", license="mit", store=store, progress=False)
        again = RoboHiveDataset(folder, store=store).as_tensordict()
        prefix = ("info",) if kind == "minari" else ()
        assert torch.equal(again["observation"], STORED["observation"].float())
        assert torch.equal(again["next", "observation"], STORED["next", "observation"].float())
        assert again[*prefix, "ticks"].dtype == torch.uint32
        assert again[*prefix, "depth_mm"].dtype == torch.uint16
        assert torch.equal(again[*prefix, "counter"].flatten(), STORED["counter"])
    space = json.loads(json.loads((tmp_path / "minari/data/metadata.json").read_text())["action_space"])
    assert space["dtype"] == "float32"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.zeros(2, 1, dtype=torch.uint64), "uint64. Convert it to int64, where all numbers are below 2^63"),
        (
            torch.zeros(2, 1, dtype=torch.complex64),
            "complex64. Convert it to float32 [..., 2], torch.view_as_real() of it",
        ),
        (torch.zeros(2, 1, dtype=torch.float8_e5m2), "float8_e5m2. Convert it to bfloat16 or float32"),
    ],
)
def test_a_dtype_that_no_column_has_is_refused_with_the_conversion(values, message, store):
    td = TensorDict({"observation": torch.zeros(2, 1), "x": values, "next": {"observation": torch.zeros(2, 1)}}, [2])
    expected = re.escape(f"key x: expected a tensor of one of {', '.join(DTYPES)}, got {message}")
    with Recorder("lab/refused", store=store) as recorder, pytest.raises(SchemaMismatchError, match=expected):
        recorder.extend(td)
    recorder.recording.discard()


def test_a_column_without_elements_is_refused_before_arrow_sees_it(dataset, store):
    empty = torch.zeros(2, 0)
    td = TensorDict({"observation": torch.zeros(2, 1), "x": empty, "next": {"observation": torch.zeros(2, 1)}}, [2])
    message = re.escape("key x: expected at least one value in a row, got float32 (0,). Leave the key out.")
    with Recorder("lab/empty", store=store) as recorder, pytest.raises(SchemaMismatchError, match=message):
        recorder.extend(td)
    recorder.recording.discard()
    with pytest.raises(SchemaMismatchError, match=message.replace("float32", "float64")):
        dataset.add_column("x", lambda columns, _: np.zeros((len(columns["ticks"]), 0)), name="lab/empty")


@settings(max_examples=EXAMPLES, deadline=None)
@given(bits=st.lists(st.integers(0, 2**16 - 1), min_size=1, max_size=40))
def test_every_bfloat16_is_the_number_that_torch_says(bits):
    array = np.array(bits, np.uint16).view(BFLOAT16)
    tensor = array_to_tensor(array)
    assert tensor.dtype == torch.bfloat16
    np.testing.assert_array_equal(to_numbers(array), tensor.float().numpy())
    np.testing.assert_array_equal(view_bits(tensor_to_array(tensor)), np.array(bits, np.uint16))
    is_number = ~np.isnan(to_numbers(array))
    np.testing.assert_array_equal(cast_array(to_numbers(array), BFLOAT16)[is_number], array[is_number])


@settings(max_examples=EXAMPLES, deadline=None)
@given(numbers=st.lists(st.floats(width=32), min_size=1, max_size=40))
def test_rounding_to_bfloat16_is_that_of_torch(numbers):
    values = np.array(numbers, np.float32)
    got, expected = to_numbers(cast_array(values, BFLOAT16)), torch.from_numpy(values).bfloat16().float().numpy()
    np.testing.assert_array_equal(got, expected)


def test_names_and_dtypes_are_inverse():
    for name in DTYPES:
        assert dtype_name(to_numpy_dtype(name)) == name
        if name != "string":
            assert getattr(torch, name) == array_to_tensor(np.zeros(1, to_numpy_dtype(name))).dtype


def test_a_schema_is_read_back():
    schema = Schema.from_tensordict(EPISODES[0])
    assert Schema.from_json(json.loads(json.dumps(schema.to_json()))) == schema
