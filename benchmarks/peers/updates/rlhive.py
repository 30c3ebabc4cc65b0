"""RLHive: ``Algorithm.update``, and the whole step of its trainer."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict

from benchmarks.peers import rlhive as storage
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
from rlhive import RoboHiveDataset, keys
from rlhive.sim_algos import _batches, _preprocessing, _setup, _trainer, algorithm_names, make_config
from rlhive.sim_algos._algorithm import Algorithm

_RATES = [f"optim.{name}={LEARNING_RATE}" for name in ("actor_lr", "critic_lr")]
_CRITICS = [*_RATES, f"network.critic_hidden_sizes=[{HIDDEN},{HIDDEN}]", f"loss.gamma={GAMMA}", f"loss.tau={TAU}"]
_CONSTANT = ["optim.schedule=constant"]
_PAPER = ["loss.distribution=gaussian", "loss.scale=free", f"loss.expectile={EXPECTILE}"]
_PAPER += [f"loss.temperature={TEMPERATURE}", *_CONSTANT]

#: Variant → algorithm and its options.
_VARIANTS = {
    "bc": ("bc", [f"optim.lr={LEARNING_RATE}", "loss.loss_function=l2", "optim.weight_decay=0", *_CONSTANT]),
    "iql": ("iql", [*_CRITICS, *_PAPER]),  # the paper's policy, which the peers have
    "iql_default": ("iql", _CRITICS),  # a network gives the scale
    "td3_bc": (
        "td3_bc",
        [*_CRITICS, "loss.alpha=2.5", "loss.loss_function=l2", "network.critic_layer_norm=false"],
    ),
    "rebrac": ("rebrac", [*_CRITICS, "network.critic_layer_norm=false"]),
    "cql": ("cql", _CRITICS),
    "sac": ("sac", [*_CRITICS, f"network.scale_hidden_sizes=[{HIDDEN},{HIDDEN}]"]),
}


class Peer:
    """Adapter of RLHive's algorithms and trainer."""

    def __init__(self, source: Source, folder: Path):
        self._folder, self._storage = Path(folder), storage.Peer(source, folder)
        torch.set_num_threads(1)

    def versions(self) -> dict[str, str]:
        """Return the versions of the measured libraries."""
        return self._storage.versions()

    def write(self) -> dict[str, Any]:
        """Record the episodes that the whole step samples from."""
        return self._storage.write(frames=10_000)

    def open(self, workload: str, variant: str) -> Drawing:
        """Build an algorithm.

        Args:
            workload: "update", "step" (sample, preprocess, update, log) or "sampling" (sample and preprocess).
            variant: Name in the table above, optionally with a number of seeds: "iql:5".
        """
        name, _, num_seeds = variant.partition(":")
        config = make_training_config(name, num_seeds=int(num_seeds or 1))
        if workload != "update":
            return Drawing(self._trainer_step(config, workload), dict, size=BATCH)
        algorithm = make_algorithm(config)
        batches = cycle(_tensordicts(config["num_seeds"]))
        return Drawing(lambda: algorithm.update(next(batches)), dict, size=BATCH * config["num_seeds"])

    def losses(self, num_steps: int) -> list[dict[str, float]]:
        """Return the losses of IQL's first gradient steps from the common weights."""
        algorithm, batches = make_algorithm(make_training_config("iql")), cycle(_tensordicts(1))
        _load_weights(algorithm)
        names = {"value": "loss_value", "critic": "loss_qvalue", "actor": "loss_actor"}
        steps = []
        for _ in range(num_steps):
            metrics = algorithm.update(next(batches))
            losses = {name: metrics[key].item() for name, key in names.items()}
            steps.append({**losses, "critic": losses["critic"] / 2})  # RLHive sums over the two Q functions
        return steps

    def _trainer_step(self, config: dict[str, Any], workload: str) -> Callable[[], None]:
        dataset = RoboHiveDataset(storage.NAME, version=storage.VERSION, generate=False, store=self._folder / "store")
        buffer = dataset.as_replay_buffer(batch_size=BATCH, normalize=True)
        algorithm_class = _setup.find_algorithm(config["algorithm"])
        statistics = _preprocessing.compute_training_statistics(buffer, algorithm_class.in_keys)
        algorithm = _setup.build_algorithm(config, statistics)
        preprocess = _setup.build_preprocessor(config, algorithm, statistics, "bench")
        source = _batches.BatchSource([buffer], [0], BATCH)
        if workload == "sampling":
            return lambda: preprocess(source.sample())
        trainer = _trainer.Trainer(
            algorithm, preprocess, statistics, config, data=source, env_name="bench", output_dir=tempfile.mkdtemp()
        )
        trainer.__enter__()

        def step() -> None:
            trainer.update(source.sample())
            trainer.save_if_due()

        return step


def make_training_config(variant: str, *, num_seeds: int = 1) -> dict[str, Any]:
    """Return the configuration of a variant."""
    if variant not in _VARIANTS or _VARIANTS[variant][0] not in algorithm_names():
        msg = f"no {variant} here"
        raise UnavailableError(msg)
    overrides = [*list_overrides(variant), "logger=null", "progress=false", "evaluation=null"]
    overrides += ["train.num_steps=1000000", "train.save_every=1000000", "train.eval_every=1000000"]
    return {**make_config(_VARIANTS[variant][0], "bench", overrides=overrides), "num_seeds": num_seeds}


def list_overrides(variant: str) -> list[str]:
    """Return the options of a variant with the networks and numbers of the benchmark."""
    return [f"network.hidden_sizes=[{HIDDEN},{HIDDEN}]", f"train.batch_size={BATCH}", *_VARIANTS[variant][1]]


def make_algorithm(config: dict[str, Any]) -> Algorithm:
    """Return the algorithm of a configuration for normalised observations."""
    statistics = _preprocessing.TrainingStatistics(torch.zeros(OBSERVATION), torch.ones(OBSERVATION), 1.0, ACTION)
    return _setup.build_algorithm(config, statistics)


@torch.no_grad()
def _load_weights(algorithm: Algorithm) -> None:
    weights = make_weights()
    networks = {"actor": (algorithm.actor, 0), "value": (algorithm.value, 0)}
    networks |= {"q1": (algorithm.critic, 0), "q2": (algorithm.critic, 1)}
    for name, (network, member) in networks.items():
        for weight, bias, (array, shift) in zip(network.weights, network.biases, weights[name], strict=True):
            weight[0, member].copy_(torch.from_numpy(np.ascontiguousarray(array.T)))
            bias[0, member, 0].copy_(torch.from_numpy(shift))
    algorithm.target_critic.load_state_dict(algorithm.critic.state_dict())


def _tensordicts(num_seeds: int) -> list[TensorDict]:
    """Return batches; each seed gets others."""
    arrays = make_batches()
    rotated = [[arrays[(index + seed) % len(arrays)] for seed in range(num_seeds)] for index in range(len(arrays))]
    return [_tensordict({name: np.stack([batch[name] for batch in group]) for name in group[0]}) for group in rotated]


def _tensordict(batch: dict[str, np.ndarray]) -> TensorDict:
    tensors = {name: torch.from_numpy(values) for name, values in batch.items()}
    num_seeds = len(tensors["action"])
    terminated = tensors["terminated"].bool()
    following = {"observation": tensors["next_observation"], "reward": tensors["reward"]}
    following |= {"terminated": terminated, "done": terminated}
    leaves = {"observation": tensors["observation"], "action": tensors["action"], "next": following}
    leaves[keys.ACTION_CHUNK] = tensors["action"].unsqueeze(2).expand(-1, -1, 2, -1).contiguous()
    leaves[keys.ACTION_CHUNK_MASK] = torch.ones(num_seeds, BATCH, 2, dtype=torch.bool)
    return TensorDict(leaves, batch_size=[num_seeds, BATCH])
