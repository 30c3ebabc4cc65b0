"""What every training begins with: checked options, an algorithm, and a preprocessor."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from rlhive._threads import torch_threads
from rlhive.errors import InvalidOptionError
from rlhive.policies import Normalizer
from rlhive.sim_algos._algorithm import Algorithm
from rlhive.sim_algos._inputs import TrainingInputs
from rlhive.sim_algos._loggers import check_logger
from rlhive.sim_algos._preprocessing import Preprocessor, TrainingStatistics, resolve_discount, resolve_reward_scale
from rlhive.sim_algos._registry import find_algorithm
from rlhive.sim_algos._seed_stack import SeedGenerators

_POSITIVE = ("num_steps", "batch_size", "log_every", "eval_every", "save_every")
_PRECISIONS = ("float32", "bfloat16")

#: Generators of networks begin here and those of batches at the seed itself, so that they draw different numbers.
_NETWORK_SEEDS = 1 << 32


def check_config(config: Mapping[str, Any]) -> None:
    """Check the options that every training has.

    Raises:
        InvalidOptionError: An option is out of range, or the device does not exist.
        MissingExtraError: The logger's package is not installed.
    """
    train = config["train"]
    numbers = {**{f"train.{name}": train[name] for name in _POSITIVE}, "num_seeds": config["num_seeds"]}
    for name, value in numbers.items():
        if type(value) is not int or value < 1:
            msg = f"{name}: expected an integer of at least 1, got {value!r}"
            raise InvalidOptionError(msg)
    offline_steps = config.get("collect", {}).get("offline_steps")
    if offline_steps is not None and (type(offline_steps) is not int or offline_steps < 0):
        msg = f"collect.offline_steps: expected an integer of at least 0, or null, got {offline_steps!r}"
        raise InvalidOptionError(msg)
    if type(config["seed"]) is not int or config["seed"] < 0:
        msg = f"seed: expected an integer of at least 0, got {config['seed']!r}"
        raise InvalidOptionError(msg)
    if train["precision"] not in _PRECISIONS:
        msg = f"train.precision: expected one of {', '.join(_PRECISIONS)}, got {train['precision']!r}"
        raise InvalidOptionError(msg)
    check_logger(config["logger"])
    if torch.device(config["device"]).type == "cuda" and not torch.cuda.is_available():
        msg = f"device={config['device']}: expected a GPU that torch can use, got none"
        raise InvalidOptionError(msg)


def list_seeds(config: Mapping[str, Any]) -> list[int]:
    """Return the seeds of a training."""
    return list(range(config["seed"], config["seed"] + config["num_seeds"]))


def build_algorithm(config: Mapping[str, Any], statistics: TrainingStatistics, task: str | None = None) -> Algorithm:
    """Return the algorithm of a configuration with its initial parameters.

    Args:
        config: Configuration.
        statistics: Statistics of the buffer.
        task: Task or environment id, whose horizon gives the discount.
    """
    if "gamma" in config["loss"]:
        gamma = resolve_discount(config["loss"]["gamma"], task)
        config = {**config, "loss": {**config["loss"], "gamma": gamma}}
    generators = SeedGenerators([_NETWORK_SEEDS + seed for seed in list_seeds(config)], config["device"])
    algorithm = find_algorithm(config["algorithm"])(config, statistics, generators)
    if config["train"]["precision"] == "bfloat16":
        device_type = torch.device(config["device"]).type
        algorithm.losses = torch.autocast(device_type, torch.bfloat16)(algorithm.losses)  # type: ignore[method-assign]
    if config["train"]["compile"]:
        algorithm.losses = torch.compile(algorithm.losses)  # type: ignore[method-assign]
    return algorithm


def build_preprocessor(
    config: Mapping[str, Any],
    algorithm: Algorithm,
    statistics: TrainingStatistics,
    task: str,
    inputs: TrainingInputs | None = None,
) -> Preprocessor:
    """Return the preprocessor from batches of a buffer to batches of an algorithm.

    Args:
        config: Configuration.
        algorithm: The algorithm.
        statistics: Statistics of the buffer.
        task: Task or environment id, whose reference returns scale the rewards.
        inputs: What stands for the observations of a batch.
    """
    device = algorithm.generators.device
    normalizer = None if statistics.is_normalized else Normalizer(statistics.mean, statistics.std).to(device)
    scale = 1.0
    if "reward_scale" in config["loss"]:
        scale = resolve_reward_scale(config["loss"]["reward_scale"], task, statistics.reward_std)
    optional_keys = algorithm.optional_keys
    return Preprocessor(
        algorithm.in_keys,
        normalizer,
        inputs=inputs,
        optional_keys=optional_keys,
        reward_scale=scale,
        device=device,
    )


def resume_folder(config: Mapping[str, Any], output_dir: str | Path) -> Path:
    """Return the folder of the run: of the interrupted one if ``resume`` names one, otherwise ``output_dir``."""
    resume = config["resume"]
    return Path(output_dir) if resume in (None, "auto") else Path(resume)


@contextlib.contextmanager
def seeded_torch(seed: int, num_threads: int | None) -> Iterator[None]:
    """Seed torch and set its number of threads inside the block; restore the caller's state after it."""
    with torch.random.fork_rng(), torch_threads(num_threads):
        torch.manual_seed(seed)
        yield
