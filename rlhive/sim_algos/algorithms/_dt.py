"""Decision transformer: predict the actions of an episode from its returns to go, observations and earlier actions.

Chen et al., "Decision Transformer: Reinforcement Learning via Sequence Modeling", NeurIPS 2021. The policy is deployed
with a return to aim at. What differs from the paper's code: positions are those within the context, because a batch
has slices and not the time steps of the episode (see :mod:`rlhive.policies`); returns to go are standardised by the
data instead of divided by a number that is chosen per task.
"""

from collections.abc import Mapping
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import nn

from rlhive import keys
from rlhive.errors import InvalidOptionError, SchemaMismatchError
from rlhive.policies import predict_actions, require_transformer, transformer_shapes
from rlhive.sim_algos._algorithm import Algorithm, mean_per_seed
from rlhive.sim_algos._preprocessing import ReturnStatistics, TrainingStatistics
from rlhive.sim_algos._seed_stack import SeedGenerators

_INITIAL_STD = 0.02  # GPT-2


class DecisionTransformer(Algorithm):
    """Causal transformer over slices of episodes, and its squared error."""

    name = "dt"
    in_keys = (keys.OBSERVATION, keys.ACTION, keys.RETURN_TO_GO, keys.NEXT_REWARD, keys.NEXT_DONE)
    optional_keys = (keys.SLICE_MASK,)

    @classmethod
    def buffer_options(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options for slices of ``network.context`` steps with their returns to go."""
        _require_whole_contexts(config)
        return {"slice_len": config["network"]["context"], "return_to_go": True, "short_episodes": "pad"}

    def __init__(self, config: Mapping[str, Any], statistics: TrainingStatistics, generators: SeedGenerators) -> None:
        super().__init__(config, statistics, generators)
        _require_whole_contexts(config)
        self.returns = _require_returns(statistics)
        shapes = transformer_shapes(statistics.observation_dim, statistics.action_dim, config["network"])
        self.weights = nn.ParameterDict()
        for name, shape in shapes.items():
            if name.endswith("_weight"):
                initial = _INITIAL_STD * generators.normal(*shape)
            else:
                value = 1.0 if name.endswith("_scale") else 0.0
                initial = torch.full((len(generators), *shape), value, device=generators.device)
            self.weights[name] = nn.Parameter(initial)
        self.set_optimizer({"params": self.weights.parameters(), "lr": config["optim"]["lr"]})

    def update(self, batch: TensorDictBase) -> dict[str, torch.Tensor]:
        """Take one gradient step; before the first one, check that batches are slices of episodes."""
        if self.num_updates == 0:
            _require_slices(batch, self.config["network"]["context"])
        return super().update(batch)

    def losses(self, batch: TensorDictBase) -> dict[str, torch.Tensor]:
        """Return ``loss_action``, the mean squared error of the actions; padded steps do not count."""
        context = self.config["network"]["context"]
        returns = (batch[keys.RETURN_TO_GO] - self.returns.mean) / self.returns.std
        inputs = [
            values.unflatten(1, (-1, context)) for values in (returns, batch[keys.OBSERVATION], batch[keys.ACTION])
        ]
        network, dropout = self.config["network"], self._drop if self.training else None
        predicted = predict_actions(dict(self.weights), network, *inputs, dropout=dropout).flatten(1, 2)
        error = (predicted - batch[keys.ACTION]).square().mean(-1)
        mask = batch.get(keys.SLICE_MASK, None)
        if mask is None:
            return {"loss_action": mean_per_seed(error)}
        weight = mask.to(error.dtype)
        return {"loss_action": mean_per_seed(error * weight) / mean_per_seed(weight)}

    def _drop(self, values: torch.Tensor) -> torch.Tensor:
        probability = self.config["network"]["dropout"]
        if probability == 0:
            return values
        is_kept = self.generators.uniform(*values.shape[1:]) >= probability
        return values * is_kept / (1 - probability)

    @property
    def network(self) -> dict[str, Any]:
        """Section ``network`` of ``checkpoint.json``: a transformer with the return that it aims at."""
        section, target = self.config["network"], self.config["loss"]["target_return"]
        entries = {name: section[name] for name in ("context", "num_layers", "num_heads", "width", "dropout")}
        return {
            "kind": "transformer",
            **entries,
            "target_return": self.returns.best if target is None else target,
            "return_mean": self.returns.mean,
            "return_std": self.returns.std,
        }

    @torch.no_grad()
    def copy_network(self, network: nn.Module, seed_index: int) -> None:
        """Write one seed's transformer into a deployed network."""
        deployed = dict(network.named_parameters())
        for name, value in self.weights.items():
            deployed[f"weights.{name}"].copy_(value[seed_index])


def _require_whole_contexts(config: Mapping[str, Any]) -> None:
    """Raise InvalidOptionError unless the options describe a transformer and a batch has whole contexts."""
    require_transformer(config["network"])
    context, batch_size = config["network"]["context"], config["train"]["batch_size"]
    if batch_size % context:
        msg = f"train.batch_size: expected a multiple of network.context={context} transitions, got {batch_size}"
        raise InvalidOptionError(msg)
    target = config["loss"]["target_return"]
    if target is not None and type(target) not in (int, float):
        msg = f"loss.target_return: expected a number or null, got {target!r:.80}"
        raise InvalidOptionError(msg)


def _require_returns(statistics: TrainingStatistics) -> ReturnStatistics:
    if statistics.returns is None:
        msg = "dt: expected statistics of the returns to go, got none"
        raise SchemaMismatchError(msg)
    return statistics.returns


def _require_slices(batch: TensorDictBase, context: int) -> None:
    """Raise SchemaMismatchError unless rows are slices of episodes with the plain sums of the rewards to come."""
    returns, rewards = (
        batch[key].flatten(2).unflatten(1, (-1, context)) for key in (keys.RETURN_TO_GO, keys.NEXT_REWARD)
    )
    error = (returns[:, :, :-1] - rewards[:, :, :-1] - returns[:, :, 1:]).abs()
    mask = batch.get(keys.SLICE_MASK, None)
    if mask is not None:
        error = error * mask.unflatten(1, (-1, context))[:, :, 1:].unsqueeze(-1)
    if error.numel() and float(error.max()) > 1e-2 * (1 + float(returns.abs().max())):
        msg = (
            f"The replay buffer's batches: expected slices of {context} consecutive transitions, whose return_to_go "
            f"falls by each reward, got other rows. Use as_replay_buffer(slice_len={context}, return_to_go=True, "
            "short_episodes='pad')"
        )
        raise SchemaMismatchError(msg)
