"""TorchRL's IQL as its own script ``sota-implementations/iql/iql_offline.py`` runs it.

As there: ``IQLLoss`` with a TanhNormal actor whose scale depends on the observation, TD(0), ``SoftUpdate``, and three
Adam optimizers joined by ``group_optimizers``; one backward pass.
"""

from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from tensordict.nn.distributions import NormalParamExtractor
from torch import nn
from torchrl.data import Bounded
from torchrl.modules import MLP, IndependentNormal, ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives import IQLLoss, SoftUpdate, group_optimizers

from benchmarks.peers.source import Source
from benchmarks.peers.updates import (
    ACTION,
    BATCH,
    EXPECTILE,
    GAMMA,
    HIDDEN,
    LEARNING_RATE,
    NETWORKS,
    TAU,
    TEMPERATURE,
    cycle,
    make_batches,
    make_weights,
)
from benchmarks.peers.worker import Drawing


class Peer:
    """Adapter of ``IQLLoss``."""

    def __init__(self, source: Source, folder: Path):
        del source, folder
        torch.set_num_threads(1)

    def versions(self) -> dict[str, str]:
        """Return the versions of the measured libraries."""
        return {name: metadata.version(name) for name in ("torch", "torchrl", "tensordict")}

    def open(self, workload: str, variant: str) -> Drawing:
        """Build the script's learner."""
        del workload, variant
        learner, batches = _Learner(_make_tanh_normal_actor()), cycle(_tensordicts())
        return Drawing(lambda: learner.update(next(batches).copy()), dict, size=BATCH)

    def losses(self, num_steps: int) -> list[dict[str, float]]:
        """Return the losses of the first gradient steps from the common weights, with the paper's Gaussian actor."""
        learner, batches = _Learner(_make_gaussian_actor()), cycle(_tensordicts())
        learner.load_weights()
        steps = []
        for _ in range(num_steps):
            info = learner.update(next(batches).copy())
            names = {"value": "loss_value", "critic": "loss_qvalue", "actor": "loss_actor"}
            losses = {name: info[key].item() for name, key in names.items()}
            steps.append({**losses, "critic": losses["critic"] / 2})  # TorchRL sums over the two Q functions
        return steps


class _Learner:
    def __init__(self, actor: ProbabilisticActor):
        critic = ValueOperator(in_keys=["observation", "action"], module=_mlp("q1"))
        value = ValueOperator(in_keys=["observation"], module=_mlp("value"))
        self.loss = IQLLoss(
            actor, critic, value_network=value, loss_function="l2", temperature=TEMPERATURE, expectile=EXPECTILE
        )
        self.loss.make_value_estimator(gamma=GAMMA)
        self._updater = SoftUpdate(self.loss, tau=TAU)
        networks = [getattr(self.loss, f"{name}_network_params") for name in ("actor", "qvalue", "value")]
        parameters = [list(network.flatten_keys().values()) for network in networks]
        self._optimizer = group_optimizers(*(torch.optim.Adam(group, lr=LEARNING_RATE) for group in parameters))

    @torch.no_grad()
    def load_weights(self) -> None:
        """Write the common weights into the networks and the target."""
        weights = make_weights()
        for params, name in ((self.loss.actor_network_params, "actor"), (self.loss.value_network_params, "value")):
            for parameter, values in zip(_leaves(params), _flat(weights[name]), strict=False):
                parameter.copy_(values)
        both = [torch.stack(pair) for pair in zip(_flat(weights["q1"]), _flat(weights["q2"]), strict=True)]
        for params in (self.loss.qvalue_network_params, self.loss.target_qvalue_network_params):
            for parameter, values in zip(_leaves(params), both, strict=True):
                parameter.data.copy_(values)

    def update(self, data: TensorDict) -> TensorDict:
        """Take one gradient step, as the script does."""
        self._optimizer.zero_grad(set_to_none=True)
        info = self.loss(data)
        (info["loss_actor"] + info["loss_value"] + info["loss_qvalue"]).backward()
        self._optimizer.step()
        self._updater.step()
        return info.detach()


def _leaves(params: TensorDict) -> list[torch.Tensor]:
    """Return weights and biases, layer by layer."""
    flat = {".".join(key) if isinstance(key, tuple) else key: value for key, value in params.items(True, True)}
    layers = sorted(name.rpartition(".")[0] for name in flat if name.endswith(".weight"))
    return [flat[f"{layer}.{kind}"] for layer in layers for kind in ("weight", "bias")]


def _flat(layers: list) -> list[torch.Tensor]:
    return [torch.from_numpy(values) for layer in layers for values in layer]


def _mlp(name: str, num_outputs: int | None = None) -> MLP:
    num_inputs, outputs = NETWORKS[name]
    return MLP(num_inputs, num_outputs or outputs, num_cells=[HIDDEN, HIDDEN], activation_class=nn.ReLU)


def _make_tanh_normal_actor() -> ProbabilisticActor:
    extractor = NormalParamExtractor(scale_mapping="biased_softplus_1.0", scale_lb=1e-4)
    network = nn.Sequential(_mlp("actor", 2 * ACTION), extractor)
    spec = Bounded(-1.0, 1.0, (ACTION,))
    return ProbabilisticActor(
        module=TensorDictModule(network, in_keys=["observation"], out_keys=["loc", "scale"]),
        in_keys=["loc", "scale"],
        spec=spec,
        distribution_class=TanhNormal,
        distribution_kwargs={"low": spec.space.low, "high": spec.space.high, "tanh_loc": False},
    )


class _GaussianHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mlp = _mlp("actor")
        self.log_scale = nn.Parameter(torch.zeros(ACTION))

    def forward(self, observation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        location = torch.tanh(self.mlp(observation))
        return location, self.log_scale.exp().expand_as(location)


def _make_gaussian_actor() -> ProbabilisticActor:
    return ProbabilisticActor(
        module=TensorDictModule(_GaussianHead(), in_keys=["observation"], out_keys=["loc", "scale"]),
        in_keys=["loc", "scale"],
        distribution_class=IndependentNormal,
        distribution_kwargs={"tanh_loc": False},
    )


def _tensordicts() -> list[TensorDict]:
    return [_tensordict({name: torch.from_numpy(values) for name, values in batch.items()}) for batch in make_batches()]


def _tensordict(batch: dict[str, Any]) -> TensorDict:
    terminated = batch["terminated"].bool()
    following = {"observation": batch["next_observation"], "reward": batch["reward"]}
    following |= {"terminated": terminated, "done": terminated}
    return TensorDict(
        {"observation": batch["observation"], "action": batch["action"], "next": following}, batch_size=[BATCH]
    )
