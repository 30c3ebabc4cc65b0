"""Training: offline and online algorithms, one file each, and their entry point ``rlhive/sim_algos/run.py``."""

from typing import TYPE_CHECKING

from rlhive._lazy import attach

if TYPE_CHECKING:
    from rlhive.sim_algos._algorithm import Algorithm as Algorithm, mean_per_seed as mean_per_seed
    from rlhive.sim_algos._config import make_config as make_config
    from rlhive.sim_algos._networks import critic_network as critic_network
    from rlhive.sim_algos._preprocessing import TrainingStatistics as TrainingStatistics
    from rlhive.sim_algos._registry import (
        algorithm_names as algorithm_names,
        register_algorithm as register_algorithm,
    )
    from rlhive.sim_algos._results import (
        MetricPoint as MetricPoint,
        RunGroup as RunGroup,
        SweepResults as SweepResults,
        gather_results as gather_results,
    )
    from rlhive.sim_algos._seed_stack import (
        SeedGenerators as SeedGenerators,
        StackedMLP as StackedMLP,
        update_target as update_target,
    )
    from rlhive.sim_algos._train import (
        train as train,
        train_from_config as train_from_config,
        train_on_buffer as train_on_buffer,
    )
    from rlhive.sim_algos._trainer import TrainResult as TrainResult
else:
    __getattr__, __dir__, __all__ = attach(__name__, __file__)
