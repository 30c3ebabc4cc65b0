"""Columns whose rows have different lengths: from a recording to every reader and back, bit for bit."""

import pickle

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from tensordict import TensorDict

import rlhive
from rlhive.data._arrow import columns_to_arrays, columns_to_batch, table_to_columns
from rlhive.data._dtypes import BFLOAT16
from rlhive.data._episodes import EpisodeRecord
from rlhive.data._ragged import have_equal_bits, join_rows, make_rows, split_rows, to_nested
from rlhive.data._schema import Field, Schema
from rlhive.data.formats import export_to
from rlhive.data.recording import _journal
from rlhive.data.recording._recorder import Recorder
from rlhive.data.replay import PackedCache
from rlhive.data.versions._diff import diff
from rlhive.dataset._dataset import RoboHiveDataset
from rlhive.errors import CorruptDatasetError, InvalidOptionError, SchemaMismatchError
from rlhive.rollouts import check


def rows_of(lengths, dtype, *inner, seed=0):
    """Return rows of random bits, one of each length."""
    generator = np.random.default_rng(seed)
    return [generator.integers(0, 100, (length, *inner)).astype(dtype) for length in lengths]


def steps(lengths, seed=0, *, ended="truncated"):
    """Yield the steps of an episode with audio and points of other lengths in every step."""
    generator = np.random.default_rng(seed)
    audio, points = rows_of(lengths, np.int16, seed=seed), rows_of(lengths[::-1], np.float32, 3, seed=seed + 1)
    observations = generator.random((len(lengths) + 1, 4))
    for index in range(len(lengths)):
        yield {
            "observation": observations[index],
            "audio": audio[index],
            "lidar": {"points": points[index]},
            "action": np.ones(2, np.float32),
            "next": {
                "observation": observations[index + 1],
                "truncated": ended == "truncated" and index == len(lengths) - 1,
                "terminated": False,
            },
        }


def record(path, *lengths, **options):
    with Recorder(path, ragged=["audio", "lidar.points"], **options) as recorder:
        for seed, of_episode in enumerate(lengths):
            for step in steps(of_episode, seed):
                recorder.step(step)
    return recorder


@pytest.mark.parametrize("dtype", ["int16", "float64", "bool", "uint16", BFLOAT16])
@pytest.mark.parametrize("inner", [(), (3,), (2, 2)])
def test_rows_of_any_length_are_arrow_lists_and_come_back(dtype, inner):
    dtype = np.dtype(dtype)
    plain = np.dtype(np.uint16) if dtype == BFLOAT16 else dtype
    values = make_rows([row.view(dtype) for row in rows_of([3, 0, 1, 5], plain, *inner)])
    schema = Schema((Field.of_array("x", values),))
    assert schema.fields[0].shape == (-1, *inner)

    batch = columns_to_batch({"x": values}, [0, 1], [2, 2], schema)
    for part, expected in ((batch, values), (batch.slice(1, 2), values[1:3]), (batch.slice(0, 0), values[:0])):
        back = table_to_columns(part, schema)["x"]
        assert len(back) == len(expected)
        assert have_equal_bits(back, expected).all()
    assert len(columns_to_arrays({"x": values[:0]}, schema)[0]) == 0
    assert Schema.from_json(schema.to_json()) == schema


def test_joined_rows_are_split_again():
    values = make_rows(rows_of([2, 0, 4], np.float32, 3))
    back = split_rows(*join_rows(values))
    assert have_equal_bits(values, back).all()
    nested = to_nested(values)
    assert [row.shape for row in nested.unbind()] == [(2, 3), (0, 3), (4, 3)]


def test_content_hashes_tell_lengths_apart():
    def content(*rows):
        return EpisodeRecord(0, "a", {"x": make_rows(list(rows))}, {}).content_hash()

    a, b = np.arange(3, dtype=np.int16), np.arange(3, 5, dtype=np.int16)
    hashes = {
        content(a, b),
        content(np.concatenate([a, b]), b[:0]),
        content(a[:2], np.concatenate([a[2:], b])),
        content(a.astype(np.int32), b.astype(np.int32)),
        content(a[:, None], b[:, None]),
    }
    assert len(hashes) == 5
    assert content(a.copy(), b.copy()) in hashes


def test_a_recording_with_ragged_columns_becomes_a_version(store):
    recorder = record("my/talk", [3, 0, 5], [2, 7])
    dataset = RoboHiveDataset(recorder.commit(license="mit"))

    assert check(dataset.path).ok
    fields = {field.column: (field.dtype, field.shape) for field in dataset.manifest.schema.fields}
    assert fields["audio"] == ("int16", (-1,))
    assert fields["lidar.points"] == ("float32", (-1, 3))
    for seed, (episode, lengths) in enumerate(zip(dataset.iter_episodes(), ([3, 0, 5], [2, 7]), strict=True)):
        for row, step in enumerate(steps(lengths, seed)):
            np.testing.assert_array_equal(episode["audio"].unbind()[row], step["audio"])
            np.testing.assert_array_equal(episode["lidar", "points"].unbind()[row], step["lidar"]["points"])
    assert "int16" in (dataset.path / "README.md").read_text()


def test_other_tools_read_lists(store):
    dataset = RoboHiveDataset(record("my/talk", [3, 0, 5]).commit(license="mit"))
    (shard,) = (dataset.path / "data").iterdir()

    assert [len(row) for row in pq.read_table(shard)["audio"].to_pylist()] == [3, 0, 5]
    assert [len(row) for row in dataset.to_hf()["audio"]] == [3, 0, 5]
    loaded = datasets.load_dataset(str(dataset.path), split="train")
    assert [len(row) for row in loaded["lidar.points"]] == [15, 0, 9]


def test_batches_leave_ragged_columns_out_by_choice(store):
    dataset = RoboHiveDataset(record("my/talk", [3, 0, 5]).commit(license="mit"))

    with pytest.raises(SchemaMismatchError, match=r"audio, lidar.points: expected rows of one length.*keys=\[…\]"):
        dataset.as_replay_buffer(2)
    with pytest.raises(SchemaMismatchError, match="audio: expected rows of one length"):
        dataset.as_tensordict(keys=["observation", "audio"])
    with pytest.raises(SchemaMismatchError, match=r'ragged="nested" gives them'):
        next(dataset.iter_batches(2))

    dropped = [
        dataset.as_replay_buffer(2, keys=["observation", "action"]).sample(),
        dataset.as_replay_buffer(2, ragged="drop").sample(),
        dataset.as_tensordict(ragged="drop"),
        next(dataset.iter_batches(2, ragged="drop")),
    ]
    for batch in dropped:
        assert batch["next", "observation"].shape[1:] == (4,)
        assert batch.get("audio", None) is None
    with pytest.raises(SchemaMismatchError, match="audio: expected rows of one length"):
        dataset.as_tensordict(keys=["audio"], ragged="drop")
    with pytest.raises(ValueError, match="ragged='pad': expected 'error', 'nested' or 'drop'"):
        dataset.as_replay_buffer(2, ragged="pad")


def talk(store, dtype="float64", name="my/talk"):
    """A dataset of two episodes with observed points of a dtype, audio, and dense observations; and its rows."""
    lengths = ([3, 0, 5, 1], [2, 7, 0])
    with Recorder(name, ragged=["audio", "points"]) as recorder:
        for seed, of_episode in enumerate(lengths):
            points = rows_of(of_episode, np.uint16 if dtype == BFLOAT16 else dtype, 3, seed=seed)
            points = [row.view(dtype) for row in points]
            audio = rows_of(of_episode[::-1], np.int16, seed=seed + 5)
            for index in range(len(points) - 1):
                ended = index == len(points) - 2
                after = {"points": points[index + 1], "observation": np.ones(2) * (index + 1)}
                step = {"points": points[index], "audio": audio[index], "observation": np.ones(2) * index}
                after |= {"reward": 1.0, "terminated": ended, "truncated": False}
                recorder.step(step | {"action": np.zeros(1, np.float32), "next": after})
    return RoboHiveDataset(recorder.commit(license="mit"))


def flatten_rows(batches):
    """Return the rows of batches one after the other: lists of tensors by key, nested ones unbound."""
    names = list(next(iter(batches)).keys(True, True))
    return {key: [row for batch in batches for row in batch[key].unbind()] for key in names}


def assert_equal_rows(actual, expected, order=None):
    assert actual.keys() == expected.keys()
    for key, rows in expected.items():
        rows = rows if order is None else [rows[index] for index in order]
        assert len(actual[key]) == len(rows), key
        for left, right in zip(actual[key], rows, strict=True):
            assert left.dtype == right.dtype, key
            assert left.shape == right.shape, key
            assert torch.equal(left, right), key


@pytest.mark.parametrize("dtype", ["int16", "float64", "bool", "uint16", "float16", BFLOAT16])
def test_batches_hold_nested_tensors_by_choice(store, dtype):
    dataset = talk(store, dtype)
    episodes = list(dataset.iter_episodes())
    expected = flatten_rows(episodes)
    whole = dataset.as_tensordict(ragged="nested")

    assert whole["audio"].layout == torch.jagged
    assert_equal_rows(flatten_rows([whole]), expected)
    assert_equal_rows(flatten_rows(list(dataset.iter_batches(2, ragged="nested", dtype=None))), expected)
    buffer = dataset.as_replay_buffer(4, ragged="nested", dtype=None, seed=0)
    for _ in range(5):
        batch = buffer.sample()
        order = batch.pop("index").tolist()
        assert_equal_rows(flatten_rows([batch]), expected, order)
    loaded = flatten_rows(list(dataset.as_dataloader(2, ragged="nested", dtype=None, shuffle=False)))
    assert_equal_rows(loaded, expected)
    second = flatten_rows([dataset.select([1]).as_tensordict(ragged="nested", in_memory=True)])
    assert_equal_rows(second, flatten_rows(episodes[1:]))


def test_shuffled_batches_hold_every_ragged_row_once(store):
    dataset = talk(store, "int16")
    expected = flatten_rows([dataset.as_tensordict(ragged="nested")])
    batches = flatten_rows(list(dataset.iter_batches(2, shuffle=3, seed=2, ragged="nested", dtype=None)))
    order = [
        next(
            i
            for i, row in enumerate(expected["audio"])
            if torch.equal(row, audio) and episode == expected["episode"][i]
        )
        for audio, episode in zip(batches["audio"], batches["episode"], strict=True)
    ]
    assert sorted(order) == list(range(5))
    assert order != sorted(order)
    assert_equal_rows(batches, expected, order)


def test_ragged_floats_are_float32_in_batches_as_others_are(store):
    dataset = talk(store, "float64")
    expected = [row.float() for row in flatten_rows([dataset.as_tensordict(ragged="nested")])["points"]]
    buffer = dataset.as_replay_buffer(2, ragged="nested")
    batches = [buffer[:], *dataset.iter_batches(5, ragged="nested")]
    for batch in batches:
        rows = batch["points"].unbind()
        assert batch["points"].dtype == batch["observation"].dtype == torch.float32
        assert all(torch.equal(left, right) for left, right in zip(rows, expected, strict=True))


def test_windows_and_slices_move_ragged_rows_with_the_others(store):
    dataset = talk(store, "float32")
    rows = flatten_rows([dataset.as_tensordict(ragged="nested", dtype=torch.float32)])
    options = {"ragged": "nested", "normalize": False}

    ahead = dataset.as_storage(n_step=2, frame_stack=2, **options).get(slice(None))
    for index, (position, left) in enumerate(zip([2, 3, 3, 1, 1], [1, 1, 0, 1, 0], strict=True)):
        assert torch.equal(ahead["points"].unbind()[index], rows["points"][index])
        source = rows["next", "points"][min(index + left, 2 if index < 3 else 4)]
        assert torch.equal(ahead["next", "points"].unbind()[index], source), position
    slices = dataset.as_replay_buffer(4, slice_len=2, seed=0, **options)
    batch = slices.sample()
    for index, row in zip(batch["index"].flatten().tolist(), batch["points"].unbind(), strict=True):
        assert torch.equal(row, rows["points"][index])


def test_what_nested_tensors_cannot_do_is_one_sentence(store):
    dataset = talk(store, "float32")
    with pytest.raises(
        SchemaMismatchError, match=r'audio, points: expected rows of one length for batches of slices.*"drop"'
    ):
        dataset.as_dataloader(2, slice_len=2, ragged="nested")
    buffer = dataset.as_replay_buffer(2, ragged="nested")
    with pytest.raises(SchemaMismatchError, match="for a buffer that grows"):
        rlhive.extend(buffer, 100)
    with pytest.raises(SchemaMismatchError, match=r"for batches of the shape \(1, 2\)"):
        buffer.storage.get(torch.tensor([[0, 1]]))
    with pytest.raises(SchemaMismatchError, match="normalize: expected a floating-point field points"):
        dataset.as_replay_buffer(2, ragged="nested", normalize={"points": (torch.zeros(3), torch.ones(3))})
    assert torch.equal(buffer.storage.get(0)["points"], dataset.as_tensordict(ragged="nested")["points"].unbind()[0])


def test_nested_batches_travel(store, tmp_path):
    buffer = talk(store, "float32").as_replay_buffer(4, ragged="nested", prefetch=2, seed=0)
    batch = pickle.loads(pickle.dumps(buffer)).sample()
    torch.save(batch, tmp_path / "batch.pt")
    loaded = torch.load(tmp_path / "batch.pt", weights_only=False)
    assert_equal_rows(flatten_rows([loaded]), flatten_rows([batch.clone()]))
    damaged = next(buffer.storage._packed.folder.glob("ragged-*.idx"))
    damaged.write_bytes(damaged.read_bytes()[:-8])
    with pytest.raises(CorruptDatasetError, match=r"ragged-0\.idx"):
        PackedCache(damaged.parent)


@pytest.mark.parametrize("kind", ["minari", "lerobot"])
def test_an_export_to_a_format_without_ragged_columns_is_refused(store, tmp_path, kind):
    dataset = RoboHiveDataset(record("my/talk", [3, 1]).commit(license="mit"))

    with pytest.raises(SchemaMismatchError, match=rf"audio, lidar.points: .*{kind} has no column for them"):
        export_to(kind, dataset.path, tmp_path / "out")

    assert not (tmp_path / "out").exists()


def test_whole_episodes_take_lists_of_arrays(store):
    audio = rows_of([2, 0, 4], np.int16)
    observations = np.arange(8.0).reshape(4, 2)
    with Recorder("my/talk", on_incomplete="truncated") as recorder:
        recorder.add_episode(
            {
                "observation": observations[:3],
                "audio": audio,
                "action": np.zeros((3, 1), np.float32),
                "next": {"observation": observations[1:]},
            }
        )
    (episode,) = RoboHiveDataset(recorder.commit(license="mit")).iter_episodes()
    for row, expected in zip(episode["audio"].unbind(), audio, strict=True):
        np.testing.assert_array_equal(row, expected)


def test_an_interrupted_episode_keeps_its_ragged_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(_journal, "SAVE_SECONDS", 0.0)
    whole = list(steps([3, 0, 5, 2]))
    with Recorder(tmp_path / "r", ragged=["audio", "lidar.points"]) as recorder:
        for step in whole:
            recorder.step(step)
            assert len(list((tmp_path / "r").glob("*.open"))) == (step is not whole[-1])
    (made,) = recorder.recording.records()
    assert have_equal_bits(made.columns["audio"], make_rows([step["audio"] for step in whole])).all()


def test_rows_of_another_dtype_are_not_bent_by_the_journal(tmp_path, monkeypatch):
    monkeypatch.setattr(_journal, "SAVE_SECONDS", 0.0)
    first, second, last = steps([3, 5, 2])
    second["audio"] = second["audio"].astype(np.float64)
    with Recorder(tmp_path / "r", ragged=["audio", "lidar.points"]) as recorder:
        recorder.step(first)
        recorder.step(second)
        with pytest.raises(
            SchemaMismatchError, match=r"audio changes inside the episode: expected int16 \(-1,\), got float64"
        ):
            recorder.step(last)


def test_ragged_columns_are_selected_merged_and_dropped(store):
    first = RoboHiveDataset(record("my/talk", [3, 0, 5], [1, 1]).commit(license="mit"))
    second = RoboHiveDataset(record("my/more", [9, 2]).commit(license="mit"))

    both = first.select([1]).merge(second, name="my/both")
    lengths = [[len(row) for row in episode["audio"].unbind()] for episode in both.iter_episodes()]
    assert lengths == [[1, 1], [9, 2]]
    appended = first.append(second)
    assert check(appended.path).ok
    assert diff(first.path, appended.path).added == [2]
    without = first.drop_column("audio", "lidar.points", name="my/plain")
    assert without.as_tensordict().shape == (5,)


def test_nested_tensors_need_no_name(store):
    audio = rows_of([2, 4, 1], np.float32)
    observations = torch.arange(8.0).reshape(4, 2)
    flags = torch.tensor([[False], [False], [True]])
    td = TensorDict(
        {
            "observation": observations[:3],
            "audio": torch.nested.nested_tensor([torch.from_numpy(row) for row in audio], layout=torch.jagged),
            "action": torch.zeros(3, 1),
            "next": {"observation": observations[1:], "terminated": torch.zeros(3, 1, dtype=bool), "truncated": flags},
        },
        [3],
    )
    with Recorder("my/talk") as recorder:
        recorder.add_episode(td)
    (episode,) = RoboHiveDataset(recorder.commit(license="mit")).iter_episodes()
    for row, expected in zip(episode["audio"].unbind(), audio, strict=True):
        np.testing.assert_array_equal(row, expected)


def test_observed_ragged_columns_have_a_final_row(store):
    rows = rows_of([2, 4, 1], np.float32)
    with Recorder("my/talk", ragged=("detections",)) as recorder:
        for index in range(2):
            after = {"detections": rows[index + 1], "terminated": index == 1, "truncated": False}
            recorder.step({"detections": rows[index], "action": np.zeros(1), "next": after})
    dataset = RoboHiveDataset(recorder.commit(license="mit"))
    assert check(dataset.path).ok
    (episode,) = dataset.iter_episodes()
    assert [len(row) for row in episode["detections"].unbind()] == [2, 4]
    assert [len(row) for row in episode["next", "detections"].unbind()] == [4, 1]


def test_lengths_that_change_without_a_name_say_what_to_do(tmp_path):
    with Recorder(tmp_path / "r") as recorder:
        for step in steps([3, 5], ended="no"):
            recorder.step(step)
        with pytest.raises(SchemaMismatchError, match=r"audio changes inside the episode.*Recorder\(ragged=\[…\]\)"):
            recorder.end_episode()


def test_what_cannot_be_ragged_is_refused(tmp_path):
    with pytest.raises(InvalidOptionError, match=r"ragged='audio': expected a list"):
        Recorder(tmp_path / "a", ragged="audio")
    with Recorder(tmp_path / "r", ragged=["audio"]) as recorder:
        for audio, expected in (
            (
                (np.zeros(2, np.int16), np.zeros(2)),
                r"key audio changes inside the episode: expected int16 \(-1,\), got float64 \(-1,\)",
            ),
            (
                (np.zeros(2), np.zeros((2, 3))),
                r"key audio changes inside the episode: expected float64 \(-1,\), got float64 \(-1, 3\)",
            ),
            ((np.zeros(2), np.array([0, np.nan])), "row 1: key audio is NaN"),
        ):
            first, last = (step | {"audio": row} for step, row in zip(steps([3, 5]), audio, strict=True))
            for step in (first, last):
                step.pop("lidar")
            recorder.step(first)
            with pytest.raises(SchemaMismatchError, match=expected):
                recorder.step(last)
