"""RoboHive as a TorchRL environment: seeded, lossless, with checkpoints, and about as fast as RoboHive itself.

The data flow of one step:

    action float32 [n] ─► RoboHive's robot ─► frame_skip × MuJoCo ─► obs_dict, rwd_dict ─► copies in a TensorDict
                                                      └─► renderer, from_pixels=True ─► pixels, depth ─┘

TorchRL's own RoboHiveEnv is not used: it ignores frame_skip, does not seed, and returns zeros at reset.
"""

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.data import Binary, Bounded, Composite, Unbounded
from torchrl.envs import EnvBase

from rlhive import keys
from rlhive.envs._copying import reduce_env, restore_env
from rlhive.envs._episode_starts import EpisodeStarts, NotedStart
from rlhive.envs._episode_state import EpisodeState
from rlhive.envs._loading import (
    ClosedSimulator,
    RoboHiveWarning as RoboHiveWarning,
    build_robohive,
    free_simulator,
)
from rlhive.envs._rendering import CameraRenderer, resolve_render_options
from rlhive.envs._visual import VISUAL
from rlhive.errors import InvalidActionError, InvalidOptionError, SimulationDivergedError

_CPU = torch.device("cpu")
_PACKAGES = ("robohive", "mujoco", "gymnasium", "dm-control", "numpy")
_RESERVED = {
    keys.OBSERVATION,
    keys.ACTION,
    keys.SUCCESS,
    keys.NEXT,
    keys.REWARD,
    keys.PIXELS,
    keys.DEPTH,
    keys.SEGMENTATION,
    "info",
    "state",
    *keys.END_FLAGS,
}


class ArrayStep(NamedTuple):
    """Result of :meth:`RoboHiveEnv.step_arrays`.

    Attributes:
        observation: RoboHive's own array, which the next step may overwrite.
        reward: Reward of the step.
        success: Whether the task is solved after the step.
        terminated: Whether RoboHive ended the episode.
        truncated: Whether the horizon is reached.
    """

    observation: np.ndarray
    reward: float
    success: bool
    terminated: bool
    truncated: bool


class RoboHiveEnv(EnvBase):
    """A RoboHive environment with TorchRL's interface.

    Every reset and step returns new tensors that own their memory. The ``success`` of a reset is computed from the
    start state. A time limit sets ``truncated``, RoboHive's own end of an episode sets ``terminated``.

    ``copy`` and ``pickle`` give an environment with a simulator of its own that goes on like this one.

    The same seed gives the same episode, bit for bit, in every process and whatever ran before: each reset starts from
    the state of construction, and all parts of a task draw from one seeded generator.

    Args:
        env_name: Id of a RoboHive environment, for example "FK1_Knob1OnRandom-v4", or a ``visual_*`` id of earlier
            versions (docs/visual.md). ``visual_*`` ids and RoboHive's ``_v2d`` ids return pixels by default.
        obs_keys: Names in RoboHive's observation dictionary that are also returned at the root, each under its own
            name, for example "robot_jnt" [9].
        info_keys: Names in RoboHive's reward dictionary that are returned below "info", float64 [1], for example
            "dense", "sparse" or a single term such as "approach". At reset their values are those of the start state.
        state: Return the simulator's state below "state", as :meth:`get_state` does; ``set_state`` accepts it.
        frame_skip: Simulator steps per environment step; the registered number by default.
        dtype: Dtype of observations and rewards. RoboHive computes in float64, so any other dtype rounds.
        seed: Seed of the random generator, as for ``set_seed``; None takes an unpredictable seed.
        device: Device of the tensors. The first CUDA device of a process also renders its pictures.
        from_pixels: Return ``pixels``, uint8 [camera, H, W, 3]. Without a GPU a picture of the kitchen takes about
            0.6 s; ``render_quality`` reduces the cost.
        cameras: Camera names in the order of the pictures; all cameras of the model by default.
        image_size: Height and width in pixels, (84, 84) by default.
        depth: Return ``depth`` as well, float32 [camera, H, W], the distance from the camera's plane in metres.
        render_quality: "robohive" is RoboHive's own picture; "shadows" has coarser shadows, no reflections and no
            anti-aliasing, at a third of the cost; "fast" also has no shadows, at a twentieth of the cost. Each is a
            visual domain of its own.
        segmentation: Return ``segmentation`` as well, int16 [camera, H, W, 2]: number and type (``mujoco.mjtObj``) of
            the object that each pixel shows, such as a geom or a tendon, -1 and -1 where it shows none.
        keep_fatigue: Let the fatigue of the muscles ("myoFati…") go on over resets, as RoboHive has it. Episodes then
            depend on those before, and the environment has no checkpoints. By default each episode starts rested.
        **env_kwargs: Arguments for RoboHive. ``max_episode_steps`` replaces the registered horizon.

    Attributes:
        env_name: The id that was passed.
        robohive_id: Id of the simulated RoboHive environment; differs from ``env_name`` for ``visual_*`` ids.
        horizon: Maximum episode length in steps.

    Raises:
        RoboHiveMissingError: RoboHive or the assets of this environment are not installed.
        AssetsCorruptError: The assets of this environment are damaged.
        EnvNotFoundError: RoboHive has no such environment.
        InvalidOptionError: An observation key, frame skip, camera, image size or quality is invalid.
        RenderingUnavailableError: Pixels were requested, and this machine has no OpenGL.

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
        segmentation: bool | None = None,
        keep_fatigue: bool = False,
        **env_kwargs: Any,
    ) -> None:
        super().__init__(device=device, batch_size=[])
        self._arguments = {
            **{"obs_keys": obs_keys, "info_keys": info_keys, "state": state, "frame_skip": frame_skip, "dtype": dtype},
            **{"from_pixels": from_pixels, "cameras": cameras, "image_size": image_size, "depth": depth},
            **{"render_quality": render_quality, "segmentation": segmentation, "keep_fatigue": keep_fatigue},
            **env_kwargs,
        }
        options = {"cameras": cameras, "image_size": image_size, "depth": depth, "render_quality": render_quality}
        options |= {"segmentation": segmentation}
        defaults = VISUAL.get(env_name)
        self.env_name = env_name
        self.robohive_id = defaults.robohive_id if defaults else env_name
        self._env_kwargs = {**env_kwargs, **({} if frame_skip is None else {"frame_skip": frame_skip})}
        self._keep_fatigue = keep_fatigue
        self._dtype = dtype
        kwargs = {**(defaults.env_kwargs if defaults else {}), **self._env_kwargs}
        self._env, self.horizon = build_robohive(self.robohive_id, kwargs)
        self._model: Any = self._env.sim.model.ptr
        self._data: Any = self._env.sim.data.ptr
        self._model_hash = _hash_model(self._model)
        self._substeps = _require_substeps(self._env, frame_skip)
        self._obs_keys = _require_obs_keys(obs_keys, self._env.obs_dict, env_name)
        self._info_keys = _require_info_keys(info_keys, self._env.rwd_dict, env_name)
        self._with_state = state
        render_options = resolve_render_options(self._env, env_name, from_pixels, options)
        # RoboHive renders what its sensors saw, which with sensor noise is another simulation.
        self._renderer: CameraRenderer | None = None
        if render_options is not None:
            self._renderer = CameraRenderer(self._env.sim_obsd, render_options, self.device)
        self._state: Any = EpisodeState(self._env, env_name, self.horizon, keep_fatigue=keep_fatigue)
        self._starts: EpisodeStarts | None = None
        self._next_seed: int | None = None
        self._set_seed(seed)
        self._elapsed = 0
        self._make_specs()
        self.is_closed = False  # TorchRL's own default is True
        self._built_attributes = {*vars(self), "_built_attributes", "_cache"}

    def __repr__(self) -> str:
        pixels = ", from_pixels=True" if self.from_pixels else ""
        return f"{type(self).__name__}({self.env_name!r}, horizon={self.horizon}, device={self.device}{pixels})"

    @property
    def unwrapped(self) -> Any:
        """RoboHive's own environment object."""
        return self._env

    @property
    def from_pixels(self) -> bool:
        """Whether resets and steps return ``pixels``."""
        return keys.PIXELS in self.observation_spec

    @property
    def dt(self) -> float:
        """Simulated time of one step in seconds."""
        return self._substeps * self._model.opt.timestep

    def _make_specs(self) -> None:
        space = self._env.action_space
        self._low = space.low.astype(np.float32)
        self._high = space.high.astype(np.float32)
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
            sizes = self._state.sizes.items()
            observations["state"] = Composite({k: Unbounded((size,), dtype=torch.float64) for k, size in sizes})
        observations |= self._renderer.specs() if self._renderer else {}
        self.observation_spec = Composite({**observations, keys.SUCCESS: flag.clone()}).to(self.device)

    def _set_seed(self, seed: int | None) -> None:
        """Seed RoboHive's generator, which RoboHive's own reset(seed=…) does not do."""
        self._state.seed(seed)
        self._next_seed = seed

    def _reset(
        self, tensordict: TensorDictBase | None = None, *, seed: int | None = None, draw: bool = True, **_: Any
    ) -> TensorDictBase:
        """Reset; ``draw=False`` leaves the pictures out, for a caller that sets another state at once."""
        if seed is not None:
            self._set_seed(seed)
        result = self._state.reset()
        self._elapsed = 0
        # Some Adroit tasks return the observation only, without an info dictionary.
        start = self._start_tensordict(result[0] if isinstance(result, tuple) else result, draw=draw)
        if self._starts is not None and not self._keep_fatigue:
            self._starts.note(start[keys.OBSERVATION].numpy(force=True), self._next_seed, self.get_state())
        self._next_seed = None
        return start

    def note_starts(self) -> Callable[[np.ndarray], NotedStart | None]:
        """Remember seed and state of the latest 256 resets from now on, for a recorder.

        Returns:
            Function that takes the observation of a reset and returns ``(seed, state)`` once; None where there was no
            such reset. The seed is None where the environment was not seeded for the episode.
        """
        self._starts = self._starts or EpisodeStarts()
        return self._starts.take

    def _start_tensordict(self, observation: np.ndarray, *, draw: bool = True) -> TensorDict:
        """Return the TensorDict of a state that follows a reset or :meth:`set_state`, not a step."""
        env = self._env
        if self._with_state:
            self._state.require_captured()
        # RoboHive computes the rewards, and with them `solved`, only in a step.
        env.expand_dims(env.obs_dict)
        rewards = env.get_reward_dict(env.obs_dict)
        env.squeeze_dims(rewards)
        env.squeeze_dims(env.obs_dict)
        env.rwd_dict = rewards
        solved = bool(np.all(rewards["solved"]))
        return self._build_tensordict(observation, solved, dict.fromkeys(keys.END_FLAGS, False), draw=draw)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        return self._to_tensordict(self.step_arrays(tensordict.get(keys.ACTION).numpy(force=True)))

    def _to_tensordict(self, step: ArrayStep) -> TensorDict:
        """Return the TensorDict of the latest step, with pictures of its state."""
        done = step.terminated or step.truncated
        ends = {keys.DONE: done, keys.TERMINATED: step.terminated, keys.TRUNCATED: step.truncated}
        return self._build_tensordict(step.observation, step.success, ends, step.reward)

    def step_arrays(self, action: np.ndarray) -> ArrayStep:
        """Step the simulator without tensors: the physics of :meth:`step` with neither pictures nor ``obs_keys``.

        The first calls into torch after a simulator step find cold caches and cost half a millisecond together, a tenth
        of a kitchen's step.

        Args:
            action: Float array of the shape of the action.

        Raises:
            InvalidActionError: The action has another shape, or a number out of the action's range.
            SimulationDivergedError: The simulation diverged in this step.
        """
        self._require_action(action)
        before = self._data.time
        observation, reward, terminated, _, _ = self._env.step(action)
        # RoboHive and MuJoCo silently reset a simulation that failed; only the simulated time shows it.
        if abs(self._data.time - before - self.dt) > 1e-6 or not np.isfinite(observation).all():
            msg = (
                f"{self.env_name} diverged in step {self._elapsed + 1}: expected the simulation to advance from "
                f"{before:.3f} s to {before + self.dt:.3f} s with finite values, got {self._data.time:.3f} s. "
                f"The episode is invalid; reset the environment."
            )
            raise SimulationDivergedError(msg, self._elapsed + 1)
        self._elapsed += 1
        solved = bool(np.all(self._env.rwd_dict["solved"]))
        return ArrayStep(observation, float(reward), solved, bool(terminated), self._elapsed >= self.horizon)

    def _build_tensordict(
        self,
        observation: np.ndarray,
        solved: bool,
        ends: dict[str, bool],
        reward: float | None = None,
        *,
        draw: bool = True,
    ) -> TensorDict:
        data = {keys.OBSERVATION: self._copy_to_tensor(observation)}
        for key in self._obs_keys:
            data[key] = self._copy_to_tensor(self._env.obs_dict[key]).reshape(-1)
        data[keys.SUCCESS] = torch.tensor((solved,))
        for key, value in ends.items():
            data[key] = torch.tensor((value,))
        if reward is not None:
            data[keys.REWARD] = torch.tensor((reward,), dtype=self._dtype)
        if self._info_keys:
            terms = {
                key: torch.tensor((float(self._env.rwd_dict[key]),), dtype=torch.float64) for key in self._info_keys
            }
            data["info"] = TensorDict._new_unsafe(terms, batch_size=self.batch_size, device=_CPU)
        if self._with_state:
            parts = {key: torch.from_numpy(value) for key, value in self._state.read().items()}
            data["state"] = TensorDict._new_unsafe(parts, batch_size=self.batch_size, device=_CPU)
        if self._renderer and draw:
            data |= self._renderer.draw()
        # _new_unsafe skips the checks, at a fifth of the cost: the dictionary is new and matches the specs.
        result = TensorDict._new_unsafe(data, batch_size=self.batch_size, device=_CPU)
        return result if self.device == _CPU else result.to(self.device)

    def _copy_to_tensor(self, values: np.ndarray) -> torch.Tensor:
        """Return a tensor that owns its memory: the simulator overwrites its own."""
        return torch.from_numpy(np.array(values)).to(self._dtype)

    def _step_proc_data(self, next_tensordict_out: TensorDictBase) -> TensorDictBase:
        """Return the TensorDict of a step unchanged: it is complete, and TorchRL's completion takes 2 % of a step."""
        return next_tensordict_out

    def _require_action(self, action: np.ndarray) -> None:
        if action.shape != self._low.shape:
            msg = f"{self.env_name}: expected an action of shape {self._low.shape}, got {action.shape}."
            raise InvalidActionError(msg)
        is_within = (action >= self._low) & (action <= self._high)
        if is_within.all():
            return
        index = int(np.argmin(is_within))
        msg = (
            f"{self.env_name}: action[{index}] is {action[index]} in step {self._elapsed + 1}, expected a number in "
            f"[{self._low[index]:g}, {self._high[index]:g}]."
        )
        raise InvalidActionError(msg)

    def get_state(self) -> dict[str, np.ndarray]:
        """Return a checkpoint, from which :meth:`set_state` continues bit for bit.

        Returns:
            Float64 vectors that own their memory: "integration" (MuJoCo's mjSTATE_INTEGRATION: time in s, positions,
            velocities, activations, controls, warm start), the model fields that episodes change, flattened, and the
            task's own state: "obj_goal", "target_jnt_value", "counter", …, "fatigue", "generator". Every state of an
            environment has the same names and sizes.

        Raises:
            StateNotCapturedError: The environment holds state that the checkpoint would not contain.
        """
        self._state.require_captured()
        return self._state.read()

    def set_state(self, state: Mapping[str, np.ndarray] | TensorDictBase) -> TensorDict:
        """Restore a state that :meth:`get_state` of this or another instance returned.

        The step count towards the horizon is derived from the simulated time. The random generator is restored only
        where steps draw from it.

        Args:
            state: A checkpoint, or the "state" entry of a TensorDict that this class returned.

        Returns:
            The TensorDict of a reset into this state.

        Raises:
            CheckpointMismatchError: The state belongs to another environment, or holds an impossible value.
        """
        observation = self._state.write(state)
        self._elapsed = round(self._data.time / self.dt)
        return self._start_tensordict(observation)

    def observation_parts(self) -> dict[str, slice]:
        """Return which elements of the observation are which part of RoboHive's, ``{"robot_jnt": slice(0, 9), …}``."""
        ends = np.cumsum([np.size(self._env.obs_dict[key]) for key in self._env.obs_keys]).tolist()
        return {key: slice(start, end) for key, start, end in zip(self._env.obs_keys, [0, *ends], ends, strict=False)}

    def task_state_names(self) -> tuple[str, ...]:
        """Return the parts of a state that RoboHive keeps outside the simulator, ``("target_jnt_value",)``."""
        names: tuple[str, ...] = self._state.task_parts
        return names

    def provenance(self) -> dict[str, Any]:
        """Return the JSON-able values that identify this environment and suffice to build it again.

        Returns:
            Id, arguments, frame skip, dt in s, horizon in steps, versions of the packages, the SHA-256 of the compiled
            model before any reset, and with pixels the rendering options.
        """
        rendering = {"rendering": self._renderer.provenance()} if self._renderer else {}
        other_id = {} if self.robohive_id == self.env_name else {"robohive_id": self.robohive_id}
        env_kwargs = {**self._env_kwargs, **({"keep_fatigue": True} if self._keep_fatigue else {})}
        return {
            "env_name": self.env_name,
            **other_id,
            "env_kwargs": json.loads(json.dumps(env_kwargs, default=repr)),
            "frame_skip": int(self._env.frame_skip),
            "dt": float(self.dt),
            "horizon": self.horizon,
            "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
            "model_hash": self._model_hash,
            **rendering,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return reduce_env(self, self._arguments)

    def __setstate__(self, state: dict[str, Any]) -> None:
        restore_env(self, state)

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Free the memory of the simulator and of its renderer at once; tensors that were returned remain valid."""
        if not self.is_closed:
            if self._renderer:
                self._renderer.close()
                self._renderer = None
            env = self._env
            closed = ClosedSimulator(self.env_name)
            self._state = closed
            self._env = closed
            self._model = closed
            self._data = closed
            free_simulator(env)
        super().close(raise_if_closed=raise_if_closed)


def _require_substeps(env: Any, frame_skip: int | None) -> int:
    """Return the number of simulator steps per environment step.

    Raises:
        InvalidOptionError: RoboHive makes another number of steps than ``frame_skip``.
    """
    substeps = int(env.dt / env.sim.step_duration)  # RoboHive's own formula
    if frame_skip is not None and substeps != frame_skip:
        msg = (
            f"frame_skip is {frame_skip}, but RoboHive simulates {substeps} steps: this environment fixes the number, "
            f"or RoboHive's division rounds down. Leave frame_skip out or pass another number."
        )
        raise InvalidOptionError(msg)
    return substeps


def _require_obs_keys(obs_keys: Sequence[str], available: dict[str, Any], env_name: str) -> tuple[str, ...]:
    invalid = [key for key in obs_keys if key not in available or key in _RESERVED]
    if invalid:
        msg = f"{env_name} has no observation {invalid[0]!r}: expected names out of {', '.join(sorted(available))}."
        raise InvalidOptionError(msg)
    return tuple(obs_keys)


def _require_info_keys(info_keys: Sequence[str], available: dict[str, Any], env_name: str) -> tuple[str, ...]:
    invalid = [key for key in info_keys if key not in available]
    if invalid:
        msg = f"{env_name} has no info {invalid[0]!r}: expected names out of {', '.join(sorted(available))}."
        raise InvalidOptionError(msg)
    return tuple(info_keys)


def _hash_model(model: Any) -> str:
    """Return the SHA-256 of a compiled model."""
    import mujoco

    buffer = np.empty(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, buffer)
    return hashlib.sha256(buffer.data).hexdigest()
