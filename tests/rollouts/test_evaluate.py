"""Evaluation: success counts, intervals against published values, independence of the number of workers."""

import dataclasses
import json
import math

import pytest
import torch
from tensordict import TensorDict

from rlhive.envs._make import make_env, make_policy
from rlhive.envs._references import PolicyResult, Reference
from rlhive.envs._tasks import EVALUATION_SEED, TASKS
from rlhive.errors import CheckpointMismatchError, EnvNotFoundError
from rlhive.policies import Normalizer, make_actor, make_deployed_policy, save_checkpoint
from rlhive.rollouts._evaluate import compare, evaluate, mean_interval, wilson_interval
from rlhive.rollouts._rollout import rollout_episode

NETWORK = {"hidden_sizes": [8], "activation": "relu", "dropout": 0.0}


def _checkpoint(folder, *, seed: int = 0, env_name: str = "ToyPoint-v0", observation_dim: int = 2):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        actor = make_actor(observation_dim, 1, NETWORK)
    normalizer = Normalizer(torch.zeros(observation_dim), torch.ones(observation_dim))
    policy = make_deployed_policy(normalizer, actor, env_name=env_name)
    record = {"env_name": env_name, "observation_dim": observation_dim, "action_dim": 1, "network": NETWORK}
    return save_checkpoint(folder, policy, record, [])


@pytest.mark.parametrize(
    ("successes", "num_episodes", "expected"),
    [  # Newcombe (1998), Statistics in Medicine 17, table I, method 3
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0000, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_wilson_interval_has_the_published_values(successes, num_episodes, expected) -> None:
    assert wilson_interval(successes, num_episodes) == pytest.approx(expected, abs=5e-5)
    low, high = wilson_interval(num_episodes - successes, num_episodes)
    assert (1 - high, 1 - low) == pytest.approx(expected, abs=5e-5)


def test_mean_interval_has_the_values_computed_by_hand() -> None:
    # mean 2, standard deviation 1, three values: 2 ± 4.3027 / sqrt(3), with Student's t for 2 degrees of freedom
    assert mean_interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 2.48414, 2 + 2.48414), abs=1e-4)
    assert mean_interval([5.0]) == (-math.inf, math.inf)
    assert mean_interval([math.inf, -math.inf, 1.0]) == (-math.inf, math.inf)


def test_the_numbers_are_computed_from_the_episodes() -> None:
    evaluation = evaluate("medium", "toy_point", num_episodes=12, num_workers=1, progress=False)
    env = make_env("toy_point")
    episodes = [rollout_episode(env, make_policy(env, "medium"), seed=EVALUATION_SEED + i) for i in range(12)]
    returns = [math.fsum(episode.transitions["next", "reward"].flatten().tolist()) for episode in episodes]
    successes = sum(bool(episode.transitions["next", "success"].any()) for episode in episodes)
    assert list(evaluation.returns) == returns
    assert len(set(returns)) == 12
    assert 0 < successes < 12
    assert (evaluation.successes, evaluation.success_rate) == (successes, successes / 12)
    assert evaluation.return_mean == pytest.approx(sum(returns) / 12)
    assert evaluation.success_interval == wilson_interval(successes, 12)
    assert (evaluation.policy, evaluation.env_name, evaluation.first_seed) == ("medium", "ToyPoint-v0", 1_000_000)


def test_evaluation_seeds_are_disjoint_from_the_seeds_of_every_recipe() -> None:
    recorded = max(task.recipe.num_episodes for task in TASKS.values() if task.recipe)
    seeds = []

    def policy(tensordict: TensorDict) -> TensorDict:
        return tensordict.set("action", torch.zeros(1))

    policy.begin_episode = seeds.append
    evaluate(policy, "toy_point", num_episodes=3, num_workers=1, progress=False)

    assert seeds == [EVALUATION_SEED, EVALUATION_SEED + 1, EVALUATION_SEED + 2]
    assert min(seeds) >= recorded


def test_the_result_does_not_depend_on_the_number_of_workers(tmp_path) -> None:
    folder = _checkpoint(tmp_path / "a")
    for policy in ("medium", folder, _stand_still):
        alone = evaluate(policy, "toy_point", num_episodes=7, num_workers=1, progress=False)
        together = evaluate(policy, "toy_point", num_episodes=7, num_workers=2, progress=False)
        assert alone == together


def _stand_still(tensordict: TensorDict) -> TensorDict:
    return tensordict.set("action", torch.zeros(1))


def test_workers_get_a_callable_and_an_unregistered_task() -> None:
    half = torch.tensor([0.5])
    task = dataclasses.replace(TASKS["toy_point"], name="not_registered", env_kwargs={"dtype": torch.float32})

    def policy(tensordict: TensorDict) -> TensorDict:
        assert tensordict["observation"].dtype == torch.float32
        return tensordict.set("action", half)

    alone = evaluate(policy, task, num_episodes=3, num_workers=1, progress=False)
    assert alone == evaluate(policy, task, num_episodes=3, num_workers=2, progress=False)
    assert alone.policy == "policy"


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_do_not_use_a_cached_checkpoint_that_was_replaced(tmp_path, num_workers) -> None:
    arguments = {"num_episodes": 2, "num_workers": num_workers, "progress": False}
    first = evaluate(_checkpoint(tmp_path / "a", seed=0), "toy_point", **arguments)
    second = evaluate(_checkpoint(tmp_path / "a", seed=1), "toy_point", **arguments)
    assert first.returns != second.returns
    assert second.returns == evaluate(_checkpoint(tmp_path / "b", seed=1), "toy_point", **arguments).returns


def test_compare_orders_the_levels_on_the_same_seeds() -> None:
    random, expert = compare(["random", "expert"], "toy_point", num_episodes=20, num_workers=1, progress=False)
    assert random.success_rate < 0.5 < expert.success_rate == 1.0
    assert random.return_interval[1] < expert.return_interval[0]


def test_every_level_of_a_task_can_be_evaluated() -> None:
    rows = compare(TASKS["toy_point"].levels, "toy_point", num_episodes=20, num_workers=1, progress=False)
    assert [row.policy for row in rows] == ["expert", "noisy", "medium", "random"]
    returns = [row.return_mean for row in rows]
    assert returns == sorted(returns, reverse=True)


def test_the_score_puts_the_mean_return_on_the_scale_of_the_references() -> None:
    reference = Reference(random=PolicyResult(5.0), expert=PolicyResult(15.0))
    task = dataclasses.replace(TASKS["toy_point"], reference=reference)
    evaluation = evaluate("medium", task, num_episodes=10, num_workers=1, progress=False)
    low, high = evaluation.return_interval
    assert evaluation.score == pytest.approx(10.0 * (evaluation.return_mean - 5.0))
    assert evaluation.score_interval == pytest.approx((10.0 * (low - 5.0), 10.0 * (high - 5.0)))
    assert evaluation.to_dict()["score"] == evaluation.score
    without = dataclasses.replace(task, reference=None)
    assert evaluate("medium", without, num_episodes=2, num_workers=1, progress=False).score is None


def test_to_dict_survives_json() -> None:
    evaluation = evaluate("expert", "toy_point", num_episodes=1, num_workers=1, progress=False)
    fields = json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))
    assert fields["return_interval"] == [None, None]
    assert fields["returns"] == list(evaluation.returns)
    assert set(fields) == {field.name for field in dataclasses.fields(evaluation)}


def test_errors_name_what_was_expected(tmp_path) -> None:
    with pytest.raises(CheckpointMismatchError, match="expected one of expert, noisy, medium, random or a folder"):
        evaluate("exprt", "toy_point", progress=False)
    with pytest.raises(EnvNotFoundError, match="nearest toy_point"):
        evaluate("expert", "toy_pont", progress=False)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        evaluate("expert", "toy_point", num_episodes=0)
    with pytest.raises(CheckpointMismatchError, match=r"expected a folder with checkpoint\.json, got none"):
        evaluate(tmp_path, "toy_point", progress=False)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_checkpoint_of_another_environment_is_refused(tmp_path, num_workers) -> None:
    kitchen = _checkpoint(tmp_path / "kitchen", env_name="FK1_Knob1OnRandom-v4")
    with pytest.raises(CheckpointMismatchError, match="expected env_name 'ToyPoint-v0', got 'FK1_Knob1OnRandom-v4'"):
        evaluate(kitchen, "toy_point", num_workers=num_workers, progress=False)
    wide = _checkpoint(tmp_path / "wide", observation_dim=5)
    with pytest.raises(CheckpointMismatchError, match="expected observation_dim 2, got 5"):
        evaluate(wide, "toy_point", num_workers=num_workers, progress=False)
