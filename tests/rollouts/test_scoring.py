"""Scores of episodes: the same bits as a rollout's, for policies with and without state."""

import pytest
import torch
from tensordict.nn import TensorDictModule, TensorDictModuleBase
from torch import nn

from rlhive.envs._robohive import RoboHiveEnv
from rlhive.envs._tasks import Recipe, Task
from rlhive.envs._toy import ToyEnv
from rlhive.normalization import Normalizer
from rlhive.policies import make_actor, make_deployed_policy
from rlhive.rollouts import _scoring
from rlhive.rollouts._collect import collect
from rlhive.rollouts._evaluate import evaluate
from rlhive.rollouts._rollout import DivergedRollout, rollout_episode, try_rollout
from rlhive.rollouts._scoring import score_episode

REACH = "FrankaReachRandom-v0"
STEPS = 12
NETWORK = {"hidden_sizes": [16, 16], "activation": "tanh", "dropout": 0.1}


class Chunked(TensorDictModuleBase):
    """Plans ``chunk`` actions, executes them without a look at the environment, and plans again."""

    def __init__(self, network: nn.Module, chunk: int, action_dim: int) -> None:
        super().__init__()
        self.in_keys, self.out_keys = ["observation"], ["action"]
        self.network, self.chunk, self.action_dim = network, chunk, action_dim
        self.queue: list[torch.Tensor] = []
        self.plans = 0

    def begin_episode(self, seed: int) -> None:
        self.queue.clear()

    def forward(self, tensordict):
        if not self.queue:
            self.plans += 1
            plan = self.network(tensordict["observation"].float()) + 0.1 * torch.randn(self.chunk * self.action_dim)
            self.queue.extend(plan.clamp(-1, 1).reshape(self.chunk, self.action_dim))
        return tensordict.set("action", self.queue.pop(0))


class Rewarded(TensorDictModuleBase):
    """Notes the rewards that it observes, in order with its actions, and moves by the last one."""

    in_keys, out_keys = ["observation"], ["action"]

    def __init__(self, action_dim: int) -> None:
        super().__init__()
        self.action_dim, self.rewards, self.events = action_dim, [], ""

    def begin_episode(self, seed: int) -> None:
        self.rewards, self.events = [], ""

    def observe_reward(self, reward: float) -> None:
        assert type(reward) is float
        self.rewards.append(reward)
        self.events += "r"

    def forward(self, tensordict):
        self.events += "a"
        action = torch.full((self.action_dim,), self.rewards[-1] % 1 if self.rewards else -0.5)
        return tensordict.set("action", action)


@pytest.mark.parametrize("env_name", ["toy", "reach"])
def test_a_policy_observes_the_reward_of_every_action_but_the_last(request, env_name) -> None:
    env = ToyEnv() if env_name == "toy" else request.getfixturevalue("reach")
    policy = Rewarded(1 if env_name == "toy" else 9)
    rollout = rollout_episode(env, policy, seed=3)
    length = len(rollout.transitions)
    rewards, events = policy.rewards, policy.events
    assert rewards == rollout.transitions["next", "reward"].flatten().tolist()[:-1]
    assert len(set(rewards)) > 3
    assert events == "ar" * (length - 1) + "a"
    assert score_episode(env, policy, seed=3) == (rollout.episode_return, rollout.success)
    assert (policy.rewards, policy.events) == (rewards, events)


def make_chunked(observation_dim: int, action_dim: int, chunk: int = 5) -> Chunked:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Chunked(nn.Linear(observation_dim, chunk * action_dim), chunk, action_dim)


def make_perceptron(observation_dim: int, action_dim: int):
    with torch.random.fork_rng():
        torch.manual_seed(2)
        actor = make_actor(observation_dim, action_dim, NETWORK)
    normalizer = Normalizer(torch.full((observation_dim,), 0.1), torch.full((observation_dim,), 0.3))
    return make_deployed_policy(normalizer, actor, env_name=REACH)


@pytest.fixture(scope="module")
def reach():
    pytest.importorskip("robohive")
    env = RoboHiveEnv(REACH, max_episode_steps=STEPS)
    yield env
    env.close()


@pytest.mark.parametrize("kind", ["perceptron", "hooked", "chunked", "noisy"])
def test_the_score_has_the_bits_of_a_rollout(reach, monkeypatch, kind) -> None:
    dim = reach.observation_spec["observation"].shape[-1]
    policy = make_chunked(dim, 9) if kind == "chunked" else make_perceptron(dim, 9)
    if kind == "hooked":  # a hook changes what a layer returns; a loop over the layers alone would miss it
        policy.module[1].register_forward_hook(lambda module, inputs, output: 0.5 * output)
    if kind == "noisy":  # torch's default generator, seeded by the episode
        policy.module.append(NoiseLayer())
    expected = {seed: rollout_episode(reach, policy, seed=seed) for seed in (3, 4)}
    state = torch.get_rng_state()
    monkeypatch.setattr(_scoring, "rollout_episode", None)  # the score comes from the loop on arrays

    for seed in (4, 3):
        assert score_episode(reach, policy, seed=seed) == (expected[seed].episode_return, expected[seed].success)
    assert torch.equal(torch.get_rng_state(), state)
    assert len({rollout.episode_return for rollout in expected.values()}) == 2


class Halving(nn.Linear):
    """A layer whose call does more than its forward."""

    def __call__(self, *args, **kwargs):
        return 0.5 * super().__call__(*args, **kwargs)


def test_a_layer_with_a_call_of_its_own_is_called(reach) -> None:
    dim = reach.observation_spec["observation"].shape[-1]
    policy = make_perceptron(dim, 9)
    with torch.random.fork_rng():
        policy.module.append(Halving(9, 9))
    policy.module.append(nn.Tanh())
    rollout = rollout_episode(reach, policy, seed=5)
    assert score_episode(reach, policy, seed=5) == (rollout.episode_return, rollout.success)


class NoiseLayer(nn.Module):
    def forward(self, action):
        return (action + 0.1 * torch.randn_like(action)).clamp(-1, 1)


def test_success_is_counted_after_any_step(reach, monkeypatch) -> None:
    policy = make_perceptron(reach.observation_spec["observation"].shape[-1], 9)
    original = reach.step_arrays
    for solved, expected in (({2}, True), ({STEPS - 1}, True), (set(), False)):
        steps = iter(range(STEPS))
        monkeypatch.setattr(
            reach, "step_arrays", lambda action, s=solved, i=steps: original(action)._replace(success=next(i) in s)
        )
        assert score_episode(reach, policy, seed=1)[1] is expected
    monkeypatch.setattr(reach, "step_arrays", lambda action: original(action)._replace(reward=0.1, terminated=True))
    assert score_episode(reach, policy, seed=1)[0] == 0.1


def test_policies_that_read_more_and_other_environments_run_in_a_rollout(reach) -> None:
    def read_success(tensordict):
        return tensordict.set("action", torch.full((9,), 0.1) * tensordict["success"].float())

    wide = TensorDictModule(
        lambda observation, success: observation[:9].clamp(-1, 1).float(), ["observation", "success"], ["action"]
    )
    for policy in (read_success, wide):
        rollout = rollout_episode(reach, policy, seed=5)
        assert score_episode(reach, policy, seed=5) == (rollout.episode_return, rollout.success)
    toy, policy = ToyEnv(), make_perceptron(2, 1)
    rollout = rollout_episode(toy, policy, seed=5)
    assert score_episode(toy, policy, seed=5) == (rollout.episode_return, rollout.success)


def test_a_diverged_episode_is_the_same_on_arrays(reach) -> None:
    class Breaks(Chunked):
        """After two steps every joint turns at 10^12 rad/s."""

        def forward(self, tensordict):
            if reach._elapsed == 2:
                reach._data.qvel[:] = 1e12
            return super().forward(tensordict)

    dim = reach.observation_spec["observation"].shape[-1]
    policy = Breaks(nn.Linear(dim, 45), 5, 9)
    scored, rolled = score_episode(reach, policy, seed=3), try_rollout(reach, policy, seed=3)

    assert isinstance(scored, DivergedRollout)
    assert scored == rolled
    assert scored.step == 3


def test_a_chunk_ends_with_its_episode() -> None:
    policy = make_chunked(2, 1, chunk=7)  # 20 steps: the last chunk is left with one action
    together = evaluate(policy, "toy_point", num_episodes=5, num_workers=1, progress=False)
    apart = evaluate(policy, "toy_point", num_episodes=5, num_workers=2, progress=False)
    alone = [
        evaluate(make_chunked(2, 1, chunk=7), "toy_point", num_episodes=1, seed=seed, num_workers=1, progress=False)
        for seed in range(together.first_seed, together.first_seed + 5)
    ]

    assert together.returns == apart.returns == tuple(evaluation.returns[0] for evaluation in alone)
    assert policy.plans == 15


CHUNKS = Task(
    name="chunks",
    env_name="ToyPoint-v0",
    horizon=20,
    description="",
    make_env=ToyEnv,
    policies={"chunked": lambda env: make_chunked(2, 1, chunk=7)},
    recipe=Recipe("1.0.0", {"chunked": 12}, "mit"),
)


@pytest.mark.slow
def test_collected_chunks_do_not_depend_on_the_number_of_workers(tmp_path) -> None:
    from rlhive.data.versions import Manifest

    folders = [collect(CHUNKS, store=tmp_path / str(n), num_workers=n, progress=False) for n in (1, 2)]
    assert len({Manifest.read(folder).fingerprint for folder in folders}) == 1
