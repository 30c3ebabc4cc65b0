"""From a dataset, or any TorchRL replay buffer, to a checkpoint: the loop that all algorithms share."""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule
from torchrl.data import ReplayBuffer
from tqdm import tqdm

from rlhive import keys
from rlhive.checkpoint import Normalizer, check_writable, make_deployed_policy, save_checkpoint
from rlhive.errors import SchemaMismatch, TrainingDiverged
from rlhive.provenance import git_state, versions
from rlhive.sim_algos.bc import BehaviorCloning
from rlhive.sim_algos.config import make_config
from rlhive.sim_algos.iql import ImplicitQLearning

ALGORITHMS = {"bc": BehaviorCloning, "iql": ImplicitQLearning}

#: Called with (step, policy) while training; what it returns joins the learning curve.
Callback = Callable[[int, TensorDictModule], Mapping[str, float] | None]

_LOG = logging.getLogger("rlhive")
_CHUNK = 65_536  # rows read at once for the statistics: 40 MB of kitchen observations


@dataclass(frozen=True)
class TrainResult:
    """What a training left.

    Attributes:
        checkpoint: Folder for :func:`rlhive.checkpoint.load_policy`.
        algorithm: "bc" or "iql".
        curve: One dict per logged step: ``step`` (gradient steps done), ``seconds`` (since the first), ``loss`` and
            the algorithm's other losses (means since the last row), and what the callback returned.
        seconds: Wall time of the gradient steps, callbacks included.
        samples_per_s: Transitions that went through a gradient step, per second of it.
    """

    checkpoint: Path
    algorithm: str
    curve: list[dict[str, float]]
    seconds: float
    samples_per_s: float


def train(
    model: str = "bc",
    dataset: str | Path = "kitchen_knob1",
    *,
    split: str | None = None,
    version: str | None = None,
    seed: int | None = None,
    overrides: Sequence[str] = (),
    output_dir: str | Path,
    callback: Callback | None = None,
    progress: bool = True,
) -> TrainResult:
    """Train a policy on a dataset; the same as ``python -m rlhive.sim_algos.run +model=… +dataset=…``.

    It is deterministic for a seed on one machine. Interrupted, it leaves the checkpoint that was in ``output_dir``
    before, or none, never half of one.

    Args:
        model: "bc" or "iql".
        dataset: Dataset name or folder of a version.
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
        DatasetNotFound: No such dataset; SplitNotFound: no such split.
        StoreNotWritable: ``output_dir`` cannot be written.
        TrainingDiverged: A loss became NaN or infinite.
    """
    address = str(dataset.absolute()) if isinstance(dataset, Path) else dataset
    config = make_config(model, address, overrides=overrides)
    given = {"split": split, "version": version, "seed": seed}
    config.update({name: value for name, value in given.items() if value is not None})
    return train_from_config({**config, "progress": progress}, output_dir=output_dir, callback=callback)


def train_from_config(
    config: Mapping[str, Any], *, output_dir: str | Path, callback: Callback | None = None
) -> TrainResult:
    """Train as a whole configuration says; see :func:`train`, which composes one."""
    from rlhive.dataset import RoboHiveDataset

    check_writable(output_dir)
    version = config["version"]
    dataset = RoboHiveDataset(
        config["dataset"], split=config["split"], version=None if version is None else str(version)
    )
    buffer = dataset.as_replay_buffer(batch_size=config["train"]["batch_size"])
    source = {
        "task_name": dataset.task_name,
        "dataset": {"name": dataset.name, "version": dataset.version, "fingerprint": dataset.fingerprint},
    }
    return train_on_buffer(
        buffer, config, env_name=dataset.env_name, output_dir=output_dir, source=source, callback=callback
    )


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
        config: What :func:`rlhive.sim_algos.config.make_config` returned.
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
    with torch.random.fork_rng(), _threads(config["num_threads"]):  # the caller's torch stays as it was
        torch.manual_seed(config["seed"])
        buffer.set_rng(torch.Generator().manual_seed(config["seed"]))
        normalizer = Normalizer(statistics.mean, statistics.std).to(device)
        learner = algorithm(
            config,
            observation_dim=len(statistics.mean),
            action_dim=statistics.action_dim,
            reward_std=statistics.reward_std,
            device=device,
        )
        policy = make_deployed_policy(normalizer, learner.actor, env_name=env_name)
        curve, seconds = _run(learner, policy, buffer, config, callback)
    record = {
        "algorithm": config["algorithm"],
        "env_name": env_name,
        "observation_key": keys.OBSERVATION,
        "observation_dim": len(statistics.mean),
        "action_key": keys.ACTION,
        "action_dim": statistics.action_dim,
        "network": config["network"],
        **(source or {}),
        "split": config["split"],
        "num_transitions": len(buffer),
        "seed": config["seed"],
        "config": dict(config),
        "versions": versions("rlhive", "torch", "torchrl", "tensordict"),
        "git": git_state(),
        "seconds": round(seconds, 3),
    }
    folder = save_checkpoint(output_dir, policy, record, curve)
    _LOG.info("Checkpoint written to %s", folder)
    samples = config["train"]["num_steps"] * config["train"]["batch_size"]
    return TrainResult(folder, config["algorithm"], curve, seconds, samples / seconds)


@dataclass(frozen=True)
class Statistics:
    """What the normalisation needs, over all transitions of a buffer.

    Attributes:
        mean: Of the observations, float64 ``[observation_dim]``.
        std: Of the observations, float64 ``[observation_dim]``; 0 where they do not vary.
        reward_std: Of the rewards; 0 without any.
        action_dim: Size of an action.
    """

    mean: torch.Tensor
    std: torch.Tensor
    reward_std: float
    action_dim: int


def measure(buffer: ReplayBuffer, in_keys: Sequence[keys.NestedKey]) -> Statistics:
    """Read the whole buffer once, check that it can be learned from, and return its statistics.

    Raises:
        SchemaMismatch: It is empty, lacks one of ``in_keys``, or holds NaN or infinite values.
    """
    if len(buffer) == 0:
        msg = "The replay buffer is empty: expected at least one transition. Choose another split."
        raise SchemaMismatch(msg)
    chunks = [buffer[start : start + _CHUNK] for start in range(0, len(buffer), _CHUNK)]
    missing = [key for key in in_keys if key not in chunks[0].keys(True)]
    if missing:
        msg = f"The replay buffer's transitions lack {missing}: expected {list(in_keys)}. Choose another dataset."
        raise SchemaMismatch(msg)
    for key in in_keys:
        if not all(bool(torch.isfinite(chunk[key]).all()) for chunk in chunks):
            msg = f"The replay buffer's {key!r}: expected finite values, got NaN or infinity. Check the dataset."
            raise SchemaMismatch(msg)
    mean, std = _mean_and_std([chunk[keys.OBSERVATION] for chunk in chunks])
    rewards = [chunk[keys.NEXT_REWARD] for chunk in chunks] if keys.NEXT_REWARD in in_keys else []
    reward_std = float(_mean_and_std(rewards)[1]) if rewards else 0.0
    return Statistics(mean, std, reward_std, action_dim=chunks[0][keys.ACTION].shape[-1])


def _mean_and_std(chunks: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Two passes in float64: the one-pass formula loses the variance of a dimension far from zero."""
    count = sum(len(chunk) for chunk in chunks)
    mean = sum(chunk.to(torch.float64).sum(0) for chunk in chunks) / count
    variance = sum((chunk.to(torch.float64) - mean).square().sum(0) for chunk in chunks) / count
    return mean, variance.sqrt()


def _run(
    learner: BehaviorCloning | ImplicitQLearning,
    policy: TensorDictModule,
    buffer: ReplayBuffer,
    config: Mapping[str, Any],
    callback: Callback | None,
) -> tuple[list[dict[str, float]], float]:
    """Take all gradient steps; return the learning curve and the seconds that they took."""
    settings = config["train"]
    num_steps, log_every, eval_every = settings["num_steps"], settings["log_every"], settings["eval_every"]
    prepare = Preparation(policy.module[0], learner.in_keys, torch.device(config["device"]))
    curve: list[dict[str, float]] = []
    since_log: list[dict[str, torch.Tensor]] = []
    start = time.perf_counter()
    with tqdm(total=num_steps, desc=f"train {config['algorithm']}", unit="step", disable=not config["progress"]) as bar:
        for step in range(1, num_steps + 1):
            learner.actor.train()
            since_log.append(learner.update(prepare(buffer.sample(settings["batch_size"]))))
            bar.update()
            calls_back = callback is not None and (step % eval_every == 0 or step == num_steps)
            if step % log_every and step != num_steps and not calls_back:
                continue
            row = {"step": step, "seconds": time.perf_counter() - start, **_means(since_log, step)}
            since_log.clear()
            bar.set_postfix(loss=f"{row['loss']:.4f}", refresh=False)
            if calls_back:
                learner.actor.eval()
                row |= callback(step, policy) or {}
            curve.append(row)
    return curve, time.perf_counter() - start


class Preparation:
    """Turn a batch of the buffer into one of the learner: only its keys, normalised, in float32, on its device."""

    def __init__(self, normalizer: Normalizer, in_keys: Sequence[keys.NestedKey], device: torch.device) -> None:
        self._normalizer, self._in_keys, self._device = normalizer, in_keys, device

    def __call__(self, batch: TensorDictBase) -> TensorDictBase:
        """Return a new TensorDict; the batch, which may be a view of the dataset, is left as it was."""
        batch = batch.select(*self._in_keys).to(self._device)
        for key in self._in_keys:
            value = batch[key]
            if key in (keys.OBSERVATION, (keys.NEXT, keys.OBSERVATION)):
                batch[key] = self._normalizer(value)
            elif value.is_floating_point():
                batch[key] = value.to(torch.float32)
        return batch


@contextlib.contextmanager
def _threads(num_threads: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _means(losses: Sequence[Mapping[str, torch.Tensor]], step: int) -> dict[str, float]:
    means = {name: float(torch.stack([row[name] for row in losses]).mean()) for name in losses[0]}
    for name, value in means.items():
        if not math.isfinite(value):
            msg = f"Training diverged before step {step}: expected a finite {name}, got {value}. Lower optim's rates."
            raise TrainingDiverged(msg)
    return means
