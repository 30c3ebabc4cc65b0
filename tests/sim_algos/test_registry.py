"""Algorithms by name: RLHive's, a script's own, and those of installed packages."""

import importlib.metadata
import re
import sys
from pathlib import Path

import pytest

from rlhive.errors import InvalidOptionError
from rlhive.policies import _networks, load_policy, read_checkpoint
from rlhive.rollouts import evaluate
from rlhive.sim_algos import _registry, algorithm_names, make_config, register_algorithm
from tests.sim_algos.toy import as_buffer, collect_buffer, train_quickly

MODULE = """
import torch
from torch import nn

from rlhive import keys
from rlhive.sim_algos import Algorithm, StackedMLP, mean_per_seed


class MeanAction(nn.Module):
    def __init__(self, action_dim):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(action_dim))

    def forward(self, observation):
        return self.mean.expand(*observation.shape[:-1], -1)


class Average(Algorithm):
    name = "average"
    in_keys = (keys.OBSERVATION, keys.ACTION)

    def __init__(self, config, statistics, generators):
        super().__init__(config, statistics, generators)
        self.mean = nn.Parameter(torch.zeros(len(generators), 1, statistics.action_dim))
        self.set_optimizer({"params": [self.mean], "lr": config["optim"]["lr"]})

    def losses(self, batch):
        return {"loss": mean_per_seed((batch[keys.ACTION] - self.mean).square())}

    network = {"kind": "average"}

    @staticmethod
    def make_network(observation_dim, action_dim, network):
        return MeanAction(action_dim)

    @torch.no_grad()
    def copy_network(self, network, seed_index):
        network.mean.copy_(self.mean[seed_index, 0])
"""

OPTIONS = """# @package _global_
algorithm: average
train: {num_steps: 30, batch_size: 8}
optim: {lr: 0.1}
network: {}
loss: {}
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Return a module with an algorithm of its own, as an installed package would have it."""
    (tmp_path / "average_plugin.py").write_text(MODULE)
    (tmp_path / "average.yaml").write_text(OPTIONS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(_registry, "_registered", {})
    monkeypatch.setattr(_networks, "_registered", {})
    yield "average_plugin"
    sys.modules.pop("average_plugin", None)


def test_an_algorithm_of_an_installed_package_trains_and_is_loaded_again(plugin, tmp_path) -> None:
    info = tmp_path / "average_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: average-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rlhive.algorithms]\naverage = average_plugin:Average\n")
    importlib.invalidate_caches()
    assert "average" in algorithm_names()
    rows = collect_buffer("expert", num_episodes=2)[:]
    rows["action"].fill_(0.5)
    config = make_config("average", overrides=["train.num_steps=40", "progress=false", "logger=null"])
    result = train_quickly(as_buffer(rows), config, tmp_path / "run")
    assert read_checkpoint(result.checkpoint)["network"] == {"kind": "average"}
    policy = load_policy(result.checkpoint)
    assert policy.module[1].mean.item() == pytest.approx(0.5, abs=0.05)
    returns = evaluate(result.checkpoint, "toy_point", num_episodes=2, num_workers=1, progress=False).returns
    assert len(returns) == 2
    with pytest.raises(InvalidOptionError, match=r"average has no option optim\.rate"):
        make_config("average", overrides=["optim.rate=1"])


def test_a_scripts_own_algorithm_is_registered(plugin, tmp_path) -> None:
    module = importlib.import_module(plugin)
    assert register_algorithm(module.Average) is module.Average
    result = train_quickly(
        collect_buffer("expert", num_episodes=2), make_config("average", overrides=["logger=null"]), tmp_path / "run"
    )
    assert isinstance(load_policy(result.checkpoint).module[1], module.MeanAction)
    with pytest.raises(InvalidOptionError, match=r"expected a YAML file with its options at .*none\.yaml, got none"):
        register_algorithm(module.Average, tmp_path / "none.yaml")
    module.Average.name = "bc"
    with pytest.raises(InvalidOptionError, match="RLHive has an algorithm named 'bc'"):
        register_algorithm(module.Average)


def test_the_algorithm_in_the_documents_trains(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(_registry, "_registered", {})
    text = (Path(__file__).parents[2] / "docs/training.md").read_text(encoding="utf-8")
    [block] = [part for part in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "class Cloning" in part]
    namespace: dict = {}
    exec(block, namespace)
    options = (_registry.CONF_DIR / "model" / "bc.yaml").read_text(encoding="utf-8")
    (tmp_path / "cloning.yaml").write_text(options.replace("algorithm: bc", "algorithm: cloning"))
    register_algorithm(namespace["Cloning"], tmp_path / "cloning.yaml")
    overrides = ["train.num_steps=300", "network=small", "train.batch_size=64", "logger=null", "progress=false"]
    result = train_quickly(collect_buffer("expert"), make_config("cloning", overrides=overrides), tmp_path / "run")
    assert result.curve[-1]["loss"] < 0.2 * result.curve[0]["loss"]
    assert load_policy(result.checkpoint).env_name == "ToyPoint-v0"
