"""Convolutional encoders that are trained with an algorithm, for one or several seeds.

The features of pictures join the vectors in ``observation``, so that the losses of an algorithm read pictures without
knowing it. Features of next observations are constants, as in Kostrikov et al. (2021).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from rlhive.errors import InvalidOptionError
from rlhive.policies import PictureCNN
from rlhive.sim_algos._seed_stack import SeedGenerators


class StackedEncoder(nn.Module):
    """Convolutional networks of one shape, one per seed, from one key of pictures to features.

    Args:
        generators: Generators of the initial parameters, which are those of torch's layers, and of the shifts.
        shape: Shape of the pictures of one observation.
        encoder: Section ``encoder`` of a configuration; see :class:`rlhive.policies.PictureCNN`, and ``random_shift``.

    Raises:
        InvalidOptionError: An option is out of range.
    """

    def __init__(self, generators: SeedGenerators, shape: Sequence[int], encoder: Mapping[str, Any]) -> None:
        super().__init__()
        shift = encoder["random_shift"]
        if type(shift) is not int or shift < 0:
            msg = f"encoder.random_shift: expected pixels, an integer of at least 0, got {shift!r}"
            raise InvalidOptionError(msg)
        self._generators = generators
        self._shift = shift
        with torch.device("meta"):
            template = PictureCNN(shape, encoder)
        self._template = [template]  # in a list: its parameters have no values and are not this module's
        self._names = [name for name, _ in template.named_parameters()]
        self.parameters_by_layer = nn.ParameterList(
            _initial_parameters(generators, name, parameter.shape, template)
            for name, parameter in template.named_parameters()
        )

    def forward(self, pictures: torch.Tensor, *, frozen: bool = False) -> torch.Tensor:
        """Return the features of pictures.

        Args:
            pictures: uint8 ``[num_seeds, batch, *shape]``. In training mode each observation's pictures are shifted by
                a random number of pixels (Kostrikov et al., "Image Augmentation Is All You Need", ICLR 2021).
            frozen: Whether the features are constants.

        Returns:
            float32 ``[num_seeds, batch, feature_dim]``.
        """
        if self.training and self._shift:
            pictures = shift_randomly(pictures, self._shift, self._generators)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            return torch.stack([self._encode(values, index) for index, values in enumerate(pictures)])

    def _encode(self, pictures: torch.Tensor, seed_index: int) -> torch.Tensor:
        return functional_call(self._template[0], self._state(seed_index), (pictures,))

    def _state(self, seed_index: int) -> dict[str, torch.Tensor]:
        return {name: value[seed_index] for name, value in zip(self._names, self.parameters_by_layer, strict=True)}

    @torch.no_grad()
    def copy_to(self, network: nn.Module, seed_index: int) -> None:
        """Write the parameters of one seed into a plain :class:`rlhive.policies.PictureCNN`."""
        network.load_state_dict(self._state(seed_index))


def _initial_parameters(generators: SeedGenerators, name: str, shape: torch.Size, template: nn.Module) -> torch.Tensor:
    """Return a parameter of each seed, ``[num_seeds, *shape]``, as torch initialises its layer."""
    layer, _, kind = name.rpartition(".")
    if isinstance(template.get_submodule(layer), nn.LayerNorm):
        return torch.full((len(generators), *shape), float(kind == "weight"), device=generators.device)
    bound = template.get_parameter(f"{layer}.weight")[0].numel() ** -0.5
    return bound * (2 * generators.uniform(*shape) - 1)


def shift_randomly(pictures: torch.Tensor, max_shift: int, generators: SeedGenerators) -> torch.Tensor:
    """Shift the pictures of each observation by up to ``max_shift`` pixels; the border is repeated.

    Args:
        pictures: ``[num_seeds, batch, *cameras, height, width, channels]``.
        max_shift: Largest shift up, down, left and right.
        generators: Generators of the shifts.

    Returns:
        A new tensor of the same shape; all cameras of an observation are shifted alike.
    """
    num_seeds, batch_size = pictures.shape[:2]
    height, width, channels = pictures.shape[-3:]
    shifts = (generators.uniform(batch_size, 2) * (2 * max_shift + 1)).long().flatten(0, 1) - max_shift
    rows = (torch.arange(height, device=pictures.device) + shifts[:, :1]).clamp_(0, height - 1)
    columns = (torch.arange(width, device=pictures.device) + shifts[:, 1:]).clamp_(0, width - 1)
    positions = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)  # [num_seeds * batch, height * width]
    flat = pictures.reshape(num_seeds * batch_size, -1, height * width, channels)
    index = positions[:, None, :, None].expand(-1, flat.shape[1], -1, channels)
    return flat.gather(2, index).view(pictures.shape)
