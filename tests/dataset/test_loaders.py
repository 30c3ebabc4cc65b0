"""Loaders: every way to load a view returns the same values, and damage is noticed."""

import numpy as np
import pytest
import torch

from rlhive.dataset._dataset import RoboHiveDataset
from rlhive.errors import CorruptDatasetError


def test_every_loader_returns_the_same_values(filled):
    dataset = RoboHiveDataset("toy_point")
    td, table, rows = dataset.as_tensordict(), dataset.as_arrow(), dataset.to_hf()
    sampled = dataset.as_replay_buffer(len(dataset), dtype=None)[:]

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


def test_a_shard_with_a_flipped_byte_is_not_loaded(filled):
    dataset = RoboHiveDataset("toy_point")
    shard = next(dataset.path.glob("data/medium-*.parquet"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 4
    shard.write_bytes(content)

    for view in (dataset.as_tensordict, dataset.as_arrow, dataset.to_hf):
        with pytest.raises(CorruptDatasetError, match="expected SHA-256"):
            view()
    assert len(RoboHiveDataset("toy_point", split="expert").as_arrow()) == 160
