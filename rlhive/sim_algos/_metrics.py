"""Metrics of a training, averaged between the rows of its learning curve."""

import math
from collections.abc import Mapping

import torch

from rlhive.errors import TrainingDivergedError


class MetricLogger:
    """Collect metrics and average them.

    Attributes:
        curve: Learning curve; one dict of numbers per row.
    """

    def __init__(self) -> None:
        self.curve: list[dict[str, float]] = []
        self._values: dict[str, list[torch.Tensor | float]] = {}

    def log(self, metrics: Mapping[str, torch.Tensor | float]) -> None:
        """Add the metrics of one gradient step or one episode; tensors stay on their device until they are averaged."""
        for name, value in metrics.items():
            self._values.setdefault(name, []).append(value)

    def average(self, *, step: int) -> dict[str, float]:
        """Return the mean of each metric since the last call.

        Args:
            step: Number of gradient steps so far, for the error message.

        Raises:
            TrainingDivergedError: A mean is NaN or infinite.
        """
        means = {name: _mean(values) for name, values in self._values.items()}
        self._values = {}
        for name, value in means.items():
            if not math.isfinite(value):
                msg = (
                    f"Training diverged before step {step}: expected a finite {name}, got {value}. "
                    "Lower the learning rates of the section optim."
                )
                raise TrainingDivergedError(msg)
        return means


def _mean(values: list[torch.Tensor | float]) -> float:
    return float(torch.stack([torch.as_tensor(value, dtype=torch.float64) for value in values]).mean())
