"""Causal transformer over (return-to-go, observation, action) tokens, and the policy that aims at a return with it.

Chen et al., "Decision Transformer: Reinforcement Learning via Sequence Modeling", NeurIPS 2021. The blocks are those of
GPT-2 with layer normalisation before attention and perceptron, ReLU as in the paper, and a hidden layer of four times
the width. Two things differ from the paper's code. Positions are those of a step within the context, not its time step
in the episode: a training batch has slices, not their episodes' starts. Queries, keys and values have no bias.

Parameters are a mapping of tensors with a leading dimension of seeds, so that training computes several at once and a
deployed policy computes with the same function.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from rlhive.errors import InvalidOptionError

#: Limits of what a checkpoint may ask for: 64 heads over 3 * 500 tokens attend within 600 MB.
_MAXIMA = {"context": 500, "num_layers": 100, "num_heads": 64, "width": 2**14}

#: Limit of a standardised return, which float32 holds whatever scale a checkpoint names.
_MAX_RETURN = 1e6

_TOKENS_PER_STEP = 3
_MLP_RATIO = 4

#: Function that sets random elements to zero in training.
Dropout = Callable[[torch.Tensor], torch.Tensor]


def require_transformer(network: Mapping[str, Any]) -> None:
    """Raise InvalidOptionError unless a section ``network`` has the sizes of a transformer.

    Args:
        network: ``context`` (steps), ``num_layers``, ``num_heads``, ``width`` (of a token) and ``dropout``.
    """
    for name, maximum in _MAXIMA.items():
        value = network.get(name)
        if type(value) is not int or not 1 <= value <= maximum:
            msg = f"network.{name}: expected an integer from 1 to {maximum}, got {value!r:.80}"
            raise InvalidOptionError(msg)
    if network["width"] % network["num_heads"]:
        msg = f"network.width: expected a multiple of num_heads={network['num_heads']}, got {network['width']}"
        raise InvalidOptionError(msg)
    dropout: Any = network.get("dropout")
    if type(dropout) not in (int, float) or not 0 <= dropout < 1:
        msg = f"network.dropout: expected a probability below 1, got {dropout!r:.80}"
        raise InvalidOptionError(msg)


def transformer_shapes(observation_dim: int, action_dim: int, network: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Return the shape of each parameter of one transformer by name; names end in weight, bias, scale or shift."""
    width = network["width"]

    def linear(name: str, num_inputs: int, num_outputs: int) -> dict[str, tuple[int, int]]:
        return {f"{name}_weight": (num_inputs, num_outputs), f"{name}_bias": (1, num_outputs)}

    def norm(name: str) -> dict[str, tuple[int, int]]:
        return {f"{name}_scale": (1, width), f"{name}_shift": (1, width)}

    shapes = linear("return", 1, width) | linear("observation", observation_dim, width)
    shapes |= linear("action", action_dim, width)
    shapes |= {"position_weight": (network["context"], width)} | norm("embedding")
    for layer in range(network["num_layers"]):
        prefix = f"layer_{layer}_"
        shapes |= norm(f"{prefix}attention") | {f"{prefix}query_key_value_weight": (width, 3 * width)}
        shapes |= linear(f"{prefix}output", width, width) | norm(f"{prefix}mlp")
        shapes |= linear(f"{prefix}up", width, _MLP_RATIO * width) | linear(f"{prefix}down", _MLP_RATIO * width, width)
    return shapes | norm("final") | linear("head", width, action_dim)


def predict_actions(
    parameters: Mapping[str, torch.Tensor],
    network: Mapping[str, Any],
    returns: torch.Tensor,
    observations: torch.Tensor,
    actions: torch.Tensor,
    *,
    dropout: Dropout | None = None,
) -> torch.Tensor:
    """Predict the action of every step from the tokens up to its observation.

    Args:
        parameters: Tensors of :func:`transformer_shapes`, each with a leading dimension ``num_seeds``.
        network: ``num_layers`` and ``num_heads``.
        returns: Standardised returns to go, ``[num_seeds, batch, steps, 1]``; at most ``context`` steps.
        observations: Normalised, ``[num_seeds, batch, steps, observation_dim]``.
        actions: ``[num_seeds, batch, steps, action_dim]``; that of a step is not read for its own prediction.
        dropout: Applied to the embedded tokens, the attention and the output of both halves of a block.

    Returns:
        Actions in (-1, 1), ``[num_seeds, batch, steps, action_dim]``.
    """
    drop: Dropout = dropout or (lambda values: values)
    blocks = _Blocks(parameters)
    num_seeds, batch_size, num_steps, _ = observations.shape
    tokens = torch.stack(
        [
            blocks.linear("return", returns.flatten(1, 2)),
            blocks.linear("observation", observations.flatten(1, 2)),
            blocks.linear("action", actions.flatten(1, 2)),
        ],
        dim=2,
    ).view(num_seeds, batch_size, num_steps, _TOKENS_PER_STEP, -1)
    tokens = tokens + parameters["position_weight"][:, None, :num_steps, None]
    hidden = drop(blocks.norm("embedding", tokens.reshape(num_seeds, -1, tokens.shape[-1])))
    for layer in range(network["num_layers"]):
        prefix = f"layer_{layer}_"
        attended = _attend(blocks, prefix, hidden, (num_seeds, batch_size), network["num_heads"], drop)
        hidden = hidden + drop(blocks.linear(f"{prefix}output", attended))
        inner = F.relu(blocks.linear(f"{prefix}up", blocks.norm(f"{prefix}mlp", hidden)))
        hidden = hidden + drop(blocks.linear(f"{prefix}down", inner))
    of_observations = hidden.view(num_seeds, batch_size * num_steps, _TOKENS_PER_STEP, -1)[:, :, 1]
    output = blocks.linear("head", blocks.norm("final", of_observations))
    return torch.tanh(output).view(num_seeds, batch_size, num_steps, -1)


def _attend(
    blocks: "_Blocks", prefix: str, hidden: torch.Tensor, batch: tuple[int, int], num_heads: int, drop: Dropout
) -> torch.Tensor:
    """Return the causal self-attention of tokens ``[num_seeds, batch · tokens, width]``, in the same shape."""
    num_seeds, batch_size = batch
    joined = blocks.linear(f"{prefix}query_key_value", blocks.norm(f"{prefix}attention", hidden))
    joined = joined.view(num_seeds, batch_size, -1, 3, num_heads, hidden.shape[-1] // num_heads)
    query, key, value = joined.permute(3, 0, 1, 4, 2, 5)  # [num_seeds, batch, heads, tokens, width of a head] each
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    # Not torch's scaled_dot_product_attention: its dropout draws from torch's own generator, not from the seeds'.
    weights = drop(scores.masked_fill(later, -torch.inf).softmax(-1))
    return (weights @ value).transpose(2, 3).reshape(hidden.shape)


class _Blocks:
    """Layers with a leading dimension of seeds, by the names of their parameters."""

    def __init__(self, parameters: Mapping[str, torch.Tensor]) -> None:
        self._parameters = parameters

    def linear(self, name: str, inputs: torch.Tensor) -> torch.Tensor:
        weight = self._parameters[f"{name}_weight"]
        bias = self._parameters.get(f"{name}_bias")
        return inputs @ weight if bias is None else torch.baddbmm(bias, inputs, weight)

    def norm(self, name: str, inputs: torch.Tensor) -> torch.Tensor:
        scale, shift = self._parameters[f"{name}_scale"], self._parameters[f"{name}_shift"]
        return torch.addcmul(shift, F.layer_norm(inputs, inputs.shape[-1:]), scale)


class TransformerPolicy(nn.Module):
    """Policy that aims at a return: it predicts the action after the last ``context`` steps of the episode.

    It begins with the return ``target_return`` to go, which :meth:`observe_reward` decreases. Where nothing reports
    rewards, as in TorchRL's collectors, the return to go stays as it is. Parameters are zero until they are loaded.

    Args:
        observation_dim: Size of an observation.
        action_dim: Size of an action.
        network: Sizes of :func:`require_transformer`; ``target_return``, in the environment's units, and
            ``return_mean`` and ``return_std`` of the returns to go in the training data, which standardise it.

    Raises:
        InvalidOptionError: An option is out of range.
    """

    def __init__(self, observation_dim: int, action_dim: int, network: Mapping[str, Any]) -> None:
        super().__init__()
        require_transformer(network)
        for name in ("target_return", "return_mean", "return_std"):
            _require_finite_number(network.get(name), name)
        if network["return_std"] <= 0:
            msg = f"network.return_std: expected a positive number, got {network['return_std']}"
            raise InvalidOptionError(msg)
        self._network = dict(network)
        self._action_dim = action_dim
        shapes = transformer_shapes(observation_dim, action_dim, network)
        self.weights = nn.ParameterDict({name: torch.zeros(shape) for name, shape in shapes.items()})
        self.begin_episode(0)

    def begin_episode(self, seed: int) -> None:
        """Forget the last episode and aim at the target return again."""
        del seed
        self.return_to_go = float(self._network["target_return"])
        self._steps: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def observe_reward(self, reward: float) -> None:
        """Decrease the return to go by the reward of the last action."""
        self.return_to_go -= reward

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """Return the action ``[..., action_dim]`` after the next normalised observation ``[..., observation_dim]``."""
        batch_shape = observation.shape[:-1]
        if self._steps and self._steps[0][1].shape[:-1] != batch_shape:
            self.begin_episode(0)
        to_go = (self.return_to_go - self._network["return_mean"]) / self._network["return_std"]
        to_go = min(max(to_go, -_MAX_RETURN), _MAX_RETURN)
        step = observation.new_full((*batch_shape, 1), to_go), observation
        unknown = observation.new_zeros((*batch_shape, self._action_dim))
        self._steps = self._steps[max(0, len(self._steps) - self._network["context"] + 1) :]
        tokens = [torch.stack(values, -2) for values in zip(*self._steps, (*step, unknown), strict=True)]
        parameters = {name: value.unsqueeze(0) for name, value in self.weights.items()}
        flat = [values.reshape(1, -1, *values.shape[-2:]) for values in tokens]
        action = predict_actions(parameters, self._network, *flat)[0, :, -1].reshape(*batch_shape, self._action_dim)
        self._steps.append((*step, action))
        return action


def _require_finite_number(value: Any, name: str) -> None:
    """Raise InvalidOptionError unless an option is a number that float32 can hold."""
    if type(value) not in (int, float) or not abs(value) <= 1e30:  # NaN is not either
        msg = f"network.{name}: expected a finite number, got {value!r:.80}"
        raise InvalidOptionError(msg)
