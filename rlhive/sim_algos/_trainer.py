"""The trainer: gradient steps, progress bar, learning curves, evaluation, checkpoints, and going on after an interrupt.

A run's folder::

    <run>/
      checkpoint.json  policy.pt  curve.json    the policy of the last save (rlhive.policies)
      best/                                     the policy with the best evaluation so far, the same files
      evaluations.json                          every evaluation, with the return of each episode
      metrics/                                  what the logger writes
      training_state/                           only while the training has not ended: see _training_state
      seed_<n>/                                 with several seeds: the same, one folder per seed
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, Self

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule
from tqdm import tqdm

from rlhive import keys
from rlhive._provenance import git_state, installed_versions
from rlhive.errors import TrainingDivergedError
from rlhive.policies import Normalizer, make_deployed_policy, make_network, save_checkpoint
from rlhive.sim_algos._algorithm import Algorithm
from rlhive.sim_algos._evaluation import HeldOutEvaluation
from rlhive.sim_algos._inputs import TrainingInputs
from rlhive.sim_algos._loggers import ExperimentLoggers
from rlhive.sim_algos._metrics import MetricLogger
from rlhive.sim_algos._preprocessing import Preprocessor, TrainingStatistics
from rlhive.sim_algos._ranks import Ranks
from rlhive.sim_algos._setup import list_seeds
from rlhive.sim_algos._signals import DeferredInterrupt
from rlhive.sim_algos._training_state import load_training_state, read_index, remove_training_state, save_training_state

if TYPE_CHECKING:
    from rlhive.dataset import RoboHiveDataset

_LOG = logging.getLogger("rlhive")

BEST_FOLDER = "best"
DIVERGED_BATCH_FILE = "diverged_batch.pt"

#: Gradient steps on a GPU between two looks at the losses, and batches that are kept for them.
_MAX_UNCHECKED = 16

#: Function of the gradient step and the policy; the metrics that it returns join the learning curve.
Callback = Callable[[int, TensorDictModule], Mapping[str, float] | None]


class TrainingData(Protocol):
    """Where the batches of a training come from: its state is saved and restored with the training's."""

    @property
    def num_transitions(self) -> int:
        """Number of transitions that were learned from so far."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state as tensors and plain values."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state."""


@dataclass(frozen=True)
class TrainResult:
    """Result of a training.

    Attributes:
        checkpoints: Folder of each seed's checkpoint, for :func:`rlhive.policies.load_policy`.
        algorithm: Name of the algorithm.
        curves: Learning curve of each seed, one dict per logged step: ``step`` (number of gradient steps), ``seconds``
            (since the first), means since the last row of ``loss``, of the algorithm's other losses and of ``return``
            and ``success_rate`` of the collected episodes; ``eval/…`` of the evaluations, and the metrics of the
            callback.
        seconds: Wall time of the gradient steps, evaluations and callbacks included.
        samples_per_s: Number of transitions per second that went through a gradient step, over all seeds.
    """

    checkpoints: tuple[Path, ...]
    algorithm: str
    curves: tuple[list[dict[str, float]], ...]
    seconds: float
    samples_per_s: float

    @property
    def checkpoint(self) -> Path:
        """Folder of the first seed's checkpoint."""
        return self.checkpoints[0]

    @property
    def curve(self) -> list[dict[str, float]]:
        """Learning curve of the first seed."""
        return self.curves[0]


def describe_training_data(dataset: "RoboHiveDataset") -> dict[str, Any]:
    """Return the entries of ``checkpoint.json`` that identify the dataset."""
    identity = {"name": dataset.name, "version": dataset.version, "fingerprint": dataset.fingerprint}
    return {"task_name": dataset.task_name, "dataset": identity}


class Trainer:
    """Feed batches to an algorithm until its gradient steps are taken; a context manager.

    Args:
        algorithm: The algorithm.
        preprocess: From batches of the buffer to a batch of the algorithm.
        statistics: Statistics of the data, for the normaliser.
        config: Configuration: sections ``train``, ``evaluation`` and ``logger``, ``algorithm``, ``seed``,
            ``num_seeds``, ``resume`` and ``progress``.
        data: What the batches come from, and everything else whose state the next batches depend on.
        inputs: What stands for the observations.
        env_name: Environment that the policies are for.
        task: Task or environment id of the evaluation.
        output_dir: Folder of the run.
        source: Entries of ``checkpoint.json`` about the data, JSON-able.
        ranks: The processes that train together; this one alone by default.
        callback: Function that is called with each seed's policy every ``eval_every`` steps and after the last.

    Attributes:
        step: Number of gradient steps so far.
        normalizer: Normaliser of the policies, on the algorithm's device.
        metrics: Metrics and learning curves.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        preprocess: Preprocessor,
        statistics: TrainingStatistics,
        config: Mapping[str, Any],
        *,
        data: TrainingData,
        inputs: TrainingInputs | None = None,
        env_name: str,
        task: str | None = None,
        output_dir: str | Path,
        source: Mapping[str, Any] | None = None,
        callback: Callback | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self._algorithm = algorithm
        self._preprocess = preprocess
        self._statistics = statistics
        self._config = config
        self._settings = config["train"]
        self._data = data
        self._inputs = inputs
        self._env_name = env_name
        self._source = dict(source or {})
        self._ranks = algorithm.ranks = ranks or Ranks()
        self._callback = callback if self._ranks.is_main else None
        self._folder = Path(output_dir)
        self._seeds = list_seeds(config)
        self.normalizer = Normalizer(statistics.mean, statistics.std).to(algorithm.generators.device)
        self.metrics = MetricLogger(len(self._seeds))
        self.step = 0
        self._seconds_before = 0.0
        self._last_saved = 0
        self._unchecked: list[tuple[torch.Tensor, Sequence[TensorDictBase]]] = []
        evaluation = config["evaluation"] if self._ranks.is_main else None
        self._evaluation = evaluation and HeldOutEvaluation(evaluation, task or env_name, num_seeds=len(self._seeds))

    def __enter__(self) -> Self:
        resume = self._config["resume"]
        if resume is not None and (resume != "auto" or read_index(self._folder) is not None):
            self._load_state()
        if self._ranks.rank:  # noise of its own; parameters and batches are those of rank 0
            self._algorithm.generators.reseed((self.step << 16) + self._ranks.rank)
        logger = self._config["logger"] if self._ranks.is_main else None
        self._loggers = ExperimentLoggers(logger, self.folders, self._config, self.metrics.curves)
        self._algorithm.train()
        self._interrupt = DeferredInterrupt().__enter__()
        self._bar = tqdm(
            total=self._settings["num_steps"],
            initial=self.step,
            desc=f"train {self._config['algorithm']}",
            unit="step",
            disable=not (self._config["progress"] and self._ranks.is_main),
        )
        self._start = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._interrupt.__exit__(kind, error, trace)
        self._bar.close()
        if error is None and self._interrupt.received is not None:  # it came after the last step
            self._interrupt.stop()

    @property
    def folders(self) -> list[Path]:
        """Folder of each seed's run."""
        if len(self._seeds) == 1:
            return [self._folder]
        return [self._folder / f"seed_{seed}" for seed in self._seeds]

    @property
    def is_finished(self) -> bool:
        """Whether all gradient steps were taken."""
        return self.step >= self._settings["num_steps"]

    @property
    def seconds(self) -> float:
        """Wall time of the training so far, without the time between an interrupt and the continuation."""
        return self._seconds_before + time.perf_counter() - self._start

    def log(self, metrics: Mapping[str, float]) -> None:
        """Add metrics besides those of the gradient steps, for example the return of a collected episode."""
        self.metrics.log(metrics)

    def update(self, batches: Sequence[TensorDictBase]) -> None:
        """Take one gradient step; log, evaluate and call back when it is time to.

        Args:
            batches: One batch of the buffer per seed.

        Raises:
            TrainingDivergedError: A loss is NaN or infinite. The batch is in ``diverged_batch.pt``.
        """
        batches = [self._ranks.split(batch) for batch in batches]
        metrics = self._algorithm.update(self._preprocess(batches))
        self._ranks.average(list(metrics.values()))
        self.step += 1
        self._require_finite(metrics["loss"], batches)
        self.metrics.log(metrics)
        self._bar.update()
        is_evaluated = self.step % self._settings["eval_every"] == 0 or self.is_finished
        if is_evaluated or self.step % self._settings["log_every"] == 0:
            self._write_rows(is_evaluated=is_evaluated and bool(self._callback or self._evaluation))

    def save_if_due(self) -> None:
        """Save the state every ``save_every`` steps; save it and end the training after an interrupt.

        Call this where the state is whole: after a gradient step offline, after an episode's gradient steps online.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed. SystemExit: SIGTERM came.
        """
        if self.is_finished:
            return
        is_interrupted = self._ranks.any(self._interrupt.received is not None)
        if is_interrupted or self.step - self._last_saved >= self._settings["save_every"]:
            self._save_state()
        if is_interrupted:
            self._bar.close()
            _LOG.log(
                logging.WARNING if self._ranks.is_main else logging.DEBUG,
                "Interrupted after step %d of %d. Its state is saved in %s: resume=auto goes on with it.",
                self.step,
                self._settings["num_steps"],
                self._folder,
            )
            self._interrupt.stop()

    def finish(self) -> TrainResult:
        """Write the checkpoints of the finished training and remove its state."""
        seconds = self.seconds
        if self._ranks.is_main:
            self._save_policies()
            remove_training_state(self._folder)
            for folder in self.folders:
                _LOG.info("Checkpoint written to %s", folder)
        num_samples = self.step * self._settings["batch_size"] * len(self._seeds)
        return TrainResult(
            tuple(self.folders),
            self._config["algorithm"],
            tuple(self.metrics.curves),
            seconds,
            num_samples / seconds,
        )

    def make_policy(self, seed_index: int) -> TensorDictModule:
        """Return the deployed policy of a seed as it is now, a copy on the CPU."""
        network = make_network(self._statistics.observation_dim, self._statistics.action_dim, self._algorithm.network)
        self._algorithm.copy_network(network, seed_index)
        policy = make_deployed_policy(
            Normalizer(self._statistics.mean, self._statistics.std),
            network,
            env_name=self._env_name,
            inputs=None if self._inputs is None else self._inputs.policy,
            env_kwargs=None if self._inputs is None else self._inputs.env_kwargs,
        )
        self._algorithm.copy_encoders(policy, seed_index)
        if self._inputs is not None:
            self._inputs.copy_frozen(policy)
        return policy.requires_grad_(False)

    def _write_rows(self, *, is_evaluated: bool) -> None:
        self._check_unchecked()
        rows: list[dict[str, float]] = [
            {"step": self.step, "seconds": self.seconds, **means} for means in self.metrics.average()
        ]
        for index, row in enumerate(rows):
            if is_evaluated:
                row |= self._evaluate(index)
            self.metrics.curves[index].append(row)
            self._loggers.log(index, row)
        shown = [name for name in ("loss", "return", "eval/return", "eval/success_rate") if name in rows[0]]
        means = {name: sum(row[name] for row in rows) / len(rows) for name in shown}
        self._bar.set_postfix({name: f"{value:.4g}" for name, value in means.items()}, refresh=False)

    def _evaluate(self, seed_index: int) -> dict[str, float]:
        """Return the metrics of the evaluation and the callback; keep the policy if it is the best so far."""
        policy = self.make_policy(seed_index)
        metrics: dict[str, float] = {}
        if self._evaluation:
            metrics, is_best = self._evaluation.evaluate(seed_index, policy, step=self.step)
            folder = self.folders[seed_index]
            if is_best:
                record = self._make_record(self._seeds[seed_index])
                save_checkpoint(folder / BEST_FOLDER, policy, record, self.metrics.curves[seed_index])
            self._evaluation.write(seed_index, folder)
        if self._callback is not None:
            metrics |= self._callback(self.step, policy) or {}
        return metrics

    def _require_finite(self, losses: torch.Tensor, batches: Sequence[TensorDictBase]) -> None:
        """Raise TrainingDivergedError if a loss is not finite; on a GPU, whose losses are not ready yet, later."""
        self._unchecked.append((losses, batches))
        if losses.device.type == "cpu" or len(self._unchecked) == _MAX_UNCHECKED:
            self._check_unchecked()

    def _check_unchecked(self) -> None:
        unchecked, self._unchecked = self._unchecked, []
        if not unchecked:
            return
        finite = torch.isfinite(torch.stack([losses for losses, _ in unchecked]))
        if finite.all():
            return
        position, seed_index = (~finite).nonzero()[0].tolist()
        losses, batches = unchecked[position]
        step = self.step - len(unchecked) + position + 1
        self._raise_diverged(step, seed_index, float(losses[seed_index]), batches[seed_index])

    def _raise_diverged(self, step: int, seed_index: int, loss: float, batch: TensorDictBase) -> NoReturn:
        """Write the batch into the run's folder and raise."""
        folder = self.folders[seed_index]
        folder.mkdir(parents=True, exist_ok=True)
        suffix = f".rank{self._ranks.rank}" if self._ranks.rank else ""
        path = folder / f"{DIVERGED_BATCH_FILE}{suffix}"
        torch.save({"_".join(key) if isinstance(key, tuple) else key: value for key, value in _leaves(batch)}, path)
        episodes = ""
        if batch.get(keys.EPISODE, None) is not None:
            ids = sorted(set(batch[keys.EPISODE].flatten().tolist()))
            episodes = f" Its transitions are of the episodes {', '.join(map(str, ids[:8]))}{', …' * (len(ids) > 8)}."
        msg = (
            f"Training diverged at step {step}: expected a finite loss, got {loss}. The batch is in {path}.{episodes} "
            "Lower the learning rates of the section optim, or run: rlhive check"
        )
        raise TrainingDivergedError(msg)

    def _save_policies(self) -> None:
        for index, (seed, folder) in enumerate(zip(self._seeds, self.folders, strict=True)):
            save_checkpoint(folder, self.make_policy(index), self._make_record(seed), self.metrics.curves[index])

    def _make_record(self, seed: int) -> dict[str, Any]:
        """Return the entries of ``checkpoint.json``."""
        config = self._config
        return {
            "algorithm": config["algorithm"],
            "env_name": self._env_name,
            "observation_key": keys.OBSERVATION,
            "observation_dim": self._statistics.observation_dim,
            "action_key": keys.ACTION,
            "action_dim": self._statistics.action_dim,
            "network": self._algorithm.network,
            **({} if self._inputs is None else self._inputs.to_json()),
            **self._source,
            "split": config["split"],
            "num_transitions": self._data.num_transitions,
            "seed": seed,
            "step": self.step,
            "config": dict(config),
            "versions": installed_versions("rlhive", "torch", "torchrl", "tensordict"),
            "git": git_state(),
            "seconds": round(self.seconds, 3),
        }

    def _save_state(self) -> None:
        """Save everything that the next step depends on, and the policies as they are."""
        self._check_unchecked()
        self._last_saved = self.step
        if not self._ranks.is_main:
            return
        self._save_policies()
        state = {
            "algorithm": self._algorithm.training_state(),
            "data": self._data.state_dict(),
            "metrics": self.metrics.state_dict(),
            "evaluation": self._evaluation.state_dict() if self._evaluation else {},
            "step": self.step,
            "seconds": self.seconds,
        }
        save_training_state(self._folder, state, step=self.step, config=self._config, source=self._source)

    def _load_state(self) -> None:
        state = load_training_state(self._folder, self._config, self._source)
        self._algorithm.load_training_state(state["algorithm"])
        self._data.load_state_dict(state["data"])
        self.metrics.load_state_dict(state["metrics"])
        if self._evaluation:
            self._evaluation.load_state_dict(state["evaluation"])
        self.step = self._last_saved = state["step"]
        self._seconds_before = state["seconds"]
        _LOG.info("Going on after step %d of %d in %s", self.step, self._settings["num_steps"], self._folder)


def _leaves(batch: TensorDictBase) -> list[tuple[keys.NestedKey, torch.Tensor]]:
    """Return the tensors of a batch, each in memory of its own."""
    return [(key, value.clone()) for key, value in batch.items(True, True) if isinstance(value, torch.Tensor)]
