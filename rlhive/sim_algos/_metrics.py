"""Metrics of a training, averaged between the rows of its learning curves, one curve per seed."""

from collections.abc import Mapping
from typing import Any

import torch


class MetricLogger:
    """Collect the metrics of several seeds and average them.

    Args:
        num_seeds: Number of seeds.

    Attributes:
        curves: Learning curve of each seed; one dict of numbers per row.
    """

    def __init__(self, num_seeds: int = 1) -> None:
        self.curves: list[list[dict[str, float]]] = [[] for _ in range(num_seeds)]
        self._values: dict[str, list[torch.Tensor]] = {}

    def log(self, metrics: Mapping[str, torch.Tensor | float]) -> None:
        """Add the metrics of one gradient step or one episode.

        Args:
            metrics: Numbers, or tensors ``[num_seeds]``, which stay on their device until they are averaged.
        """
        for name, value in metrics.items():
            self._values.setdefault(name, []).append(torch.as_tensor(value))

    def average(self) -> list[dict[str, float]]:
        """Return the mean of each metric since the last call, for each seed."""
        num_seeds = len(self.curves)
        means = {name: _mean(values, num_seeds) for name, values in self._values.items()}
        self._values = {}
        return [{name: float(mean[index]) for name, mean in means.items()} for index in range(num_seeds)]

    def state_dict(self) -> dict[str, Any]:
        """Return the curves, and the values since the last row."""
        return {"curves": self.curves, "values": {name: list(values) for name, values in self._values.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the state that :meth:`state_dict` returned."""
        self.curves = [list(curve) for curve in state["curves"]]
        self._values = {name: list(values) for name, values in state["values"].items()}


def _mean(values: list[torch.Tensor], num_seeds: int) -> torch.Tensor:
    stacked = torch.stack([value.to(torch.float64).expand(num_seeds) for value in values])
    return stacked.mean(0).cpu()
