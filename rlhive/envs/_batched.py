"""Behaviour policies of batched environments, TorchRL's and RLHive's: one policy of each of their environments.

::

    SerialEnv, RoboHiveVectorEnv   environments of this process      policy i ─► environment i
    ParallelEnv                    in processes of their own         policy i ─► one of this process, in state i

A scripted policy reads the simulator. Where that is in another process, its state is fetched before each action and set
in an environment of the same kind.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from tensordict import TensorDictBase
from torchrl.envs import EnvBase, ParallelEnv, SerialEnv, TransformedEnv

from rlhive import keys
from rlhive.envs._vector import RoboHiveVectorEnv
from rlhive.errors import InvalidOptionError

Policy = Callable[[TensorDictBase], TensorDictBase]


def find_batched(env: EnvBase) -> SerialEnv | ParallelEnv | RoboHiveVectorEnv | None:
    """Return the batched environment below an environment's transforms; None if there is none."""
    base = env.base_env if isinstance(env, TransformedEnv) else env
    return base if isinstance(base, SerialEnv | ParallelEnv | RoboHiveVectorEnv) else None


class BatchedPolicy:
    """A policy of a batched environment, with the actions that its environments' own policies would choose.

    The environment must have been reset before the first action.

    Args:
        env: The batched environment.
        level: Level of the policies.
        make: Returns the policy of one environment.

    Attributes:
        name: Level of the policies.
    """

    def __init__(
        self, env: SerialEnv | ParallelEnv | RoboHiveVectorEnv, level: str, make: Callable[[EnvBase], Policy]
    ) -> None:
        self.name = level
        self._env = env
        self._make = make
        self._seed = 0
        self._envs: Sequence[EnvBase] = []
        self._policies: list[Any] = []
        # For ParallelEnv: an environment of this process in the place of all others.
        self._own_env: EnvBase | None = None

    def begin_episode(self, seed: int) -> None:
        """Pass ``seed + i`` to the policy of environment ``i``."""
        self._seed = seed
        for index, policy in enumerate(self._policies):
            _begin_episode(policy, seed + index)

    def parameters(self) -> dict[str, Any]:
        """Return the parameters of one of the policies; JSON-able."""
        return dict(self._require_policies()[0].parameters())

    def __call__(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write ``action``, ``[num_envs, n]``, for the current states of the environments."""
        policies = self._require_policies()
        if tensordict.batch_size[:1] != (len(policies),):
            msg = f"Policy {self.name!r}: expected batch size [{len(policies)}], got {list(tensordict.batch_size)}."
            raise InvalidOptionError(msg)
        states = self._fetch_states()
        actions = []
        for index, policy in enumerate(policies):
            if states is not None and self._own_env is not None:
                self._own_env.set_state(states[index])
            actions.append(policy(tensordict[index].copy()).get(keys.ACTION))
        return tensordict.set(keys.ACTION, torch.stack(actions))

    def _require_policies(self) -> list[Any]:
        """Return one policy per environment; new ones if the environments have been built again."""
        if isinstance(self._env, SerialEnv | ParallelEnv) and self._env.is_closed:
            self._env.start()
        if not isinstance(self._env, ParallelEnv):
            envs = self._env._envs if isinstance(self._env, SerialEnv) else self._env.envs
            if self._envs is not envs:
                self._envs = envs
                self._policies = [self._make(env) for env in self._envs]
                self.begin_episode(self._seed)
        elif self._own_env is None:
            self._own_env = _build_one(self._env)
            self._policies = [self._make(self._own_env) for _ in range(self._env.num_workers)]
            self.begin_episode(self._seed)
        return self._policies

    def _fetch_states(self) -> list[Any] | None:
        """Return the simulators' states, for environments of other processes that have some."""
        if self._own_env is None or not hasattr(type(self._own_env), "get_state"):
            return None
        return self._env.get_state()


def _build_one(env: ParallelEnv) -> EnvBase:
    """Build an environment as the processes of a ParallelEnv do.

    Raises:
        InvalidOptionError: The processes have different environments.
    """
    if not env._single_task:
        msg = "A scripted policy of ParallelEnv: expected environments of one kind, got several. Use SerialEnv."
        raise InvalidOptionError(msg)
    return env.create_env_fn[0](**env.create_env_kwargs[0])


def _begin_episode(policy: Any, seed: int) -> None:
    begin = getattr(policy, "begin_episode", None)
    if begin is not None:
        begin(seed)
