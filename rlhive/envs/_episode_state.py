"""State that an episode of a RoboHive environment changes: reset for each episode, saved and restored by checkpoints.

::

    simulator   positions, velocities, controls, …            MuJoCo's own state
    model       poses, shapes, masses, terrain, strengths     fields of the compiled model
    task        targets, counters, opponents, fatigue         attributes of RoboHive's objects
    generator   random numbers that steps draw

RoboHive's resets leave parts of these as the episode before left them. Which parts a task changes is measured: a few
episodes are run after the construction, and everything is set back. The measured episodes have fixed seeds, so that
checkpoints of one environment id have the same parts in every process.
"""

import contextlib
import copy
import io
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from rlhive.envs._fatigue import Fatigue
from rlhive.envs._generators import (
    read_generator,
    require_generator,
    seed_in_place,
    seeded_numpy,
    write_generator,
)
from rlhive.envs._model_fields import changeable_fields, is_shown_only, require_field, require_numbers
from rlhive.envs._task_attributes import (
    Attribute,
    Path,
    copy_value,
    is_equal,
    read_attribute,
    walk_attributes,
    write_attribute,
)
from rlhive.errors import CheckpointMismatchError, InvalidOptionError, StateNotCapturedError

#: Fields of the compiled model that every checkpoint contains.
RANDOMISED_FIELDS = ("body_pos", "body_quat", "site_pos", "site_quat")

#: Further fields in checkpoints of tasks with random objects.
_SHAPE_FIELDS = ("geom_type", "geom_size", "geom_pos", "geom_quat", "geom_rgba")

#: The last control is the simulator's, and only resets read the initial posture.
_NOT_IN_CHECKPOINTS = {("last_ctrl",), ("init_qpos",), ("init_qvel",), ("obj_goal",)}

_NUM_MEASURED_EPISODES = 4
_NUM_MEASURED_STEPS = 2


class EpisodeState:
    """The changing state of a RoboHive environment.

    Args:
        env: RoboHive's environment, newly built.
        env_name: Name of the environment in messages.
        horizon: Maximum episode length in steps.
        keep_fatigue: Whether fatigue goes on over resets, as RoboHive has it.

    Attributes:
        sizes: Number of float64 numbers of each part of a checkpoint.
    """

    def __init__(self, env: Any, env_name: str, horizon: int, *, keep_fatigue: bool = False) -> None:
        self._env = env
        self._env_name = env_name
        self._keep_fatigue = False
        self._generator: np.random.Generator = env.np_random
        self._fatigue = Fatigue(env, horizon) if getattr(env, "f_load", None) else None
        if keep_fatigue and self._fatigue is None:
            msg = (
                f"{env_name} has no fatigue: expected keep_fatigue only with ids such as myoFatiElbowPose1D6MRandom-v0."
            )
            raise InvalidOptionError(msg)
        self._sims = list({id(sim): sim for sim in (env.sim_obsd, env.sim)}.values())
        self._views = [changeable_fields(sim.model.ptr) for sim in self._sims]
        self._built_fields = [{name: view.copy() for name, view in views.items()} for views in self._views]
        self._built_states = [self._read_simulator(sim) for sim in self._sims]
        self._built_attributes = {path: copy_value(value) for path, value in walk_attributes(env)}
        # What MuJoCo's state does not hold before the first step.
        self._last_control = copy.deepcopy(env.last_ctrl)
        self._changed_fields: tuple[str, ...] = ()
        self._changed_paths: tuple[Path, ...] = ()
        self._attributes: tuple[Attribute, ...] = ()
        self._draws = False
        self._observed: dict[str, int] = {}
        self._fields: tuple[str, ...] = ()
        self._measure()
        self._keep_fatigue = keep_fatigue
        self.sizes = {key: len(values) for key, values in self._read().items()}

    @property
    def task_parts(self) -> tuple[str, ...]:
        """Names of the parts of a checkpoint that the simulator does not hold: attributes, fatigue, generator."""
        return tuple(name for name in self.sizes if name not in ("integration", "observation", *self._fields))

    # --- resets ---

    def seed(self, seed: int | None) -> None:
        """Seed the generator that the environment, its robot and all parts of its task share."""
        seed_in_place(self._generator, seed)
        self._env.np_random = self._generator
        # The robot draws sensor noise from the generator with which it was built.
        self._env.robot.np_random = self._generator
        self._env.input_seed = seed

    def reset(self) -> Any:
        """Reset RoboHive's environment from the state of construction, and return its result."""
        self.restore()
        with seeded_numpy(read_generator(self._generator)):
            return self._env.reset()

    def restore(self) -> None:
        """Set everything that episodes change to its value after the construction; not the generator."""
        for sim, views, built, state in zip(
            self._sims, self._views, self._built_fields, self._built_states, strict=True
        ):
            for name in self._changed_fields:
                if not (self._keep_fatigue and name == "actuator_gainprm"):
                    views[name][...] = built[name]
            self._write_simulator(sim, state)
        for path in self._changed_paths:
            write_attribute(self._env, path, copy_value(self._built_attributes.get(path)))
        if self._fatigue and not self._keep_fatigue:
            self._fatigue.restore()
        self._env.last_ctrl = copy.deepcopy(self._last_control)

    # --- measurement ---

    def _measure(self) -> None:
        """Run some episodes, note what they change, and set everything back."""
        state = copy.deepcopy(self._generator.bit_generator.state)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            examples: dict[Path, Any] = {}
            for seed in range(_NUM_MEASURED_EPISODES):
                seed_in_place(self._generator, seed)
                self.reset()
                self._note_changes(examples)
                self._run_steps(seed)
                self._note_changes(examples)
            self._fields = self._checkpoint_fields()
            self._attributes = tuple(
                Attribute(path, examples[path], self._built_attributes.get(path) is None)
                for path in sorted(self._changed_paths, key=str)
                if path not in _NOT_IN_CHECKPOINTS and not self._is_recomputed(path)
            )
            if not self._is_observation_recomputed():
                self._observed = {key: np.size(value) for key, value in self._env.obs_dict.items()}
        self.restore()
        self._generator.bit_generator.state = state
        self._env.robot._sensor_cache_refresh()
        self._env.get_obs()
        self._generator.bit_generator.state = state

    def _run_steps(self, seed: int) -> None:
        actions = np.random.default_rng(seed)
        space = self._env.action_space
        for _ in range(_NUM_MEASURED_STEPS):
            before = read_generator(self._generator)
            self._env.step(actions.uniform(space.low, space.high).astype(np.float32))
            self._draws |= not np.array_equal(before, read_generator(self._generator))

    def _note_changes(self, examples: dict[Path, Any]) -> None:
        fields = {
            name
            for views, built in zip(self._views, self._built_fields, strict=True)
            for name, view in views.items()
            if not np.array_equal(view, built[name])
        }
        self._changed_fields = tuple(sorted({*self._changed_fields, *fields}))
        values = dict(walk_attributes(self._env))
        paths = {
            path
            for path in values.keys() | self._built_attributes.keys()
            if not is_equal(values.get(path), self._built_attributes.get(path))
        }
        self._changed_paths = tuple(sorted({*self._changed_paths, *paths}, key=str))
        examples |= {path: copy_value(values[path]) for path in self._changed_paths if path in values}

    def _is_recomputed(self, path: Path) -> bool:
        """Whether an observation computes an attribute again."""
        value = copy_value(read_attribute(self._env, path))
        built = copy_value(self._built_attributes.get(path))
        if is_equal(value, built):
            return False
        try:
            write_attribute(self._env, path, built)
            self._env.get_obs()
            return is_equal(value, read_attribute(self._env, path))
        except Exception:  # the task needs the attribute
            return False
        finally:
            write_attribute(self._env, path, value)

    def _is_observation_recomputed(self) -> bool:
        """Whether a restored state gives the observation again that a reset or a step returned.

        Some tasks observe contact forces of the step, counters from before its end, or random targets.
        """
        import mujoco

        if self._draws or (self._env.sim.model.ptr.sensor_needstage == mujoco.mjtStage.mjSTAGE_ACC).any():
            return False
        for seed in range(_NUM_MEASURED_EPISODES):
            seed_in_place(self._generator, seed)
            self.reset()
            if not self._gives_observation_again():
                return False
            self._run_steps(seed)
            if not self._gives_observation_again():
                return False
        return True

    def _gives_observation_again(self) -> bool:
        observed = copy.deepcopy(dict(self._env.obs_dict))
        parts = self._read()
        self._write(parts, self._decode(parts))
        return all(
            np.array_equal(np.ravel(value), np.ravel(self._env.obs_dict[key])) for key, value in observed.items()
        )

    def _checkpoint_fields(self) -> tuple[str, ...]:
        fields = RANDOMISED_FIELDS + (_SHAPE_FIELDS if getattr(self._env, "randomize", False) else ())
        return fields + tuple(name for name in self._changed_fields if name not in fields)

    # --- checkpoints ---

    def require_captured(self) -> None:
        """Check that a checkpoint contains everything that was changed since the construction.

        Raises:
            StateNotCapturedError: It would not.
        """
        if self._keep_fatigue:
            msg = (
                f"{self._env_name} keeps its fatigue over resets: a checkpoint cannot hold a history without an end. "
                "Build the environment without keep_fatigue."
            )
            raise StateNotCapturedError(msg)
        unknown = self._find_unknown_changes()
        if unknown:
            msg = (
                f"{self._env_name}: a checkpoint would lack {', '.join(unknown)}, which is not as it was "
                "built: expected changes only of what resets and steps of this task change."
            )
            raise StateNotCapturedError(msg)

    def read(self) -> dict[str, np.ndarray]:
        """Return a checkpoint: float64 vectors that own their memory.

        Raises:
            StateNotCapturedError: A value has another type or size than checkpoints have.
        """
        try:
            return self._read()
        except ValueError as error:
            msg = f"{self._env_name}: the state does not fit in a checkpoint: {error}."
            raise StateNotCapturedError(msg) from error

    def _find_unknown_changes(self) -> list[str]:
        """Return the model fields and task attributes that differ from the construction and were not measured."""
        fields = [
            name
            for name, view in self._views[-1].items()
            if name not in self._fields
            and not is_shown_only(name)
            and not np.array_equal(view, self._built_fields[-1][name])
        ]
        paths = [
            ".".join(map(str, path))
            for path, value in walk_attributes(self._env)
            if path not in self._changed_paths
            and path not in _NOT_IN_CHECKPOINTS
            and not is_equal(value, self._built_attributes.get(path))
        ]
        return fields + paths

    def _read(self) -> dict[str, np.ndarray]:
        views, goal = self._views[-1], getattr(self._env, "obj_goal", None)
        state = {"integration": self._read_simulator(self._env.sim)}
        state |= {name: views[name].astype(np.float64).reshape(-1) for name in self._fields}
        state |= {"obj_goal": goal.astype(np.float64).reshape(-1)} if isinstance(goal, np.ndarray) else {}
        state |= {each.name: each.encode(read_attribute(self._env, each.path)) for each in self._attributes}
        state |= {"fatigue": self._fatigue.read()} if self._fatigue else {}
        state |= {"generator": read_generator(self._generator)} if self._draws else {}
        if self._observed:
            state["observation"] = np.concatenate([np.ravel(self._env.obs_dict[key]) for key in self._observed])
        return state

    def write(self, state: Mapping[str, np.ndarray]) -> np.ndarray:
        """Restore a checkpoint of this or another instance, and return the observation.

        Raises:
            CheckpointMismatchError: The checkpoint belongs to another environment, or holds an impossible value.
        """
        parts = self._require_sizes(state)
        try:
            values = self._decode(parts)
        except ValueError as error:
            raise self._refuse(error) from error
        try:
            return self._write(parts, values)
        except Exception as error:  # MuJoCo and RoboHive raise anything for a state that no step leads to
            self.restore()
            raise self._refuse(error) from error

    def _refuse(self, error: Exception) -> CheckpointMismatchError:
        reason = " ".join(f"{error}".split())[:300]
        return CheckpointMismatchError(f"{self._env_name}: the state cannot be restored: {reason}.")

    def _write(self, parts: Mapping[str, np.ndarray], values: Mapping[Path, Any]) -> np.ndarray:
        env = self._env
        self._write_simulators(parts)
        self._write_task(parts, values)
        env.robot._sensor_cache_refresh()
        observation: np.ndarray = env.get_obs()
        if self._observed:
            # The observation may have drawn targets, which it writes into the model.
            self._write_simulators(parts)
            observation = self._write_observation(parts["observation"])
        # The observation counts, and solves the constraints again; the next step starts as the original's.
        self._write_task(parts, values)
        self._set_simulator(env.sim, parts["integration"])
        return observation

    def _write_simulators(self, parts: Mapping[str, np.ndarray]) -> None:
        for sim, views in zip(self._sims, self._views, strict=True):
            for name in self._fields:
                views[name][...] = parts[name].reshape(views[name].shape)
            self._write_simulator(sim, parts["integration"])

    def _write_observation(self, numbers: np.ndarray) -> np.ndarray:
        """Set RoboHive's observation dictionary, and return the observation."""
        observed = self._env.obs_dict
        for key, values in zip(
            self._observed, np.split(numbers, np.cumsum([*self._observed.values()])[:-1]), strict=True
        ):
            observed[key] = values.reshape(np.shape(observed[key])).astype(np.asarray(observed[key]).dtype)
        observation: np.ndarray = self._env.obsdict2obsvec(observed, self._env.obs_keys)[1]
        return observation

    def _require_sizes(self, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        expected = {key: (size,) for key, size in self.sizes.items()}
        shapes = {key: np.shape(state.get(key, 0.0)) for key in expected}
        if shapes != expected:
            wrong = [key for key in expected if shapes[key] != expected[key]]
            expected_text, actual_text = ({key: shape[key] for key in wrong} for shape in (expected, shapes))
            msg = f"{self._env_name}: expected a state with {expected_text}, got {actual_text}."
            raise CheckpointMismatchError(msg)
        return {key: np.array(state[key], np.float64) for key in expected}

    def _decode(self, parts: Mapping[str, np.ndarray]) -> dict[Path, Any]:
        """Return the values of the task's attributes.

        Raises:
            ValueError: A part holds an impossible value.
        """
        require_numbers("integration", parts["integration"])
        built = self._built_fields[-1]
        for name in self._fields:
            require_field(name, parts[name].reshape(built[name].shape), built[name])
        if "fatigue" in parts and self._fatigue:
            self._fatigue.require(parts["fatigue"])
        if "generator" in parts:
            require_generator(parts["generator"])
        for name in {"obj_goal", "observation"} & parts.keys():
            require_numbers(name, parts[name])
        return {each.path: each.decode(parts[each.name]) for each in self._attributes}

    def _write_task(self, parts: Mapping[str, np.ndarray], values: Mapping[Path, Any]) -> None:
        for path, value in values.items():
            write_attribute(self._env, path, copy_value(value))
        if "obj_goal" in parts:
            self._env.obj_goal = parts["obj_goal"].reshape(self._env.obj_goal.shape).copy()
        if "fatigue" in parts and self._fatigue:
            self._fatigue.write(parts["fatigue"])
        if "generator" in parts:
            write_generator(self._generator, parts["generator"])
        data = self._env.sim.data
        self._env.last_ctrl = np.array(data.ctrl) if data.time > 0 else copy.deepcopy(self._last_control)

    # --- MuJoCo ---

    def _read_simulator(self, sim: Any) -> np.ndarray:
        import mujoco

        spec = mujoco.mjtState.mjSTATE_INTEGRATION
        state = np.empty(mujoco.mj_stateSize(sim.model.ptr, spec))
        mujoco.mj_getState(sim.model.ptr, sim.data.ptr, state, spec)
        return state

    def _set_simulator(self, sim: Any, state: np.ndarray) -> None:
        import mujoco

        mujoco.mj_setState(sim.model.ptr, sim.data.ptr, state, mujoco.mjtState.mjSTATE_INTEGRATION)

    def _write_simulator(self, sim: Any, state: np.ndarray) -> None:
        self._set_simulator(sim, state)
        sim.forward()
