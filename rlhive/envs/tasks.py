"""The task table: from a dataset name to an environment and to the recipe that makes the dataset.

This file is data. To add a task, add a row to :data:`TASKS` (or call :func:`register_task` from your own code).

Seeds never meet: episode ``i`` of a recipe has seed ``i``, evaluation starts at :data:`EVALUATION_SEED`, and the
experts were tuned on seeds from :data:`TUNING_SEED` on.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rlhive.errors import EnvNotFound

EVALUATION_SEED = 1_000_000
TUNING_SEED = 2_000_000

#: The behaviour policies that a recipe can name, best first.
LEVELS = ("expert", "medium", "random")


@dataclass(frozen=True)
class Recipe:
    """How a dataset is made: one split per behaviour policy.

    Attributes:
        version: Version of the dataset that the recipe makes; raise it whenever the recipe or an expert changes.
        episodes: Number of episodes per split; the split's name is the behaviour policy's (one of LEVELS).
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
        recipe: How to make the dataset, or None where no expert ships.
        env_kwargs: Further arguments of the environment; JSON-able.
        backend: "robohive", or "toy" for the environment of tests and documentation.
    """

    name: str
    env_name: str
    horizon: int
    description: str
    recipe: Recipe | None = None
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    backend: str = "robohive"


_ROWS = (
    Task(
        name="kitchen_knob1",
        env_name="FK1_Knob1OnRandom-v4",
        horizon=50,
        description="A Franka arm turns the first oven knob of the kitchen on; arm and base start at random.",
        recipe=Recipe(version="1.0.0", episodes={"expert": 100, "medium": 100, "random": 100}, license="apache-2.0"),
    ),
    Task(
        name="toy_point",
        env_name="ToyPoint-v0",
        horizon=20,
        description="A point walks to a goal on a line; no simulator, exact returns; for tests and documentation.",
        recipe=Recipe(version="1.0.0", episodes={"expert": 8, "medium": 8, "random": 8}, license="apache-2.0"),
        backend="toy",
    ),
)

TASKS: dict[str, Task] = {task.name: task for task in _ROWS}


def get_task(name: str) -> Task:
    """Return the task of a dataset name or of an environment id.

    Raises:
        EnvNotFound: Nothing has that name; the message names the nearest ones.
    """
    if name in TASKS:
        return TASKS[name]
    for task in TASKS.values():
        if task.env_name == name:
            return task
    near = difflib.get_close_matches(name, TASKS, n=3, cutoff=0.5) or sorted(TASKS)
    msg = f"No task named {name!r}: expected one of the catalogue, nearest {', '.join(near)}. List them: rlhive envs"
    raise EnvNotFound(msg)


def register_task(task: Task) -> None:
    """Add a row of your own to the catalogue of this process.

    Raises:
        ValueError: Another task has that name already.
    """
    if TASKS.get(task.name, task) != task:
        msg = f"Task {task.name!r} is in the catalogue with another definition. Choose another name."
        raise ValueError(msg)
    TASKS[task.name] = task
