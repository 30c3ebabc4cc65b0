"""Episodes of which only the return and the success are needed, at little more than the simulator's own time.

Beside a simulator, a policy's time is that of cold caches: a step of a kitchen evicts torch's code, and each of its
operations then takes several times as long as in a loop of its own. Per step of a kitchen, µs of one core:

    RoboHive's step                                 4100
    the policy, a perceptron with 2 x 256 units      600     1100 through TensorDictModule
    between both, on arrays                          250     1700 in EnvBase.rollout

Most learned policies only read ``observation``. For them the loop passes arrays between the simulator and the layers
of the network. Other policies and environments run in ``EnvBase.rollout``. Both give the same bits.

Episodes are not batched over several environments: a kitchen takes a second and 100 MB to build, as much time as five
episodes, while a batch could save a tenth of each; and an episode's last bits would depend on the batch it is in.
"""

from collections.abc import Callable

import numpy as np
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictModuleBase
from torch import nn
from torchrl.envs import EnvBase
from torchrl.modules import MLP

from rlhive import keys
from rlhive.data import sum_exactly
from rlhive.envs import RoboHiveEnv
from rlhive.errors import SimulationDivergedError
from rlhive.rollouts._rollout import (
    DivergedRollout,
    Policy,
    find_reward_observer,
    reset_policy,
    rollout_episode,
    seeded_reset,
)

#: Return of an episode, and whether the task was solved after any step; None without a success signal.
EpisodeResult = tuple[float, bool | None]

_Actor = Callable[[torch.Tensor], torch.Tensor]


def score_episode(env: EnvBase, policy: Policy, *, seed: int) -> EpisodeResult | DivergedRollout:
    """Run one episode as :func:`rollout_episode` does, and return its return and success with the same bits.

    Args:
        env: RLHive environment; it is seeded and reset here.
        policy: Callable that writes ``action`` into a TensorDict, as for :func:`rollout_episode`.
        seed: Seed of the environment and of the policy.

    Returns:
        Return and success; the diverged episode if the simulation diverged.
    """
    try:
        actor = _make_actor_function(policy) if _steps_on_arrays(env) else None
        if actor is None or not isinstance(env, RoboHiveEnv):
            rollout = rollout_episode(env, policy, seed=seed)
            return rollout.episode_return, rollout.success
        return _run_on_arrays(env, policy, actor, seed)
    except SimulationDivergedError as error:
        return DivergedRollout(seed=seed, step=error.step, reason=str(error))


def _run_on_arrays(env: RoboHiveEnv, policy: Policy, actor: _Actor, seed: int) -> EpisodeResult:
    rewards, success = [], False
    observe_reward = find_reward_observer(policy)
    with seeded_reset(env, seed=seed) as start:
        reset_policy(policy, seed)
        observation = start.get(keys.OBSERVATION)
        for _ in range(env.horizon):
            step = env.step_arrays(actor(observation).numpy(force=True))
            rewards.append(step.reward)
            success |= step.success
            if step.terminated or step.truncated:
                break
            if observe_reward is not None:
                observe_reward(float(step.reward))
            observation = torch.from_numpy(np.array(step.observation, np.float64))
    return sum_exactly(rewards), success


def _steps_on_arrays(env: EnvBase) -> bool:
    """Return whether the arrays of an environment's steps are the numbers of its tensors."""
    # A subclass may have a step of its own.
    is_exact = type(env) is RoboHiveEnv and env.device == torch.device("cpu")
    return is_exact and env.observation_spec[keys.OBSERVATION].dtype == env.reward_spec.dtype == torch.float64


def _make_actor_function(policy: Policy) -> _Actor | None:
    """Return a policy as a function from observation to action; None if it reads or writes anything else."""
    if not isinstance(policy, TensorDictModuleBase):
        return None
    if list(policy.in_keys) != [keys.OBSERVATION] or list(policy.out_keys) != [keys.ACTION]:
        return None
    kind = type(policy)
    if (kind.forward, kind.__call__) == (TensorDictModule.forward, TensorDictModule.__call__):
        layers = _find_layers(policy.module)
        if not any(_has_hooks(module) for module in policy.modules()):
            return lambda observation: _apply_layers(layers, observation)
    return lambda observation: policy(TensorDict({keys.OBSERVATION: observation}, device="cpu")).get(keys.ACTION)


def _find_layers(module: nn.Module) -> list[_Actor]:
    """Return the functions that a module applies one after the other: a call through containers costs 30 µs each."""
    if type(module).forward in (nn.Sequential.forward, MLP.forward):
        return [layer for child in module.children() for layer in _find_layers(child)]
    return [module.forward if type(module).__call__ is nn.Module.__call__ else module]


def _apply_layers(layers: list[_Actor], value: torch.Tensor) -> torch.Tensor:
    for layer in layers:
        value = layer(value)
    return value


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)
