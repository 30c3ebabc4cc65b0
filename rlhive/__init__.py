"""RLHive: offline robot learning with RoboHive.

::

    environment ─► collect ─► (replay buffer | recorder) ─► export ─► dataset version ─► Hugging Face Hub
                                                                            │
    evaluate ◄─ train ◄─ replay buffer ◄─ packed memmap cache ◄─────────────┘

The one line to remember::

    RoboHiveDataset("kitchen_knob1").as_replay_buffer()

The public names are listed in the ``TYPE_CHECKING`` block below, where editors and type checkers read them. Each is
imported when it is first used, so that ``import rlhive`` loads neither torch nor a simulator.
"""

from typing import TYPE_CHECKING

from rlhive._lazy import attach

__version__ = "0.1.0"

if TYPE_CHECKING:
    from rlhive.data.formats._convert import export_to as export_to, import_dataset as import_dataset
    from rlhive.data.recording._recorder import Recorder as Recorder
    from rlhive.data.replay._online import extend as extend
    from rlhive.data.versions._diff import diff as diff
    from rlhive.data.versions._export import export as export
    from rlhive.dataset._dataset import RoboHiveDataset as RoboHiveDataset
    from rlhive.dataset._lookup import delete as delete, pull as pull, versions as versions
    from rlhive.envs._install import setup as setup
    from rlhive.envs._make import make_env as make_env, make_policy as make_policy
    from rlhive.envs._robohive import RoboHiveEnv as RoboHiveEnv
    from rlhive.envs._tasks import Recipe as Recipe, Task as Task, get_task as get_task, register_task as register_task
    from rlhive.errors import RLHiveError as RLHiveError
    from rlhive.policies._checkpoint import load_policy as load_policy
    from rlhive.rollouts._collect import collect as collect
    from rlhive.rollouts._evaluate import Evaluation as Evaluation, compare as compare, evaluate as evaluate
    from rlhive.rollouts._replay import check as check, replay as replay
    from rlhive.sim_algos._config import make_config as make_config
    from rlhive.sim_algos._train import train as train, train_on_buffer as train_on_buffer
    from rlhive.sim_algos._trainer import TrainResult as TrainResult
else:
    __getattr__, __dir__, __all__ = attach(__name__, __file__)
