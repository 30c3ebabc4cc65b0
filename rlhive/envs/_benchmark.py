"""The tasks of the offline-RL benchmark, whose datasets are larger and more varied than those of the catalogue.

This file is data. A task ``bench_X`` is the task ``X`` with another recipe; :func:`rlhive.get_task` finds it.
docs/benchmark/protocol.md says what each split asks of an algorithm.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rlhive.envs._tasks import TASKS, Recipe, Task

if TYPE_CHECKING:
    from torchrl.envs import EnvBase

#: Level of a behaviour policy, which is also the split → number of episodes.
EPISODES = {"expert": 100, "medium": 200, "mixed": 300, "random": 200}

#: Tasks with one goal.
SINGLE_GOAL = (
    "reach",
    "push",
    "pick_place",
    "kitchen_knob1",
    "kitchen_knob3",
    "kitchen_light",
    "kitchen_sdoor_open",
    "kitchen_rdoor_close",
    "kitchen_micro_open",
    "kitchen_stove4_kettle",
    "franka_slide_open",
    "franka_micro_close",
)

#: Episodes of a task with several goals, which take ten times as long as those of one goal.
SEQUENCE_EPISODES = {"expert": 50, "medium": 100, "mixed": 150, "play": 150, "stitch": 150}

#: Tasks with several goals.
SEQUENCES = ("kitchen_sequence2", "kitchen_sequence4")


def build_mixed_policy(env: "EnvBase") -> Any:
    """Return the behaviour policy of the level "mixed"."""
    from rlhive.envs.experts import make_mixed_policy

    return make_mixed_policy(env)


def build_play_policy(env: "EnvBase") -> Any:
    """Return the behaviour policy of the level "play"."""
    from rlhive.envs.experts import make_play_policy

    return make_play_policy(env)


def build_stitch_policy(env: "EnvBase") -> Any:
    """Return the behaviour policy of the level "stitch"."""
    from rlhive.envs.experts import make_stitch_policy

    return make_stitch_policy(env)


def _benchmark_sequence_row(name: str) -> Task:
    recipe = Recipe(version="1.0.0", episodes=SEQUENCE_EPISODES, license="apache-2.0")
    policies = {"mixed": build_mixed_policy, "play": build_play_policy, "stitch": build_stitch_policy}
    return replace(TASKS[name], name=f"bench_{name}", recipe=recipe, policies=policies)


def _benchmark_row(name: str) -> Task:
    recipe = Recipe(version="1.0.0", episodes=EPISODES, license="apache-2.0")
    return replace(TASKS[name], name=f"bench_{name}", recipe=recipe, policies={"mixed": build_mixed_policy})


#: The tasks by name.
BENCHMARK = {task.name: task for task in (*map(_benchmark_row, SINGLE_GOAL), *map(_benchmark_sequence_row, SEQUENCES))}
