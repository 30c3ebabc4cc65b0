"""Rollouts: policies act in environments to collect a dataset, to be evaluated, or to verify a recorded one."""

from typing import TYPE_CHECKING

from rlhive._lazy import attach

if TYPE_CHECKING:
    from rlhive.rollouts._collect import collect as collect
    from rlhive.rollouts._evaluate import (
        Evaluation as Evaluation,
        compare as compare,
        evaluate as evaluate,
        mean_interval as mean_interval,
        task_of as task_of,
        wilson_interval as wilson_interval,
    )
    from rlhive.rollouts._rebuild import tasks_of as tasks_of
    from rlhive.rollouts._replay import check as check, replay as replay, replay_episode as replay_episode
    from rlhive.rollouts._rollout import (
        Episode as Episode,
        default_num_workers as default_num_workers,
        map_unordered as map_unordered,
        rollout_episode as rollout_episode,
        try_episode as try_episode,
    )
else:
    __getattr__, __dir__, __all__ = attach(__name__, __file__)
