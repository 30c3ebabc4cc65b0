"""Scripted policies of batched environments choose the actions that they choose for each environment alone."""

import functools

import pytest
import torch
from torchrl.collectors import Collector
from torchrl.envs import ParallelEnv, SerialEnv, StepCounter, TransformedEnv

from rlhive.envs._batched import BatchedPolicy, _build_one
from rlhive.envs._make import make_env, make_policy
from rlhive.errors import InvalidOptionError

KNOB = "FK1_Knob1OnRandom-v4"


def alone(name, level, seeds, policy_seed, steps):
    rollouts = []
    for index, seed in enumerate(seeds):
        env = make_env(name, seed=seed)
        policy = make_policy(env, level)
        policy.begin_episode(policy_seed + index)
        rollouts.append(env.rollout(steps, policy))
        env.close(raise_if_closed=False)
    return torch.stack(rollouts)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name", "level"),
    [(SerialEnv, "toy_point", "noisy"), (ParallelEnv, KNOB, "noisy")],
)
def test_the_actions_are_those_of_each_environment_alone(kind, name, level):
    start = {"mp_start_method": "fork"} if kind is ParallelEnv else {}  # a new process takes seconds to import torch
    env = kind(2, functools.partial(make_env, name, seed=3), **start)
    policy = make_policy(env, level)
    policy.begin_episode(7)
    got = env.rollout(4, policy, break_when_any_done=False)
    env.close()

    expected = alone(name, level, [3, 3], 7, 4)
    assert isinstance(policy, BatchedPolicy)
    assert policy.name == level
    for key in ("action", "observation", ("next", "reward")):
        assert torch.equal(got[key], expected[key]), key


def test_a_collector_and_transforms_take_them():
    env = TransformedEnv(SerialEnv(2, functools.partial(make_env, "toy_point")), StepCounter())
    policy = make_policy(env, "expert")
    batches = [batch.clone() for batch in Collector(env, policy, frames_per_batch=80, total_frames=160)]

    assert [batch.shape for batch in batches] == [(2, 40)] * 2
    assert batches[0]["next", "success"].any(1).all()
    assert policy(env.reset())["action"].shape == (2, 1)
    assert policy.parameters() == make_policy(make_env("toy_point"), "expert").parameters()


def test_environments_that_are_built_again_get_policies_again():
    env = SerialEnv(2, functools.partial(make_env, "toy_point"))
    policy = make_policy(env, "expert")
    env.rollout(3, policy)
    before = policy._policies
    env.close()
    env.rollout(3, policy)

    assert policy._policies[0] is not before[0]


def test_a_policy_of_one_environment_refuses_a_batch():
    single, env = make_env(KNOB), SerialEnv(2, functools.partial(make_env, "toy_point"))
    with pytest.raises(InvalidOptionError, match=r"of FK1.*: expected the TensorDict of one environment, got .*\[2\]"):
        make_policy(single, "random")(env.reset())
    with pytest.raises(InvalidOptionError, match=r"expected batch size \[2\], got \[\]"):
        make_policy(env, "random")(make_env("toy_point").reset())
    single.close()


def test_processes_with_several_kinds_of_environments_are_refused():
    kinds = [functools.partial(make_env, "toy_point", seed=seed) for seed in (0, 1)]

    with pytest.raises(InvalidOptionError, match="expected environments of one kind"):
        _build_one(ParallelEnv(2, kinds))


def test_a_toy_policy_takes_a_batch_as_it_is():
    env = SerialEnv(2, functools.partial(make_env, "toy_point"))
    policy = make_policy(make_env("toy_point"), "expert")

    assert env.rollout(20, policy, break_when_any_done=False)["next", "success"].any(1).all()
