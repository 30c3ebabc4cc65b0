"""Gradient steps of RLHive and its peers: one adapter per library, each with the same networks and batches.

An adapter's variant is the name of an algorithm, for RLHive with the number of seeds: ``iql:5``. The observations of
the batches are normalised; the weights of :func:`make_weights` start every comparison of values.
"""

from collections.abc import Iterator, Mapping

import numpy as np

OBSERVATION, ACTION, HIDDEN, BATCH = 75, 9, 256, 256
LEARNING_RATE, GAMMA, TAU, EXPECTILE, TEMPERATURE = 3e-4, 0.99, 0.005, 0.7, 3.0
NUM_BATCHES = 16  # one batch alone would be fitted until its gradients are denormal numbers, which are slow

#: Networks of IQL: number of inputs and outputs.
NETWORKS = {
    "actor": (OBSERVATION, ACTION),
    "q1": (OBSERVATION + ACTION, 1),
    "q2": (OBSERVATION + ACTION, 1),
    "value": (OBSERVATION, 1),
}

Weights = Mapping[str, list[tuple[np.ndarray, np.ndarray]]]


def make_batches(count: int = NUM_BATCHES) -> list[dict[str, np.ndarray]]:
    """Return batches of random transitions, float32 ``[256, width]``; 5 % are terminal."""
    generator = np.random.default_rng(0)
    batches = []
    for _ in range(count):
        numbers = {
            "observation": generator.standard_normal((BATCH, OBSERVATION)),
            "action": generator.uniform(-0.9, 0.9, (BATCH, ACTION)),
            "reward": generator.standard_normal((BATCH, 1)),
            "next_observation": generator.standard_normal((BATCH, OBSERVATION)),
            "terminated": generator.random((BATCH, 1)) < 0.05,
        }
        batches.append({name: values.astype(np.float32) for name, values in numbers.items()})
    return batches


def make_weights() -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """Return weight ``[outputs, inputs]`` and bias of each layer of each network, as ``nn.Linear`` stores them."""
    generator = np.random.default_rng(1)
    weights = {}
    for name, (num_inputs, num_outputs) in NETWORKS.items():
        layers = []
        for inputs, outputs in ((num_inputs, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, num_outputs)):
            shapes = (outputs, inputs), (outputs,)
            layers.append(tuple(generator.uniform(-1, 1, shape).astype(np.float32) * inputs**-0.5 for shape in shapes))
        weights[name] = layers
    return weights


def cycle(batches: list) -> Iterator:
    """Yield the batches again and again."""
    while True:
        yield from batches
