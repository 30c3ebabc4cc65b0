"""The toy environment: hand-computed returns, both endings, reproducible episodes."""

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torchrl.envs import check_env_specs

from rlhive.envs._make import make_env, make_policy
from rlhive.envs._tasks import Task
from rlhive.envs._toy import HORIZON, STEP, ToyEnv
from rlhive.errors import EnvNotFoundError, InvalidActionError, InvalidOptionError
from rlhive.rollouts._rollout import rollout_episode


def _at(env: ToyEnv, *, position: float, goal: float) -> TensorDict:
    start = env.reset()
    env.set_state({"position": np.array([position]), "goal": np.array([goal]), "step_count": np.array([0.0])})
    return start


def _rollout(env: ToyEnv, start: TensorDict, action: float) -> TensorDict:
    def policy(tensordict: TensorDict) -> TensorDict:
        return tensordict.set("action", torch.tensor([action]))

    return env.rollout(HORIZON, policy, auto_reset=False, tensordict=start)


def test_it_follows_torchrl_contract() -> None:
    check_env_specs(ToyEnv(seed=0))
    check_env_specs(ToyEnv(seed=0, dtype=torch.float32))


def test_leaving_the_track_terminates_with_the_return_computed_by_hand() -> None:
    env = ToyEnv()
    episode = _rollout(env, _at(env, position=0.75, goal=0.5), 1.0)
    # 0.875, 1.0 (still on the track), 1.125 (off): rewards 1 - 0.375, 1 - 0.5, 1 - 0.625
    assert episode["next", "reward"].squeeze(-1).tolist() == [0.625, 0.5, 0.375]
    assert episode["next", "observation"].tolist() == [[0.875, 0.5], [1.0, 0.5], [1.125, 0.5]]
    assert episode["next", "terminated"].squeeze(-1).tolist() == [False, False, True]
    assert not episode["next", "truncated"].any()
    assert episode["next", "done"].squeeze(-1).tolist() == [False, False, True]


def test_the_horizon_truncates_and_success_does_not_end_the_episode() -> None:
    env = ToyEnv()
    episode = _rollout(env, _at(env, position=0.25, goal=0.25), 0.0)
    assert len(episode) == HORIZON
    assert float(episode["next", "reward"].sum()) == 20.0
    assert episode["next", "success"].all()
    assert episode["next", "truncated"].squeeze(-1).tolist() == [False] * 19 + [True]
    assert not episode["next", "terminated"].any()


def test_success_is_the_true_one_at_the_reset_too() -> None:
    env = ToyEnv()
    seeds = [seed for seed in range(200) if _reset(env, seed)["success"].item()]
    assert seeds
    for seed in seeds:
        position, goal = _reset(env, seed)["observation"].tolist()
        assert abs(position - goal) <= 0.03125


def _reset(env: ToyEnv, seed: int) -> TensorDict:
    env.set_seed(seed)
    return env.reset()


def test_dtypes_are_those_of_robohive() -> None:
    episode = rollout_episode(ToyEnv(), make_policy(ToyEnv(), "random"), seed=0).transitions
    assert episode["observation"].dtype == torch.float64
    assert episode["action"].dtype == torch.float32
    assert episode["next", "reward"].dtype == torch.float64
    assert episode["success"].dtype == episode["next", "success"].dtype == torch.bool


@pytest.mark.parametrize("level", ["expert", "medium", "random"])
def test_a_seed_reproduces_the_episode_bit_for_bit_whatever_ran_before(level: str) -> None:
    env = ToyEnv()
    policy = make_policy(env, level)
    first = rollout_episode(env, policy, seed=3)
    rollout_episode(env, policy, seed=4)
    again = rollout_episode(env, policy, seed=3)
    other = rollout_episode(env, policy, seed=4)
    assert (first.transitions == again.transitions).all()
    assert first.start_state == again.start_state
    assert not torch.equal(first.transitions["observation"][0], other.transitions["observation"][0])


def test_set_state_continues_where_get_state_stood() -> None:
    env = ToyEnv(seed=5)
    policy = make_policy(env, "expert")
    start = env.reset()
    _, middle = env.step_and_maybe_reset(policy(start))
    state, observation = env.get_state(), middle["observation"].clone()
    expected = env.rollout(HORIZON, policy, auto_reset=False, tensordict=middle.clone())
    env.reset()
    env.set_state(state)
    actual = env.rollout(HORIZON, policy, auto_reset=False, tensordict=middle.clone())
    assert state["position"].dtype == np.float64
    assert state["position"][0] == observation[0].item()
    assert len(actual) == HORIZON - 1
    assert (expected == actual).all()


def test_levels_are_ordered() -> None:
    env = ToyEnv()
    rates = {}
    for level in ("expert", "medium", "random"):
        policy = make_policy(env, level)
        rates[level] = np.mean([rollout_episode(env, policy, seed=seed).success for seed in range(60)])
    assert rates["expert"] == 1.0
    assert 0.4 < rates["medium"] < 0.9
    assert rates["random"] < 0.4


def test_the_random_policy_leaves_the_track_sometimes() -> None:
    env = ToyEnv()
    policy = make_policy(env, "random")
    endings = [rollout_episode(env, policy, seed=seed).transitions["next", "terminated"][-1] for seed in range(40)]
    assert 0 < sum(bool(ending) for ending in endings) < 40


def test_the_expert_walks_whole_steps_to_the_goal() -> None:
    env = ToyEnv()
    start = _at(env, position=-0.5, goal=0.25)
    start["observation"] = torch.tensor([-0.5, 0.25], dtype=torch.float64)
    episode = env.rollout(HORIZON, make_policy(env, "expert"), auto_reset=False, tensordict=start)
    # six whole steps: distances 5, 4, 3, 2, 1, 0 steps, then it stands there
    assert float(episode["next", "reward"].sum()) == HORIZON - 15 * STEP


@pytest.mark.parametrize("action", [1.5, float("nan")])
def test_an_action_outside_its_space_is_refused(action: float) -> None:
    env = ToyEnv(seed=0)
    start = env.reset()
    with pytest.raises(InvalidActionError, match=r"expected an action in \[-1, 1\]"):
        env.step(start.set("action", torch.tensor([action])))


def test_make_env_takes_a_task_its_name_and_its_environment_id() -> None:
    for name in ("toy_point", "ToyPoint-v0"):
        assert make_env(name, dtype=torch.float32).reset()["observation"].dtype == torch.float32


def test_unknown_names_are_errors_that_list_the_valid_ones() -> None:
    with pytest.raises(EnvNotFoundError, match="nearest toy_point"):
        make_env("toy_pont")
    with pytest.raises(EnvNotFoundError, match="expected 'ToyPoint-v0'"):
        ToyEnv("ToyPoint-v1")
    with pytest.raises(InvalidOptionError, match="got 'bullet'"):
        make_env(Task(name="x", env_name="X-v0", horizon=1, description="", backend="bullet"))
    with pytest.raises(ValueError, match="expected one of expert, noisy, medium, random"):
        make_policy(ToyEnv(), "good")
