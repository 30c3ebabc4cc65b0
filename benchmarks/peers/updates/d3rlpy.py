"""d3rlpy: ``algo.update(batch)``, without its sampling and its logger."""

from importlib import metadata
from pathlib import Path
from typing import Any

import d3rlpy
import numpy as np
import torch
from d3rlpy.dataset import Episode, InfiniteBuffer, ReplayBuffer, TransitionMiniBatch
from d3rlpy.models import VectorEncoderFactory

from benchmarks.peers.source import Source
from benchmarks.peers.updates import (
    ACTION,
    BATCH,
    EXPECTILE,
    GAMMA,
    HIDDEN,
    LEARNING_RATE,
    OBSERVATION,
    TAU,
    TEMPERATURE,
    cycle,
    make_batches,
    make_weights,
)
from benchmarks.peers.worker import Drawing, UnavailableError

_ENCODER = VectorEncoderFactory([HIDDEN, HIDDEN])
_RATES = {"actor_learning_rate": LEARNING_RATE, "critic_learning_rate": LEARNING_RATE}
_CRITICS = {"actor_encoder_factory": _ENCODER, "critic_encoder_factory": _ENCODER, "gamma": GAMMA, "tau": TAU, **_RATES}


class Peer:
    """Adapter of d3rlpy's algorithms."""

    def __init__(self, source: Source, folder: Path):
        del folder
        self._source = source
        torch.set_num_threads(1)

    def versions(self) -> dict[str, str]:
        """Return the versions of the measured libraries."""
        return {name: metadata.version(name) for name in ("d3rlpy", "torch")}

    def open(self, workload: str, variant: str) -> Drawing:
        """Build the algorithm of that name; "step" samples as d3rlpy's ``fit`` does."""
        algorithm, batches = make_algorithm(variant), cycle(_batches())
        if workload == "step":
            buffer = self._buffer()
            return Drawing(lambda: algorithm.update(buffer.sample_transition_batch(BATCH)), dict, size=BATCH)
        return Drawing(lambda: algorithm.update(next(batches)), dict, size=BATCH)

    def _buffer(self) -> ReplayBuffer:
        episodes = [
            Episode(
                *(np.array(values) for values in (episode.observation[:-1], episode.action, episode.reward[:, None])),
                terminated=bool(episode.terminated[-1]),
            )
            for episode in self._source.episodes()
        ]
        return ReplayBuffer(InfiniteBuffer(), episodes=episodes)

    def losses(self, num_steps: int) -> list[dict[str, float]]:
        """Return the losses of Q and V in the first gradient step of IQL; its actor is trained after them.

        d3rlpy's scale of the action begins at exp(-1.5), so that the actor's loss is another.
        """
        del num_steps
        algorithm, weights = make_algorithm("iql"), make_weights()
        modules = algorithm.impl.modules
        for name, network in (("value", modules.value_func), ("q1", modules.q_funcs[0]), ("q2", modules.q_funcs[1])):
            _load(network, weights[name])
        modules.targ_q_funcs.load_state_dict(modules.q_funcs.state_dict())
        result = algorithm.update(_batches()[0])
        return [{"value": result["v_loss"], "critic": result["q_loss"] / 2}]  # d3rlpy sums over the two Q functions


def make_algorithm(name: str) -> Any:
    """Return an algorithm with the networks and numbers of the benchmark."""
    configs = {
        "bc": lambda: d3rlpy.algos.BCConfig(batch_size=BATCH, learning_rate=LEARNING_RATE, encoder_factory=_ENCODER),
        "iql": lambda: d3rlpy.algos.IQLConfig(
            batch_size=BATCH, value_encoder_factory=_ENCODER, expectile=EXPECTILE, weight_temp=TEMPERATURE, **_CRITICS
        ),
        "td3_bc": lambda: d3rlpy.algos.TD3PlusBCConfig(batch_size=BATCH, **_CRITICS),
        "rebrac": lambda: d3rlpy.algos.ReBRACConfig(batch_size=BATCH, **_CRITICS),
        "cql": lambda: d3rlpy.algos.CQLConfig(batch_size=BATCH, **_CRITICS),
        "sac": lambda: d3rlpy.algos.SACConfig(batch_size=BATCH, **_CRITICS),
    }
    if name not in configs:
        msg = f"no {name} here"
        raise UnavailableError(msg)
    algorithm = configs[name]().create(device="cpu:0")
    algorithm.create_impl((OBSERVATION,), ACTION)
    return algorithm


@torch.no_grad()
def _load(network: torch.nn.Module, layers: list) -> None:
    linears = [module for module in network.modules() if isinstance(module, torch.nn.Linear)]
    unique = list(dict.fromkeys(linears))
    unique.sort(key=lambda linear: linear.out_features == 1)  # the last layer may be registered first
    for linear, (weight, bias) in zip(unique, layers, strict=True):
        linear.weight.copy_(torch.from_numpy(weight))
        linear.bias.copy_(torch.from_numpy(bias))


def _batches() -> list[TransitionMiniBatch]:
    return [
        TransitionMiniBatch(
            observations=batch["observation"],
            actions=batch["action"],
            rewards=batch["reward"],
            next_observations=batch["next_observation"],
            next_actions=batch["action"],
            terminals=batch["terminated"],
            intervals=np.ones_like(batch["reward"]),
            transitions=[],
        )
        for batch in make_batches()
    ]
