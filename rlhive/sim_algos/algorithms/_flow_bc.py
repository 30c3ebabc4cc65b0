"""Flow-matching behaviour cloning with action chunks: plan several actions at once, execute some of them, plan anew.

The policy is a velocity field that carries noise to the next ``network.chunk`` actions (Lipman et al., "Flow Matching
for Generative Modeling", ICLR 2023), as in Black et al., "pi0: A Vision-Language-Action Flow Model for General Robot
Control", 2024. Chunks that are executed open loop are those of Chi et al., "Diffusion Policy", RSS 2023, and Zhao et
al., "Learning Fine-Grained Bimanual Manipulation with Low-Cost Hardware", RSS 2023.
"""

from collections.abc import Mapping
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import nn

from rlhive import keys
from rlhive.errors import InvalidOptionError
from rlhive.sim_algos._algorithm import Algorithm, mean_per_seed
from rlhive.sim_algos._flow import flow_matching_error
from rlhive.sim_algos._preprocessing import TrainingStatistics
from rlhive.sim_algos._seed_stack import SeedGenerators, StackedMLP


class FlowBehaviorCloning(Algorithm):
    """Velocity field over action chunks, and its flow-matching loss."""

    name = "flow_bc"
    in_keys = (keys.OBSERVATION, keys.ACTION, keys.ACTION_CHUNK, keys.ACTION_CHUNK_MASK)

    @classmethod
    def buffer_options(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options for batches with chunks of ``network.chunk`` actions."""
        return {"action_chunk": config["network"]["chunk"]}

    def __init__(self, config: Mapping[str, Any], statistics: TrainingStatistics, generators: SeedGenerators) -> None:
        super().__init__(config, statistics, generators)
        network = config["network"]
        if not 1 <= network["execute"] <= network["chunk"]:
            msg = f"network.execute: expected 1 to network.chunk={network['chunk']} actions, got {network['execute']}"
            raise InvalidOptionError(msg)
        size = network["chunk"] * statistics.action_dim
        self.velocity = StackedMLP(generators, statistics.observation_dim + size + 1, size, network)
        self.set_optimizer({"params": self.velocity.parameters(), "lr": config["optim"]["lr"]})

    def losses(self, batch: TensorDictBase) -> dict[str, torch.Tensor]:
        """Return ``loss_flow``, the squared error of the velocities; actions after the episode's end do not count."""
        chunk = batch[keys.ACTION_CHUNK].flatten(2)
        error = flow_matching_error(self.velocity, batch[keys.OBSERVATION], chunk, self.generators)
        mask = batch[keys.ACTION_CHUNK_MASK].float()
        error_of_action = error.reshape(*mask.shape, -1).mean(-1)
        return {"loss_flow": mean_per_seed(error_of_action * mask) / mean_per_seed(mask)}

    @property
    def network(self) -> dict[str, Any]:
        """Section ``network`` of ``checkpoint.json``: a velocity field over chunks."""
        section = self.config["network"]
        names = ("hidden_sizes", "activation", "dropout", "layer_norm", "chunk", "execute", "num_flow_steps")
        return {"kind": "flow_chunk", **{name: section[name] for name in names}}

    def copy_network(self, network: nn.Module, seed_index: int) -> None:
        """Write one seed's velocity field into a deployed network."""
        self.velocity.copy_to(network, seed_index)
