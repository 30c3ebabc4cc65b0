"""The course of a training: its bar, its learning curve, the callback, and what it leaves behind."""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
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
from rlhive.errors import TrainingDiverged
from rlhive.policies import Normalizer, make_deployed_policy, save_checkpoint
from rlhive.sim_algos._preprocessing import Statistics

if TYPE_CHECKING:
    from rlhive.dataset import RoboHiveDataset

_LOG = logging.getLogger("rlhive")

#: Called with (step, policy) while training; what it returns joins the learning curve.
Callback = Callable[[int, TensorDictModule], Mapping[str, float] | None]


class Learner(Protocol):
    """What an algorithm is: an actor to be deployed, and a gradient step on a batch."""

    actor: nn.Module

    def update(self, batch: TensorDictBase) -> dict[str, torch.Tensor]:
        """Take one gradient step; return losses, among them ``loss``."""


@dataclass(frozen=True)
class TrainResult:
    """What a training left.

    Attributes:
        checkpoint: Folder for :func:`rlhive.policies.load_policy`.
        algorithm: "bc", "iql" or "sac".
        curve: One dict per logged step: ``step`` (gradient steps done), ``seconds`` (since the first), ``loss`` and
            the algorithm's other losses (means since the last row), ``return`` and ``success_rate`` of the episodes
            that were collected since then, and what the callback returned.
        seconds: Wall time of the gradient steps, callbacks included.
        samples_per_s: Transitions that went through a gradient step, per second of it.
    """

    checkpoint: Path
    algorithm: str
    curve: list[dict[str, float]]
    seconds: float
    samples_per_s: float


def source_of(dataset: "RoboHiveDataset") -> dict[str, Any]:
    """Return what a checkpoint's record says of the dataset that was learned from."""
    identity = {"name": dataset.name, "version": dataset.version, "fingerprint": dataset.fingerprint}
    return {"task_name": dataset.task_name, "dataset": identity}


class Course:
    """Count gradient steps, show them, and gather the learning curve; a context manager.

    Args:
        config: Sections ``train`` (``num_steps``, ``log_every``, ``eval_every``, ``batch_size``), ``algorithm``,
            ``progress``.
        statistics: Of the data, for the normaliser of the deployed policy.
        learner: Its actor is deployed.
        env_name: Environment that the policy is for.
        callback: Called every ``eval_every`` steps and after the last.

    Attributes:
        policy: The deployed policy so far.
        normalizer: Its normaliser.
        curve: The rows so far.
        step: Gradient steps done.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        statistics: Statistics,
        learner: Learner,
        *,
        env_name: str,
        callback: Callback | None,
    ) -> None:
        self._config, self._settings, self._callback = config, config["train"], callback
        self._actor, self._statistics = learner.actor, statistics
        self.normalizer = Normalizer(statistics.mean, statistics.std).to(torch.device(config["device"]))
        self.policy = make_deployed_policy(self.normalizer, learner.actor, env_name=env_name)
        self.curve: list[dict[str, float]] = []
        self.step = 0
        self._losses: list[Mapping[str, torch.Tensor]] = []
        self._more: list[Mapping[str, float]] = []

    def __enter__(self) -> Self:
        self._actor.train()
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
    def is_over(self) -> bool:
        """Whether all gradient steps were taken."""
        return self.step >= self._settings["num_steps"]

    def saw(self, more: Mapping[str, float]) -> None:
        """Note what else the next row of the curve is to have the mean of."""
        self._more.append(more)

    def took(self, losses: Mapping[str, torch.Tensor]) -> None:
        """Note a gradient step.

        Raises:
            TrainingDiverged: A loss became NaN or infinite; seen when a row is written.
        """
        self.step += 1
        self._losses.append(losses)
        self._bar.update()
        calls_back = self._callback is not None and (self.step % self._settings["eval_every"] == 0 or self.is_over)
        if self.step % self._settings["log_every"] and not self.is_over and not calls_back:
            return
        row = {"step": self.step, "seconds": time.perf_counter() - self._start, **self._means()}
        self._bar.set_postfix({name: f"{row[name]:.4g}" for name in ("loss", "return") if name in row}, refresh=False)
        if calls_back:
            self._actor.eval()
            row |= self._callback(self.step, self.policy) or {}
            self._actor.train()
        self.curve.append(row)

    def _means(self) -> dict[str, float]:
        losses, self._losses = self._losses, []
        more, self._more = self._more, []
        means = {name: float(torch.stack([row[name] for row in losses]).mean()) for name in losses[0]}
        for name, value in means.items():
            if not math.isfinite(value):
                msg = (
                    f"Training diverged before step {self.step}: expected a finite {name}, got {value}. "
                    "Lower optim's rates."
                )
                raise TrainingDiverged(msg)
        return means | {name: sum(row[name] for row in more) / len(more) for name in (more[0] if more else ())}

    def leave(self, output_dir: str | Path, *, source: Mapping[str, Any], num_transitions: int) -> TrainResult:
        """Write the checkpoint; return where it is and how it went.

        Args:
            output_dir: Where to.
            source: What else ``checkpoint.json`` should say of the data, JSON-able.
            num_transitions: Learned from.
        """
        config = self._config
        record = {
            "algorithm": config["algorithm"],
            "env_name": self.policy.env_name,
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
        folder = save_checkpoint(output_dir, self.policy.eval(), record, self.curve)
        _LOG.info("Checkpoint written to %s", folder)
        samples = self._settings["num_steps"] * self._settings["batch_size"]
        return TrainResult(folder, config["algorithm"], self.curve, self.seconds, samples / self.seconds)


@contextlib.contextmanager
def seeded(seed: int, num_threads: int | None) -> Iterator[None]:
    """Seed torch, and set its number of threads, for a while; the caller's torch stays as it was."""
    before = torch.get_num_threads()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torch.set_num_threads(num_threads or before)
        try:
            yield
        finally:
            torch.set_num_threads(before)
