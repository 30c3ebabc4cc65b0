"""The facade: statistics, texts, copies, and a signature that matches the options."""

import copy
import dataclasses
import inspect
import pickle

import numpy as np
import pytest

from rlhive.data.replay import DataLoaderOptions, ReadOptions, SamplingOptions
from rlhive.dataset._dataset import RoboHiveDataset, describe
from rlhive.dataset._loaders import ReadKeywords


def test_statistics_of_splits_together_are_those_of_all_rows(filled):
    dataset = RoboHiveDataset("toy_point")
    td = dataset.as_tensordict()

    np.testing.assert_allclose(dataset.statistics["observation"]["mean"], td["observation"].mean(0), rtol=1e-12)
    np.testing.assert_allclose(
        dataset.statistics["observation"]["std"], td["observation"].std(0, unbiased=False), rtol=1e-12
    )


def test_repr_and_describe_name_version_splits_and_columns(filled):
    dataset = RoboHiveDataset("toy_point", split="expert")

    for text in ("robohive/toy_point 1.0.0", "expert: 8 episodes, 160 transitions", "observation: float64 [2]"):
        assert text in repr(dataset)
    assert str(dataset.path) in repr(dataset)
    assert describe(dataset)["splits"] == {"expert": {"num_episodes": 8, "num_transitions": 160}}


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_a_copy_of_a_view_has_the_same_episodes(filled, copied):
    view = RoboHiveDataset("toy_point").where("split == 'random'").select([17, 20])

    other = copied(view)

    assert repr(other) == repr(view)
    assert len(other) == len(view) == 40
    assert (other.as_tensordict() == view.as_tensordict()).all()


def test_a_view_of_a_subclass_is_of_the_subclass(filled):
    class MyDataset(RoboHiveDataset):
        pass

    dataset = MyDataset("toy_point")

    assert type(dataset["expert"]) is type(dataset.select([1])) is type(dataset.save("my/copy")) is MyDataset


def keywords(function):
    return {name for name in inspect.signature(function).parameters if name not in ("self", "split", "where")}


def names_and_defaults(options):
    return {field.name: field.default for field in dataclasses.fields(options)}


def test_the_keywords_of_the_methods_are_the_fields_of_the_options():
    reading, sampling = names_and_defaults(ReadOptions), names_and_defaults(SamplingOptions)
    parameters = inspect.signature(RoboHiveDataset.as_replay_buffer).parameters

    assert ReadKeywords.__annotations__.keys() == reading.keys()
    assert keywords(RoboHiveDataset.as_replay_buffer) == reading.keys() | sampling.keys()
    assert {name: parameters[name].default for name in reading | sampling} == reading | sampling
    assert keywords(RoboHiveDataset.as_dataloader) == {*names_and_defaults(DataLoaderOptions), "options"}


def test_an_unknown_keyword_is_a_type_error(filled):
    dataset = RoboHiveDataset("toy_point")

    for method in (dataset.as_replay_buffer, dataset.as_dataloader, dataset.as_storage, dataset.as_tensordict):
        with pytest.raises(TypeError, match="unexpected keyword argument 'n_stepp'"):
            method(n_stepp=3)


def test_the_episode_table_begins_with_what_a_person_looks_for(filled):
    dataset = RoboHiveDataset("toy_point")
    first = ["episode", "split", "length", "return", "success", "ended", "seed", "policy"]
    for view in (dataset, RoboHiveDataset("toy_point", split="expert"), dataset.where("return > -100")):
        names = list(view.episodes.to_pandas().columns)
        assert names[:11] == [*first, "run", "content_hash", "metadata"]
        assert all(name.startswith(("final.", "start.")) for name in names[11:])
