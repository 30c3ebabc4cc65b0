"""Training: offline and online algorithms, one file each, and their entry point ``rlhive/sim_algos/run.py``."""

from typing import TYPE_CHECKING

from rlhive._lazy import attach

if TYPE_CHECKING:
    from rlhive.sim_algos._config import make_config as make_config
    from rlhive.sim_algos._results import (
        MetricPoint as MetricPoint,
        RunGroup as RunGroup,
        SweepResults as SweepResults,
        gather_results as gather_results,
    )
    from rlhive.sim_algos._train import (
        train as train,
        train_from_config as train_from_config,
        train_on_buffer as train_on_buffer,
    )
    from rlhive.sim_algos._trainer import TrainResult as TrainResult
else:
    __getattr__, __dir__, __all__ = attach(__name__, __file__)
