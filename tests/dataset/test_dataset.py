import shutil

import numpy as np
import pytest
import torch

from rlhive.data.versions._numbering import list_local_datasets, list_local_versions
from rlhive.dataset import _lookup
from rlhive.dataset._dataset import RoboHiveDataset, describe
from rlhive.errors import CorruptDataset, DatasetNotFound, InvalidName, RewardUnavailable, SplitNotFound


def test_a_name_finds_the_local_version(filled):
    dataset = RoboHiveDataset("toy_point", generate=False)

    assert dataset.name == "robohive/toy_point"
    assert dataset.version == "1.0.0"
    assert dataset.path == filled / "robohive/toy_point/1.0.0"
    assert dataset.env_name == "ToyPoint-v0"
    assert dataset.task_name == "toy_point"
    assert dataset.splits == ["expert", "medium", "random"]
    assert len(dataset) == 480
    assert dataset.fingerprint == RoboHiveDataset(dataset.path).fingerprint
    assert RoboHiveDataset(str(dataset.path), version="1.0.0").path == dataset.path


def test_the_newest_version_is_the_highest_number(filled):
    folder = filled / "robohive/toy_point"
    for version in ("0.9.0", "1.10.0", "1.9.0"):
        shutil.copytree(folder / "1.0.0", folder / version)
        manifest = folder / version / "rlhive.json"
        manifest.write_text(manifest.read_text().replace('"version": "1.0.0"', f'"version": "{version}"'))
    (folder / "2.0.0").mkdir()  # no manifest: not a version

    assert list(list_local_versions("toy_point")) == ["0.9.0", "1.0.0", "1.9.0", "1.10.0"]
    assert RoboHiveDataset("toy_point").version == "1.10.0"
    assert RoboHiveDataset("toy_point", version="1.9.0").version == "1.9.0"
    assert list_local_datasets() == ["robohive/toy_point"]


def test_splits_are_chosen_by_name_and_joined_by_plus(filled):
    expert, both = RoboHiveDataset("toy_point", split="expert"), RoboHiveDataset("toy_point", split="random+expert")

    assert set(expert.episodes["split"].to_pylist()) == {"expert"}
    assert expert.as_tensordict()["episode"].unique().tolist() == list(range(8))
    assert both.splits == ["random", "expert"]
    assert both.as_tensordict()["episode"].unique_consecutive().tolist() == [*range(16, 24), *range(8)]
    assert both.as_arrow()["episode"].to_pylist()[0] == 16
    assert both.statistics["action"]["count"] == 320
    for split in ("expet", "expert+", "expert+expert", ""):
        with pytest.raises(SplitNotFound, match="expected one of expert, medium, random"):
            RoboHiveDataset("toy_point", split=split)


def test_every_view_shows_the_same_values(filled):
    dataset = RoboHiveDataset("toy_point")
    td, table, rows = dataset.as_tensordict(), dataset.as_arrow(), dataset.to_hf()
    sampled = dataset.as_replay_buffer(len(dataset))[:]

    assert (td == sampled).all()
    observation = np.stack(table["observation"].to_numpy(zero_copy_only=False))
    assert (torch.from_numpy(observation) == td["observation"]).all()
    assert rows["next.reward"][:] == td["next", "reward"].flatten().tolist()
    assert rows["episode"][:] == td["episode"].tolist()
    assert rows.num_rows == table.num_rows == len(td)


def test_the_last_next_observation_is_the_final_one(filled):
    dataset = RoboHiveDataset("toy_point")
    td = dataset.as_tensordict()
    last = td[td["next", "done"].flatten()]
    final = np.stack(dataset.episodes["final.observation"].to_numpy(zero_copy_only=False))

    assert (last["next", "observation"].numpy() == final).all()
    assert last["next", "truncated"].all() or last["next", "terminated"].any()


def test_statistics_of_splits_together_are_those_of_all_rows(filled):
    dataset = RoboHiveDataset("toy_point")
    td = dataset.as_tensordict()

    np.testing.assert_allclose(dataset.statistics["observation"]["mean"], td["observation"].mean(0), rtol=1e-12)
    np.testing.assert_allclose(
        dataset.statistics["observation"]["std"], td["observation"].std(0, unbiased=False), rtol=1e-12
    )


def test_repr_and_describe_say_what_it_is(filled):
    dataset = RoboHiveDataset("toy_point", split="expert")

    for text in ("robohive/toy_point 1.0.0", "expert: 8 episodes, 160 transitions", "observation: float64 [2]"):
        assert text in repr(dataset)
    assert str(dataset.path) in repr(dataset)
    assert describe(dataset)["splits"] == {"expert": {"num_episodes": 8, "num_transitions": 160}}


def test_generate_false_forbids_the_recipe(store):
    with pytest.raises(DatasetNotFound, match="rlhive collect toy_point"):
        RoboHiveDataset("toy_point", generate=False)

    assert not store.exists()


def test_unknown_names_name_the_nearest(filled):
    with pytest.raises(DatasetNotFound, match="Nearest: toy_point"):
        RoboHiveDataset("toy_pont")
    with pytest.raises(DatasetNotFound, match=r"has no version 3\.0\.0: expected one of 1\.0\.0"):
        RoboHiveDataset("toy_point", version="3.0.0")
    with pytest.raises(DatasetNotFound, match=r"expected version 2\.0\.0, got 1\.0\.0"):
        RoboHiveDataset(filled / "robohive/toy_point/1.0.0", version="2.0.0")
    for name in ("a/b/c", "../x/y/z", "name with space", "a/..b", ""):
        with pytest.raises((InvalidName, DatasetNotFound)):
            RoboHiveDataset(name)
    with pytest.raises(InvalidName, match=r"MAJOR\.MINOR\.PATCH"):
        RoboHiveDataset("toy_point", version="latest")


def test_a_folder_without_manifest_is_refused(tmp_path):
    (tmp_path / "half" / "data").mkdir(parents=True)

    with pytest.raises(DatasetNotFound, match=r"folder without rlhive\.json"):
        RoboHiveDataset(tmp_path / "half")


def test_a_flipped_byte_is_never_served(filled):
    dataset = RoboHiveDataset("toy_point")
    shard = next(dataset.path.glob("data/medium-*.parquet"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 4
    shard.write_bytes(content)

    for view in (dataset.as_tensordict, dataset.as_arrow, dataset.to_hf):
        with pytest.raises(CorruptDataset, match="expected SHA-256"):
            view()
    assert len(RoboHiveDataset("toy_point", split="expert").as_arrow()) == 160


def test_names_are_looked_up_locally_then_on_the_hub_then_made(filled, monkeypatch):
    asked = []
    monkeypatch.setattr(_lookup, "list_versions", lambda repo_id: asked.append(repo_id) or {})

    RoboHiveDataset("toy_point", version="1.0.0")
    assert asked == []
    shutil.rmtree(filled)
    RoboHiveDataset("toy_point")
    assert asked == ["robohive/toy_point"]


def test_rewards_are_recomputed_from_what_is_stored(filled):
    dataset = RoboHiveDataset("toy_point", split="expert+random")
    before = dataset.as_tensordict()

    dense = dataset.relabel("dense", name="my/dense")
    sparse = dataset.relabel("sparse", name="my/sparse")
    weighted = dataset.relabel({"dense": 2.0, "solved": 10.0}, name="my/weighted")
    cost = dataset.relabel(lambda columns, final: -(columns["action"] ** 2).sum(axis=1), name="my/cost")

    assert dense.as_arrow()["next.reward"].equals(dataset.as_arrow()["next.reward"])
    assert (dense.as_tensordict() == before).all()
    solved = before["next", "success"].double()
    assert (sparse.as_tensordict()["next", "reward"] == solved).all()
    expected = 2 * before["next", "reward"] + 10 * solved
    assert (weighted.as_tensordict()["next", "reward"] == expected).all()
    assert torch.allclose(cost.as_tensordict()["next", "reward"], -(before["action"].double() ** 2).sum(1, True))
    assert sparse.episodes["return"].to_pylist() == [
        float(rows["next", "reward"].sum()) for rows in sparse.as_tensordict().split(20)
    ]
    assert weighted.manifest.parents[0]["operations"] == [
        "split='expert+random'",
        "relabel({'dense': 2.0, 'solved': 10.0})",
    ]
    with pytest.raises(RewardUnavailable, match="No reward term bonus"):
        dataset.relabel({"bonus": 1.0}, name="my/x")
    with pytest.raises(RewardUnavailable, match="expected 'dense'"):
        dataset.relabel("nice", name="my/x")
