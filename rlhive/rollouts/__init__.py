"""Rollouts: policies act in environments, to collect a dataset or to be evaluated, and recorded episodes are verified.

``collect`` records the episodes of a recipe, ``evaluate`` and ``compare`` measure policies on held-out seeds, ``check``
and ``replay`` verify a version against its environment. Replay buffers are in :mod:`rlhive.data.replay`.
"""

from typing import TYPE_CHECKING

from rlhive._lazy import attach

if TYPE_CHECKING:
    from rlhive.rollouts._collect import collect as collect
    from rlhive.rollouts._evaluate import (
        Evaluation as Evaluation,
        compare as compare,
        evaluate as evaluate,
        mean_interval as mean_interval,
        resolve_task as resolve_task,
        wilson_interval as wilson_interval,
    )
    from rlhive.rollouts._rebuild import build_recorded_env as build_recorded_env, tasks_by_run as tasks_by_run
    from rlhive.rollouts._replay import (
        check as check,
        replay as replay,
        replay_episode as replay_episode,
        step_recorded_actions as step_recorded_actions,
    )
    from rlhive.rollouts._rerender import (
        RenderRequest as RenderRequest,
        find_rendered as find_rendered,
        probe_rendering as probe_rendering,
        render_episodes as render_episodes,
    )
    from rlhive.rollouts._rollout import (
        DivergedRollout as DivergedRollout,
        Rollout as Rollout,
        default_num_workers as default_num_workers,
        map_unordered as map_unordered,
        rollout_episode as rollout_episode,
        try_rollout as try_rollout,
    )
else:
    __getattr__, __dir__, __all__ = attach(__name__, __file__)
