"""The scripted policies: pure functions of the simulator's state and the seed, and as good as they claim."""

import hashlib
import json

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from rlhive import keys
from rlhive.envs._tasks import EVALUATION_SEED, TUNING_SEED
from rlhive.rollouts._rollout import rollout_episode

KNOB = "FK1_Knob1OnRandom-v4"


@pytest.fixture(scope="module")
def env(make):
    return make(KNOB, seed=0)


@pytest.fixture(scope="module")
def other(make):
    return make(KNOB, seed=99)


@pytest.fixture(scope="module")
def episodes(env):
    """50 episodes on the evaluation seeds per level."""
    rollouts = {}

    def of(level):
        if level not in rollouts:
            from rlhive.envs.experts._experts import make_scripted_policy

            policy = make_scripted_policy(env, level)
            rollouts[level] = [rollout_episode(env, policy, seed=EVALUATION_SEED + index) for index in range(50)]
        return rollouts[level]

    return of


def successes(episodes):
    return sum(episode.success for episode in episodes)


def mean_return(episodes):
    return float(np.mean([episode.episode_return for episode in episodes]))


@pytest.mark.slow
def test_the_expert_solves_four_of_five_unseen_seeds(episodes):
    assert successes(episodes("expert")) >= 40


@pytest.mark.slow
def test_the_medium_policy_solves_about_half(episodes):
    assert 15 <= successes(episodes("medium")) <= 30


@pytest.mark.slow
def test_the_random_policy_solves_nothing_and_the_returns_are_ordered(episodes):
    assert successes(episodes("random")) == 0
    returns = [mean_return(episodes(level)) for level in ("random", "medium", "expert")]
    assert returns == sorted(returns)
    assert returns[2] - returns[0] > 40


@pytest.mark.slow
def test_actions_are_float32_within_the_bounds(episodes):
    for level in ("expert", "medium", "random"):
        action = torch.cat([episode.transitions[keys.ACTION] for episode in episodes(level)])
        assert action.dtype == torch.float32
        assert action.shape[1:] == (9,)
        assert action.abs().max() <= 1
        assert action.std(0).min() > 0.01


@pytest.mark.parametrize("level", ["expert", "medium", "random"])
@pytest.mark.parametrize("steps", [3, 14, 30])
def test_the_action_is_a_function_of_the_state_and_the_seed(env, other, level, steps):
    from rlhive.envs.experts._experts import make_scripted_policy

    policy, seed = make_scripted_policy(env, level), EVALUATION_SEED + 3
    env.set_seed(seed)
    state = env.reset()
    policy.begin_episode(seed)
    for _ in range(steps):
        state = env.step(policy(state))[keys.NEXT]
    first, again = policy(state.clone())[keys.ACTION], policy(state.clone())[keys.ACTION]
    assert torch.equal(first, again)

    # A fresh policy in another instance, put into this state, goes on in the same way.
    checkpoint, fresh = env.get_state(), make_scripted_policy(other, level)
    resumed = other.set_state(checkpoint)
    fresh.begin_episode(seed)
    for _ in range(12):
        state, resumed = policy(state), fresh(resumed)
        assert torch.equal(state[keys.ACTION], resumed[keys.ACTION])
        state, resumed = env.step(state)[keys.NEXT], other.step(resumed)[keys.NEXT]


@pytest.mark.slow
def test_the_policy_does_not_depend_on_the_episodes_before(env, episodes):
    from rlhive.envs.experts._experts import make_scripted_policy

    fresh = rollout_episode(env, make_scripted_policy(env, "medium"), seed=EVALUATION_SEED + 30)
    assert torch.equal(fresh.transitions[keys.ACTION], episodes("medium")[30].transitions[keys.ACTION])
    assert torch.equal(fresh.transitions[keys.NEXT_REWARD], episodes("medium")[30].transitions[keys.NEXT_REWARD])


@pytest.mark.slow
def test_random_actions_are_uniform_and_follow_the_seed(env, episodes):
    from rlhive.envs.experts._experts import make_scripted_policy

    action = torch.cat([episode.transitions[keys.ACTION] for episode in episodes("random")])
    assert action.mean().abs() < 0.02
    assert abs(action.var() - 1 / 3) < 0.01
    policy = make_scripted_policy(env, "random")
    start = env.reset(seed=0)
    drawn = []
    for seed in (1, 2, 1):
        policy.begin_episode(seed)
        drawn.append(policy(start.clone())[keys.ACTION])
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])


def test_an_episode_that_is_given_up_ends_in_standing_still(env):
    from rlhive.envs.experts._experts import make_scripted_policy
    from rlhive.envs.experts._kitchen import KitchenPolicy

    row = make_scripted_policy(env, "expert").parameters()["expert"]
    giver, seed = KitchenPolicy(env, "medium", row, give_up=1.0), EVALUATION_SEED
    given_up_at = np.random.default_rng((seed, 0)).uniform(size=2)[1] * env.horizon
    expert = make_scripted_policy(env, "expert")
    episode, whole = (rollout_episode(env, policy, seed=seed).transitions for policy in (giver, expert))
    last = int(np.ceil(given_up_at))
    assert 0 < last < 45
    assert torch.equal(episode[keys.ACTION][:last], whole[keys.ACTION][:last])
    arm = episode[keys.NEXT, keys.OBSERVATION][:, :7]
    assert (arm[-1] - arm[last + 4]).abs().max() < 0.02
    assert (whole[keys.NEXT, keys.OBSERVATION][-1, :7] - arm[-1]).abs().max() > 0.1


def test_the_parameters_are_those_of_the_table_and_were_tuned_on_other_seeds(env):
    from rlhive.envs._references import read_expert_rows
    from rlhive.envs._tasks import TASKS
    from rlhive.envs.experts._experts import make_scripted_policy

    row = read_expert_rows()[KNOB]
    assert make_scripted_policy(env, "expert").parameters() == {
        "level": "expert",
        "expert": row["expert"],
        "noise": 0.0,
        "give_up": 0.0,
    }
    medium = make_scripted_policy(env, "medium").parameters()
    assert json.loads(json.dumps(medium)) == {"level": "medium", "expert": row["expert"], **row["medium"]}
    assert make_scripted_policy(env, "random").parameters() == {"level": "random"}
    provenance = row["provenance"]
    seeds = [*provenance["tuning_seeds"], *provenance["held_out_seeds"]]
    assert min(seeds) >= TUNING_SEED > EVALUATION_SEED
    assert TASKS["kitchen_knob1"].recipe.num_episodes < EVALUATION_SEED
    assert provenance["held_out_success"] >= 0.8


@pytest.mark.parametrize(("level", "checksum"), [("expert", "31001eb2ccd660a8"), ("medium", "773443f048319a89")])
def test_the_actions_that_the_published_dataset_was_made_with_stay_as_they_are(env, level, checksum):
    from rlhive.envs.experts._experts import make_scripted_policy

    actions = rollout_episode(env, make_scripted_policy(env, level), seed=3).transitions[keys.ACTION]
    assert hashlib.sha256(actions.numpy().tobytes()).hexdigest()[:16] == checksum


def test_a_missing_policy_is_an_error_that_names_level_and_environment(env):
    from rlhive.envs._robohive import RoboHiveEnv
    from rlhive.envs.experts._experts import make_scripted_policy

    with pytest.raises(ValueError, match="No policy level 'perfect': expected one of expert, noisy, medium, random"):
        make_scripted_policy(env, "perfect")
    other = RoboHiveEnv("FK1_RelaxFixed-v4", seed=0)
    with pytest.raises(ValueError, match="No scripted expert for FK1_RelaxFixed-v4"):
        make_scripted_policy(other, "expert")
    assert rollout_episode(other, make_scripted_policy(other, "random"), seed=1).transitions.shape == (other.horizon,)
    other.close()


def test_the_policy_reads_the_simulator_and_not_the_tensordict(env):
    from rlhive.envs.experts._experts import make_scripted_policy

    policy = make_scripted_policy(env, "expert")
    start = env.reset(seed=2)
    assert torch.equal(policy(start)[keys.ACTION], policy(TensorDict({}, []))[keys.ACTION])


@pytest.mark.slow
@pytest.mark.parametrize(
    "env_name",
    [
        "FK1_LightOnRandom-v4",
        "FK1_RdoorCloseRandom-v4",
        "FK1_Stove1KettleRandom-v4",
        "FK1_Stove4KettleRandom-v4",
        "franka_slide_close-v3",
        "franka_micro_close-v3",
        "FrankaReachRandom-v0",
        "FrankaPushRandom-v0",
        "FrankaPickPlaceRandom-v0",
    ],
)
def test_every_strategy_solves_its_task_and_goes_on_from_any_state(env_name):
    """A push, one after hasty postures, kettles, an appliance's handle, one of several paths, and the tabletop's."""
    from rlhive.envs._robohive import RoboHiveEnv
    from rlhive.envs.experts._experts import make_scripted_policy

    env, other = RoboHiveEnv(env_name, seed=0), RoboHiveEnv(env_name, seed=1)
    policy = make_scripted_policy(env, "expert")
    episodes = [rollout_episode(env, policy, seed=EVALUATION_SEED + index) for index in range(3)]
    assert successes(episodes) >= 2
    state = env.reset(seed=EVALUATION_SEED)
    for _ in range(30):
        state = env.step(policy(state))[keys.NEXT]
    resumed, fresh = other.set_state(env.get_state()), make_scripted_policy(other, "expert")
    for _ in range(8):
        state, resumed = policy(state), fresh(resumed)
        assert torch.equal(state[keys.ACTION], resumed[keys.ACTION])
        state, resumed = env.step(state)[keys.NEXT], other.step(resumed)[keys.NEXT]
    env.close()
    other.close()


@pytest.mark.slow
def test_the_noisy_policy_is_the_expert_with_noise_in_every_step(env, episodes):
    from rlhive.envs.experts._experts import NOISY, make_scripted_policy

    noisy = make_scripted_policy(env, "noisy")
    assert noisy.parameters() == {**make_scripted_policy(env, "expert").parameters(), "level": "noisy", **NOISY}
    first = rollout_episode(env, noisy, seed=EVALUATION_SEED).transitions[keys.ACTION][0]
    expected = np.random.default_rng((EVALUATION_SEED, 1)).normal(size=9) * NOISY["noise"]
    np.testing.assert_allclose(first - episodes("expert")[0].transitions[keys.ACTION][0], expected, atol=1e-6)


def test_every_row_has_parameters_that_fit_and_was_tuned_on_seeds_of_its_own():
    from rlhive.envs._references import read_expert_rows
    from rlhive.envs.experts._carrying import CarryParameters
    from rlhive.envs.experts._muscles import MuscleParameters
    from rlhive.envs.experts._paths import PathParameters
    from rlhive.envs.experts._tabletop import PickParameters, ToppleParameters

    for env_name, row in read_expert_rows().items():
        assert set(row) <= {"strategy", "expert", "medium", "provenance"}, env_name
        assert set(row["medium"]) == {"noise", "give_up"}
        assert 0 <= row["medium"]["give_up"] <= 1
        if row.get("strategy") == "sequence":  # tests/envs/experts/test_sequence.py
            continue
        others = {"reach": dict, "topple": ToppleParameters, "pick": PickParameters, "carry": CarryParameters}
        others |= {"posture": dict, "muscles": MuscleParameters, "tips": dict}
        parameters = others.get(row.get("strategy"), PathParameters)
        first = {key: value for key, value in row["expert"].items() if key != "otherwise"}
        for other in ({}, *row["expert"].get("otherwise", [])):
            parameters(**first | other)
        assert ("otherwise" in row["expert"]) == (row.get("strategy") == "rehearsed"), env_name
        seeds = row["provenance"].get("tuning_seeds", []) + row["provenance"].get("held_out_seeds", [])
        assert all(seed >= TUNING_SEED for seed in seeds), env_name
