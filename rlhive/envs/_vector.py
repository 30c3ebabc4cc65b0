"""Several RoboHive environments that step together, each in a thread; MuJoCo computes without Python's lock.

::

    action [N, n] ─► threads: step_arrays of environment i ─► this thread: one TensorDict of N rows
                     (MuJoCo in parallel, RoboHive's Python in turns)

The simulators stay in this process: their values pass through no pipe, and N environments share one import of RoboHive.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.envs import EnvBase

from rlhive import keys
from rlhive._threads import num_cores
from rlhive.envs._episode_starts import NotedStart
from rlhive.envs._robohive import ArrayStep, RoboHiveEnv
from rlhive.errors import InvalidActionError, InvalidOptionError, SimulationDivergedError


class RoboHiveVectorEnv(EnvBase):
    """``num_envs`` environments of one RoboHive id with TorchRL's interface, of batch size ``[num_envs]``.

    Each row is bit for bit that of a :class:`RoboHiveEnv` with the same seed and actions. ``set_seed`` gives the seeds
    that ``SerialEnv`` and ``ParallelEnv`` give. Pictures are drawn one after the other.

    Args:
        env_name: Environment id.
        num_envs: Number of environments.
        num_threads: Threads that step them; one per core, and not more than environments, by default.
        seed: Seed of the first environment; the others get the following ones, as for ``set_seed``.
        **kwargs: Arguments of each :class:`RoboHiveEnv`.

    Attributes:
        envs: The environments. Step them together only.
        env_name: Environment id.
        horizon: Maximum episode length in steps.
        num_threads: Number of threads.

    Raises:
        InvalidOptionError: ``num_envs`` or ``num_threads`` is not a positive integer.
        RoboHiveMissingError, EnvNotFoundError: As for :class:`RoboHiveEnv`.

    Example:
        >>> env = RoboHiveVectorEnv("FrankaReachRandom-v0", 4, seed=0)
        >>> env.rollout(3, break_when_any_done=False)["observation"].shape
        torch.Size([4, 3, 30])
    """

    def __init__(
        self, env_name: str, num_envs: int, *, num_threads: int | None = None, seed: int | None = None, **kwargs: Any
    ) -> None:
        for name, value in (("num_envs", num_envs), ("num_threads", 1 if num_threads is None else num_threads)):
            if not isinstance(value, int) or value < 1:
                msg = f"{env_name}: {name} is {value!r}, expected an integer, 1 or more."
                raise InvalidOptionError(msg)
        envs = [RoboHiveEnv(env_name, **kwargs) for _ in range(num_envs)]
        super().__init__(device=envs[0].device, batch_size=[num_envs])
        self.envs: Sequence[RoboHiveEnv] = envs
        self.env_name = env_name
        self.horizon = envs[0].horizon
        self.num_threads = min(num_envs, num_threads or num_cores())
        # This thread steps environments as well.
        self._pool = ThreadPoolExecutor(self.num_threads - 1) if self.num_threads > 1 else None
        self.action_spec_unbatched = envs[0].action_spec
        self.observation_spec_unbatched = envs[0].observation_spec
        self.reward_spec_unbatched = envs[0].reward_spec
        self.done_spec_unbatched = envs[0].done_spec
        self._is_plain = set(envs[0].observation_spec) == {keys.OBSERVATION, keys.SUCCESS}
        self.set_seed(seed)
        self.is_closed = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.env_name!r}, {len(self.envs)}, num_threads={self.num_threads})"

    def set_seed(self, seed: int | None = None, static_seed: bool = False) -> int | None:
        """Seed each environment, as ``SerialEnv`` does, and return the seed that would come next."""
        for env in self.envs:
            seed = env.set_seed(seed, static_seed=static_seed)
        return seed

    def _set_seed(self, seed: int | None) -> None:
        self.set_seed(seed)

    def _reset(self, tensordict: TensorDictBase | None = None, *, seed: int | None = None, **_: Any) -> TensorDictBase:
        """Reset all environments, or those of "_reset". One after the other: RoboHive draws from NumPy's generator."""
        if seed is not None:
            self.set_seed(seed)
        mask = None if tensordict is None else tensordict.get("_reset", None)
        rows = {index: env.reset() for index, env in enumerate(self.envs) if mask is None or bool(mask[index].any())}
        # TorchRL takes the rows of "_reset" only.
        unused = next(iter(rows.values()))
        return torch.stack([rows.get(index, unused) for index in range(len(self.envs))])

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        actions = tensordict.get(keys.ACTION).numpy(force=True)
        for index, action in enumerate(actions):
            self._in_env(index, "_require_action", action)
        steps = self._step_all(actions)
        if self._is_plain:
            return self._stack(steps)
        return torch.stack([env._to_tensordict(step) for env, step in zip(self.envs, steps, strict=True)])

    def _step_proc_data(self, next_tensordict_out: TensorDictBase) -> TensorDictBase:
        """Return the TensorDict of a step unchanged, as :class:`RoboHiveEnv` does: it is complete."""
        return next_tensordict_out

    def _in_env(self, index: int, method: str, action: np.ndarray) -> Any:
        """Call a method of an environment with an action; its errors say which environment it is."""
        try:
            return getattr(self.envs[index], method)(action)
        except (InvalidActionError, SimulationDivergedError) as error:
            msg = f"Environment {index}: {error.args[0]}"
            raise type(error)(msg, *error.args[1:]) from error

    def _step_all(self, actions: np.ndarray) -> list[ArrayStep]:
        """Step all environments; each thread takes the next one that none has taken."""
        steps: list[Any] = [None] * len(self.envs)
        remaining = iter(range(len(self.envs)))

        def run() -> None:
            for index in remaining:
                steps[index] = self._in_env(index, "step_arrays", actions[index])

        others = [self._pool.submit(run) for _ in range(self.num_threads - 1)] if self._pool else []
        try:
            run()
        finally:
            errors = [future.exception() for future in others]
        for error in errors:
            if error is not None:
                raise error
        return steps

    def _stack(self, steps: Sequence[ArrayStep]) -> TensorDict:
        """Return the TensorDict of plain steps: their values side by side."""
        ends = np.array([(step.success, step.terminated, step.truncated) for step in steps])
        success, terminated, truncated = torch.from_numpy(ends).unsqueeze(-1).unbind(1)
        dtype = self.reward_spec.dtype
        data = {
            keys.OBSERVATION: torch.from_numpy(np.stack([step.observation for step in steps])).to(dtype),
            keys.REWARD: torch.tensor([[step.reward] for step in steps], dtype=torch.float64).to(dtype),
            **{keys.SUCCESS: success, keys.TERMINATED: terminated, keys.TRUNCATED: truncated},
            keys.DONE: terminated | truncated,
        }
        result = TensorDict._new_unsafe(data, batch_size=self.batch_size, device=torch.device("cpu"))
        return result if self.device == torch.device("cpu") else result.to(self.device)

    def get_state(self) -> list[dict[str, np.ndarray]]:
        """Return a checkpoint of each environment, see :meth:`RoboHiveEnv.get_state`."""
        return [env.get_state() for env in self.envs]

    def set_state(self, states: Sequence[Any]) -> TensorDictBase:
        """Restore checkpoints of :meth:`get_state`, and return the TensorDict of a reset into them."""
        return torch.stack([env.set_state(state) for env, state in zip(self.envs, states, strict=True)])

    def note_starts(self) -> Callable[[np.ndarray], NotedStart | None]:
        """Remember seed and state of resets from now on, for a recorder, see :meth:`RoboHiveEnv.note_starts`."""
        takes = [env.note_starts() for env in self.envs]
        return lambda observation: next(filter(None, (take(observation) for take in takes)), None)

    def provenance(self) -> dict[str, Any]:
        """Return the JSON-able values that identify each of the environments, see :meth:`RoboHiveEnv.provenance`."""
        return self.envs[0].provenance()

    def close(self, *, raise_if_closed: bool = True) -> None:
        """End the threads, and free the simulators; tensors that were returned remain valid."""
        if not self.is_closed:
            if self._pool:
                self._pool.shutdown()
            for env in self.envs:
                env.close(raise_if_closed=False)
        super().close(raise_if_closed=raise_if_closed)
