"""The search for an expert's parameters and for further plans."""

import pytest

from rlhive import keys
from rlhive.envs._tasks import EVALUATION_SEED, TUNING_SEED
from rlhive.rollouts._rollout import rollout_episode

KNOB, SECOND_KNOB = "FK1_Knob1OnRandom-v4", "FK1_Knob2OffRandom-v4"


@pytest.fixture(scope="module")
def env(make):
    return make(KNOB, seed=0)


def test_the_score_rewards_earlier_success_and_vectors_keep_the_row(env):
    from rlhive.envs.experts import _search
    from rlhive.envs.experts._experts import make_scripted_policy
    from rlhive.envs.experts._kitchen import KitchenPolicy

    policy = make_scripted_policy(env, "expert")
    row = policy.parameters()["expert"]
    assert _search.to_row(row, _search.to_vector(row)) == row
    outcome = _search.run_episode(env, policy, EVALUATION_SEED)
    whole = rollout_episode(env, policy, seed=EVALUATION_SEED).transitions[keys.NEXT, keys.SUCCESS]
    assert outcome.solved_at == int(whole.flatten().nonzero()[0]) + 1
    fast = _search.FastEnv(env)
    assert abs(fast.run(policy, EVALUATION_SEED).solved_at - outcome.solved_at) <= 2
    assert _search.search_score([outcome], 50) == pytest.approx(1 + 1.5 + 0.7 * (1 - outcome.solved_at / 50))
    # Pushing the other way turns no knob.
    idle = fast.run(KitchenPolicy(env, "expert", {**row, "contact": [0.2, -0.3, 0.2]}), EVALUATION_SEED)
    assert idle.solved_at is None
    assert _search.search_score([idle], 50) < 0.2


def test_the_tuner_simulates_an_appliance_as_robohive_does():
    """RoboHive holds the fingers' velocities to their sensors' range, so that a grasp closes step by step."""
    from rlhive.envs._robohive import RoboHiveEnv
    from rlhive.envs.experts import _search
    from rlhive.envs.experts._experts import make_scripted_policy

    real, fast = (RoboHiveEnv("franka_micro_open-v3", seed=0) for _ in range(2))
    seed = TUNING_SEED
    outcome = _search.run_episode(real, make_scripted_policy(real, "expert"), seed)
    assert outcome.solved_at is not None
    assert _search.FastEnv(fast).run(make_scripted_policy(fast, "expert"), seed) == outcome
    width, other = (env.unwrapped.sim.data.ptr.qpos[7:9].sum() for env in (real, fast))
    assert width == pytest.approx(other, abs=2e-4)
    real.close()
    fast.close()


@pytest.mark.slow
def test_further_plans_solve_seeds_that_the_first_one_fails(make):
    from rlhive.envs._references import read_expert_rows
    from rlhive.envs.experts import _search

    rows = read_expert_rows()[SECOND_KNOB]["expert"]
    knob = {key: value for key, value in rows.items() if key != "otherwise"}
    fast = _search.FastEnv(make(SECOND_KNOB, seed=0))
    weak = {**knob, "lead": 0.75, "plans": 1}
    sizes = {"plans": 1, "episodes": 4, "budget_s": 60.0}
    (other,), used = _search.search_further_plans(fast, weak, candidates=8, **sizes)
    assert used == 4
    assert set(other) <= set(_search.SPREAD)
    seeds = range(TUNING_SEED, TUNING_SEED + 4)
    solved = [
        _search._solved_seeds(fast, {**weak, **change}, _search.to_vector({**weak, **change}), seeds)
        for change in ({}, other)
    ]
    assert solved[1] - solved[0]
    assert _search.search_further_plans(fast, knob, candidates=0, **sizes)[0] == []
