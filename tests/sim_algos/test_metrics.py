"""The metric logger: means between rows for each seed, and its state."""

import torch

from rlhive.sim_algos._metrics import MetricLogger


def test_metrics_are_averaged_each_by_its_own_count() -> None:
    logger = MetricLogger()
    logger.log({"return": 3.0})
    logger.log({"loss": torch.tensor([1.0]), "entropy": torch.tensor([0.5])})
    logger.log({"loss": torch.tensor([2.0]), "entropy": torch.tensor([1.5])})
    logger.log({"loss": torch.tensor([6.0]), "entropy": torch.tensor([4.0])})
    assert logger.average() == [{"return": 3.0, "loss": 3.0, "entropy": 2.0}]
    logger.log({"loss": torch.tensor([7.0])})
    assert logger.average() == [{"loss": 7.0}]
    assert logger.average() == [{}]


def test_each_seed_has_its_own_means_and_the_state_goes_on() -> None:
    logger, other = MetricLogger(2), MetricLogger(2)
    logger.log({"loss": torch.tensor([1.0, 10.0])})
    other.load_state_dict(logger.state_dict())
    for each in (logger, other):
        each.log({"loss": torch.tensor([3.0, 30.0])})
        assert each.average() == [{"loss": 2.0}, {"loss": 20.0}]
