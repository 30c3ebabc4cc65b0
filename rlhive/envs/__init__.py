"""Environments: the task catalogue, RoboHive as a TorchRL environment, rendering, and the simulation assets."""

from typing import TYPE_CHECKING

from rlhive._lazy import attach

if TYPE_CHECKING:
    from rlhive.envs._episode_camera import EpisodeCamera as EpisodeCamera, open_camera as open_camera
    from rlhive.envs._install import require_robohive as require_robohive, setup as setup
    from rlhive.envs._make import make_env as make_env, make_policy as make_policy
    from rlhive.envs._references import PolicyResult as PolicyResult, Reference as Reference
    from rlhive.envs._requirements import missing_requirements as missing_requirements
    from rlhive.envs._rewards import (
        DENSE as DENSE,
        SOLVED as SOLVED,
        SPARSE as SPARSE,
        reward_name as reward_name,
        reward_terms as reward_terms,
        reward_weights as reward_weights,
        weighted_reward as weighted_reward,
    )
    from rlhive.envs._robohive import ArrayStep as ArrayStep, RoboHiveEnv as RoboHiveEnv
    from rlhive.envs._subgoals import SubgoalTracker as SubgoalTracker
    from rlhive.envs._tasks import (
        EVALUATION_SEED as EVALUATION_SEED,
        EXPLORATION_SEED as EXPLORATION_SEED,
        LEVELS as LEVELS,
        Recipe as Recipe,
        Task as Task,
        catalogue as catalogue,
        get_task as get_task,
        register_task as register_task,
    )
    from rlhive.envs._toy import ToyEnv as ToyEnv
    from rlhive.envs._vector import RoboHiveVectorEnv as RoboHiveVectorEnv
else:
    __getattr__, __dir__, __all__ = attach(__name__, __file__)
