"""Views: frozen selections of splits and episodes, which the loaders respect."""

import dataclasses

import pyarrow.compute as pc
import pytest

from rlhive.dataset import _view
from rlhive.dataset._dataset import RoboHiveDataset
from rlhive.errors import SplitNotFoundError


def test_splits_are_selected_by_name_and_in_the_given_order(filled):
    expert, both = RoboHiveDataset("toy_point", split="expert"), RoboHiveDataset("toy_point", split="random+expert")

    assert set(expert.episodes["split"].to_pylist()) == {"expert"}
    assert expert.as_tensordict()["episode"].unique().tolist() == list(range(8))
    assert both.splits == ["random", "expert"]
    assert both.as_tensordict()["episode"].unique_consecutive().tolist() == [*range(16, 24), *range(8)]
    assert both.as_arrow()["episode"].to_pylist()[0] == 16
    assert both.statistics["action"]["count"] == 320
    for split in ("expet", "expert+", "expert+expert", ""):
        with pytest.raises(SplitNotFoundError, match="expected one of expert, medium, random"):
            RoboHiveDataset("toy_point", split=split)


def test_all_splits_in_another_order_are_loaded_in_that_order(filled):
    dataset = RoboHiveDataset("toy_point", split="random+medium+expert")
    expected = [*range(16, 24), *range(8, 16), *range(8)]

    assert dataset.as_tensordict()["episode"].unique_consecutive().tolist() == expected
    assert dataset.as_tensordict()["episode"].tolist() == dataset.as_arrow()["episode"].to_pylist()
    assert [int(td["episode"][0]) for td in dataset.iter_episodes()] == expected


@pytest.mark.parametrize(
    "select",
    [
        lambda view: view.where("success and return > -40"),
        lambda view: view.where(pc.field("length") > 3),
        lambda view: view.where("split == 'expert'").where("length > 3"),
        lambda view: view.filter(lambda row: row["success"]),
        lambda view: view.select([3, 17]),
    ],
)
def test_the_episode_table_is_read_once_for_each_condition(filled, monkeypatch, select):
    view, read = RoboHiveDataset("toy_point")._view, []
    read_episodes = _view.read_episodes
    monkeypatch.setattr(
        _view, "read_episodes", lambda *arguments: read.append(arguments[2:]) or read_episodes(*arguments)
    )

    selected = select(view)

    assert len(read) == len(selected.operations)


def test_a_view_is_frozen_and_a_selection_leaves_it_as_it_is(filled):
    dataset = RoboHiveDataset("toy_point")
    view = dataset._view

    selected = dataset.select([3, 17])

    with pytest.raises(dataclasses.FrozenInstanceError):
        view.splits = ("expert",)
    assert dataset._view is view
    assert (view.selection, view.operations) == (None, ())
    assert selected._view.operations == ("select(2 ids)",)
    assert vars(dataset).keys() == vars(selected).keys() == {"_view"}
    with pytest.raises(AttributeError):
        dataset.splits = ["expert"]


@pytest.mark.parametrize(
    "load",
    [
        lambda dataset: dataset.as_replay_buffer(dataset.__len__())[:]["episode"],
        lambda dataset: dataset.as_tensordict()["episode"],
        lambda dataset: dataset.as_storage().get(slice(None))["episode"],
        lambda dataset: next(iter(dataset.as_dataloader(len(dataset), shuffle=False)))["episode"],
        lambda dataset: next(dataset.iter_batches(len(dataset)))["episode"],
    ],
    ids=["as_replay_buffer", "as_tensordict", "as_storage", "as_dataloader", "iter_batches"],
)
def test_every_loader_respects_the_selection(filled, load):
    selected = RoboHiveDataset("toy_point").select([3, 17, 5])

    assert load(selected).unique().tolist() == [3, 5, 17]
    assert len(load(selected)) == 60
    assert load(selected["random"]).unique().tolist() == [17]


def test_samples_come_from_the_selection_only(filled):
    buffer = RoboHiveDataset("toy_point").select([3, 17]).as_replay_buffer(2_000, seed=0)

    assert buffer.sample()["episode"].unique().tolist() == [3, 17]


def test_where_is_evaluated_before_the_shards_are_fetched(filled, monkeypatch):
    fetched = []
    monkeypatch.setattr(
        _view.hub,
        "fetch_missing_files",
        lambda folder, manifest, entries: fetched.extend(entry.split for entry in entries),
    )
    for shard in (filled / "robohive/toy_point/1.0.0/data").iterdir():
        shard.unlink()

    dataset = RoboHiveDataset("toy_point", where="split == 'medium' and length > 5")

    assert [split for split in fetched if split] == ["medium"]
    assert dataset.counts["medium"] == {"num_episodes": 8, "num_transitions": 160}
    assert dataset.counts["expert"] == {"num_episodes": 0, "num_transitions": 0}


def test_conditions_as_text_expression_and_function_select_the_same_episodes(filled):
    dataset = RoboHiveDataset("toy_point")
    returns = dataset.episodes["return"].to_pylist()
    low = sorted(returns)[11]
    expected = [episode for episode, value in enumerate(returns) if value > low]

    def has_higher_return(table):
        return pc.greater(table["return"], low)

    assert 0 < len(expected) < 24
    for condition in (f"return > {low!r}", pc.field("return") > low, has_higher_return):
        assert dataset.where(condition).episodes["episode"].to_pylist() == expected
        assert dataset.as_tensordict(where=condition)["episode"].unique().tolist() == expected
