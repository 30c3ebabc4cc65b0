"""The expert of kitchens with several goals: one single-goal expert after the other, in the order of the goals."""

import numpy as np
import pytest
import torch

from rlhive import keys
from rlhive.envs._make import make_env, make_policy
from rlhive.envs._references import expert_hash, read_expert_rows
from rlhive.envs._subgoals import SubgoalTracker
from rlhive.envs._tasks import EVALUATION_SEED, TASKS
from rlhive.rollouts._rollout import rollout_episode

RELAX = "FK1_RelaxRandom-v4"
GOALS = {"lightswitch_joint": -0.7, "slidedoor_joint": 0.44}


@pytest.fixture(scope="module")
def env():
    env = make_env("kitchen_sequence2", seed=0)
    yield env
    env.close()


@pytest.fixture(scope="module")
def other():
    env = make_env("kitchen_sequence2", seed=1)
    yield env
    env.close()


def run(env, level="expert", seed=EVALUATION_SEED):
    """Return an episode and what is stored about its single goals."""
    tracker = SubgoalTracker(env)
    episode = rollout_episode(env, make_policy(env, level), seed=seed, on_state=tracker.update)
    return episode, tracker.metadata()


def test_the_expert_reaches_the_goals_one_after_the_other_and_keeps_them(env):
    for seed in range(EVALUATION_SEED, EVALUATION_SEED + 3):
        episode, subgoals = run(env, seed=seed)
        success = episode.transitions[keys.NEXT, keys.SUCCESS]
        assert success[-1], seed
        assert 0 < subgoals["subgoal_light_step"] < subgoals["subgoal_sdoor_step"] < 80
        assert int(success.float().argmax()) + 1 == subgoals["subgoal_sdoor_step"]


def test_the_order_is_that_of_the_goals(make):
    swapped = make(RELAX, obj_goal=dict(reversed(GOALS.items())), max_episode_steps=100)
    _, subgoals = run(swapped)

    assert 0 < subgoals["subgoal_sdoor_step"] < subgoals["subgoal_light_step"]


def test_a_goal_may_start_at_either_end_of_its_joint(make):
    closing = make(RELAX, obj_init={"lightswitch_joint": -0.7}, obj_goal={"knob4_joint": -1.57, "lightswitch_joint": 0})
    experts = make_policy(closing, "expert").parameters()["expert"]["skills"]

    assert list(experts) == ["FK1_Knob4OnRandom-v4", "FK1_LightOffRandom-v4"]


@pytest.mark.parametrize("level", ["expert", "medium"])
def test_the_action_is_a_function_of_the_state_and_the_seed(env, other, level):
    seed = EVALUATION_SEED + 3
    policy, fresh = make_policy(env, level), make_policy(other, level)
    env.set_seed(seed)
    state = env.reset()
    policy.begin_episode(seed)
    for _ in range(34):  # the light is on, and the arm is on its way to the door
        state = env.step(policy(state))[keys.NEXT]
    resumed = other.set_state(env.get_state())
    fresh.begin_episode(seed)
    for _ in range(12):
        state, resumed = policy(state), fresh(resumed)
        assert torch.equal(state[keys.ACTION], resumed[keys.ACTION])
        state, resumed = env.step(state)[keys.NEXT], other.step(resumed)[keys.NEXT]


def test_the_medium_policy_is_the_expert_with_noise_that_gives_up(env):
    row = read_expert_rows()[RELAX]
    parameters = make_policy(env, "medium").parameters()

    assert {name: parameters[name] for name in ("noise", "give_up")} == row["medium"]
    assert parameters["expert"] == make_policy(env, "expert").parameters()["expert"]
    assert run(env, "random")[1] == {
        "num_subgoals_reached": 0,
        **{"subgoal_light": False, "subgoal_light_step": None},
        **{"subgoal_sdoor": False, "subgoal_sdoor_step": None},
    }


def test_a_kitchen_without_goals_or_with_one_that_no_expert_reaches_says_so(make):
    with pytest.raises(ValueError, match=f"No goal in {RELAX}: every object starts where it should be"):
        make_policy(make(RELAX), "expert")
    microwave = make(RELAX, obj_goal={"micro0joint": -1.25})
    with pytest.raises(ValueError, match=r"moves micro0joint from 0 to -1\.25: expected goals out of knob1_joint 0 to"):
        make_policy(microwave, "expert")


def test_the_hash_of_the_expert_covers_the_experts_that_it_chains(monkeypatch):
    from rlhive.envs import _references

    def hash_with(lead):
        rows = {"a": {"expert": {"lead": lead}}, "chain": {"strategy": "sequence", "expert": {"skills": ["a"]}}}
        monkeypatch.setattr(_references, "_read_rows", lambda file_name: rows)
        return expert_hash("chain")

    assert hash_with(1.0) == hash_with(1.0) != hash_with(2.0)


def test_the_skills_have_rows_and_were_not_tuned_on_the_evaluation_seeds():
    rows = read_expert_rows()

    assert set(rows[RELAX]["expert"]["skills"]) <= rows.keys()
    assert min(rows[RELAX]["provenance"]["held_out_seeds"]) > EVALUATION_SEED


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kitchen_sequence2", "kitchen_sequence4"])
def test_the_expert_solves_four_of_five_unseen_seeds_and_the_medium_policy_fewer(name):
    env = make_env(name)
    solved = {
        level: np.mean([run(env, level, EVALUATION_SEED + 200 + index)[0].success for index in range(20)])
        for level in ("expert", "medium")
    }
    env.close()
    assert solved["expert"] >= 0.8
    assert 0.1 <= solved["medium"] <= 0.85
    assert TASKS[name].reference.expert.success_rate >= 0.8
