"""Transforms: new versions with other rewards."""

import pytest
import torch

from rlhive.dataset._dataset import RoboHiveDataset
from rlhive.errors import RewardUnavailableError


def test_relabel_recomputes_rewards_from_what_is_stored(filled):
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
    with pytest.raises(RewardUnavailableError, match="No reward term bonus"):
        dataset.relabel({"bonus": 1.0}, name="my/x")
    with pytest.raises(RewardUnavailableError, match="expected 'dense'"):
        dataset.relabel("nice", name="my/x")
