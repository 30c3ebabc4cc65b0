"""Episodes of which the policy has only a part recorded."""

import numpy as np
import pytest
import torch

from rlhive import keys
from rlhive.envs._custom import TaskPolicy
from rlhive.envs._make import make_env, make_policy
from rlhive.envs._subgoals import SubgoalTracker
from rlhive.envs._tasks import get_task
from rlhive.errors import InvalidOptionError
from rlhive.rollouts._rollout import rollout_episode


class Part:
    """The toy's medium policy, recorded from one step to another; counted in the states in which it is asked."""

    def __init__(self, env, begin, end):
        self._policy = make_policy(env, "medium")
        self._bounds = begin, end
        self.begin_episode(0)

    def begin_episode(self, seed):
        self._policy.begin_episode(seed)
        self._state = -1

    def recording_phase(self):
        self._state += 1
        begin, end = self._bounds
        return "before" if self._state < begin else "inside" if self._state < end else "after"

    def __call__(self, tensordict):
        return self._policy(tensordict)


@pytest.mark.parametrize(("begin", "end"), [(0, 99), (0, 6), (3, 9), (5, 5), (4, 99)])
def test_a_part_has_the_bits_of_the_whole_episode_and_its_own_end(begin, end):
    env = make_env("toy_point")
    states = []
    whole = rollout_episode(env, make_policy(env, "medium"), seed=7, on_state=lambda: states.append(env.get_state()))
    length, calls = len(whole.transitions), []
    # A policy of a task passes the question on.
    policy = TaskPolicy("part", lambda env: Part(env, begin, end), env)
    part = rollout_episode(env, policy, seed=7, on_state=lambda: calls.append(1))
    stop = min(max(end, begin + 1), length)

    expected = whole.transitions[begin:stop].clone()
    for key in (keys.NEXT_TRUNCATED, keys.NEXT_DONE):
        expected[key][-1] = True
    assert set(part.transitions.keys(True, True)) == set(expected.keys(True, True))
    for key in expected.keys(True, True):
        assert torch.equal(part.transitions[key], expected[key]), key
    assert all(np.array_equal(part.start_state[name], value) for name, value in states[begin].items())
    assert len(calls) == stop - begin + 1


def test_a_part_of_an_environment_without_checkpoints_is_recorded(monkeypatch):
    env = make_env("toy_point")
    monkeypatch.setattr(env, "get_state", dict)
    part = rollout_episode(env, Part(env, 2, 5), seed=7)
    assert (len(part.transitions), part.start_state) == (3, {})


def test_an_episode_without_a_part_is_refused():
    env = make_env("toy_point")
    with pytest.raises(
        InvalidOptionError, match=r"was 'before' in every state: expected at least one that is 'inside'"
    ):
        rollout_episode(env, Part(env, 10**6, 10**6), seed=7)


@pytest.fixture(scope="module")
def kitchen():
    env = make_env("bench_kitchen_sequence2")
    yield env
    env.close()


def run(env, level, seed):
    tracker = SubgoalTracker(env)
    policy = make_policy(env, level, task=get_task("bench_kitchen_sequence2"))
    return rollout_episode(env, policy, seed=seed, on_state=tracker.update), tracker.metadata()


def test_no_episode_of_stitch_reaches_all_goals_from_the_start(kitchen):
    starts = set()
    for seed in range(6):
        episode, subgoals = run(kitchen, "stitch", seed)
        reached = [subgoals[f"subgoal_{name}_step"] for name in ("light", "sdoor")]
        starts.add(sum(step == 0 for step in reached))
        assert None in reached or 0 in reached
        assert episode.transitions[keys.NEXT_TRUNCATED][-1]
        assert len(episode.transitions) < kitchen.horizon
    assert starts == {0, 1}


def test_an_episode_of_stitch_can_be_stepped_again_from_its_start_state(kitchen):
    episode, _ = next(
        result for seed in range(6) if (result := run(kitchen, "stitch", seed))[1]["subgoal_light_step"] == 0
    )
    state = kitchen.set_state(episode.start_state)
    for step in episode.transitions[:15]:
        assert torch.equal(state[keys.OBSERVATION], step[keys.OBSERVATION])
        state = kitchen.step(state.set(keys.ACTION, step[keys.ACTION]))[keys.NEXT]
        assert torch.equal(state[keys.REWARD], step[keys.NEXT_REWARD])


@pytest.mark.parametrize("level", ["play", "stitch"])
def test_an_episode_is_a_function_of_its_seed(kitchen, level):
    first, run_between, again = (run(kitchen, level, seed)[0] for seed in (1, 2, 1))

    assert torch.equal(first.transitions[keys.ACTION], again.transitions[keys.ACTION])
    assert torch.equal(first.transitions[keys.OBSERVATION], again.transitions[keys.OBSERVATION])
    assert not torch.equal(first.transitions[keys.ACTION][:5], run_between.transitions[keys.ACTION][:5])


def test_play_draws_which_objects_it_moves_and_in_which_order(kitchen):
    from rlhive.envs.experts import make_play_policy

    policy = make_play_policy(kitchen)
    drawn = []
    for seed in range(50):
        policy.begin_episode(seed)
        drawn.append([expert.skill.joint for expert in policy._played])

    assert {len(joints) for joints in drawn} == {2, 3, 4}
    assert {joint for joints in drawn for joint in joints} == {
        *(f"knob{number}_joint" for number in (1, 2, 3, 4)),
        *("lightswitch_joint", "slidedoor_joint"),
    }
    assert sum(joints == ["lightswitch_joint", "slidedoor_joint"] for joints in drawn) <= 2


def test_play_and_stitch_need_a_kitchen_with_several_goals():
    from rlhive.envs.experts import make_play_policy, make_stitch_policy

    for make in (make_play_policy, make_stitch_policy):
        with pytest.raises(
            ValueError, match="No play in ToyPoint-v0: expected a kitchen with several goals, FK1_Relax"
        ):
            make(make_env("toy_point"))
