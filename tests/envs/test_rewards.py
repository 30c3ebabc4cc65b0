"""Recomputed rewards equal the rewards of stepping bit for bit."""

import numpy as np
import pytest
import torch

from rlhive import keys
from rlhive.data._episodes import pack
from rlhive.data._schema import Schema
from rlhive.envs._make import make_env, make_policy
from rlhive.envs._rewards import (
    _add_derived_observations,
    reward_name,
    reward_terms,
    reward_weights,
    weighted_reward,
)
from rlhive.errors import RewardUnavailableError
from rlhive.rollouts._rollout import rollout_episode

KNOB, SLIDE, REACH = "FK1_Knob1OnRandom-v4", "franka_slide_random-v3", "FrankaReachRandom-v0"


@pytest.fixture(scope="module")
def make():
    built = {}

    def build(name, **kwargs):
        return built.setdefault((name, str(kwargs)), make_env(name, **kwargs))

    yield build
    for env in built.values():
        env.close(raise_if_closed=False)


class Noise:
    """Random actions, some of them repeated, so that the arm gets somewhere."""

    def __init__(self, env, seed):
        self._shape, self._generator = env.action_spec.shape, np.random.default_rng(seed)

    def __call__(self, td):
        action = self._generator.uniform(-1, 1, self._shape)
        return td.set(keys.ACTION, torch.as_tensor(action, dtype=torch.float32))


def stepped(env, policy, seed):
    """Run an episode; return its columns and final values, and RoboHive's reward dictionary after every step."""
    seen = []

    def watched(td):
        seen.append(dict(env.unwrapped.rwd_dict))
        return policy(td)

    transitions = rollout_episode(env, watched, seed=seed).transitions
    seen.append(dict(env.unwrapped.rwd_dict))
    return *pack(transitions, Schema.from_tensordict(transitions), context="test"), seen[1:]


@pytest.mark.parametrize("env_name", [KNOB, "franka_slide_open-v3", SLIDE, REACH])
def test_every_term_is_that_of_stepping_bit_for_bit(make, env_name):
    env = make(env_name)
    for seed in (0, 1):
        columns, final, seen = stepped(env, Noise(env, seed), seed)
        terms = reward_terms(env, columns, final)

        assert terms.keys() == seen[0].keys()
        for name, values in terms.items():
            expected = np.array([np.asarray(row[name], dtype=values.dtype) for row in seen])
            assert values.tobytes() == expected.tobytes(), name
        assert terms[reward_name(env)].tobytes() == columns["next.reward"].tobytes()
        assert weighted_reward(terms, reward_weights(env)).tobytes() == terms["dense"].tobytes()
        assert len(np.unique(terms["dense"])) > len(seen) // 2


@pytest.mark.parametrize("env_name", [KNOB, SLIDE])
def test_derived_observations_are_robohives_bit_for_bit(make, env_name):
    env = make(env_name)
    env.reset(seed=3)
    env.rollout(3)
    robohive = env.unwrapped
    observations = {name: np.asarray(value).reshape(1, -1) for name, value in robohive.obs_dict.items()}
    derived_names = {"goal_err", "pose_err", "approach_err"} & observations.keys()
    stored = {name: value for name, value in observations.items() if name not in derived_names}

    derived = _add_derived_observations(robohive, dict(stored))

    assert derived_names >= {"goal_err", "approach_err"}
    for name in derived_names:
        assert derived[name].tobytes() == observations[name].tobytes(), name
        assert derived[name].any(), name


def test_solved_states_are_found(make):
    env = make(KNOB)
    episode = rollout_episode(env, make_policy(env, "expert"), seed=2)
    columns, final = pack(episode.transitions, Schema.from_tensordict(episode.transitions), context="test")

    solved = reward_terms(env, columns, final)["solved"]

    assert solved.tolist() == episode.transitions["next", "success"].flatten().tolist()
    assert solved.any()
    assert not solved.all()


def test_the_environment_is_left_as_it_was(make):
    env = make(REACH)
    columns, final, _ = stepped(env, Noise(env, 0), 0)
    before = {name: id(value) for name, value in vars(env.unwrapped).items()}
    state = env.get_state()

    reward_terms(env, columns, final)

    assert before == {name: id(value) for name, value in vars(env.unwrapped).items()}
    assert all(state[name].tobytes() == value.tobytes() for name, value in env.get_state().items())


def test_the_toy_computes_the_same_rewards():
    env = make_env("toy_point")
    for level in ("expert", "random"):
        transitions = rollout_episode(env, make_policy(env, level), seed=5).transitions
        columns, final = pack(transitions, Schema.from_tensordict(transitions), context="test")

        terms = reward_terms(env, columns, final)

        assert terms[reward_name(env)].tobytes() == columns["next.reward"].tobytes()
        assert terms["solved"].tolist() == transitions["next", "success"].flatten().tolist()
        assert terms["done"].tolist() == transitions["next", "terminated"].flatten().tolist()


def test_other_weights_give_another_dense_reward(make):
    env = make(SLIDE)
    columns, final, _ = stepped(env, Noise(env, 0), 0)
    terms = reward_terms(env, columns, final)

    assert (weighted_reward(terms, {"approach": 2.0}) == 2 * terms["approach"]).all()
    assert (weighted_reward(terms, {"approach": 1.0, "solved": 1.0}) == terms["approach"] + terms["solved"]).all()
    with pytest.raises(RewardUnavailableError, match="No reward term aproach: expected some of approach, bonus"):
        weighted_reward(terms, {"aproach": 1.0})


@pytest.mark.parametrize("count", [3, 8, 11])
def test_weighted_terms_are_added_in_robohives_order(count):
    generator = np.random.default_rng(count)
    terms = {str(index): generator.normal(size=50) for index in range(count)}
    weights = {name: float(generator.normal()) for name in terms}

    row_by_row = [
        np.sum([weight * terms[name][None, row : row + 1] for name, weight in weights.items()], axis=0)[0, 0]
        for row in range(50)
    ]

    assert weighted_reward(terms, weights).tolist() == row_by_row


def test_a_reward_that_needs_more_than_was_stored_is_refused(make):
    env = make(REACH)
    columns, final, _ = stepped(env, Noise(env, 0), 0)

    def by_simulator(observed):
        return {"dense": env.unwrapped.sim.data.qpos.sum()}

    def by_body(observed):
        return {"dense": env.unwrapped.sim.model.body_pos.sum()}

    def by_key(observed):
        return {"dense": observed["pressure"]}

    for compute, says in ((by_simulator, "sim.data"), (by_body, "body_pos"), (by_key, r"obs_keys=\['pressure'\]")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(env.unwrapped, "get_reward_dict", compute)
            with pytest.raises(RewardUnavailableError, match=says):
                reward_terms(env, columns, final)
    with pytest.raises(RewardUnavailableError, match="needs the column observation"):
        reward_terms(env, {"action": columns["action"]}, {})
    short = {**columns, "observation": columns["observation"][:, :20]}
    with pytest.raises(RewardUnavailableError, match="expected observations of 21 numbers"):
        reward_terms(env, short, {"observation": final["observation"][:20]})


def test_observations_recorded_by_their_own_names_are_used(make):
    env = make(REACH, obs_keys=["reach_err"])
    columns, final, _ = stepped(env, Noise(env, 0), 0)
    reward = columns["next.reward"]
    assert columns["reach_err"].shape == (50, 3)

    assert reward_terms(env, columns, final)["dense"].tobytes() == reward.tobytes()
