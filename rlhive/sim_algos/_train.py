"""``train()``: from a configuration to a checkpoint, and the loop of the offline algorithms."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torchrl.data import ReplayBuffer

from rlhive import keys
from rlhive.errors import InvalidOptionError
from rlhive.policies import check_writable
from rlhive.sim_algos._bc import BehaviorCloning
from rlhive.sim_algos._config import ONLINE, make_config
from rlhive.sim_algos._iql import ImplicitQLearning
from rlhive.sim_algos._online import train_online
from rlhive.sim_algos._preprocessing import compute_training_statistics
from rlhive.sim_algos._trainer import Callback, Trainer, TrainResult, describe_training_data, seeded_torch

if TYPE_CHECKING:
    from rlhive.dataset import RoboHiveDataset

OFFLINE_ALGORITHMS: dict[str, type[BehaviorCloning] | type[ImplicitQLearning]] = {
    "bc": BehaviorCloning,
    "iql": ImplicitQLearning,
}


def train(
    model: str = "bc",
    dataset: str | Path | None = None,
    *,
    env: str | None = None,
    split: str | None = None,
    version: str | None = None,
    seed: int | None = None,
    overrides: Sequence[str] = (),
    output_dir: str | Path,
    callback: Callback | None = None,
    progress: bool = True,
) -> TrainResult:
    """Train a policy; the same as ``python -m rlhive.sim_algos.run +model=… +dataset=…``.

    Training is deterministic for a seed on one machine. An interrupted training leaves the checkpoint that was in
    ``output_dir`` before, or none, never half of one.

    Args:
        model: "bc" or "iql", which learn from a dataset alone, or "sac", which acts in an environment.
        dataset: Dataset name or folder of a version. "sac" starts with its transitions in the buffer.
        env: Task or environment id in which "sac" acts; the dataset's by default, or "reach".
        split: Split to learn from, for example "expert+medium". By default "expert" for "bc" and all splits for "iql".
        version: Version of the dataset; the newest by default.
        seed: Seed of the initial weights, the batches and the dropout; 0 by default.
        overrides: Values of the configuration, as on the command line: ``["train.num_steps=2000"]``.
        output_dir: Folder of the checkpoint.
        callback: Function of the gradient step and the policy, called every ``train.eval_every`` steps, for example to
            evaluate the policy. The metrics that it returns join the learning curve.
        progress: Whether to show a progress bar.

    Returns:
        Checkpoint folder, learning curve and speed.

    Raises:
        ValueError: Unknown algorithm or override.
        InvalidOptionError: An offline algorithm got no dataset, or got an environment.
        DatasetNotFoundError: No such dataset; SplitNotFoundError: no such split.
        StoreNotWritableError: ``output_dir`` cannot be written.
        TrainingDivergedError: A loss became NaN or infinite.
    """
    address = str(dataset.absolute()) if isinstance(dataset, Path) else dataset
    config = make_config(model, address, overrides=overrides)
    arguments = {"env": env, "split": split, "version": version, "seed": seed}
    config.update({name: value for name, value in arguments.items() if value is not None})
    return train_from_config({**config, "progress": progress}, output_dir=output_dir, callback=callback)


def train_from_config(
    config: Mapping[str, Any], *, output_dir: str | Path, callback: Callback | None = None
) -> TrainResult:
    """Train by a complete configuration; :func:`train` composes one."""
    config = {"dataset": None, "env": None, "exploration": None, **config}
    if config["algorithm"] not in ONLINE:
        _check_offline_config(config)
    check_writable(output_dir)
    dataset = None if config["dataset"] is None else _open_dataset(config)
    if dataset is None or config["algorithm"] in ONLINE:
        return train_online(config, dataset, output_dir=output_dir, callback=callback)
    buffer = dataset.as_replay_buffer(
        batch_size=config["train"]["batch_size"], normalize=_can_normalize_observations(dataset)
    )
    return train_on_buffer(
        buffer,
        config,
        env_name=dataset.env_name,
        output_dir=output_dir,
        source=describe_training_data(dataset),
        callback=callback,
    )


def _check_offline_config(config: Mapping[str, Any]) -> None:
    algorithm = config["algorithm"]
    if config["dataset"] is None:
        msg = f"{algorithm} learns from a dataset: expected its name, got none. Add +dataset=kitchen_knob1"
        raise InvalidOptionError(msg)
    for name in ("env", "exploration"):
        if config[name] is not None:
            msg = (
                f"{algorithm} learns from a dataset alone: expected no {name}, got {config[name]}. "
                f"Algorithms that act in an environment: {', '.join(ONLINE)}"
            )
            raise InvalidOptionError(msg)


def _open_dataset(config: Mapping[str, Any]) -> "RoboHiveDataset":
    from rlhive.dataset import RoboHiveDataset

    version = config["version"]
    return RoboHiveDataset(config["dataset"], split=config["split"], version=None if version is None else str(version))


def _can_normalize_observations(dataset: "RoboHiveDataset") -> bool:
    """Return whether the replay buffer can normalise each element of the observations by its own statistics.

    Otherwise (integers, or vectors so wide that their statistics are stored for all elements together) the statistics
    are computed from the buffer, and the batches are normalised after they are sampled.
    """
    if keys.OBSERVATION not in dataset.schema.columns:
        return False
    field = dataset.schema[keys.OBSERVATION]
    mean = dataset.statistics.get(keys.OBSERVATION, {}).get("mean", [])
    return field.is_float and len(mean) == field.width


def train_on_buffer(
    buffer: ReplayBuffer,
    config: Mapping[str, Any],
    *,
    env_name: str,
    output_dir: str | Path,
    source: Mapping[str, Any] | None = None,
    callback: Callback | None = None,
) -> TrainResult:
    """Train on the transitions of any TorchRL replay buffer.

    Args:
        buffer: Its samples have ``observation`` and ``action``; for "iql" also ``("next", …)``. Observations are those
            of the environment, or normalised by ``as_replay_buffer(normalize=…)``, whose mean and scale the checkpoint
            then stores; a transform must not have normalised them. The buffer's generator is seeded here.
        config: Result of :func:`rlhive.sim_algos.make_config`.
        env_name: Environment of the transitions; stored in the checkpoint.
        output_dir: Folder of the checkpoint.
        source: Further entries of ``checkpoint.json`` about the data, JSON-able.
        callback: See :func:`train`.

    Returns:
        Checkpoint folder, learning curve and speed.

    Raises:
        SchemaMismatchError: The buffer is empty, lacks a key that the algorithm needs, or holds NaN or infinite values.
        StoreNotWritableError: ``output_dir`` cannot be written.
        TrainingDivergedError: A loss became NaN or infinite.
    """
    check_writable(output_dir)
    algorithm_class = OFFLINE_ALGORITHMS[config["algorithm"]]
    statistics = compute_training_statistics(buffer, algorithm_class.in_keys)
    with seeded_torch(config["seed"], config["num_threads"]):
        buffer.set_rng(torch.Generator().manual_seed(config["seed"]))
        algorithm = algorithm_class(config, statistics, torch.device(config["device"]))
        with Trainer(algorithm, statistics, config, env_name=env_name, callback=callback) as trainer:
            while not trainer.is_finished:
                trainer.update(buffer.sample(config["train"]["batch_size"]))
    return trainer.save(output_dir, source=source or {}, num_transitions=len(buffer))
