"""Every algorithm that learns from rewards solves the toy from data that do not, and every cloning one from experts."""

import pytest

from rlhive import RoboHiveDataset, export
from rlhive.rollouts import evaluate
from rlhive.sim_algos import algorithm_names, make_config
from rlhive.sim_algos._registry import find_algorithm
from tests.sim_algos.toy import as_buffer, collect_buffer, train_quickly

FAST = ["optim.actor_lr=1e-3", "optim.critic_lr=1e-3", "loss.gamma=0.95", "loss.tau=0.02"]
SMALL = ["network=small", "network.critic_hidden_sizes=[64,64]"]

OPTIONS = {
    "bc": ["network=small"],
    "flow_bc": ["network=small", "network.chunk=4", "network.execute=2"],
    "iql": [*FAST, *SMALL, "loss.temperature=10"],
    "td3_bc": [*FAST, *SMALL, "loss.alpha=20", "loss.loss_function=l2"],
    "rebrac": [*FAST, *SMALL, "loss.actor_penalty=0.02"],
    "cql": [*FAST, *SMALL, "loss.conservative_weight=0.5", "loss.num_actions=4"],
    "fql": [*FAST, *SMALL, "loss.alpha=0.03", "loss.num_flow_steps=4", "train.num_steps=2500"],
}


def test_every_offline_algorithm_is_tried() -> None:
    assert {name for name in algorithm_names() if not find_algorithm(name).is_online} - {"dt"} == set(OPTIONS)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_an_algorithm_solves_the_toy(tmp_path, name) -> None:
    levels = ("expert",) if name in ("bc", "flow_bc") else ("medium", "random")
    rows = collect_buffer(*levels, num_episodes=40)[:]
    folder = export(as_buffer(rows), "my/mixed", license="mit", env_name="ToyPoint-v0", store=tmp_path)
    steps = ["train.num_steps=1200", "train.batch_size=128", "progress=false", "logger=null"]
    config = make_config(name, overrides=[*steps, *OPTIONS[name]])
    options = find_algorithm(name).buffer_options(config)
    buffer = RoboHiveDataset(folder).as_replay_buffer(128, normalize=True, **options)
    result = train_quickly(buffer, config, tmp_path / "run")
    evaluation = evaluate(result.checkpoint, "toy_point", num_episodes=40, num_workers=1, progress=False)
    # The random policy's mean return is 10.6 with 30 % solved, the medium one's 16.4 with 60 %, the expert's 19.1.
    assert evaluation.return_mean > 17
    assert evaluation.success_rate >= 0.75
