"""Training-loop bookkeeping: progress bar, metrics, evaluation callback, checkpoint."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule
from torch import nn
from tqdm import tqdm

from rlhive import keys
from rlhive._provenance import git_state, installed_versions
from rlhive._threads import torch_threads
from rlhive.policies import Normalizer, make_deployed_policy, save_checkpoint
from rlhive.sim_algos._metrics import MetricLogger
from rlhive.sim_algos._preprocessing import Preprocessor, TrainingStatistics

if TYPE_CHECKING:
    from rlhive.dataset import RoboHiveDataset

_LOG = logging.getLogger("rlhive")

#: Function of the gradient step and the policy; the metrics that it returns join the learning curve.
Callback = Callable[[int, TensorDictModule], Mapping[str, float] | None]


class Algorithm(Protocol):
    """An algorithm: an actor to deploy, and a gradient step on a batch."""

    @property
    def in_keys(self) -> Sequence[keys.NestedKey]:
        """Keys of a batch that :meth:`update` reads."""

    @property
    def actor(self) -> nn.Module:
        """Network from normalised observations to deployed actions."""

    def update(self, batch: TensorDictBase) -> dict[str, torch.Tensor]:
        """Take one gradient step; return its metrics, among them ``loss``."""


@dataclass(frozen=True)
class TrainResult:
    """Result of a training.

    Attributes:
        checkpoint: Folder for :func:`rlhive.policies.load_policy`.
        algorithm: "bc", "iql" or "sac".
        curve: Learning curve, one dict per logged step: ``step`` (number of gradient steps), ``seconds`` (since the
            first), means since the last row of ``loss``, of the algorithm's other losses and of ``return`` and
            ``success_rate`` of the collected episodes, and the metrics of the callback.
        seconds: Wall time of the gradient steps, callbacks included.
        samples_per_s: Number of transitions per second that went through a gradient step.
    """

    checkpoint: Path
    algorithm: str
    curve: list[dict[str, float]]
    seconds: float
    samples_per_s: float


def describe_training_data(dataset: "RoboHiveDataset") -> dict[str, Any]:
    """Return the entries of ``checkpoint.json`` that identify the dataset."""
    identity = {"name": dataset.name, "version": dataset.version, "fingerprint": dataset.fingerprint}
    return {"task_name": dataset.task_name, "dataset": identity}


class Trainer:
    """Feed batches to an algorithm, log its metrics, call back, and save the policy; a context manager.

    Args:
        algorithm: The algorithm.
        statistics: Statistics of the data, for the normaliser.
        config: Sections ``train`` (``num_steps``, ``log_every``, ``eval_every``, ``batch_size``), ``algorithm``,
            ``device`` and ``progress``.
        env_name: Environment that the policy is for.
        callback: Function that is called every ``eval_every`` steps and after the last.

    Attributes:
        policy: The deployed policy so far.
        normalizer: The policy's normaliser.
        logger: Metrics and learning curve.
        step: Number of gradient steps so far.
        seconds: Wall time of the training, once it has ended.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        statistics: TrainingStatistics,
        config: Mapping[str, Any],
        *,
        env_name: str,
        callback: Callback | None = None,
    ) -> None:
        device = torch.device(config["device"])
        self._algorithm = algorithm
        self._statistics = statistics
        self._config = config
        self._settings = config["train"]
        self._env_name = env_name
        self._callback = callback
        self.normalizer = Normalizer(statistics.mean, statistics.std).to(device)
        normalizer = None if statistics.is_normalized else self.normalizer
        self._preprocess = Preprocessor(algorithm.in_keys, normalizer, device)
        self.policy = make_deployed_policy(self.normalizer, algorithm.actor, env_name=env_name)
        self.logger = MetricLogger()
        self.step = 0
        self.seconds = 0.0

    def __enter__(self) -> Self:
        self._algorithm.actor.train()
        self._bar = tqdm(
            total=self._settings["num_steps"],
            desc=f"train {self._config['algorithm']}",
            unit="step",
            disable=not self._config["progress"],
        )
        self._start = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds = time.perf_counter() - self._start
        self._bar.close()

    @property
    def is_finished(self) -> bool:
        """Whether all gradient steps were taken."""
        return self.step >= self._settings["num_steps"]

    def log(self, metrics: Mapping[str, float]) -> None:
        """Add metrics besides those of the gradient steps, for example the return of a collected episode."""
        self.logger.log(metrics)

    def update(self, batch: TensorDictBase) -> None:
        """Take one gradient step on a batch of the buffer; log and call back when it is time to.

        Raises:
            TrainingDivergedError: A loss became NaN or infinite; found when a row of the curve is written.
        """
        self.logger.log(self._algorithm.update(self._preprocess(batch)))
        self.step += 1
        self._bar.update()
        is_due = self.step % self._settings["eval_every"] == 0 or self.is_finished
        callback = self._callback if is_due else None
        if callback is not None or self.step % self._settings["log_every"] == 0 or self.is_finished:
            self._write_row(callback)

    def _write_row(self, callback: Callback | None) -> None:
        means = self.logger.average(step=self.step)
        row = {"step": self.step, "seconds": time.perf_counter() - self._start, **means}
        self._bar.set_postfix({name: f"{row[name]:.4g}" for name in ("loss", "return") if name in row}, refresh=False)
        if callback is not None:
            self._algorithm.actor.eval()
            row |= callback(self.step, self.policy) or {}
            self._algorithm.actor.train()
        self.logger.curve.append(row)

    def save(self, output_dir: str | Path, *, source: Mapping[str, Any], num_transitions: int) -> TrainResult:
        """Write the checkpoint.

        Args:
            output_dir: Folder of the checkpoint.
            source: Further entries of ``checkpoint.json`` about the data, JSON-able.
            num_transitions: Number of transitions that were learned from.
        """
        config = self._config
        record = {
            "algorithm": config["algorithm"],
            "env_name": self._env_name,
            "observation_key": keys.OBSERVATION,
            "observation_dim": self._statistics.observation_dim,
            "action_key": keys.ACTION,
            "action_dim": self._statistics.action_dim,
            "network": config["network"],
            **source,
            "split": config["split"],
            "num_transitions": num_transitions,
            "seed": config["seed"],
            "config": dict(config),
            "versions": installed_versions("rlhive", "torch", "torchrl", "tensordict"),
            "git": git_state(),
            "seconds": round(self.seconds, 3),
        }
        folder = save_checkpoint(output_dir, self.policy.eval(), record, self.logger.curve)
        _LOG.info("Checkpoint written to %s", folder)
        num_samples = self._settings["num_steps"] * self._settings["batch_size"]
        return TrainResult(folder, config["algorithm"], self.logger.curve, self.seconds, num_samples / self.seconds)


@contextlib.contextmanager
def seeded_torch(seed: int, num_threads: int | None) -> Iterator[None]:
    """Seed torch and set its number of threads inside the block; restore the caller's state after it."""
    with torch.random.fork_rng(), torch_threads(num_threads):
        torch.manual_seed(seed)
        yield
