"""Networks and random numbers of several training seeds at once.

Trainings that differ in their seed alone take the same steps with other numbers. Their parameters are stacked along a
first dimension, so that one batched matrix product per layer serves all of them; slice ``s`` holds what a training of
seed ``s`` alone would hold, up to the rounding of a matrix product. A training of one seed is a stack of one.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from rlhive.data.replay import derive_seed
from rlhive.policies import require_activation

_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": torch.relu_,  # in place: the product before it has no other reader
    "gelu": F.gelu,
    "tanh": torch.tanh,
    "elu": F.elu,
}


class SeedGenerators:
    """One random generator per training seed.

    Args:
        seeds: The seeds.
        device: Device of the numbers.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._generators = [torch.Generator(self.device).manual_seed(seed) for seed in seeds]

    def __len__(self) -> int:
        return len(self._generators)

    def __deepcopy__(self, memo: dict[int, Any]) -> "SeedGenerators":
        """Return the same generators: a copied network draws from those of the training."""
        return self

    def uniform(self, *shape: int) -> torch.Tensor:
        """Return numbers in [0, 1), float32 ``[num_seeds, *shape]``."""
        return self._draw(shape, torch.Tensor.uniform_)

    def normal(self, *shape: int) -> torch.Tensor:
        """Return standard normal numbers, float32 ``[num_seeds, *shape]``."""
        return self._draw(shape, torch.Tensor.normal_)

    def _draw(self, shape: tuple[int, ...], fill: Callable[..., torch.Tensor]) -> torch.Tensor:
        numbers = torch.empty(len(self), *shape, device=self.device)
        for row, generator in zip(numbers, self._generators, strict=True):
            fill(row, generator=generator)
        return numbers

    def reseed(self, number: int) -> None:
        """Give each generator a seed that its own one and a number determine."""
        for generator in self._generators:
            generator.manual_seed(derive_seed(generator.initial_seed(), number))

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the generators' states, by position."""
        return {str(index): generator.get_state() for index, generator in enumerate(self._generators)}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on as the generators would have whose states :meth:`state_dict` returned."""
        for index, generator in enumerate(self._generators):
            generator.set_state(state[str(index)])


class StackedMLP(nn.Module):
    """Perceptrons of one shape, one per seed or an ensemble per seed.

    A layer is a linear map, dropout, layer normalisation and the activation, in the order of TorchRL's ``MLP``; the
    last one is linear. Parameters are initialised as torch's ``nn.Linear`` initialises them.

    Args:
        generators: Generators of the initial parameters and of the dropout.
        num_inputs: Size of the input.
        num_outputs: Size of the output.
        network: Section of a configuration: ``hidden_sizes``, ``activation`` ("relu", "gelu", "tanh" or "elu");
            optional ``dropout`` (probability) and ``layer_norm`` (whether hidden layers are normalised).
        num_members: Size of each seed's ensemble; None for single networks.
    """

    def __init__(
        self,
        generators: SeedGenerators,
        num_inputs: int,
        num_outputs: int,
        network: Mapping[str, Any],
        *,
        num_members: int | None = None,
    ) -> None:
        super().__init__()
        require_activation(network["activation"])
        self._generators = generators
        self._activation = _ACTIVATIONS[network["activation"]]
        self._dropout = float(network.get("dropout", 0.0))
        self._num_members = num_members
        self.sizes = (num_inputs, *network["hidden_sizes"], num_outputs)
        members = (num_members or 1,)
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for size, next_size in itertools.pairwise(self.sizes):
            bound = size**-0.5
            self.weights.append(bound * (2 * generators.uniform(*members, size, next_size) - 1))
            self.biases.append(bound * (2 * generators.uniform(*members, 1, next_size) - 1))
        self.norms = nn.ParameterList()  # scale and shift of every hidden layer
        if network.get("layer_norm"):
            for size in self.sizes[1:-1]:
                shape = (len(generators), *members, 1, size)
                self.norms.extend(
                    [torch.ones(shape, device=generators.device), torch.zeros(shape, device=generators.device)]
                )

    def forward(self, *inputs: torch.Tensor, frozen: bool = False) -> torch.Tensor:
        """Evaluate the networks.

        Args:
            inputs: Parts of the input, ``[num_seeds, batch, size]`` each; they are concatenated.
            frozen: Whether to treat the parameters as constants, so that only the inputs get a gradient.

        Returns:
            ``[num_seeds, batch, num_outputs]``; ``[num_seeds, num_members, batch, num_outputs]`` of ensembles.
        """
        hidden = inputs[0] if len(inputs) == 1 else torch.cat(inputs, -1)
        num_seeds, batch_size, _ = hidden.shape
        num_members = self._num_members or 1
        is_single = num_seeds * num_members == 1 and not self.norms and not self._dropout
        if is_single:
            hidden = hidden[0]  # plain products are faster than batches of one
        elif num_members > 1:
            hidden = hidden.unsqueeze(1).expand(-1, num_members, -1, -1).flatten(0, 1)
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if frozen:
                weight, bias = weight.detach(), bias.detach()
            if is_single:
                hidden = torch.addmm(bias.view(1, -1), hidden, weight.view(weight.shape[2:]))
            else:
                hidden = torch.baddbmm(bias.flatten(0, 1), hidden, weight.flatten(0, 1))
            if layer < last:
                hidden = self._activate(hidden, layer, frozen=frozen)
        if self._num_members is None:
            return hidden.view(num_seeds, batch_size, -1)
        return hidden.view(num_seeds, num_members, batch_size, -1)

    def _activate(self, hidden: torch.Tensor, layer: int, *, frozen: bool) -> torch.Tensor:
        if self._dropout and self.training:
            keep = 1 - self._dropout
            mask = self._generators.uniform(self._num_members or 1, *hidden.shape[1:]).flatten(0, 1) < keep
            hidden = hidden * mask / keep
        if self.norms:
            scale, shift = (self.norms[2 * layer + k].flatten(0, 1) for k in range(2))
            if frozen:
                scale, shift = scale.detach(), shift.detach()
            hidden = torch.addcmul(shift, F.layer_norm(hidden, hidden.shape[-1:]), scale)
        return self._activation(hidden)

    @torch.no_grad()
    def copy_to(self, mlp: nn.Module, seed_index: int) -> None:
        """Write the parameters of one seed's network into a plain one, whose modules lie in the same order.

        Args:
            mlp: Module with one ``nn.Linear`` per layer, and one ``nn.LayerNorm`` per hidden layer if there are any.
            seed_index: Position of the seed.
        """
        linears = [module for module in mlp.modules() if isinstance(module, nn.Linear)]
        for linear, weight, bias in zip(linears, self.weights, self.biases, strict=True):
            linear.weight.copy_(weight[seed_index, 0].T)
            linear.bias.copy_(bias[seed_index, 0, 0])
        norms = [module for module in mlp.modules() if isinstance(module, nn.LayerNorm)]
        for index, norm in enumerate(norms):
            norm.weight.copy_(self.norms[2 * index][seed_index, 0, 0])
            norm.bias.copy_(self.norms[2 * index + 1][seed_index, 0, 0])


@torch.no_grad()
def update_target(target: nn.Module, source: nn.Module, tau: float) -> None:
    """Move a target network towards its source: ``target = (1 - tau) · target + tau · source``."""
    for old, new in _parameter_pairs(target, source):
        old.lerp_(new, tau)


def _parameter_pairs(target: nn.Module, source: nn.Module) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    return zip(target.parameters(), source.parameters(), strict=True)
