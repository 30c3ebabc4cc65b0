"""Exploration: TorchRL's noise on the actions of collected episodes, chosen by the section ``exploration``."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torchrl.data import TensorSpec
from torchrl.modules import AdditiveGaussianModule, EGreedyModule, OrnsteinUhlenbeckProcessModule

from rlhive import keys
from rlhive.errors import InvalidOptionError

_IS_INIT = "is_init"

_MODULES: dict[str, Callable[..., TensorDictModuleBase]] = {
    "gaussian": AdditiveGaussianModule,
    "ou": OrnsteinUhlenbeckProcessModule,
    "egreedy": EGreedyModule,
}


def make_noise(settings: Mapping[str, Any] | None, action_spec: TensorSpec) -> TensorDictModuleBase | None:
    """Return the module that adds noise to ``action``; None without a section ``exploration``.

    Raises:
        InvalidOptionError: Unknown name, or a value that the module refuses.
    """
    if settings is None:
        return None
    if settings["name"] not in _MODULES:
        msg = f"exploration.name: expected one of {', '.join(_MODULES)}, got {settings['name']!r}"
        raise InvalidOptionError(msg)
    options = {
        name: float(value) if isinstance(value, int) and name != "annealing_num_steps" else value
        for name, value in settings.items()
        if name != "name"
    }
    try:
        return _MODULES[settings["name"]](spec=action_spec.clone(), **options)
    except (RuntimeError, ValueError, TypeError) as error:
        msg = f"exploration={settings['name']}: {error}"
        raise InvalidOptionError(msg) from error


class ExplorationPolicy:
    """Read the observation, choose an action, add noise; the stored observation stays as it is.

    Args:
        read: From a TensorDict of the environment to the observation of the networks, ``[1, N, observation_dim]``.
        act: From those observations to actions ``[1, N, action_dim]``.
        noise: Module that adds noise to ``action``; None for none.
    """

    def __init__(
        self,
        read: Callable[[TensorDictBase], torch.Tensor],
        act: Callable[[torch.Tensor], torch.Tensor],
        noise: TensorDictModuleBase | None,
    ) -> None:
        self._read = read
        self._act = act
        self._noise = noise
        self._noisy = TensorDict()

    def begin_episode(self, seed: int) -> None:
        """Reset noise that is correlated over time; rollouts call this after every reset."""
        del seed
        self._noisy = TensorDict({_IS_INIT: torch.ones(1, dtype=torch.bool)})

    @torch.no_grad()
    def __call__(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write ``action`` into the TensorDict and return it."""
        action = self._act(self._read(tensordict)).reshape(*tensordict.batch_size, -1).to(tensordict.device)
        if self._noise is not None:
            self._noisy[keys.ACTION] = action
            action = self._noise(self._noisy)[keys.ACTION]
            self._noisy[_IS_INIT] = torch.zeros(1, dtype=torch.bool)
        tensordict[keys.ACTION] = action
        return tensordict

    def anneal(self, num_frames: int) -> None:
        """Decrease the noise after so many transitions."""
        if self._noise is not None:
            self._noise.step(num_frames)
