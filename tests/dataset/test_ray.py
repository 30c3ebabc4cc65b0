"""Datasets on Ray: blocks of whole episodes with the rows of as_arrow(), and a buffer in an actor."""

import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from rlhive import RoboHiveDataset
from rlhive.data import _parquet
from rlhive.data.versions import iterate_blocks
from rlhive.errors import (
    ClusterUnreachableError,
    CorruptDatasetError,
    EpisodesTooShortError,
    MissingExtraError,
    SchemaMismatchError,
    StreamingOnlyError,
)

RAY_PAGE = Path(__file__).parents[2] / "docs/ray.md"


def on_cluster(test):
    """Mark a test that starts Ray, which takes half a minute on a busy machine."""
    return pytest.mark.slow(pytest.mark.timeout(600)(test))


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize("load", [RoboHiveDataset.to_ray, RoboHiveDataset.as_ray_buffer])
def test_without_ray_it_is_refused_with_what_to_type(load, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)

    with pytest.raises(MissingExtraError, match=r"pip install 'rlhive\[ray\]'"):
        load(RoboHiveDataset("toy_point"))


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize("load", [RoboHiveDataset.to_ray, RoboHiveDataset.as_ray_buffer])
def test_a_cluster_that_does_not_answer_is_a_sentence(load, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")

    with pytest.raises(ClusterUnreachableError, match=r"No Ray cluster answers at 127\.0\.0\.1:1: "):
        load(RoboHiveDataset("toy_point"))


@pytest.fixture
def small_groups(filled, monkeypatch):
    """toy_point with a row group for every three episodes."""
    with monkeypatch.context() as patch:
        patch.setattr(_parquet, "ROW_GROUP_ROWS", 50)
        return RoboHiveDataset("toy_point").save("small_groups", license="mit")


def test_blocks_are_the_row_groups_in_order(small_groups):
    manifest = small_groups.manifest
    shards = [entry for split in ("random", "expert") for entry in manifest.shards(split)]
    blocks = list(iterate_blocks(small_groups.path, manifest, ["random", "expert"], shards))

    assert [block.entry.split for block, _ in blocks] == ["random"] * 3 + ["expert"] * 3
    assert [list(block.groups) for block, _ in blocks] == [[0], [1], [2]] * 2
    for block, episodes in blocks:
        rows = block.read()
        assert rows["episode"].unique().to_pylist() == episodes["episode"].to_pylist()
        assert len(rows) == sum(episodes["length"].to_pylist())
    tables = [block.read() for block, _ in blocks]
    assert pa.concat_tables(tables) == small_groups["random+expert"].as_arrow()
    assert list(iterate_blocks(small_groups.path, manifest, ["expert"], [])) == []


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """The default store of Ray's processes, whose environment is another one than that of the tests."""
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def connected(elsewhere):
    """This process, connected to a new Ray, whatever clusters other tests run, that wants 200 blocks of 1 kB."""
    ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RLHIVE_DATASETS_PATH", str(elsewhere))
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    context = ray.data.DataContext.get_current()
    context.target_max_block_size = 1000
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    yield ray
    ray.shutdown()


def read_blocks(ray, dataset):
    return ray.get(dataset.to_arrow_refs())


def group_by_episode(table):
    return table.sort_by([("episode", "ascending"), ("step_count", "ascending")])


@on_cluster
@pytest.mark.parametrize(
    "select",
    [
        lambda dataset: dataset,
        lambda dataset: dataset["medium"],
        lambda dataset: dataset.where("success"),
        lambda dataset: dataset.select([23, 1, 2, 9]),
        lambda dataset: dataset.split({"train": 0.5, "test": 0.5})["test"],
        lambda dataset: dataset.select([]),
    ],
    ids=["all", "split", "where", "select", "parts", "none"],
)
def test_a_ray_dataset_has_the_rows_of_the_table_in_blocks_of_whole_episodes(connected, small_groups, select):
    view = select(small_groups)
    dataset, expected = view.to_ray(), view.as_arrow()
    blocks = read_blocks(connected, dataset)

    assert dataset.count() == len(view)
    table = pa.concat_tables(blocks)
    assert table.schema == expected.schema
    assert group_by_episode(table) == group_by_episode(expected)
    ids = [episode for block in blocks for episode in block["episode"].unique().to_pylist()]
    assert len(ids) == len(set(ids)) == len(view.episodes)
    assert len(blocks) <= 9


@on_cluster
@pytest.mark.usefixtures("connected", "filled")
def test_the_function_of_the_guide_gets_whole_episodes():
    (code,) = re.findall(r"```python3\n(.*?)```", RAY_PAGE.read_text("utf-8"), re.DOTALL)
    scope = {}
    exec(compile(code.replace("kitchen_knob1", "toy_point"), RAY_PAGE.name, "exec"), scope)
    episodes = RoboHiveDataset("toy_point").where("success").episodes
    expected = dict(zip(episodes["episode"].to_pylist(), episodes["return"].to_pylist(), strict=True))

    returns = {row["episode"]: row["next.reward_sum"] for row in scope["returns"].take_all()}
    assert returns == pytest.approx(expected)


@on_cluster
def test_later_steps_get_whole_episodes_too(connected, small_groups):
    def count(block):
        return pa.table({"rows": [len(block)], "episodes": [len(block["episode"].unique())]})

    dataset = small_groups.to_ray().map_batches(lambda block: block, batch_size=None, batch_format="pyarrow")
    counts = dataset.map_batches(count, batch_size=None, batch_format="pyarrow").to_pandas()

    assert counts["rows"].tolist() == [60, 60, 40] * 3
    assert counts["episodes"].tolist() == [3, 3, 2] * 3
    assert small_groups.to_ray().take(70)[-1]["episode"] == 3


@on_cluster
def test_a_damaged_file_is_found_by_the_task_that_reads_it(connected, small_groups):
    dataset = small_groups.to_ray()
    [shard] = small_groups.path.glob("data/medium-*.parquet")
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 1
    shard.chmod(0o644)
    shard.write_bytes(content)

    with pytest.raises(CorruptDatasetError, match=f"{shard.name}: expected SHA-256"):
        read_blocks(connected, dataset)
    assert len(read_blocks(connected, small_groups["expert"].to_ray())) == 3


@on_cluster
@pytest.mark.parametrize(
    "options",
    [{}, {"n_step": 3, "normalize": True}, {"slice_len": 4, "where": "success"}, {"split": "random", "dtype": None}],
    ids=["plain", "n_step", "slices", "split"],
)
def test_a_buffer_in_an_actor_samples_what_a_buffer_here_samples(connected, filled, options):
    dataset = RoboHiveDataset("toy_point")
    buffer, expected = dataset.as_ray_buffer(64, seed=7, **options), dataset.as_replay_buffer(64, seed=7, **options)
    try:
        assert len(buffer) == len(expected)
        for _ in range(3):
            batch, reference = buffer.sample(), expected.sample()
            assert set(batch.keys(True, True)) == set(reference.keys(True, True))
            assert (batch == reference).all()
    finally:
        buffer.shutdown()


@on_cluster
def test_tasks_sample_from_the_buffer_of_another_process(connected, filled, elsewhere, monkeypatch):
    monkeypatch.chdir(filled.parent)  # which is not the working directory of Ray's processes
    buffer = RoboHiveDataset("toy_point", store=Path(filled.name)).as_ray_buffer(32, seed=0)
    default = RoboHiveDataset("toy_point").as_ray_buffer(32, seed=0)
    assert len(buffer) == len(default) == 480
    assert not list(elsewhere.iterdir()), "the actors read the cache of this process's store"
    default.shutdown()

    @connected.remote
    def sample(client):
        return os.getpid(), client.sample()["episode"].numpy()

    client = buffer.client()
    processes, episodes = zip(*connected.get([sample.remote(client) for _ in range(4)]), strict=True)
    assert os.getpid() not in processes
    assert not np.array_equal(episodes[0], episodes[1]), "each call is the next batch"
    with pytest.raises(RuntimeError, match="doesn't allow writing"):
        buffer.extend(buffer.sample())
    buffer.shutdown()
    assert connected.is_initialized(), "Ray was started by the test and not by the buffer"


@on_cluster
def test_what_is_streamed_is_refused(connected, small_groups):
    streaming = small_groups._with_view(replace(small_groups._view, streaming=True))
    for load in (streaming.to_ray, streaming.as_ray_buffer):
        with pytest.raises(StreamingOnlyError, match="streaming=True"):
            load()


@on_cluster
def test_options_that_do_not_fit_are_refused_as_by_a_buffer_here(connected, filled):
    dataset = RoboHiveDataset("toy_point")

    with pytest.raises(EpisodesTooShortError):
        dataset.as_ray_buffer(64, slice_len=32)
    with pytest.raises(SchemaMismatchError, match="gripper"):
        dataset.as_ray_buffer(64, keys=["gripper"])
