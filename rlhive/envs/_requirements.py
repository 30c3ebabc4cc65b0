"""What a task's environment needs and this machine lacks; loads neither torch nor RoboHive."""

import importlib.util

from rlhive.envs._tasks import ASSETS, Task
from rlhive.errors import RoboHiveMissingError


def missing_requirements(task: Task) -> str:
    """Return a sentence that names what a task's environment needs and this machine lacks; empty if nothing is missing.

    The check costs a few file look-ups and builds no environment.
    """
    if task.backend == "robohive":
        from rlhive.envs._install import require_robohive

        try:
            require_robohive(next(ASSETS[start] for start in ASSETS if task.env_name.startswith(start)))
        except RoboHiveMissingError as error:
            return str(error)
    if task.backend == "gymnasium" and importlib.util.find_spec("gymnasium") is None:
        return "gymnasium is not installed. Type: pip install 'rlhive[robohive]'"
    return ""
