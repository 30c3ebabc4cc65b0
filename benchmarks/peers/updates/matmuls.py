"""The matrix products of a gradient step of behaviour cloning, with nothing around them: a lower bound."""

import itertools
from importlib import metadata
from pathlib import Path

import torch

from benchmarks.peers.source import Source
from benchmarks.peers.updates import ACTION, BATCH, HIDDEN, OBSERVATION
from benchmarks.peers.worker import Drawing


class Peer:
    """Adapter of bare ``torch.mm`` into memory that exists."""

    def __init__(self, source: Source, folder: Path):
        del source, folder
        torch.set_num_threads(1)

    def versions(self) -> dict[str, str]:
        """Return the versions of the measured libraries."""
        return {"torch": metadata.version("torch")}

    def open(self, workload: str, variant: str) -> Drawing:
        """Make the factors; ``variant`` is "bc"."""
        del workload, variant
        sizes = (OBSERVATION, HIDDEN, HIDDEN, ACTION)
        weights = [torch.randn(before, after) for before, after in itertools.pairwise(sizes)]
        hidden = [torch.randn(BATCH, size) for size in sizes]
        outputs = [torch.empty(BATCH, size) for size in sizes]
        gradients = [torch.empty_like(weight) for weight in weights]
        triples = list(zip(hidden, weights, outputs[1:], strict=False))
        backward = list(zip(hidden, hidden[1:], gradients, weights, outputs, strict=False))

        def multiply() -> None:
            for value, weight, output in triples:
                torch.mm(value, weight, out=output)
            for value, error, gradient, weight, output in reversed(backward):
                torch.mm(value.T, error, out=gradient)
                if value is not hidden[0]:  # the observation needs no gradient
                    torch.mm(error, weight.T, out=output)

        return Drawing(multiply, dict, size=BATCH)
