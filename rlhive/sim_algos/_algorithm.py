"""What an algorithm is: networks, losses, a gradient step, and the network that is deployed.

A new algorithm subclasses :class:`Algorithm`, is registered under a name (:mod:`rlhive.sim_algos._registry`), and has a
YAML file with its options. It trains several seeds at once if it computes with the leading dimension of seeds, which
:class:`rlhive.sim_algos.StackedMLP` and :class:`rlhive.sim_algos.SeedGenerators` do.
"""

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule
from torch import nn

from rlhive import keys
from rlhive.errors import InvalidOptionError
from rlhive.sim_algos._encoder import StackedEncoder
from rlhive.sim_algos._preprocessing import TRANSITION_KEYS, TrainingStatistics
from rlhive.sim_algos._ranks import Ranks
from rlhive.sim_algos._seed_stack import SeedGenerators, StackedMLP

_SCHEDULES = ("constant", "cosine")


class Algorithm(nn.Module, ABC):
    """Networks, losses and optimizer of an algorithm, for one or several seeds.

    A subclass builds its networks and calls :meth:`set_optimizer` in ``__init__``, and implements :meth:`losses`.
    Every network whose parameters have a leading dimension of seeds is trained for all seeds by one backward pass: the
    sum of the seeds' losses has, for each slice of the parameters, the gradient of that seed's loss.

    Args:
        config: Configuration; see the sections of the algorithm's file in ``conf/model``.
        statistics: Statistics of the data, with the sizes of observations and actions.
        generators: One generator per seed, on the device of the networks; initial parameters and all random numbers
            of the training are drawn from them.

    Attributes:
        actor: Network from a normalised observation to an action before its tanh.
        encoders: Encoders that are trained with the algorithm, one per key of pictures.
        ranks: The processes whose gradients are averaged.
        num_updates: Number of gradient steps so far.
    """

    #: Name on the command line, ``+model=<name>``.
    name: ClassVar[str]
    #: Keys of a batch that :meth:`losses` reads.
    in_keys: ClassVar[Sequence[keys.NestedKey]] = TRANSITION_KEYS
    #: Keys that a sampler may add to a batch, and that :meth:`losses` reads where it does.
    optional_keys: ClassVar[Sequence[keys.NestedKey]] = ()
    #: Losses whose gradient trains an encoder of pictures; None for all of them. A critic's loss alone where an actor's
    #: gradient would change the features in favour of its own actions (Yarats et al., AAAI 2021).
    encoder_losses: ClassVar[tuple[str, ...] | None] = None
    #: Whether the algorithm can learn from nothing but its own experience.
    is_online: ClassVar[bool] = False

    actor: StackedMLP
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler

    def __init__(self, config: Mapping[str, Any], statistics: TrainingStatistics, generators: SeedGenerators) -> None:
        super().__init__()
        self.config = config
        self.statistics = statistics
        self.generators = generators
        self.ranks = Ranks()
        self.num_updates = 0
        shapes = statistics.pictures.values()
        self.encoders = nn.ModuleList(StackedEncoder(generators, shape, config["encoder"]) for shape in shapes)

    @classmethod
    def buffer_options(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of ``as_replay_buffer`` that the algorithm's batches need."""
        del config
        return {}

    def set_optimizer(self, *groups: Mapping[str, Any]) -> None:
        """Make the AdamW optimizer and the schedule of the section ``optim``.

        Args:
            groups: Groups of parameters, each with ``params`` and ``lr``.

        Raises:
            InvalidOptionError: Unknown schedule.
        """
        optim, num_steps = self.config["optim"], self.config["train"]["num_steps"]
        if optim["schedule"] not in _SCHEDULES:
            msg = f"optim.schedule: expected one of {', '.join(_SCHEDULES)}, got {optim['schedule']!r}"
            raise InvalidOptionError(msg)
        lists = [{**group, "params": list(group["params"])} for group in groups]
        if self.encoders:
            lists.append({"params": list(self.encoders.parameters()), "lr": self.config["encoder"]["lr"]})
        self.optimizer = torch.optim.AdamW(lists, weight_decay=optim["weight_decay"], fused=True)
        factor = partial(_rate_factor, optim["schedule"], num_steps=num_steps, warmup_steps=optim["warmup_steps"])
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, factor)

    @abstractmethod
    def losses(self, batch: TensorDictBase) -> dict[str, torch.Tensor]:
        """Return the losses and metrics of a batch.

        Args:
            batch: ``in_keys``, batch size ``[num_seeds, N]``; floating-point values are float32, observations
                normalised, rewards scaled. The features of pictures are in ``observation``.

        Returns:
            One number per seed, ``[num_seeds]``. Entries whose name begins with "loss" are summed and minimised; a
            loss must have no gradient for networks that another loss trains.
        """

    def update_targets(self) -> None:
        """Move the target networks after a gradient step; by default there are none."""

    def update(self, batch: TensorDictBase) -> dict[str, torch.Tensor]:
        """Take one gradient step on all networks.

        Args:
            batch: Batch as for :meth:`losses`.

        Returns:
            ``loss`` (the sum) and the entries of :meth:`losses`, detached, ``[num_seeds]`` each.
        """
        features = self._encode_batch(batch) if self.encoders else None
        metrics = self.losses(batch)
        total = functools.reduce(torch.add, (value for name, value in metrics.items() if name.startswith("loss")))
        for group in self.optimizer.param_groups:  # zero_grad() takes as long as a small layer
            for parameter in group["params"]:
                parameter.grad = None
        if features is None:
            total.sum().backward()  # type: ignore[no-untyped-call]  # torch has no type here
        else:
            self._backward_to_encoder(metrics, features, batch[keys.OBSERVATION])
        self.ranks.average(
            [p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        )
        if self.config["optim"]["max_grad_norm"] is not None:
            self._clip_gradients(self.config["optim"]["max_grad_norm"])
        self.optimizer.step()
        self.schedule.step()
        self.num_updates += 1
        self.update_targets()
        return {"loss": total.detach(), **{name: value.detach() for name, value in metrics.items()}}

    def read_observation(self, batch: TensorDictBase, *, frozen: bool = True) -> torch.Tensor:
        """Return the observation that the networks read: the normalised vectors and the features of pictures.

        Args:
            batch: ``observation`` and the pictures, batch size ``[num_seeds, N]``.
            frozen: Whether the features are constants.
        """
        if not self.encoders:
            return batch[keys.OBSERVATION]
        encoded = (
            encoder(batch[keys.column_to_key(column)], frozen=frozen)
            for column, encoder in zip(self.statistics.pictures, self.encoders, strict=True)
        )
        return torch.cat([batch[keys.OBSERVATION], *encoded], -1)

    def _encode_batch(self, batch: TensorDictBase) -> torch.Tensor:
        """Replace the observations of a batch by what the networks read; return the features with their graph.

        The losses get a copy without that graph, so that :attr:`encoder_losses` can be separated from the others.
        """
        features = self.read_observation(batch, frozen=False)
        if batch.get((keys.NEXT, keys.OBSERVATION), None) is not None:
            batch[keys.NEXT, keys.OBSERVATION] = self.read_observation(batch[keys.NEXT])
        batch[keys.OBSERVATION] = features.detach().requires_grad_()
        return features

    def _backward_to_encoder(
        self, metrics: Mapping[str, torch.Tensor], features: torch.Tensor, observation: torch.Tensor
    ) -> None:
        """Compute all gradients; those of the encoders are of :attr:`encoder_losses` only."""
        losses = {name: value.sum() for name, value in metrics.items() if name.startswith("loss")}
        trains_encoder = [name for name in losses if self.encoder_losses is None or name in self.encoder_losses]
        others = [value for name, value in losses.items() if name not in trains_encoder and value.requires_grad]
        if others:
            torch.stack(others).sum().backward(retain_graph=True)  # type: ignore[no-untyped-call]
            observation.grad = None
        torch.stack([losses[name] for name in trains_encoder]).sum().backward()  # type: ignore[no-untyped-call]
        features.backward(observation.grad)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def _clip_gradients(self, max_norm: float) -> None:
        """Scale each seed's gradient down to a norm of at most ``max_norm``."""
        gradients = [p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        squares = torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients]).sum(0)
        factors = (max_norm / (squares.sqrt() + 1e-6)).clamp_max(1.0)
        for gradient in gradients:
            gradient.mul_(factors.view(-1, *(1 for _ in gradient.shape[1:])))

    def act(self, observation: torch.Tensor) -> torch.Tensor:
        """Return the action of the policy that collects episodes, before the noise of the section ``exploration``.

        Random numbers come from torch's default generator, which a rollout seeds.

        Args:
            observation: Result of :meth:`read_observation`, ``[num_seeds, N, observation_dim]``.

        Returns:
            ``[num_seeds, N, action_dim]``, in [-1, 1].
        """
        return torch.tanh(self.actor(observation))

    @property
    def network(self) -> dict[str, Any]:
        """Section ``network`` of ``checkpoint.json``: what :func:`rlhive.policies.make_network` builds."""
        section = self.config["network"]
        entries = {
            name: section[name] for name in ("hidden_sizes", "activation", "dropout", "layer_norm") if name in section
        }
        return {"kind": "mlp", **entries}

    def copy_network(self, network: nn.Module, seed_index: int) -> None:
        """Write one seed's parameters into a deployed network of :attr:`network`."""
        self.actor.copy_to(network, seed_index)

    def copy_encoders(self, policy: TensorDictModule, seed_index: int) -> None:
        """Write one seed's encoders into a deployed policy that reads pictures."""
        for index, encoder in enumerate(self.encoders):
            copy = policy.module[0].encoders[index]
            if isinstance(encoder, StackedEncoder):
                encoder.copy_to(copy, seed_index)

    def training_state(self) -> dict[str, Any]:
        """Return everything that the next gradient step depends on, as tensors and plain values."""
        return {
            "networks": self.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "generators": self.generators.state_dict(),
            "num_updates": self.num_updates,
        }

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Go on from the state that :meth:`training_state` returned."""
        self.load_state_dict(state["networks"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.generators.load_state_dict(state["generators"])
        self.num_updates = state["num_updates"]


def mean_per_seed(values: torch.Tensor) -> torch.Tensor:
    """Return the mean over all dimensions but the first."""
    return values.flatten(1).mean(1)


def _rate_factor(schedule: str, step: int, *, num_steps: int, warmup_steps: int) -> float:
    """Return the factor of the learning rates at a step: a linear warm-up, then constant or a cosine to zero."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return 1.0
    progress = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
