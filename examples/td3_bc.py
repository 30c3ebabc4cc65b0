"""TD3+BC (Fujimoto and Gu, 2021) by TorchRL's loss: train, evaluate, save, and evaluate again from disk.

python examples/td3_bc.py --dataset kitchen_knob1 --steps 20000 --output runs/td3_bc
rlhive evaluate runs/td3_bc
"""

import argparse

import torch
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.modules import MLP, ValueOperator
from torchrl.objectives import SoftUpdate, TD3BCLoss

from rlhive import RoboHiveDataset, evaluate
from rlhive.policies import Normalizer, make_actor, make_deployed_policy, save_checkpoint

NETWORK = {"hidden_sizes": [256, 256], "activation": "relu", "dropout": 0.0}


class QNetwork(nn.Module):
    """The value of an action in a state."""

    def __init__(self, observation_dim, action_dim):
        super().__init__()
        self.mlp = MLP(observation_dim + action_dim, 1, num_cells=NETWORK["hidden_sizes"], activation_class=nn.ReLU)

    def forward(self, observation, action):
        """Return the values, shape [..., 1]."""
        return self.mlp(torch.cat([observation, action], -1))


def train(dataset, num_steps):
    """Return the trained actor, which takes normalised observations."""
    sizes = [dataset.schema[name].width for name in ("observation", "action")]
    actor = make_actor(*sizes, NETWORK)
    policy = TensorDictModule(actor, in_keys=["observation"], out_keys=["action"])
    critic = ValueOperator(QNetwork(*sizes), in_keys=["observation", "action"])
    loss = TD3BCLoss(policy, critic, bounds=(-1.0, 1.0))
    loss.make_value_estimator(gamma=0.99)
    target = SoftUpdate(loss, tau=0.005)
    actor_optimizer = torch.optim.Adam(loss.actor_network_params.flatten_keys().values(), lr=3e-4)
    critic_optimizer = torch.optim.Adam(loss.qvalue_network_params.flatten_keys().values(), lr=3e-4)
    buffer = dataset.as_replay_buffer(256, normalize=True, seed=0)  # float32 batches
    for step in range(num_steps):
        batch = buffer.sample()
        descend(critic_optimizer, loss.qvalue_loss(batch)[0])
        if step % 2:
            descend(actor_optimizer, loss.actor_loss(batch)[0])
            target.step()
    return actor


def descend(optimizer, loss):
    """Take one gradient step."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dataset", default="kitchen_knob1")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--output", default="runs/td3_bc")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(
        1
    )  # more do not help networks of this size, and beside busy processes they wait for each other
    dataset = RoboHiveDataset(arguments.dataset)
    normalization = dataset.normalization("observation")
    normalizer = Normalizer(normalization.loc, normalization.scale)
    policy = make_deployed_policy(normalizer, train(dataset, arguments.steps), env_name=dataset.env_name)
    sizes = {f"{name}_dim": dataset.schema[name].width for name in ("observation", "action")}
    save_checkpoint(arguments.output, policy, {"env_name": dataset.env_name, "network": NETWORK, **sizes}, [])
    for trained in (policy, arguments.output):
        result = evaluate(trained, dataset.env_name, num_episodes=20, num_workers=1, progress=False)
        print(f"success {result.success_rate:.0%}, return {result.return_mean:.2f} in {result.env_name}")
