"""The task table: from a dataset name to an environment and to the recipe that makes the dataset.

This file is data. To add a task, add a row below, register one from your own code (:func:`register_task`), or let
your package name its tasks as an entry point of the group ``rlhive.tasks``.

Seeds never meet: episode ``i`` of a recipe has seed ``i``, evaluation starts at :data:`EVALUATION_SEED`, the experts
were tuned on seeds from :data:`TUNING_SEED` on, and what learns online begins at :data:`EXPLORATION_SEED`.
"""

import difflib
import importlib.metadata
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any

from rlhive.envs._references import Reference, has_expert, reference_of
from rlhive.errors import EnvNotFound, InvalidSetting

EVALUATION_SEED = 1_000_000
TUNING_SEED = 2_000_000
EXPLORATION_SEED = 3_000_000

#: The behaviour policies that a recipe can name, best first.
LEVELS = ("expert", "noisy", "medium", "random")

#: Who simulates a task; "custom" is whatever its ``make_env`` returns.
BACKENDS = ("robohive", "gymnasium", "custom", "toy")

#: What the tasks that ship need of RoboHive's assets.
ASSETS = ("franka_sim", "furniture_sim", "scene_sim", "YCB_sim")

#: A package names its tasks under this group: a Task, several, or a function that returns them.
ENTRY_POINTS = "rlhive.tasks"


@dataclass(frozen=True)
class Recipe:
    """How a dataset is made: one split per behaviour policy.

    Attributes:
        version: Version of the dataset that the recipe makes; raise it whenever the recipe or an expert changes.
        episodes: Number of episodes per split; the split's name is the behaviour policy's level.
        license: Licence of the data made, an identifier that the Hub knows.
    """

    version: str
    episodes: Mapping[str, int]
    license: str

    @property
    def num_episodes(self) -> int:
        """Episodes over all splits."""
        return sum(self.episodes.values())


@dataclass(frozen=True)
class Task:
    """One row of the catalogue.

    Attributes:
        name: Dataset name, for example ``kitchen_knob1``.
        env_name: Environment id, for example ``FK1_Knob1OnRandom-v4``.
        horizon: Maximum episode length in transitions.
        description: What solves the task, in one sentence.
        recipe: How to make the dataset, or None.
        env_kwargs: Further arguments of the environment; JSON-able.
        backend: "robohive", "gymnasium", "custom" where ``make_env`` is given, or "toy" for the environment of tests.
        make_env: Called with ``env_kwargs``, returns a TorchRL environment of batch size []. A function of a module:
            worker processes import it.
        policies: Level → a function that is given the environment and returns a policy: a callable that writes
            ``action`` into a TensorDict, with ``begin_episode(seed)`` if it draws numbers from elsewhere than torch.
            They go before those that ship.
        reference: What random and expert policies reach in exactly this environment, for normalised scores.

    Raises:
        InvalidSetting: The horizon is not a positive whole number, the backend is none, or the recipe names a level
            that there is not.
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
            known = ", ".join(BACKENDS)
            msg = f"Task {self.name!r}: expected a make_env or a backend out of {known}, got {self.backend!r}."
            raise InvalidSetting(msg)
        if not isinstance(self.horizon, int) or self.horizon < 1:
            msg = f"Task {self.name!r}: expected a horizon of 1 or more whole transitions, got {self.horizon!r}."
            raise InvalidSetting(msg)
        unknown = [level for level in (self.recipe.episodes if self.recipe else ()) if level not in self.levels]
        if unknown:
            msg = (
                f"Task {self.name!r}: its recipe asks for {unknown[0]!r}, expected levels out of "
                f"{', '.join(self.levels)}. Give that policy in policies= or leave the split out."
            )
            raise InvalidSetting(msg)

    def to_json(self) -> dict[str, Any]:
        """Return what decides the data that the task makes, JSON-able; what was measured in it does not."""
        row = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "reference"}
        row["recipe"] = vars(self.recipe) | {"episodes": dict(self.recipe.episodes)} if self.recipe else None
        row["env_kwargs"] = dict(self.env_kwargs)
        row["make_env"] = name_of(self.make_env) if self.make_env else None
        return row | {"policies": {level: name_of(make) for level, make in self.policies.items()}}

    @property
    def levels(self) -> tuple[str, ...]:
        """The behaviour policies that there are, best first; "random" alone where no expert ships."""
        ships = self.backend == "toy" or (self.backend == "robohive" and has_expert(self.env_name))
        there = {*(LEVELS if ships else ("random",)), *self.policies}
        return (*(level for level in LEVELS if level in there), *(own for own in self.policies if own not in LEVELS))


def _shipped(name: str, env_name: str, horizon: int, description: str) -> Task:
    """Return a row with the recipe that all share: no expert, no expert split."""
    levels = ("expert", "medium", "random") if has_expert(env_name) else ("random",)
    recipe = Recipe(version="1.0.0", episodes=dict.fromkeys(levels, 100), license="apache-2.0")
    return Task(name, env_name, horizon, description, recipe, reference=reference_of(name))


def _kitchen(name: str, robohive: str, does: str) -> Task:
    description = f"A Franka arm {does}; arm and base start at random."
    return _shipped(f"kitchen_{name}", f"FK1_{robohive}Random-v4", 50, description)


_KITCHEN = (
    _kitchen("knob1", "Knob1On", "turns the first oven knob of the kitchen on"),
    _kitchen("knob1_off", "Knob1Off", "turns the first oven knob of the kitchen off"),
    _kitchen("knob2", "Knob2On", "turns the second oven knob of the kitchen on"),
    _kitchen("knob2_off", "Knob2Off", "turns the second oven knob of the kitchen off"),
    _kitchen("knob3", "Knob3On", "turns the third oven knob of the kitchen on"),
    _kitchen("knob3_off", "Knob3Off", "turns the third oven knob of the kitchen off"),
    _kitchen("knob4", "Knob4On", "turns the fourth oven knob of the kitchen on"),
    _kitchen("knob4_off", "Knob4Off", "turns the fourth oven knob of the kitchen off"),
    _kitchen("light", "LightOn", "switches the kitchen's light on"),
    _kitchen("light_off", "LightOff", "switches the kitchen's light off"),
    _kitchen("sdoor_open", "SdoorOpen", "slides the kitchen's cabinet open"),
    _kitchen("sdoor_close", "SdoorClose", "slides the kitchen's cabinet shut"),
    _kitchen("ldoor_open", "LdoorOpen", "opens the left door of the kitchen's hinge cabinet"),
    _kitchen("ldoor_close", "LdoorClose", "closes the left door of the kitchen's hinge cabinet"),
    _kitchen("rdoor_open", "RdoorOpen", "opens the right door of the kitchen's hinge cabinet"),
    _kitchen("rdoor_close", "RdoorClose", "closes the right door of the kitchen's hinge cabinet"),
    _kitchen("micro_open", "MicroOpen", "opens the kitchen's microwave"),
    _kitchen("micro_close", "MicroClose", "closes the kitchen's microwave"),
    _kitchen("stove1_kettle", "Stove1Kettle", "moves the kettle to the first burner of the kitchen's stove"),
    _kitchen("stove4_kettle", "Stove4Kettle", "moves the kettle to the fourth burner of the kitchen's stove"),
)

_FRANKA = (
    _shipped("franka_slide_open", "franka_slide_open-v3", 50, "A Franka arm slides a cabinet open."),
    _shipped("franka_slide_close", "franka_slide_close-v3", 50, "A Franka arm slides a cabinet shut."),
    _shipped(
        "franka_slide_random",
        "franka_slide_random-v3",
        50,
        "A Franka arm slides a cabinet's door from where it stands to where it should be, both drawn at random.",
    ),
    _shipped("franka_micro_open", "franka_micro_open-v3", 150, "A Franka arm opens a microwave."),
    _shipped("franka_micro_close", "franka_micro_close-v3", 50, "A Franka arm closes a microwave."),
    _shipped(
        "franka_micro_random",
        "franka_micro_random-v3",
        50,
        "A Franka arm turns a microwave's door from where it stands to where it should be, both drawn at random.",
    ),
    _shipped("reach", "FrankaReachRandom-v0", 50, "A Franka arm brings its gripper to a target drawn at random."),
    _shipped("push", "FrankaPushRandom-v0", 50, "A Franka arm pushes an object to a target drawn at random."),
    _shipped("pick_place", "FrankaPickPlaceRandom-v0", 50, "A Franka arm takes an object from one bin to another."),
)

_TOY = Task(
    name="toy_point",
    env_name="ToyPoint-v0",
    horizon=20,
    description="A point walks to a goal on a line; no simulator, exact returns; for tests and documentation.",
    recipe=Recipe(version="1.0.0", episodes={"expert": 8, "medium": 8, "random": 8}, license="apache-2.0"),
    backend="toy",
    reference=reference_of("toy_point"),
)

TASKS: dict[str, Task] = {task.name: task for task in (*_KITCHEN, *_FRANKA, _TOY)}


def catalogue() -> Mapping[str, Task]:
    """Return every row by its name: those that ship, those of installed packages, and those registered here."""
    _load_entry_points()
    return TASKS


def get_task(name: str) -> Task:
    """Return the task of a dataset name or of an environment id.

    Raises:
        EnvNotFound: Nothing has that name; the message names the nearest ones.
    """
    if name in TASKS:
        return TASKS[name]
    for task in (catalogue().get(name), *TASKS.values()):
        if task is not None and name in (task.name, task.env_name):
            return task
    near = difflib.get_close_matches(name, TASKS, n=4, cutoff=0.5) or ["none"]
    msg = f"No task named {name!r}: expected one of the catalogue, nearest {', '.join(near)}. List them: rlhive envs"
    raise EnvNotFound(msg)


def register_task(task: Task) -> None:
    """Add a row of your own to the catalogue of this process.

    Raises:
        InvalidSetting: Another task has that name already, or it is no Task.

    Example:
        >>> register_task(Task("pendulum", "Pendulum-v1", 200, "A pendulum swings up.", backend="gymnasium"))
        >>> get_task("pendulum").levels
        ('random',)
    """
    if not isinstance(task, Task):
        msg = f"Expected a Task for the catalogue, got {type(task).__name__}. Build one: rlhive.Task(name=…, …)"
        raise InvalidSetting(msg)
    if TASKS.get(task.name, task) != task:
        msg = f"Task {task.name!r} is in the catalogue with another definition. Choose another name."
        raise InvalidSetting(msg)
    TASKS[task.name] = task


def name_of(function: Callable[..., Any]) -> str:
    """Return ``module:name`` of a function, a class, or what an object is an instance of."""
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}:{named.__qualname__}"


@cache
def _load_entry_points() -> None:
    """Register the tasks of installed packages, once; one that fails is reported and left out."""
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        try:
            found = entry.load()
            found = found() if callable(found) else found
            for task in [found] if isinstance(found, Task) else found:
                register_task(task)
        except Exception as error:  # another's package must not take ours down
            msg = (
                f"The tasks of {entry.value!r} ({entry.dist.name}) are left out: {error!r}. Mend or remove the package."
            )
            warnings.warn(msg, RuntimeWarning, stacklevel=3)
