"""Streaming from the Hub: the episodes are right, and only the shards that hold requested ones are fetched."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from rlhive import RoboHiveDataset
from rlhive.data import _parquet
from rlhive.data._episodes import EpisodeRecord, unpack
from rlhive.data.hub._streaming import stream_records
from rlhive.data.versions import _reader
from rlhive.data.versions._export import export
from rlhive.data.versions._manifest import Manifest
from rlhive.errors import CorruptDatasetError
from tests.data.strategies import records
from tests.hub_client import ClientError, read_files
from tests.hub_server import Fault, Repository

STREAM = """
import os
os.environ["RLHIVE_DATASETS_PATH"] = store
from rlhive import RoboHiveDataset
dataset = RoboHiveDataset("org/knob", streaming=True, **options)
source = dataset.iter_batches(4, dtype=None, prefetch=0) if how == "batches" else dataset.iter_episodes()
import itertools
answer = [td.numpy() for td in itertools.islice(source, count)]
"""
OPEN = """
import os
os.environ["RLHIVE_DATASETS_PATH"] = store
from rlhive import RoboHiveDataset
dataset = RoboHiveDataset("org/knob", **options)
answer = [len(dataset), dataset.as_tensordict().numpy(), dataset.as_arrow()["episode"].to_pylist()]
"""


@pytest.fixture
def episodes(hub, tmp_path):
    """Nine episodes in two splits, a shard each, on the Hub."""
    schema, made = records([3, 2, 4, 5, 1, 2, 3, 6, 2])
    origin = {"license": "mit", "store": tmp_path / "origin", "shard_bytes": 1}
    folder = export(made, "org/knob", version="1.0.0", schema=schema, **origin)
    hub.repositories["org/knob"] = Repository()
    hub.repositories["org/knob"].commit(read_files(folder), tag="v1.0.0")
    ordered = sorted(made, key=lambda record: record.split)
    return [unpack(record.columns, record.final, schema, episode=record.episode) for record in ordered]


def assert_same(left, right):
    """Compare a nested dictionary of arrays with a TensorDict, bit for bit."""
    right = right if isinstance(right, dict) else right.numpy()
    assert left.keys() == right.keys()
    for key, value in right.items():
        if isinstance(value, dict):
            assert_same(left[key], value)
        else:
            assert left[key].dtype == value.dtype
            assert left[key].tobytes() == value.tobytes(), key


def test_episodes_stream_bit_for_bit_and_no_shard_is_kept(hub, episodes, online, store):
    got = online.run(STREAM, store=str(store), how="episodes", count=None, options={})

    assert len(got) == 9
    for left, right in zip(got, episodes, strict=True):
        assert_same(left, right)
    assert not list(store.glob("org/knob/1.0.0/data/*"))


def test_batches_stream_in_order_and_fetch_no_more_than_they_hold(hub, episodes, online, store):
    got = online.run(STREAM, store=str(store), how="batches", count=2, options={})

    whole = torch.cat(episodes)
    assert_same(got[0], whole[:4])
    assert_same(got[1], whole[4:8])
    assert len([path for path in hub.served if path.startswith("data/")]) == 3  # episodes of 3, 4 and 1 transitions


def test_where_fetches_only_the_shards_that_hold_a_match(hub, episodes, online, store):
    wanted = [td for td in episodes if len(td) == 2]

    count, got, ids = online.run(OPEN, store=str(store), options={"where": "length == 2"})

    assert count == 6
    assert_same(got, torch.cat(wanted))
    assert ids == [int(x) for td in wanted for x in td["episode"]]
    assert len([path for path in hub.served if path.startswith("data/")]) == 3
    served = dict(hub.served)
    assert online.run(OPEN, store=str(store), options={"where": "length == 2 and split == 'b'"})[0] == 4
    assert hub.served == served
    assert online.run(OPEN, store=str(store), options={})[0] == 28
    assert online.run(OPEN, store=str(store), options={"where": "length > 100"})[0] == 0


def test_where_and_split_select_what_is_streamed(hub, episodes, online, store):
    options = {"where": "length >= 4", "split": "b"}

    got = online.run(STREAM, store=str(store), how="episodes", count=None, options=options)

    wanted = [td for td in episodes if len(td) >= 4 and td["episode"][0] % 2 == 0]
    for left, right in zip(got, wanted, strict=True):
        assert_same(left, right)
    assert len([path for path in hub.served if path.startswith("data/")]) == len(wanted)


def test_a_damaged_byte_in_a_stream_is_an_error(hub, episodes, online, store):
    commit = hub.repositories["org/knob"].commits[hub.repositories["org/knob"].tags["v1.0.0"]]
    path = next(path for path in commit if path.startswith("data/a"))
    content = bytearray(commit[path])
    content[len(content) // 4] ^= 1  # in a page, not in the footer
    commit[path] = bytes(content)

    with pytest.raises(ClientError) as caught:
        online.run(STREAM, store=str(store), how="episodes", count=None, options={})

    assert caught.value.kind == "CorruptDatasetError"


def test_a_hub_that_refuses_during_a_stream_is_a_short_error(hub, episodes, online, store):
    online.run(STREAM, store=str(store), how="episodes", count=1, options={})
    hub.faults.append(Fault("GET .*/data/", 403, times=99))

    with pytest.raises(ClientError) as caught:
        online.run(STREAM, store=str(store), how="episodes", count=None, options={})

    assert caught.value.kind == "HubAccessDeniedError", caught.value.traceback
    assert "\n" not in caught.value.message


def test_other_views_of_a_stream_are_refused(hub, episodes, online, store):
    source = STREAM.split("source =")[0] + "getattr(dataset, view)()"
    for view in ("as_replay_buffer", "as_tensordict", "as_arrow", "to_hf"):
        with pytest.raises(ClientError, match=r"StreamingOnlyError: .*iter_batches"):
            online.run(source, store=str(store), options={}, view=view)


def test_reading_a_version_holds_some_row_groups_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(_parquet, "ROW_GROUP_BYTES", 2**18)

    def long(episode):
        observation = np.random.default_rng(episode).normal(size=(500, 40))
        flags = np.zeros((500, 1), bool)
        columns = {"observation": observation, "next.terminated": flags, "next.truncated": flags}
        return EpisodeRecord(episode, "train", columns, {"observation": observation[0]})

    folder = export(map(long, range(60)), "my/knob", license="mit", version="1.0.0", store=tmp_path)
    before, largest = pa.total_allocated_bytes(), 0
    for record in _reader.read_records(folder, Manifest.read(folder), ["train"]):
        assert record.columns["observation"].tobytes() == long(record.episode).columns["observation"].tobytes()
        largest = max(largest, pa.total_allocated_bytes() - before)

    raw = 60 * 500 * 40 * 8
    assert len(list(folder.glob("data/*.parquet"))) == 1
    assert largest < raw / 8


def test_a_shard_with_the_rows_of_other_episodes_is_refused(tmp_path):
    schema, made = records([3, 2, 4], splits=("train",))
    folder = export(made, "my/knob", license="mit", version="1.0.0", schema=schema, store=tmp_path, shard_bytes=1)
    manifest = Manifest.read(folder)
    one, two, three = manifest.shards("train")
    moved = [replace(one, num_episodes=2), replace(two, num_episodes=0), three]
    others = [entry for entry in manifest.files if entry not in (one, two, three)]
    wrong = replace(manifest, files=[*others, *moved])

    for read in (_reader.read_records, stream_records):
        with pytest.raises(CorruptDatasetError, match="expected 5 rows, got 3"):
            list(read(folder, wrong, ["train"]))


def test_a_local_version_streams_from_its_files(tmp_path, store):
    schema, made = records([3, 2, 4])
    folder = export(made, "my/knob", version="1.0.0", schema=schema, license="mit")

    got = list(RoboHiveDataset(folder, streaming=True).iter_episodes())

    expected = RoboHiveDataset(folder).as_tensordict()
    assert torch.cat(got).keys() == expected.keys()
    assert (torch.cat(got)["next", "reward"] == expected["next", "reward"]).all()
