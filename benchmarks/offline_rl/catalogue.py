"""What is compared: datasets and algorithms. A cell is one algorithm on one split of one task.

This file is data. Splits are selections from the versions that the catalogue's recipes make, so that a cell names its
episodes by a text. Hyperparameters are an algorithm's own defaults and the overrides below, the same on every task.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rlhive.envs._benchmark import SEQUENCES, SINGLE_GOAL

#: Gradient steps of every training, and its seeds.
NUM_STEPS = 5000
SEEDS = (0, 1, 2, 3, 4)

#: Episodes of every evaluation, on the seeds of `rlhive evaluate`, which no recipe and no tuning uses.
NUM_EPISODES = 50

#: Tasks of the table; ``bench_X`` are their datasets.
TASKS = (*SINGLE_GOAL, *SEQUENCES)

#: Goal-conditioned sets: tasks of one environment, learned by one policy that reads the goal in the observation, and
#: evaluated on each. The data of the tasks are mixed with equal weights.
GOAL_SETS: Mapping[str, tuple[str, ...]] = {
    "kitchen_goals": ("kitchen_knob1", "kitchen_knob3", "kitchen_light", "kitchen_sdoor_open", "kitchen_micro_open"),
}

#: Tasks on whose data hyperparameters were chosen (docs/benchmark/protocol.md).
TUNED = ("reach", "kitchen_knob1")

#: Name of a split → overrides that select its episodes.
SPLITS: Mapping[str, tuple[str, ...]] = {
    "medium": ("split=medium",),
    "medium-expert": ("split=expert+medium",),
    # Of 100 experts, 200 medium, 300 mixed and 200 random episodes.
    "few-expert": ("split=expert+random", "where='episode < 10 or (episode >= 600 and episode < 790)'"),
    "mixed": ("split=mixed",),
    "play": ("split=play",),
    "stitch": ("split=stitch",),
    # Of a dataset of its own, bench_X_replay, which a learner recorded (docs/benchmark/protocol.md).
    "replay": ("split=replay",),
}

#: Splits that one kind of task alone has.
SINGLE_GOAL_SPLITS = ("few-expert",)
SEQUENCE_SPLITS = ("play", "stitch")

#: Tasks of which a learner's replay buffer was recorded.
REPLAYED = ("reach",)

#: Algorithm of a table → `+model=` and overrides.
ALGORITHMS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "bc": ("bc", ()),
    "filtered_bc": ("bc", ("best_share=0.1",)),
    "rebrac": ("rebrac", ()),
    "iql": ("iql", ()),
    "fql": ("fql", ()),
    "flow_bc": ("flow_bc", ()),
    "td3_bc": ("td3_bc", ()),
    "cql": ("cql", ()),
    "dt": ("dt", ()),
}

#: The table, version 1: split → its tasks, and the algorithms. `make results` runs these cells; others are run by name.
TABLE: Mapping[str, tuple[str, ...]] = {
    "mixed": (*SINGLE_GOAL, *GOAL_SETS),
    "medium": ("reach", "push", "pick_place", "kitchen_knob1", "kitchen_light", "kitchen_sdoor_open"),
    "play": SEQUENCES,
    "stitch": SEQUENCES,
    "replay": REPLAYED,
}
TABLE_ALGORITHMS = ("bc", "filtered_bc", "rebrac", "iql", "fql", "flow_bc")


@dataclass(frozen=True)
class Cell:
    """One algorithm on one split of one task.

    Attributes:
        task: Task of the catalogue, or name in :data:`GOAL_SETS`.
        split: Name in :data:`SPLITS`.
        algorithm: Name in :data:`ALGORITHMS`.
    """

    task: str
    split: str
    algorithm: str

    @property
    def name(self) -> str:
        """Name of the cell's file."""
        return f"{self.task}-{self.split}-{self.algorithm}"

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks in which the policies are evaluated, in the benchmark's own names."""
        names = GOAL_SETS.get(self.task, (self.task,))
        return tuple(f"bench_{name}" if name in TASKS else name for name in names)

    @property
    def datasets(self) -> tuple[str, ...]:
        """Datasets that are learned from, one per task."""
        return tuple(f"{name}_replay" for name in self.tasks) if self.split == "replay" else self.tasks

    @property
    def overrides(self) -> list[str]:
        """Overrides of the training."""
        model_overrides = ALGORITHMS[self.algorithm][1]
        return [*SPLITS[self.split], f"train.num_steps={NUM_STEPS}", *model_overrides]


def list_cells(
    tasks: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
    algorithms: Sequence[str] = TABLE_ALGORITHMS,
) -> Iterator[Cell]:
    """Yield cells, algorithm by algorithm within a task and split.

    Args:
        tasks: Tasks; None for those of the table.
        splits: Splits; None for those of the table. If tasks and splits are named, a task's missing splits are left
            out; if one of them is not, the cells are those of the table.
        algorithms: Algorithms.
    """
    if tasks is None or splits is None:
        rows = [
            (task, split)
            for split, split_tasks in TABLE.items()
            for task in split_tasks
            if (tasks is None or task in tasks) and (splits is None or split in splits)
        ]
    else:
        rows = [(task, split) for task in tasks for split in splits if split not in _absent_splits(task)]
    for task, split in rows:
        for algorithm in algorithms:
            yield Cell(task, split, algorithm)


def _absent_splits(task: str) -> tuple[str, ...]:
    absent = SINGLE_GOAL_SPLITS if task in SEQUENCES else SEQUENCE_SPLITS
    return absent if task in REPLAYED else (*absent, "replay")
