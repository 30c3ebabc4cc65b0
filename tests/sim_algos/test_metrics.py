"""The metric logger: means between rows, and divergence."""

import math

import pytest
import torch

from rlhive.errors import TrainingDivergedError
from rlhive.sim_algos._metrics import MetricLogger


def test_metrics_are_averaged_each_by_its_own_count() -> None:
    logger = MetricLogger()
    logger.log({"return": 3.0})
    logger.log({"loss": torch.tensor(1.0), "entropy": torch.tensor(0.5)})
    logger.log({"loss": torch.tensor(2.0), "entropy": torch.tensor(1.5)})
    logger.log({"loss": torch.tensor(6.0), "entropy": torch.tensor(4.0)})
    assert logger.average(step=3) == {"return": 3.0, "loss": 3.0, "entropy": 2.0}
    logger.log({"loss": torch.tensor(7.0)})
    assert logger.average(step=4) == {"loss": 7.0}
    assert logger.average(step=4) == {}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_metric_that_is_not_finite_ends_the_training(value) -> None:
    logger = MetricLogger()
    logger.log({"loss": torch.tensor(1.0), "loss_actor": torch.tensor(value)})
    with pytest.raises(TrainingDivergedError, match=r"before step 7: expected a finite loss_actor, got -?(nan|inf)"):
        logger.average(step=7)
