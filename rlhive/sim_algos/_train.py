"""``train()``: from a configuration to checkpoints, and the loop of offline training."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchrl.data import ReplayBuffer

from rlhive import keys
from rlhive.envs import get_task
from rlhive.errors import InvalidOptionError, SchemaMismatchError
from rlhive.policies import check_writable
from rlhive.sim_algos._algorithm import Algorithm
from rlhive.sim_algos._batches import BatchSource
from rlhive.sim_algos._config import make_config
from rlhive.sim_algos._inputs import (
    TrainingInputs,
    find_env_kwargs,
    list_observations,
    refuse_camera_options,
    resolve_inputs,
)
from rlhive.sim_algos._online import train_online
from rlhive.sim_algos._preprocessing import compute_training_statistics, require_reward
from rlhive.sim_algos._ranks import is_distributed, join_ranks
from rlhive.sim_algos._registry import find_algorithm
from rlhive.sim_algos._setup import (
    build_algorithm,
    build_preprocessor,
    check_config,
    list_seeds,
    resume_folder,
    seeded_torch,
)
from rlhive.sim_algos._trainer import Callback, Trainer, TrainResult, describe_training_data

if TYPE_CHECKING:
    from rlhive.dataset import RoboHiveDataset

_LOG = logging.getLogger("rlhive")

#: Value of ``dataset`` that stands for the datasets of ``mix``.
_MIX = "mix"


def train(
    model: str = "bc",
    dataset: str | Path | Mapping[str, float] | None = None,
    *,
    env: str | None = None,
    split: str | None = None,
    version: str | None = None,
    seed: int | None = None,
    num_seeds: int | None = None,
    overrides: Sequence[str] = (),
    output_dir: str | Path,
    resume: str | Path | None = None,
    callback: Callback | None = None,
    progress: bool = True,
) -> TrainResult:
    """Train a policy; the same as ``rlhive train +model=… +dataset=…``.

    Under ``torchrun``, or where ``torch.distributed`` is initialised, the ranks share each batch; offline only.

    Training is deterministic for a seed on one machine. Ctrl-C and SIGTERM save the state of the training in
    ``output_dir`` before it ends; so does every ``train.save_every``-th step. With ``resume="auto"`` the same call goes
    on from that state and ends with the numbers of a training that was not interrupted, bit for bit.

    Args:
        model: Name of an algorithm, see :func:`rlhive.sim_algos.algorithm_names`. "sac" acts in an environment; the
            others learn from a dataset, and "iql" and "td3_bc" from their own episodes after it if
            ``collect.offline_steps`` is a number.
        dataset: Dataset name or folder of a version; or several names with their weights, which are mixed as by
            :func:`rlhive.mix`. "sac" starts with its transitions in the buffer.
        env: Task or environment id in which "sac" acts and evaluations run; the dataset's by default, or "reach".
        split: Split to learn from, for example "expert+medium". By default "expert" for "bc" and all splits otherwise.
        version: Version of the dataset; the newest by default.
        seed: Seed of the initial weights, the batches and all noise; 0 by default.
        num_seeds: Number of trainings, of the seeds ``seed``, ``seed + 1``, …, which run as one batch of networks; 1 by
            default. Each has a folder ``seed_<n>`` in ``output_dir``.
        overrides: Values of the configuration, as on the command line: ``["train.num_steps=2000"]``.
        output_dir: Folder of the run.
        resume: "auto" goes on with the interrupted training in ``output_dir``, if there is one. A folder goes on with
            the one there, in that folder.
        callback: Function of the gradient step and the policy, called every ``train.eval_every`` steps for each seed.
            The metrics that it returns join the learning curve.
        progress: Whether to show a progress bar.

    Returns:
        Checkpoint folders, learning curves and speed.

    Raises:
        InvalidOptionError: Unknown algorithm or option; an offline algorithm got no dataset, or got an environment.
        DatasetNotFoundError: No such dataset; SplitNotFoundError: no such split.
        CheckpointMismatchError: The training to go on with has another configuration.
        StoreNotWritableError: ``output_dir`` cannot be written.
        TrainingDivergedError: A loss became NaN or infinite.
    """
    if isinstance(dataset, Mapping):
        config = {**make_config(model, _MIX, overrides=overrides), "mix": dict(dataset)}
    else:
        address = str(dataset.absolute()) if isinstance(dataset, Path) else dataset
        config = make_config(model, address, overrides=overrides)
    arguments = {
        "env": env,
        "split": split,
        "version": version,
        "seed": seed,
        "num_seeds": num_seeds,
        "resume": None if resume is None else str(resume),
    }
    config.update({name: value for name, value in arguments.items() if value is not None})
    return train_from_config({**config, "progress": progress}, output_dir=output_dir, callback=callback)


def train_from_config(
    config: Mapping[str, Any], *, output_dir: str | Path, callback: Callback | None = None
) -> TrainResult:
    """Train by a complete configuration; :func:`train` composes one."""
    check_config(config)
    algorithm_class = find_algorithm(config["algorithm"])
    is_online = config.get("collect", {}).get("offline_steps") is not None
    if config["dataset"] is None and not algorithm_class.is_online:
        msg = f"{config['algorithm']} learns from a dataset: expected its name, got none. Add +dataset=kitchen_knob1"
        raise InvalidOptionError(msg)
    if not is_online:
        _refuse_online_options(config)
    folder = resume_folder(config, output_dir)
    check_writable(folder)
    if config["mix"] is not None or config["dataset"] == _MIX:
        return _train_on_mixture(config, output_dir=folder, callback=callback)
    dataset = None if config["dataset"] is None else _open_dataset(config)
    if dataset is None or is_online:
        if is_distributed():
            msg = f"{config['algorithm']} collects episodes: expected one process, got several ranks"
            raise InvalidOptionError(msg)
        return train_online(config, dataset, output_dir=folder, callback=callback)
    inputs = _resolve_dataset_inputs(config, dataset)
    options = _list_buffer_options(config, dataset, inputs)
    options["normalize"] = inputs is None and _can_normalize_observations(dataset)
    size = config["train"]["batch_size"]
    buffers = [dataset.as_replay_buffer(batch_size=size, **options) for _ in list_seeds(config)]
    return _train_on_buffers(
        buffers,
        config,
        env_name=dataset.env_name,
        task=config["env"] or dataset.task_name,
        output_dir=folder,
        source=describe_training_data(dataset),
        inputs=inputs,
        callback=callback,
    )


def _train_on_mixture(config: Mapping[str, Any], *, output_dir: Path, callback: Callback | None) -> TrainResult:
    """Train on several datasets, whose transitions are normalised by the statistics of all together."""
    from rlhive.dataset import mix

    weights = _require_mixture(config)
    sources: dict[Any, float] = {_open_dataset({**config, "dataset": name}): weight for name, weight in weights.items()}
    first, *others = sources
    task = config["env"] or first.task_name
    differing = [other for other in others if other.task_name != first.task_name]
    if config["env"] is None and differing:
        msg = (
            f"mix: {first.name} is of {first.task_name}, {differing[0].name} of {differing[0].task_name}: expected "
            f"env=TASK, the task that the policy is evaluated in and whose references scale the rewards"
        )
        raise InvalidOptionError(msg)
    inputs = _resolve_dataset_inputs(config, first)
    options = _list_buffer_options(config, first, inputs)
    size = config["train"]["batch_size"]
    buffers = [mix(sources, size, **options) for _ in list_seeds(config)]
    recipe = buffers[0].to_json()
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    identity = {"name": _MIX, "version": f"{len(recipe)} sources", "fingerprint": digest}
    return _train_on_buffers(
        buffers,
        config,
        env_name=get_task(task).env_name if config["env"] else first.env_name,
        task=task,
        output_dir=output_dir,
        source={
            "task_name": task,
            "dataset": identity,
            "mixture": recipe,
            "mixed_envs": sorted({dataset.env_name for dataset in sources}),
        },
        inputs=inputs,
        callback=callback,
    )


def _require_mixture(config: Mapping[str, Any]) -> dict[str, float]:
    """Return the weights of a mixture by the names of the datasets.

    Raises:
        InvalidOptionError: ``mix`` is no mapping, ``dataset`` names another dataset, or an option needs a single one.
    """
    weights = config["mix"]
    if config["dataset"] != _MIX or not isinstance(weights, Mapping) or not weights:
        msg = (
            f"dataset={config['dataset']}, mix={weights}: expected dataset=mix together with the weights of datasets, "
            "for example +dataset=mix mix={kitchen_knob1:2,kitchen_light:1}"
        )
        raise InvalidOptionError(msg)
    if config["version"] is not None:
        msg = f"version={config['version']}: expected none with a mixture, whose datasets have different ones"
        raise InvalidOptionError(msg)
    if config.get("collect", {}).get("offline_steps") is not None:
        msg = "collect.offline_steps: expected null with a mixture, which cannot grow"
        raise InvalidOptionError(msg)
    return {str(name): weight for name, weight in weights.items()}


def _resolve_dataset_inputs(config: Mapping[str, Any], dataset: "RoboHiveDataset") -> TrainingInputs | None:
    """Return what stands for the observations of a dataset.

    Raises:
        SchemaMismatchError: The algorithm needs rewards, and the dataset has none.
    """
    context = f"{dataset.name} {dataset.version}"
    if keys.NEXT_REWARD in find_algorithm(config["algorithm"]).in_keys:
        require_reward(dataset.schema.columns, context)
    refuse_camera_options(config, context)
    return resolve_inputs(
        config,
        dataset.schema.fields,
        env_kwargs=find_env_kwargs(config, dataset),
        store=dataset.store,
        context=context,
    )


def _list_buffer_options(
    config: Mapping[str, Any], dataset: "RoboHiveDataset", inputs: TrainingInputs | None
) -> dict[str, Any]:
    """Return the options of a replay buffer for an algorithm."""
    algorithm_class = find_algorithm(config["algorithm"])
    return {"keys": _list_keys(dataset, algorithm_class, inputs), **algorithm_class.buffer_options(config)}


def _refuse_online_options(config: Mapping[str, Any]) -> None:
    """Raise InvalidOptionError if options of collected episodes are given to a training that collects none."""
    algorithm = config["algorithm"]
    unread = ["exploration"] if config["evaluation"] or config["mix"] else ["env", "exploration"]
    for name in unread:
        if config[name] is not None:
            advice = "sac acts in an environment"
            if "collect" in config:
                advice = f"With collect.offline_steps=1000, {algorithm} collects episodes after so many gradient steps"
            msg = f"{algorithm} learns from a dataset alone: expected no {name}, got {config[name]}. {advice}"
            raise InvalidOptionError(msg)


def _open_dataset(config: Mapping[str, Any]) -> "RoboHiveDataset":
    from rlhive.dataset import RoboHiveDataset

    version = config["version"]
    dataset = RoboHiveDataset(
        config["dataset"],
        split=config["split"],
        version=None if version is None else str(version),
        where=config.get("where"),
    )
    share = config.get("best_share")
    return dataset if share is None else _select_best(dataset, share)


def _select_best(dataset: "RoboHiveDataset", share: float) -> "RoboHiveDataset":
    """Return the view of the episodes with the highest returns, at least one; of equal ones the first.

    Raises:
        InvalidOptionError: The share is not between 0 and 1.
        SchemaMismatchError: The episodes have no returns.
    """
    if type(share) not in (int, float) or not 0 < share <= 1:
        msg = f"best_share: expected a number above 0 and at most 1, got {share!r}"
        raise InvalidOptionError(msg)
    table = dataset.episodes
    ids: list[int] = table["episode"].to_pylist()
    returns: list[float] = table["return"].to_pylist() if "return" in table.column_names else []
    if not returns or None in returns:
        msg = f"best_share: {dataset.name} {dataset.version} has episodes without a return, expected one of each"
        raise SchemaMismatchError(msg)
    best = sorted(range(len(ids)), key=lambda index: -returns[index])[: max(1, round(share * len(ids)))]
    return dataset.select(sorted(ids[index] for index in best))


def _list_keys(
    dataset: "RoboHiveDataset", algorithm_class: type[Algorithm], inputs: TrainingInputs | None
) -> list[keys.NestedKey]:
    """Return the fields that an algorithm reads; observations of the dataset that it does not read are named."""
    inputs = inputs or TrainingInputs()
    columns = {keys.key_to_column(key) for key in inputs.replace_observations(algorithm_class.in_keys)}
    read = {*columns, keys.SUCCESS, *(item.column for item in inputs.frozen)}
    unread = [item.column for item in dataset.schema.observed if item.column not in read]
    if unread:
        _LOG.warning("%s does not learn from %s: it reads no such field", algorithm_class.name, ", ".join(unread))
    return [item.key for item in dataset.schema.fields if item.column in columns]


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
    buffer: ReplayBuffer | Sequence[ReplayBuffer],
    config: Mapping[str, Any],
    *,
    env_name: str,
    output_dir: str | Path,
    source: Mapping[str, Any] | None = None,
    callback: Callback | None = None,
) -> TrainResult:
    """Train on the transitions of any TorchRL replay buffer.

    Args:
        buffer: Its samples have ``observation`` and ``action``; for all algorithms but "bc" also ``("next", …)``.
            Observations are those of the environment, or normalised by ``as_replay_buffer(normalize=…)``, whose mean
            and scale the checkpoint then stores; a transform must not have normalised them. The buffer's generator is
            seeded here. With ``num_seeds`` above 1, one buffer of the same transitions per seed.
        config: Result of :func:`rlhive.sim_algos.make_config`.
        env_name: Environment of the transitions; stored in the checkpoint.
        output_dir: Folder of the run.
        source: Further entries of ``checkpoint.json`` about the data, JSON-able.
        callback: See :func:`train`.

    Returns:
        Checkpoint folders, learning curves and speed.

    Raises:
        InvalidOptionError: An option is out of range, or the number of buffers is not that of the seeds.
        SchemaMismatchError: The buffer is empty, lacks a key that the algorithm needs, or holds NaN or infinite values.
        StoreNotWritableError: ``output_dir`` cannot be written.
        TrainingDivergedError: A loss became NaN or infinite.
    """
    check_config(config)
    folder = resume_folder(config, output_dir)
    check_writable(folder)
    buffers = [buffer] if isinstance(buffer, ReplayBuffer) else list(buffer)
    fields = list_observations(buffers[0][:1]) if len(buffers[0]) else []
    return _train_on_buffers(
        buffers,
        config,
        env_name=env_name,
        task=config["env"],
        output_dir=folder,
        source=source,
        inputs=resolve_inputs(config, fields, env_kwargs={}, context="The replay buffer"),
        callback=callback,
    )


def _train_on_buffers(
    buffers: Sequence[ReplayBuffer],
    config: Mapping[str, Any],
    *,
    env_name: str,
    task: str | None,
    output_dir: Path,
    source: Mapping[str, Any] | None,
    inputs: TrainingInputs | None,
    callback: Callback | None,
) -> TrainResult:
    seeds = list_seeds(config)
    if len(buffers) != len(seeds):
        msg = f"num_seeds={len(seeds)}: expected one buffer per seed, got {len(buffers)}"
        raise InvalidOptionError(msg)
    statistics = compute_training_statistics(buffers[0], find_algorithm(config["algorithm"]).in_keys, inputs)
    with seeded_torch(config["seed"], config["num_threads"]), join_ranks(config) as ranks:
        options = find_algorithm(config["algorithm"]).buffer_options(config)
        ranks.require_divisible(config["train"]["batch_size"], options.get("slice_len"))
        algorithm = build_algorithm(config, statistics, task or env_name)
        data = BatchSource(buffers, seeds, config["train"]["batch_size"])
        trainer = Trainer(
            algorithm,
            build_preprocessor(config, algorithm, statistics, task or env_name, inputs),
            statistics,
            config,
            data=data,
            inputs=inputs,
            env_name=env_name,
            task=task,
            output_dir=ranks.broadcast(output_dir),
            source=source,
            callback=callback,
            ranks=ranks,
        )
        with trainer:
            while not trainer.is_finished:
                trainer.update(data.sample())
                trainer.save_if_due()
            return trainer.finish()
