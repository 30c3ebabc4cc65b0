"""The task catalogue: dataset name → environment and the recipe that makes the dataset.

This file is data. To add a task, add a row below, call :func:`register_task`, or name the tasks of a package in an
entry point of the group ``rlhive.tasks``.

Seed ranges do not overlap: episode ``i`` of a recipe has seed ``i``, evaluation starts at :data:`EVALUATION_SEED`,
tuning of the experts at :data:`TUNING_SEED`, and online learning at :data:`EXPLORATION_SEED`.
"""

import difflib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any

from rlhive.envs._references import Reference, has_expert, read_reference
from rlhive.errors import EnvNotFoundError, InvalidOptionError

EVALUATION_SEED = 1_000_000
TUNING_SEED = 2_000_000
EXPLORATION_SEED = 3_000_000

#: Levels of the behaviour policies that RLHive provides, best first.
LEVELS = ("expert", "noisy", "medium", "random")

#: Simulation backends of a task; "custom" is the environment that the task's ``make_env`` returns.
BACKENDS = ("robohive", "gymnasium", "custom", "toy")

#: Asset folders that the built-in RoboHive tasks need, by the beginning of their environment ids; "" is any other id.
#: The package index has an older ``myo_sim``, without the legs, whose files do not fit.
ASSETS = {
    "myo": ("myo_sim/leg",),
    "rpFranka": ("franka_sim", "robotiq_sim"),
    "": ("franka_sim", "furniture_sim", "scene_sim", "YCB_sim"),
}

#: Entry point group of a package's tasks: a Task, an iterable of tasks, or a function that returns either.
ENTRY_POINTS = "rlhive.tasks"


@dataclass(frozen=True)
class Recipe:
    """How to make a dataset: one split per behaviour policy.

    Attributes:
        version: Version of the dataset. Raise it whenever the recipe or an expert changes.
        episodes: Level of the behaviour policy → number of episodes. The level is also the split's name.
        license: Licence of the dataset, as an identifier of the Hugging Face Hub.
    """

    version: str
    episodes: Mapping[str, int]
    license: str

    @property
    def num_episodes(self) -> int:
        """Number of episodes over all splits."""
        return sum(self.episodes.values())


@dataclass(frozen=True)
class Task:
    """One row of the catalogue.

    Attributes:
        name: Dataset name, for example ``kitchen_knob1``.
        env_name: Environment id, for example ``FK1_Knob1OnRandom-v4``.
        horizon: Maximum episode length in transitions.
        description: One sentence that says what solves the task.
        recipe: How to make the dataset; None if the task has no recipe.
        env_kwargs: Further arguments of the environment, JSON-able.
        backend: "robohive", "gymnasium", "toy" (for tests), or "custom", which a ``make_env`` implies.
        make_env: Function that takes ``env_kwargs`` and returns a TorchRL environment of batch size []. It must be a
            module-level function: worker processes import it.
        policies: Level → function that takes the environment and returns a policy: a callable that writes ``action``
            into a TensorDict. A policy that draws from another generator than torch's also needs
            ``begin_episode(seed)``; ``observe_reward(reward)``, if it has one, gets the reward of each action, and
            ``recording_phase()`` says which part of an episode is recorded (docs/tasks.md). These policies take
            precedence over RLHive's.
        reference: Measured returns of the random and the expert policy, for normalised scores.

    Raises:
        InvalidOptionError: The horizon is not a positive integer, the backend is unknown, or the recipe names a level
            without a policy.
    """

    name: str
    env_name: str
    horizon: int
    description: str
    recipe: Recipe | None = None
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    backend: str = "robohive"
    make_env: Callable[..., Any] | None = None
    policies: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    reference: Reference | None = None

    def __post_init__(self) -> None:
        if self.make_env is not None:
            object.__setattr__(self, "backend", "custom")
        if self.backend not in BACKENDS or (self.backend == "custom") != (self.make_env is not None):
            backends = ", ".join(BACKENDS)
            msg = f"Task {self.name!r}: expected a make_env or a backend out of {backends}, got {self.backend!r}."
            raise InvalidOptionError(msg)
        if not isinstance(self.horizon, int) or self.horizon < 1:
            msg = f"Task {self.name!r}: expected a horizon of 1 or more transitions, an integer, got {self.horizon!r}."
            raise InvalidOptionError(msg)
        unknown = [level for level in (self.recipe.episodes if self.recipe else ()) if level not in self.levels]
        if unknown:
            msg = (
                f"Task {self.name!r}: its recipe has a split {unknown[0]!r}, expected levels out of "
                f"{', '.join(self.levels)}. Pass that policy in policies= or leave the split out."
            )
            raise InvalidOptionError(msg)

    def with_pixels(
        self,
        *,
        cameras: Sequence[str] | None = None,
        image_size: tuple[int, int] = (84, 84),
        render_quality: str = "fast",
        obs_keys: Sequence[str] = (),
    ) -> "Task":
        """Return the task with pictures in its observations; the physics and the references stay the same.

        Collect its dataset under a name of its own: ``collect(task.with_pixels(), name="kitchen_knob1_pixels")``.

        Args:
            cameras: Names of the cameras; all cameras of the model by default.
            image_size: Height and width in pixels.
            render_quality: "robohive", "shadows" or "fast" (docs/visual.md).
            obs_keys: Entries of RoboHive's observation dictionary that are returned under their own names as well, for
                example "robot_jnt", which a policy may read beside the pictures.
        """
        added: dict[str, Any] = {"from_pixels": True, "image_size": list(image_size), "render_quality": render_quality}
        added |= {} if cameras is None else {"cameras": list(cameras)}
        added |= {"obs_keys": list(obs_keys)} if obs_keys else {}
        return replace(self, env_kwargs={**self.env_kwargs, **added})

    def to_json(self) -> dict[str, Any]:
        """Return the fields that determine the task's data, JSON-able; ``reference`` does not."""
        row = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "reference"}
        row["recipe"] = vars(self.recipe) | {"episodes": dict(self.recipe.episodes)} if self.recipe else None
        row["env_kwargs"] = dict(self.env_kwargs)
        row["make_env"] = qualified_name(self.make_env) if self.make_env else None
        return row | {"policies": {level: qualified_name(make) for level, make in self.policies.items()}}

    @property
    def levels(self) -> tuple[str, ...]:
        """Levels of the available behaviour policies, best first; only "random" for a task without an expert."""
        is_scripted = self.backend == "toy" or (self.backend == "robohive" and has_expert(self.env_name))
        available = {*(LEVELS if is_scripted else ("random",)), *self.policies}
        custom = (level for level in self.policies if level not in LEVELS)
        return (*(level for level in LEVELS if level in available), *custom)


def _task_row(name: str, env_name: str, horizon: int, description: str) -> Task:
    """Return a row with the default recipe, which has an expert and a medium split if an expert exists."""
    levels = ("expert", "medium", "random") if has_expert(env_name) else ("random",)
    recipe = Recipe(version="1.0.0", episodes=dict.fromkeys(levels, 100), license="apache-2.0")
    return Task(name, env_name, horizon, description, recipe, reference=read_reference(name))


def _kitchen_row(name: str, robohive_name: str, action: str) -> Task:
    description = f"A Franka arm {action}; arm and base start at random."
    return _task_row(f"kitchen_{name}", f"FK1_{robohive_name}Random-v4", 50, description)


_KITCHEN = (
    _kitchen_row("knob1", "Knob1On", "turns the first oven knob of the kitchen on"),
    _kitchen_row("knob1_off", "Knob1Off", "turns the first oven knob of the kitchen off"),
    _kitchen_row("knob2", "Knob2On", "turns the second oven knob of the kitchen on"),
    _kitchen_row("knob2_off", "Knob2Off", "turns the second oven knob of the kitchen off"),
    _kitchen_row("knob3", "Knob3On", "turns the third oven knob of the kitchen on"),
    _kitchen_row("knob3_off", "Knob3Off", "turns the third oven knob of the kitchen off"),
    _kitchen_row("knob4", "Knob4On", "turns the fourth oven knob of the kitchen on"),
    _kitchen_row("knob4_off", "Knob4Off", "turns the fourth oven knob of the kitchen off"),
    _kitchen_row("light", "LightOn", "switches the kitchen's light on"),
    _kitchen_row("light_off", "LightOff", "switches the kitchen's light off"),
    _kitchen_row("sdoor_open", "SdoorOpen", "slides the kitchen's cabinet open"),
    _kitchen_row("sdoor_close", "SdoorClose", "slides the kitchen's cabinet shut"),
    _kitchen_row("ldoor_open", "LdoorOpen", "opens the left door of the kitchen's hinge cabinet"),
    _kitchen_row("ldoor_close", "LdoorClose", "closes the left door of the kitchen's hinge cabinet"),
    _kitchen_row("rdoor_open", "RdoorOpen", "opens the right door of the kitchen's hinge cabinet"),
    _kitchen_row("rdoor_close", "RdoorClose", "closes the right door of the kitchen's hinge cabinet"),
    _kitchen_row("micro_open", "MicroOpen", "opens the kitchen's microwave"),
    _kitchen_row("micro_close", "MicroClose", "closes the kitchen's microwave"),
    _kitchen_row("stove1_kettle", "Stove1Kettle", "moves the kettle to the first burner of the kitchen's stove"),
    _kitchen_row("stove4_kettle", "Stove4Kettle", "moves the kettle to the fourth burner of the kitchen's stove"),
)

#: Value of a kitchen's joint at the goal of a single-goal task, by the task's environment.
_SKILL_GOALS = {
    "Knob1On": ("knob1_joint", -1.57),
    "Knob3On": ("knob3_joint", -1.57),
    "LightOn": ("lightswitch_joint", -0.7),
    "SdoorOpen": ("slidedoor_joint", 0.44),
}


def _sequence_row(name: str, horizon: int, skills: Sequence[str], action: str) -> Task:
    """Return a row of RoboHive's kitchen without a goal of its own, in which several objects are to be moved."""
    task = _task_row(name, "FK1_RelaxRandom-v4", horizon, f"A Franka arm {action}; arm and base start at random.")
    env_kwargs = {
        "obj_goal": dict(_SKILL_GOALS[skill] for skill in skills),
        # RoboHive's reward for the distance to one object would favour that object.
        "weighted_reward_keys": {"obj_goal": 1.0, "bonus": 0.5},
        "interact_site": "light_site",
        "max_episode_steps": horizon,
    }
    return replace(task, env_kwargs=env_kwargs)


_SEQUENCES = (
    _sequence_row(
        "kitchen_sequence2", 100, ("LightOn", "SdoorOpen"), "switches the kitchen's light on and slides a cabinet open"
    ),
    _sequence_row(
        "kitchen_sequence4",
        200,
        ("Knob1On", "Knob3On", "LightOn", "SdoorOpen"),
        "turns two oven knobs of the kitchen on, switches the light on and slides a cabinet open",
    ),
)

_FRANKA = (
    _task_row("franka_slide_open", "franka_slide_open-v3", 50, "A Franka arm slides a cabinet open."),
    _task_row("franka_slide_close", "franka_slide_close-v3", 50, "A Franka arm slides a cabinet shut."),
    _task_row(
        "franka_slide_random",
        "franka_slide_random-v3",
        50,
        "A Franka arm slides a cabinet's door from where it stands to where it should be, both drawn at random.",
    ),
    _task_row("franka_micro_open", "franka_micro_open-v3", 150, "A Franka arm opens a microwave."),
    _task_row("franka_micro_close", "franka_micro_close-v3", 50, "A Franka arm closes a microwave."),
    _task_row(
        "franka_micro_random",
        "franka_micro_random-v3",
        50,
        "A Franka arm turns a microwave's door from where it stands to where it should be, both drawn at random.",
    ),
    _task_row("reach", "FrankaReachRandom-v0", 50, "A Franka arm brings its gripper to a target drawn at random."),
    _task_row("push", "FrankaPushRandom-v0", 50, "A Franka arm pushes an object to a target drawn at random."),
    _task_row("pick_place", "FrankaPickPlaceRandom-v0", 50, "A Franka arm takes an object from one bin to another."),
)

_ROBOTIQ = (
    _task_row(
        "robotiq_pose",
        "rpFrankaRobotiqPoseRandom-v0",
        50,
        "A Franka arm with a Robotiq gripper takes a pose drawn at random.",
    ),
)

#: Their assets are in RoboHive's repositories only: ``rlhive setup --assets git``.
_MYO = (
    _task_row(
        "myo_elbow_pose",
        "myoElbowPose1D6MRandom-v0",
        100,
        "Six muscles bend an elbow to an angle drawn at random; it starts at a random angle.",
    ),
    _task_row(
        "myo_finger_pose", "myoFingerPoseRandom-v0", 100, "Five muscles bring a finger to a pose drawn at random."
    ),
    _task_row(
        "myo_hand_reach",
        "myoHandReachRandom-v0",
        100,
        "39 muscles bring the five fingertips of a hand to targets drawn at random.",
    ),
)

_TOY = Task(
    name="toy_point",
    env_name="ToyPoint-v0",
    horizon=20,
    description="A point walks to a goal on a line; no simulator, exact returns; for tests and documentation.",
    recipe=Recipe(version="1.0.0", episodes={"expert": 8, "medium": 8, "random": 8}, license="apache-2.0"),
    backend="toy",
    reference=read_reference("toy_point"),
)

TASKS: dict[str, Task] = {task.name: task for task in (*_KITCHEN, *_SEQUENCES, *_FRANKA, *_ROBOTIQ, *_MYO, _TOY)}


def catalogue() -> Mapping[str, Task]:
    """Return every task by name: built-in tasks, those of installed packages, and those registered in this process."""
    _load_entry_points()
    return TASKS


def get_task(name: str) -> Task:
    """Return the task of a dataset name or of an environment id; also those of the benchmark, named ``bench_*``.

    An id names the task with RoboHive's own arguments; one with ``env_kwargs`` is found by its name only.

    Raises:
        EnvNotFoundError: No task has that name or environment id. The message lists similar names.
    """
    if name in TASKS:
        return TASKS[name]
    from rlhive.envs._benchmark import BENCHMARK

    for task in (catalogue().get(name), BENCHMARK.get(name), *TASKS.values()):
        # An environment with arguments, such as goals, is not the one that its id alone names.
        if task is not None and (name == task.name or (name == task.env_name and not task.env_kwargs)):
            return task
    similar = difflib.get_close_matches(name, TASKS, n=4, cutoff=0.5) or ["none"]
    msg = f"No task named {name!r}: expected one of the catalogue, nearest {', '.join(similar)}. List them: rlhive envs"
    raise EnvNotFoundError(msg)


def register_task(task: Task) -> None:
    """Add a task to the catalogue of this process.

    Raises:
        InvalidOptionError: The argument is not a Task, or the catalogue has another task of that name.

    Example:
        >>> register_task(Task("pendulum", "Pendulum-v1", 200, "A pendulum swings up.", backend="gymnasium"))
        >>> get_task("pendulum").levels
        ('random',)
    """
    _require_task(task)
    if TASKS.get(task.name, task) != task:
        msg = f"Task {task.name!r} is in the catalogue with another definition. Choose another name."
        raise InvalidOptionError(msg)
    TASKS[task.name] = task


def _require_task(candidate: object) -> None:
    if not isinstance(candidate, Task):
        msg = f"Expected a Task for the catalogue, got {type(candidate).__name__}: rlhive.Task(name=…, …) builds one."
        raise InvalidOptionError(msg)


def qualified_name(function: Callable[..., Any]) -> str:
    """Return ``module:name`` of a function or a class; for any other object, that of its class."""
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}:{named.__qualname__}"


@cache
def _load_entry_points() -> None:
    """Register the tasks of installed packages, once per process; warn of an entry point that fails and skip it."""
    from importlib.metadata import entry_points  # slow to import, and --help and show need no plugin

    for entry in entry_points(group=ENTRY_POINTS):
        try:
            loaded = entry.load()
            tasks = loaded() if callable(loaded) else loaded
            for task in [tasks] if isinstance(tasks, Task) else tasks:
                register_task(task)
        except Exception as error:  # an error in another package must not disable the catalogue
            package = entry.dist.name if entry.dist else "unknown package"
            msg = f"The tasks of {entry.value!r} ({package}) are left out: {error!r}. Fix or remove the package."
            warnings.warn(msg, RuntimeWarning, stacklevel=3)
