"""``train()``: from a configuration to a checkpoint, and the loop of the algorithms that learn offline."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torchrl.data import ReplayBuffer

from rlhive.errors import InvalidSetting
from rlhive.policies import check_writable
from rlhive.sim_algos._bc import BehaviorCloning
from rlhive.sim_algos._config import ONLINE, make_config
from rlhive.sim_algos._iql import ImplicitQLearning
from rlhive.sim_algos._online import train_online
from rlhive.sim_algos._preprocessing import Preparation, measure
from rlhive.sim_algos._trainer import Callback, Course, TrainResult, seeded, source_of

if TYPE_CHECKING:
    from rlhive.dataset import RoboHiveDataset

ALGORITHMS = {"bc": BehaviorCloning, "iql": ImplicitQLearning}


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

    It is deterministic for a seed on one machine. Interrupted, it leaves the checkpoint that was in ``output_dir``
    before, or none, never half of one.

    Args:
        model: "bc" or "iql", which learn from a dataset alone, or "sac", which acts in an environment.
        dataset: Dataset name or folder of a version; for "sac" what its buffer holds at the start.
        env: Where "sac" acts: a task or an environment id; default the dataset's, or "reach".
        split: What to learn from, for example "expert+medium"; default the algorithm's own: "expert" for "bc", all
            splits for "iql".
        version: Of the dataset; default the newest.
        seed: Of initial weights, batches and dropout; default 0.
        overrides: Any value of the configuration, as on the command line: ``["train.num_steps=2000"]``.
        output_dir: Where the checkpoint goes.
        callback: Called every ``train.eval_every`` steps with the step and the policy so far, for example to
            evaluate it.
        progress: Show a bar.

    Returns:
        Checkpoint folder, learning curve and speed.

    Raises:
        ValueError: Unknown algorithm or override.
        InvalidSetting: No dataset for an algorithm that needs one, or an environment for one that acts in none.
        DatasetNotFound: No such dataset; SplitNotFound: no such split.
        StoreNotWritable: ``output_dir`` cannot be written.
        TrainingDiverged: A loss became NaN or infinite.
    """
    address = str(dataset.absolute()) if isinstance(dataset, Path) else dataset
    config = make_config(model, address, overrides=overrides)
    given = {"env": env, "split": split, "version": version, "seed": seed}
    config.update({name: value for name, value in given.items() if value is not None})
    return train_from_config({**config, "progress": progress}, output_dir=output_dir, callback=callback)


def train_from_config(
    config: Mapping[str, Any], *, output_dir: str | Path, callback: Callback | None = None
) -> TrainResult:
    """Train as a whole configuration says; see :func:`train`, which composes one."""
    config = {"dataset": None, "env": None, "exploration": None, **config}
    _check_choices(config)
    check_writable(output_dir)
    dataset = _open(config) if config["dataset"] is not None else None
    if config["algorithm"] in ONLINE:
        return train_online(config, dataset, output_dir=output_dir, callback=callback)
    buffer = dataset.as_replay_buffer(batch_size=config["train"]["batch_size"])
    return train_on_buffer(
        buffer, config, env_name=dataset.env_name, output_dir=output_dir, source=source_of(dataset), callback=callback
    )


def _check_choices(config: Mapping[str, Any]) -> None:
    algorithm = config["algorithm"]
    if algorithm in ONLINE:
        return
    if config["dataset"] is None:
        msg = f"{algorithm} learns from a dataset: expected its name, got none. Add +dataset=kitchen_knob1"
        raise InvalidSetting(msg)
    for name in ("env", "exploration"):
        if config[name] is not None:
            msg = (
                f"{algorithm} learns from a dataset alone: expected no {name}, got {config[name]}. Leave it out, or "
                f"choose an algorithm that acts: {', '.join(ONLINE)}."
            )
            raise InvalidSetting(msg)


def _open(config: Mapping[str, Any]) -> "RoboHiveDataset":
    from rlhive.dataset import RoboHiveDataset

    version = config["version"]
    version = None if version is None else str(version)
    return RoboHiveDataset(config["dataset"], split=config["split"], version=version)


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
        buffer: Its samples have ``observation`` and ``action``; for "iql" also ``("next", …)``. Its generator is
            seeded here.
        config: What :func:`rlhive.sim_algos.make_config` returned.
        env_name: Environment that the transitions come from; kept in the checkpoint.
        output_dir: Where the checkpoint goes.
        source: What else ``checkpoint.json`` should say about the data, JSON-able.
        callback: See :func:`train`.

    Returns:
        Checkpoint folder, learning curve and speed.

    Raises:
        SchemaMismatch: The buffer is empty, lacks a key that the algorithm needs, or holds NaN or infinite values.
        StoreNotWritable: ``output_dir`` cannot be written.
        TrainingDiverged: A loss became NaN or infinite.
    """
    check_writable(output_dir)
    algorithm = ALGORITHMS[config["algorithm"]]
    statistics = measure(buffer, algorithm.in_keys)
    device = torch.device(config["device"])
    with seeded(config["seed"], config["num_threads"]):
        buffer.set_rng(torch.Generator().manual_seed(config["seed"]))
        learner = algorithm(config, statistics, device)
        with Course(config, statistics, learner, env_name=env_name, callback=callback) as course:
            prepare = Preparation(course.normalizer, learner.in_keys, device)
            while not course.is_over:
                course.took(learner.update(prepare(buffer.sample(config["train"]["batch_size"]))))
    return course.leave(output_dir, source=source or {}, num_transitions=len(buffer))
