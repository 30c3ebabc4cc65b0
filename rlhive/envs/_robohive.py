"""RoboHive as a TorchRL environment: seeded, lossless, checkpointable, and about as fast as RoboHive itself.

One step, and who owns what:

    action float32 [n] ─► RoboHive's robot ─► frame_skip × MuJoCo ─► its obs_dict, rwd_dict ─► copies in a TensorDict
                                                      └─► rendering, from_pixels=True ─► pixels, depth ─┘

TorchRL's own RoboHiveEnv is not used: it ignores frame_skip, does not seed, and reports zeros at reset.
"""

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.data import Binary, Bounded, Composite, Unbounded
from torchrl.envs import EnvBase

from rlhive import keys
from rlhive.envs._loading import Closed, RoboHiveWarning as RoboHiveWarning, build, release
from rlhive.envs._rendering import CameraRenderer, view_of
from rlhive.envs._visual import VISUAL
from rlhive.errors import InvalidAction, InvalidSetting, SimulationDiverged

#: Fields of the compiled model that RoboHive changes at reset, so that a checkpoint needs them.
RANDOMISED_FIELDS = ("body_pos", "body_quat", "site_pos", "site_quat")

#: What it changes besides where it draws the objects' shapes as well.
_SHAPES = ("geom_type", "geom_size", "geom_pos", "geom_quat", "geom_rgba")

_CPU = torch.device("cpu")
_VERSIONS_OF = ("robohive", "mujoco", "gymnasium", "dm-control", "numpy")
_RESERVED = {
    keys.OBSERVATION,
    keys.ACTION,
    keys.SUCCESS,
    keys.NEXT,
    keys.REWARD,
    keys.PIXELS,
    keys.DEPTH,
    "info",
    "state",
    *keys.END_FLAGS,
}


class RoboHiveEnv(EnvBase):
    """A RoboHive environment of TorchRL.

    Every reset and step gives new tensors that own their memory. The reset's ``success`` is computed like any
    other. A time limit is ``truncated``, RoboHive's own end of an episode ``terminated``.

    The same seed gives the same episode, bit for bit, in every process. Exceptions are a few families that draw
    random numbers outside RoboHive's generator when they are built (MyoDM, D'Kitty).

    Args:
        env_name: Id of a RoboHive environment, for example "FK1_Knob1OnRandom-v4", or a ``visual_*`` id of earlier
            versions (docs/visual.md), which gives pixels unless told otherwise, as RoboHive's ``_v2d`` ids do.
        obs_keys: Names out of RoboHive's observation dictionary that are given at the root as well, each under
            its own name, for example "robot_jnt" [9].
        info_keys: Names out of RoboHive's reward dictionary that are given below "info", float64 [1], for example
            "dense", "sparse" or a single term such as "approach"; at reset too, where they are the start state's.
        state: Give the simulator's state below "state", the parts of :meth:`get_state`; ``set_state`` takes them.
        frame_skip: Simulator steps per environment step, where it is to differ from the registered one.
        dtype: Of observations and rewards. RoboHive computes in float64, so anything else rounds.
        seed: As with ``set_seed``; None takes an unpredictable one.
        device: Where the tensors go; the first CUDA device also draws the pictures of this process.
        from_pixels: Give ``pixels``, uint8 [camera, H, W, 3]. Drawn without a GPU, a kitchen's picture costs some
            0.6 s: render_quality chooses.
        cameras: Names in the order of the pictures; all that the model has by default.
        image_size: Height and width in pixels, (84, 84) by default.
        depth: Give ``depth`` as well, float32 [camera, H, W], the distance from the camera's plane in metres.
        render_quality: "robohive" is RoboHive's own picture; "shadows" has coarser shadows, no reflections and hard
            edges at a third of the cost; "fast" has no shadows either, at a twentieth. Each is another visual domain.
        **env_kwargs: Passed to RoboHive. ``max_episode_steps`` replaces the registered horizon.

    Attributes:
        env_name: The id as it was given.
        robohive_id: The environment that RoboHive simulates; another than ``env_name`` for ``visual_*``.
        horizon: Maximum episode length in steps.

    Raises:
        RoboHiveMissing: RoboHive or the assets of this environment are not installed.
        EnvNotFound: RoboHive has no such environment.
        InvalidSetting: An observation key, a frame skip, a camera, a size or a quality that cannot be given.
        RenderingUnavailable: Pixels were asked for, and this machine has no OpenGL.

    Example:
        >>> env = RoboHiveEnv("FK1_Knob1OnRandom-v4", seed=0)
        >>> env.rollout(3)["next", "observation"].shape
        torch.Size([3, 75])
        >>> env = RoboHiveEnv("FK1_Knob1OnRandom-v4", from_pixels=True, cameras=["left_cam"], render_quality="fast")
        >>> env.reset()["pixels"].shape
        torch.Size([1, 84, 84, 3])
    """

    def __init__(
        self,
        env_name: str,
        *,
        obs_keys: Sequence[str] = (),
        info_keys: Sequence[str] = (),
        state: bool = False,
        frame_skip: int | None = None,
        dtype: torch.dtype = torch.float64,
        seed: int | None = None,
        device: str | torch.device = "cpu",
        from_pixels: bool | None = None,
        cameras: Sequence[str] | None = None,
        image_size: tuple[int, int] | None = None,
        depth: bool | None = None,
        render_quality: str | None = None,
        **env_kwargs: Any,
    ) -> None:
        super().__init__(device=device, batch_size=[])
        wishes = {"cameras": cameras, "image_size": image_size, "depth": depth, "render_quality": render_quality}
        visual = VISUAL.get(env_name)
        self.env_name, self.robohive_id = env_name, visual.robohive_id if visual else env_name
        self._env_kwargs = {**env_kwargs, **({} if frame_skip is None else {"frame_skip": frame_skip})}
        self._dtype = dtype
        self._env, self.horizon = build(self.robohive_id, {**(visual.env_kwargs if visual else {}), **self._env_kwargs})
        self._model, self._data = self._env.sim.model.ptr, self._env.sim.data.ptr
        self._fields = RANDOMISED_FIELDS + (_SHAPES if getattr(self._env, "randomize", False) else ())
        self._model_hash = _hash_of(self._model)
        self._substeps = _checked_substeps(self._env, frame_skip)
        self._obs_keys = _checked_keys(obs_keys, self._env.obs_dict, env_name)
        self._info_keys, self._with_state = _checked_info(info_keys, self._env.rwd_dict, env_name), state
        view = view_of(self._env, env_name, from_pixels, wishes)
        # RoboHive shows what its sensors saw, which for noisy ones is another simulation.
        self._eyes = None if view is None else CameraRenderer(self._env.sim_obsd, view, self.device)
        self._set_seed(seed)
        self._elapsed = 0
        self._make_specs()
        self.is_closed = False  # TorchRL's own default is True

    def __repr__(self) -> str:
        pixels = ", from_pixels=True" if keys.PIXELS in self.observation_spec else ""
        return f"{type(self).__name__}({self.env_name!r}, horizon={self.horizon}, device={self.device}{pixels})"

    @property
    def unwrapped(self) -> Any:
        """RoboHive's own environment object."""
        return self._env

    @property
    def dt(self) -> float:
        """Simulated time of one step in seconds."""
        return self._substeps * self._model.opt.timestep

    def _make_specs(self) -> None:
        space = self._env.action_space
        self._low, self._high = space.low.astype(np.float32), space.high.astype(np.float32)
        self.action_spec = Bounded(low=self._low, high=self._high, shape=space.shape, dtype=torch.float32)
        self.reward_spec = Unbounded((1,), dtype=self._dtype)
        flag = Binary(1, shape=(1,), dtype=torch.bool)
        self.done_spec = Composite({key: flag.clone() for key in keys.END_FLAGS})
        observations = {keys.OBSERVATION: Unbounded(self._env.observation_space.shape, dtype=self._dtype)}
        for key in self._obs_keys:
            observations[key] = Unbounded((np.size(self._env.obs_dict[key]),), dtype=self._dtype)
        if self._info_keys:
            observations["info"] = Composite({key: Unbounded((1,), dtype=torch.float64) for key in self._info_keys})
        if self._with_state:
            parts = self.get_state().items()
            observations["state"] = Composite({k: Unbounded(v.shape, dtype=torch.float64) for k, v in parts})
        observations |= self._eyes.specs() if self._eyes else {}
        self.observation_spec = Composite({**observations, keys.SUCCESS: flag.clone()}).to(self.device)

    def _set_seed(self, seed: int | None) -> None:
        """Seed RoboHive's generator; its reset(seed=…) does not."""
        self._env.seed(seed)
        # The robot keeps the generator that it was built with; it draws sensor noise from it.
        self._env.robot.np_random = self._env.np_random

    def _reset(self, tensordict: TensorDictBase | None = None, *, seed: int | None = None, **_: Any) -> TensorDictBase:
        if seed is not None:
            self._set_seed(seed)
        result = self._env.reset()
        self._elapsed = 0
        # Some Adroit tasks return the observation alone.
        return self._start(result[0] if isinstance(result, tuple) else result)

    def _start(self, observation: np.ndarray) -> TensorDict:
        """Return the TensorDict of a state that no step led to."""
        env = self._env
        # RoboHive computes rewards, and with them `solved`, in step alone.
        env.expand_dims(env.obs_dict)
        rewards = env.get_reward_dict(env.obs_dict)
        env.squeeze_dims(rewards)
        env.squeeze_dims(env.obs_dict)
        env.rwd_dict = rewards
        ended = dict.fromkeys(keys.END_FLAGS, False)
        return self._tensordict(observation, rewards["solved"], ended)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        action = tensordict.get(keys.ACTION).numpy(force=True)
        if action.shape != self._low.shape or not ((action >= self._low) & (action <= self._high)).all():
            self._refuse(action)
        before = self._data.time
        observation, reward, terminated, _, _ = self._env.step(action)
        # RoboHive answers a failed simulation with a silent reset, MuJoCo too; only the clock tells.
        if abs(self._data.time - before - self.dt) > 1e-6 or not np.isfinite(observation).all():
            msg = (
                f"{self.env_name} diverged in step {self._elapsed + 1}: expected the simulation to go on from "
                f"{before:.3f} s to {before + self.dt:.3f} s with finite values, got {self._data.time:.3f} s. "
                f"Discard the episode and reset."
            )
            raise SimulationDiverged(msg, self._elapsed + 1)
        self._elapsed += 1
        truncated = self._elapsed >= self.horizon
        ends = {keys.DONE: terminated or truncated, keys.TERMINATED: terminated, keys.TRUNCATED: truncated}
        return self._tensordict(observation, self._env.rwd_dict["solved"], ends, reward)

    def _tensordict(
        self, observation: np.ndarray, solved: Any, ends: dict[str, bool], reward: float | None = None
    ) -> TensorDict:
        data = {keys.OBSERVATION: self._tensor(observation)}
        for key in self._obs_keys:
            data[key] = self._tensor(self._env.obs_dict[key]).reshape(-1)
        data[keys.SUCCESS] = torch.tensor((bool(np.all(solved)),))
        for key, value in ends.items():
            data[key] = torch.tensor((value,))
        if reward is not None:
            data[keys.REWARD] = torch.tensor((float(reward),), dtype=self._dtype)
        if self._info_keys:
            terms = {
                key: torch.tensor((float(self._env.rwd_dict[key]),), dtype=torch.float64) for key in self._info_keys
            }
            data["info"] = TensorDict._new_unsafe(terms, batch_size=self.batch_size, device=_CPU)
        if self._with_state:
            parts = {key: torch.from_numpy(value) for key, value in self.get_state().items()}
            data["state"] = TensorDict._new_unsafe(parts, batch_size=self.batch_size, device=_CPU)
        if self._eyes:
            data |= self._eyes.draw()
        # Unsafe means unchecked, at a fifth of the cost: the dictionary is fresh and matches the specs.
        result = TensorDict._new_unsafe(data, batch_size=self.batch_size, device=_CPU)
        return result if self.device == _CPU else result.to(self.device)

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        """Copy, so that nothing of the simulator's memory leaves this class."""
        return torch.from_numpy(np.array(values)).to(self._dtype)

    def _step_proc_data(self, next_tensordict_out: TensorDictBase) -> TensorDictBase:
        """Skip TorchRL's completion of what a step returns: it is complete here (2 % of a step)."""
        return next_tensordict_out

    def _refuse(self, action: np.ndarray) -> None:
        if action.shape != self._low.shape:
            msg = f"{self.env_name}: expected an action of shape {self._low.shape}, got {action.shape}."
            raise InvalidAction(msg)
        index = int(np.argmin((action >= self._low) & (action <= self._high)))
        msg = (
            f"{self.env_name}: action[{index}] is {action[index]} in step {self._elapsed + 1}, expected a number in "
            f"[{self._low[index]:g}, {self._high[index]:g}]. Clip actions in the policy."
        )
        raise InvalidAction(msg)

    def get_state(self) -> dict[str, np.ndarray]:
        """Return a checkpoint of the simulator, from which :meth:`set_state` goes on bit for bit.

        Returns:
            Float64 vectors that own their memory: "integration" (MuJoCo's mjSTATE_INTEGRATION: time in s, positions,
            velocities, activations, controls, warm start), the model fields that RoboHive randomises, flattened, and
            "obj_goal" where the environment has one.
        """
        import mujoco

        spec = mujoco.mjtState.mjSTATE_INTEGRATION
        goal = getattr(self._env, "obj_goal", None)
        state = np.empty(mujoco.mj_stateSize(self._model, spec))
        mujoco.mj_getState(self._model, self._data, state, spec)
        fields = {name: getattr(self._model, name).astype(np.float64).reshape(-1) for name in self._fields}
        fields |= {"obj_goal": goal.astype(np.float64).reshape(-1)} if isinstance(goal, np.ndarray) else {}
        return {"integration": state, **fields}

    def set_state(self, state: Mapping[str, np.ndarray] | TensorDictBase) -> TensorDict:
        """Put the simulator into a state that :meth:`get_state` returned, of this or another instance.

        The step count towards the horizon follows from the simulated time. The random generator is left alone.

        Args:
            state: The checkpoint, or the "state" entry of a TensorDict that this class gave.

        Returns:
            What a reset into this state would return.

        Raises:
            ValueError: The state is of another environment.
        """
        import mujoco

        env, spec = self._env, mujoco.mjtState.mjSTATE_INTEGRATION
        current = self.get_state()
        wrong = [key for key in current if np.shape(state.get(key)) != current[key].shape]
        if wrong:
            got = {key: np.shape(state.get(key)) for key in wrong}
            msg = f"{self.env_name}: expected a state with { ({k: current[k].shape for k in wrong}) }, got {got}."
            raise ValueError(msg)
        for sim in {id(sim): sim for sim in (env.sim_obsd, env.sim)}.values():
            for name in self._fields:
                field = getattr(sim.model.ptr, name)
                field[:] = np.reshape(state[name], field.shape)
            mujoco.mj_setState(sim.model.ptr, sim.data.ptr, np.array(state["integration"], np.float64), spec)
            sim.forward()
        if "obj_goal" in state:
            env.obj_goal = np.array(state["obj_goal"]).reshape(env.obj_goal.shape)
        env.robot._sensor_cache_refresh()
        observation = env.get_obs()
        # forward() has solved the constraints anew; the next step must start its solver where the original's did.
        mujoco.mj_setState(self._model, self._data, np.array(state["integration"], np.float64), spec)
        self._elapsed = round(self._data.time / self.dt)
        return self._start(observation)

    def provenance(self) -> dict[str, Any]:
        """Return what this environment is, as JSON-able values: enough to build the same one again.

        Returns:
            Id, arguments, frame skip, dt in s, horizon in steps, versions, the SHA-256 of the compiled model as it
            was before any reset, and what decides the pictures, if there are any.
        """
        eyes = {"rendering": self._eyes.provenance()} if self._eyes else {}
        other_id = {} if self.robohive_id == self.env_name else {"robohive_id": self.robohive_id}
        return {
            "env_name": self.env_name,
            **other_id,
            "env_kwargs": json.loads(json.dumps(self._env_kwargs, default=repr)),
            "frame_skip": int(self._env.frame_skip),
            "dt": float(self.dt),
            "horizon": self.horizon,
            "versions": {name: importlib.metadata.version(name) for name in _VERSIONS_OF},
            "model_hash": self._model_hash,
            **eyes,
        }

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Release the simulator and its renderer: their memory is free at once. What was returned stays as it is."""
        if not self.is_closed:
            if self._eyes:
                self._eyes.close()
            env, closed = self._env, Closed(self.env_name)
            self._env = self._model = self._data = self._eyes = closed
            release(env)
        super().close(raise_if_closed=raise_if_closed)


def _checked_substeps(env: Any, frame_skip: int | None) -> int:
    """Return how many simulator steps RoboHive makes per step: what was asked for, or an error."""
    substeps = int(env.dt / env.sim.step_duration)  # as RoboHive computes it
    if frame_skip is not None and substeps != frame_skip:
        msg = (
            f"RoboHive simulates {substeps} steps where frame_skip={frame_skip} was asked for: this environment "
            f"fixes it or the division rounds down. Leave frame_skip out or take another number."
        )
        raise InvalidSetting(msg)
    return substeps


def _checked_keys(obs_keys: Sequence[str], available: dict[str, Any], env_name: str) -> tuple[str, ...]:
    wrong = [key for key in obs_keys if key not in available or key in _RESERVED]
    if wrong:
        msg = f"{env_name} has no observation {wrong[0]!r}: expected names out of {', '.join(sorted(available))}."
        raise InvalidSetting(msg)
    return tuple(obs_keys)


def _checked_info(info_keys: Sequence[str], available: dict[str, Any], env_name: str) -> tuple[str, ...]:
    wrong = [key for key in info_keys if key not in available]
    if wrong:
        msg = f"{env_name} has no info {wrong[0]!r}: expected names out of {', '.join(sorted(available))}."
        raise InvalidSetting(msg)
    return tuple(info_keys)


def _hash_of(model: Any) -> str:
    import mujoco

    buffer = np.empty(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, buffer)
    return hashlib.sha256(buffer).hexdigest()
