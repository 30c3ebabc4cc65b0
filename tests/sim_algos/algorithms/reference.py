"""What the tests of all algorithms share: an algorithm on fixed numbers, and its networks evaluated by NumPy."""

import numpy as np
import torch
from scipy.stats import norm
from tensordict import TensorDict
from torch.nn import functional as F

from rlhive.sim_algos import Algorithm, StackedMLP, make_config
from rlhive.sim_algos._setup import build_algorithm
from tests.sim_algos.toy import make_statistics

OBSERVATION_DIM, ACTION_DIM, NUM_ROWS = 2, 3, 12


def make_algorithm(name: str, *overrides: str, action_dim: int = ACTION_DIM, num_seeds: int = 1) -> Algorithm:
    """Return an algorithm whose networks have one hidden layer of 4."""
    config = make_config(name, overrides=[f"num_seeds={num_seeds}", *overrides])
    config["network"] |= {key: [4] for key in config["network"] if key.endswith("hidden_sizes")}
    return build_algorithm(config, make_statistics(action_dim=action_dim))


def make_batch(*, num_seeds: int = 1, action_dim: int = ACTION_DIM, seed: int = 1) -> TensorDict:
    """Return random transitions ``[num_seeds, NUM_ROWS]``, some of which end an episode."""
    generator = torch.Generator().manual_seed(seed)
    size = (num_seeds, NUM_ROWS)

    def draw(width: int) -> torch.Tensor:
        return torch.rand(*size, width, generator=generator) * 2 - 1

    row = torch.arange(NUM_ROWS).expand(size).unsqueeze(-1)
    following = {"observation": draw(OBSERVATION_DIM), "reward": 3 * draw(1), "terminated": row % 3 == 0}
    following["done"] = following["terminated"] | (row % 2 == 0)
    data = {"observation": draw(OBSERVATION_DIM), "action": draw(action_dim), "next": following}
    chunk = torch.stack([data["action"], draw(action_dim)], 2)
    mask = torch.stack([torch.ones(size, dtype=torch.bool), ~following["done"][..., 0]], 2)
    data |= {"action_chunk": chunk, "action_chunk_mask": mask}
    data |= {"return_to_go": following["reward"].flip(1).cumsum(1).flip(1)}
    return TensorDict(data, batch_size=size)


def to_numpy(batch: TensorDict) -> dict[str, np.ndarray]:
    """Return the first seed's transitions as float64 arrays ``[NUM_ROWS, width]``."""
    names = {"s": "observation", "a": "action", "s2": ("next", "observation"), "r": ("next", "reward")}
    arrays = {name: batch[key][0].double().numpy() for name, key in names.items()}
    arrays["a2"] = batch["action_chunk"][0, :, 1].double().numpy()
    arrays["has_a2"] = batch["action_chunk_mask"][0, :, 1:].double().numpy()
    return arrays | {"continues": 1.0 - batch["next", "terminated"][0].double().numpy()}


def evaluate_mlp(network: StackedMLP, *inputs: np.ndarray, member: int = 0, seed_index: int = 0) -> np.ndarray:
    """Evaluate a perceptron by NumPy, with layer normalisation at its initial scale and shift if it has one."""
    activation = {torch.relu_: lambda x: np.maximum(x, 0), F.gelu: lambda x: x * norm.cdf(x)}[network._activation]
    hidden = np.concatenate(inputs, axis=1)
    last = len(network.weights) - 1
    for layer, (weight, bias) in enumerate(zip(network.weights, network.biases, strict=True)):
        matrix, offset = (p.detach()[seed_index, member].double().numpy() for p in (weight, bias))
        hidden = hidden @ matrix + offset
        if network.norms and layer < last:
            hidden = (hidden - hidden.mean(1, keepdims=True)) / np.sqrt(hidden.var(1, keepdims=True) + 1e-5)
        hidden = hidden if layer == last else activation(hidden)
    return hidden


def make_constant(network: StackedMLP, outputs: list[float]) -> None:
    """Give a network, or each member of an ensemble, an output for any input."""
    with torch.no_grad():
        network.weights[-1].zero_()
        network.biases[-1].copy_(torch.tensor(outputs).view(1, -1, 1, 1).expand_as(network.biases[-1]))


#: Ends of an episode, and whether a target bootstraps there: through a time limit, and not through a termination.
ENDINGS = [
    ({}, True),
    ({"truncated": True}, True),
    ({"terminated": True}, False),
    ({"terminated": True, "truncated": True}, False),
]


def draw_ahead(algorithm: Algorithm, *draws: tuple[str, tuple[int, ...]]) -> list[np.ndarray]:
    """Return the numbers that an algorithm with one seed will draw next, and leave its generators as they are."""
    state = algorithm.generators.state_dict()
    numbers = [getattr(algorithm.generators, kind)(*shape)[0].double().numpy() for kind, shape in draws]
    algorithm.generators.load_state_dict(state)
    return numbers
