"""IQL in plain PyTorch, in the manner of CORL's single-file ``iql.py``.

As there: a module per network, an Adam optimizer each for V, Q and the actor, a cosine schedule of the actor's learning
rate, a deep copy as target, and three backward passes one after the other. The Gaussian policy has one scale per action
dimension. Each loss is read as a Python number for the log.
"""

import copy
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributions import Normal
from torch.nn import functional as F

from benchmarks.peers.source import Source
from benchmarks.peers.updates import (
    ACTION,
    BATCH,
    EXPECTILE,
    GAMMA,
    HIDDEN,
    LEARNING_RATE,
    NETWORKS,
    TAU,
    TEMPERATURE,
    Weights,
    cycle,
    make_batches,
    make_weights,
)
from benchmarks.peers.worker import Drawing


class Peer:
    """Adapter of the IQL below."""

    def __init__(self, source: Source, folder: Path):
        del source, folder
        torch.set_num_threads(1)

    def versions(self) -> dict[str, str]:
        """Return the versions of the measured libraries."""
        return {"torch": metadata.version("torch")}

    def open(self, workload: str, variant: str) -> Drawing:
        """Build the learner."""
        del workload, variant
        learner = ImplicitQLearning(make_weights())
        batches = cycle(_tensors())
        return Drawing(lambda: learner.update(next(batches)), dict, size=BATCH)

    def losses(self, num_steps: int) -> list[dict[str, float]]:
        """Return the losses of the first gradient steps from the common weights."""
        learner, batches = ImplicitQLearning(make_weights()), cycle(_tensors())
        return [learner.update(next(batches)) for _ in range(num_steps)]


def mlp(name: str, weights: Weights) -> nn.Sequential:
    """Return a perceptron with the common weights."""
    num_inputs, num_outputs = NETWORKS[name]
    layers = [nn.Linear(num_inputs, HIDDEN), nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, num_outputs)]
    for layer, (weight, bias) in zip(layers, weights[name], strict=True):
        layer.load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})
    return nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])


class _TwinQ(nn.Module):
    def __init__(self, weights: Weights):
        super().__init__()
        self.q1, self.q2 = mlp("q1", weights), mlp("q2", weights)

    def both(self, observation: torch.Tensor, action: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        joined = torch.cat([observation, action], 1)
        return self.q1(joined).squeeze(-1), self.q2(joined).squeeze(-1)

    def forward(self, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return torch.min(*self.both(observation, action))


class _GaussianPolicy(nn.Module):
    def __init__(self, weights: Weights):
        super().__init__()
        self.net = nn.Sequential(*mlp("actor", weights), nn.Tanh())
        self.log_std = nn.Parameter(torch.zeros(ACTION))

    def forward(self, observation: torch.Tensor) -> Normal:
        return Normal(self.net(observation), torch.exp(self.log_std.clamp(-20.0, 2.0)))


class ImplicitQLearning:
    """Three networks, three optimizers, one step each per batch."""

    def __init__(self, weights: Weights):
        self.critic, self.value, self.actor = _TwinQ(weights), mlp("value", weights), _GaussianPolicy(weights)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self._value_optimizer, self._critic_optimizer, self._actor_optimizer = (
            torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
            for network in (self.value, self.critic, self.actor)
        )
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self._actor_optimizer, 1_000_000)

    def update(self, batch: dict[str, torch.Tensor]) -> dict[str, float]:
        """Take one gradient step of each network; return the losses."""
        observation, action = batch["observation"], batch["action"]
        with torch.no_grad():
            next_value = self.value(batch["next_observation"]).squeeze(-1)
            target_q = self.target_critic(observation, action)

        advantage = target_q - self.value(observation).squeeze(-1)
        value_loss = torch.mean(torch.abs(EXPECTILE - (advantage < 0).float()) * advantage**2)
        losses = {"value": value_loss.item()}
        self._step(self._value_optimizer, value_loss)

        target = batch["reward"].squeeze(-1) + (1.0 - batch["terminated"].squeeze(-1)) * GAMMA * next_value
        critic_loss = sum(F.mse_loss(q, target) for q in self.critic.both(observation, action)) / 2
        losses["critic"] = critic_loss.item()
        self._step(self._critic_optimizer, critic_loss)
        for old, new in zip(self.target_critic.parameters(), self.critic.parameters(), strict=True):
            old.data.copy_((1 - TAU) * old.data + TAU * new.data)

        weight = torch.exp(TEMPERATURE * advantage.detach()).clamp(max=100.0)
        actor_loss = torch.mean(weight * -self.actor(observation).log_prob(action).sum(-1))
        losses["actor"] = actor_loss.item()
        self._step(self._actor_optimizer, actor_loss)
        self._schedule.step()
        return losses

    @staticmethod
    def _step(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _tensors() -> list[dict[str, Any]]:
    return [{name: torch.from_numpy(values) for name, values in batch.items()} for batch in make_batches()]
