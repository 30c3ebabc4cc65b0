"""Flow matching: a velocity field that carries noise to actions, and Euler's method along it.

Lipman et al., "Flow Matching for Generative Modeling", ICLR 2023, with straight paths from noise (t = 0) to an action
(t = 1).
"""

from collections.abc import Callable

import torch

from rlhive.sim_algos._seed_stack import SeedGenerators


def flow_matching_error(
    velocity: Callable[..., torch.Tensor],
    observation: torch.Tensor,
    action: torch.Tensor,
    generators: SeedGenerators,
) -> torch.Tensor:
    """Return the squared error of a velocity field on straight paths from noise to actions.

    Args:
        velocity: Function of observation, position and time.
        observation: ``[num_seeds, N, observation_dim]``.
        action: ``[num_seeds, N, action_dim]``.
        generators: Generators of the noise and the times.

    Returns:
        ``[num_seeds, N, action_dim]``.
    """
    noise = generators.normal(*action.shape[1:])
    time = generators.uniform(action.shape[1], 1)
    position = (1 - time) * noise + time * action
    return (velocity(observation, position, time) - (action - noise)).square()


def integrate_flow(
    velocity: Callable[..., torch.Tensor], observation: torch.Tensor, noise: torch.Tensor, num_steps: int
) -> torch.Tensor:
    """Return where Euler's method with ``num_steps`` steps carries noise, clipped to [-1, 1]."""
    position = noise
    for step in range(num_steps):
        time = torch.full_like(position[..., :1], step / num_steps)
        position = position + velocity(observation, position, time) / num_steps
    return position.clamp(-1, 1)
