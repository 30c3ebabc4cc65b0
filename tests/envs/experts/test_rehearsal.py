"""Rehearsal: plans are simulated before the arm executes one; the choice, and the search for further plans."""

import numpy as np
import pytest
import torch

from rlhive import keys
from rlhive.envs._tasks import EVALUATION_SEED, TUNING_SEED
from rlhive.rollouts._rollout import rollout_episode

KNOB, STUCK = "FK1_Knob2OffRandom-v4", TUNING_SEED + 700_012
NOWHERE = {"contact": [0.2, -0.3, 0.2], "before": [0.2, -0.35, 0.2], "plans": 1}


@pytest.fixture(scope="module")
def env(make):
    return make(KNOB, seed=0)


@pytest.fixture(scope="module")
def knob():
    """The first plan of the row that ships."""
    from rlhive.envs._references import read_expert_rows

    return {key: value for key, value in read_expert_rows()[KNOB]["expert"].items() if key != "otherwise"}


def actions(env, policy, seed):
    return rollout_episode(env, policy, seed=seed).transitions[keys.ACTION]


def test_the_first_plan_that_solves_the_rehearsal_is_taken(env, knob):
    from rlhive.envs.experts._kitchen import KitchenPolicy, RehearsedPolicy

    back = {key: knob[key] for key in NOWHERE}
    rehearsed = RehearsedPolicy(env, "expert", {**knob, **NOWHERE, "otherwise": [{"lead": 0.1}, back]})
    assert torch.equal(actions(env, rehearsed, STUCK), actions(env, KitchenPolicy(env, "expert", knob), STUCK))
    # Where none succeeds, the one that turns the knob farthest is left.
    lame = {"lead": 0.6}
    hopeless = RehearsedPolicy(env, "expert", {**knob, **NOWHERE, "otherwise": [back | lame, {"lead": 0.1}]})
    plan = KitchenPolicy(env, "expert", {**knob, **lame})
    assert torch.equal(actions(env, hopeless, STUCK), actions(env, plan, STUCK))


def test_a_rehearsal_predicts_the_episode_and_does_not_change_the_environment(env, knob):
    from rlhive.envs.experts._kitchen import KitchenPolicy
    from rlhive.envs.experts._rehearsal import Rehearsal
    from rlhive.envs.experts._search import run_episode

    policy, rehearsal = KitchenPolicy(env, "expert", knob), Rehearsal(env)
    for seed in (STUCK, TUNING_SEED + 1):
        real = run_episode(env, policy, seed)
        env.reset(seed=seed)
        data = env.unwrapped.sim.data.ptr
        before = np.concatenate([data.qpos, data.qvel, data.ctrl, [data.time]])
        first, again = (rehearsal.run(policy.undisturbed, policy.joint) for _ in range(2))
        assert first == again
        # The arm begins elsewhere, by up to 2.5 % of each joint's range.
        assert abs(first.solved_at - real.solved_at) <= 4
        np.testing.assert_array_equal(np.concatenate([data.qpos, data.qvel, data.ctrl, [data.time]]), before)


def test_the_choice_depends_on_where_the_robot_stands_and_not_on_the_step(env):
    from rlhive.envs._robohive import RoboHiveEnv
    from rlhive.envs.experts._experts import make_scripted_policy

    policy, other = make_scripted_policy(env, "expert"), RoboHiveEnv(KNOB, seed=7)
    seed = TUNING_SEED + 700_002  # the row's first plan fails here
    state = env.reset(seed=seed)
    for _ in range(25):
        state = env.step(policy(state))[keys.NEXT]
    assert policy._plan_of_layout() is not policy._plans[0]
    resumed, fresh = other.set_state(env.get_state()), make_scripted_policy(other, "expert")
    for _ in range(10):
        state, resumed = policy(state), fresh(resumed)
        assert torch.equal(state[keys.ACTION], resumed[keys.ACTION])
        state, resumed = env.step(state)[keys.NEXT], other.step(resumed)[keys.NEXT]
    other.close()


def test_postures_within_the_joints_limits_end_the_standstill_before_the_contact(env, knob):
    """Knob 2: the posture asked the second joint for 0.06 rad more than it can do, and the arm waited there."""
    from rlhive.envs.experts._kinematics import ARM
    from rlhive.envs.experts._kitchen import KitchenPolicy
    from rlhive.envs.experts._search import run_episode

    limits = env.unwrapped.sim.model.ptr.jnt_range[ARM]
    solved = {}
    for within in (False, True):
        policy = KitchenPolicy(env, "expert", {**knob, "within": within})
        solved[within] = run_episode(env, policy, STUCK).solved_at is not None
        contact = policy._path().contact
        assert ((contact > limits[:, 0]) & (contact < limits[:, 1])).all() == within
    assert solved == {False: False, True: True}


def test_a_rehearsed_expert_solves_its_task():
    from rlhive.envs._robohive import RoboHiveEnv
    from rlhive.envs.experts._experts import make_scripted_policy

    env = RoboHiveEnv("FK1_Knob3OnRandom-v4", seed=0)
    policy = make_scripted_policy(env, "expert")
    episodes = [rollout_episode(env, policy, seed=EVALUATION_SEED + index) for index in range(4)]
    assert sum(episode.success for episode in episodes) >= 3
    env.close()
