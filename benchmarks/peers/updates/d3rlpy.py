"""d3rlpy: ``algo.update(batch)``, without its sampling and its logger."""

import sys
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


def fit(name: str, data_path: str, folder: str, num_seeds: int, num_steps: int) -> None:
    """Train the seeds 0, 1, … on transitions of a file; the policies go to ``folder/SEED.npz``."""
    torch.set_num_threads(1)
    with np.load(data_path) as arrays:
        data = dict(arrays)
    for seed in range(num_seeds):
        np.savez(Path(folder) / f"{seed}.npz", **_fit_policy(name, data, seed, num_steps))


def _fit_policy(name: str, data: dict[str, np.ndarray], seed: int, num_steps: int) -> dict[str, np.ndarray]:
    """Train one seed; return weight and bias of each layer of the policy.

    Batches are drawn with replacement from the data, which also hold the last transitions of truncated episodes.
    """
    d3rlpy.seed(seed)
    algorithm = make_algorithm(name, data["observation"].shape[1], data["action"].shape[1])
    generator = np.random.default_rng(seed)
    for _ in range(num_steps):
        rows = generator.integers(len(data["action"]), size=BATCH)
        algorithm.update(_minibatch({key: values[rows] for key, values in data.items()}))
    modules = algorithm.impl.modules
    linears = _linears(modules.imitator if name == "bc" else modules.policy)
    if name == "cql":
        linears = [linear for linear in linears if linear is not modules.policy._logstd]
    layers = {f"weight_{index}": linear.weight.detach().numpy() for index, linear in enumerate(linears)}
    return layers | {f"bias_{index}": linear.bias.detach().numpy() for index, linear in enumerate(linears)}


def make_algorithm(name: str, observation_dim: int = OBSERVATION, action_dim: int = ACTION) -> Any:
    """Return an algorithm with the networks and numbers of the benchmark."""
    configs = {
        "bc": lambda: d3rlpy.algos.BCConfig(batch_size=BATCH, learning_rate=LEARNING_RATE, encoder_factory=_ENCODER),
        "iql": lambda: d3rlpy.algos.IQLConfig(
            batch_size=BATCH, value_encoder_factory=_ENCODER, expectile=EXPECTILE, weight_temp=TEMPERATURE, **_CRITICS
        ),
        "td3_bc": lambda: d3rlpy.algos.TD3PlusBCConfig(batch_size=BATCH, **_CRITICS),
        "rebrac": lambda: d3rlpy.algos.ReBRACConfig(batch_size=BATCH, **_CRITICS),
        "cql": lambda: d3rlpy.algos.CQLConfig(
            batch_size=BATCH,
            temp_learning_rate=1e-4,
            alpha_learning_rate=0.0,  # no Lagrange multiplier: the weight is fixed
            conservative_weight=5.0,
            **_CRITICS,
        ),
        "sac": lambda: d3rlpy.algos.SACConfig(batch_size=BATCH, **_CRITICS),
    }
    if name not in configs:
        msg = f"no {name} here"
        raise UnavailableError(msg)
    algorithm = configs[name]().create(device="cpu:0")
    algorithm.create_impl((observation_dim,), action_dim)
    return algorithm


@torch.no_grad()
def _load(network: torch.nn.Module, layers: list) -> None:
    for linear, (weight, bias) in zip(_linears(network), layers, strict=True):
        linear.weight.copy_(torch.from_numpy(weight))
        linear.bias.copy_(torch.from_numpy(bias))


def _linears(network: torch.nn.Module) -> list[torch.nn.Linear]:
    """Return the layers in the order of the computation: the encoder's, then the head, registered before or after."""
    linears = dict.fromkeys(module for module in network.modules() if isinstance(module, torch.nn.Linear))
    return sorted(linears, key=lambda linear: linear.out_features != HIDDEN)


def _batches() -> list[TransitionMiniBatch]:
    return [_minibatch(batch) for batch in make_batches()]


def _minibatch(batch: dict[str, np.ndarray]) -> TransitionMiniBatch:
    return TransitionMiniBatch(
        observations=batch["observation"],
        actions=batch["action"],
        rewards=batch["reward"],
        next_observations=batch["next_observation"],
        next_actions=batch["action"],
        terminals=batch["terminated"],
        intervals=np.ones_like(batch["reward"]),
        transitions=[],
    )


if __name__ == "__main__":
    fit(*sys.argv[1:4], num_seeds=int(sys.argv[4]), num_steps=int(sys.argv[5]))
