"""The tasks of the offline-RL benchmark, and the behaviour policy of mixed skill."""

import numpy as np
import pytest

from rlhive.envs import get_task, make_env, make_policy
from rlhive.envs._benchmark import BENCHMARK, EPISODES, SEQUENCE_EPISODES, SEQUENCES
from rlhive.envs.experts import _mixed
from rlhive.rollouts._rollout import rollout_episode

pytest.importorskip("robohive")


def test_a_task_of_the_benchmark_is_the_catalogues_with_another_recipe() -> None:
    for name, task in BENCHMARK.items():
        base = get_task(name.removeprefix("bench_"))
        assert get_task(name) is task
        assert (task.env_name, task.horizon, task.reference) == (base.env_name, base.horizon, base.reference)
        is_sequence = base.name in SEQUENCES
        assert dict(task.recipe.episodes) == (SEQUENCE_EPISODES if is_sequence else EPISODES)
        assert is_sequence or get_task(task.env_name) is base


@pytest.fixture(scope="module")
def reach():
    env = make_env("reach")
    yield env
    env.close()


def test_an_episode_of_mixed_skill_is_a_function_of_its_seed(reach) -> None:
    task = BENCHMARK["bench_reach"]
    first = rollout_episode(reach, make_policy(reach, "mixed", task=task), seed=3)
    policy = make_policy(reach, "mixed", task=task)
    rollout_episode(reach, policy, seed=4)
    again = rollout_episode(reach, policy, seed=3)

    assert (first.transitions == again.transitions).all()
    assert policy.parameters()["level"] == "mixed"
    assert policy.parameters()["correlation"] == _mixed.CORRELATION
    assert policy.parameters()["expert"] == make_policy(reach, "expert").parameters()["expert"]


def test_its_course_has_noise_pauses_and_wrong_directions(reach) -> None:
    policy = _mixed.make_mixed_policy(reach)
    pauses, detours, spreads = [], [], []
    for seed in range(400):
        policy.begin_episode(seed)
        pauses.append(len(policy._pause))
        detours.append(policy._detour)
        spreads.append(policy._noise.std())

    assert np.mean(np.array(pauses) > 0) == pytest.approx(_mixed.CHANCE, abs=0.07)
    lengths = {len(steps) for steps in detours if len(steps)}
    assert all(steps.start == 0 for steps in detours)
    assert (min(lengths), max(lengths)) == (3, 10)
    assert np.mean(spreads) == pytest.approx(_mixed.LARGEST_NOISE / 2, rel=0.1)
    policy.begin_episode(1)
    noise = policy._noise
    correlation = np.mean(noise[1:] * noise[:-1]) / np.mean(noise**2)
    assert correlation == pytest.approx(_mixed.CORRELATION, abs=0.15)


def test_the_arm_moves_as_the_course_says(reach) -> None:
    policy = _mixed.make_mixed_policy(reach)
    seed = next(seed for seed in range(100) if _begin(policy, seed)._detour and not policy._pause)
    actions = rollout_episode(reach, policy, seed=seed).transitions["action"].numpy()
    assert np.allclose(actions[policy._detour.stop - 1], policy._direction.astype(np.float32))
    seed = next(seed for seed in range(100) if _begin(policy, seed)._pause and not policy._detour)
    rollout = rollout_episode(reach, policy, seed=seed)
    still, moving = policy._pause[-1], policy._pause.start - 1
    steps = np.abs(np.diff(rollout.transitions["observation"].numpy(), axis=0)).max(axis=1)
    assert steps[still] < steps[max(0, moving - 1)] or moving < 1


def _begin(policy, seed):
    policy.begin_episode(seed)
    return policy
