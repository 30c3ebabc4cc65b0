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
    from rlhive.data.formats import export_to as export_to, import_dataset as import_dataset
    from rlhive.data.recording import Recorder as Recorder
    from rlhive.data.replay import extend as extend
    from rlhive.data.versions import diff as diff, export as export
    from rlhive.dataset import (
        RoboHiveDataset as RoboHiveDataset,
        delete as delete,
        embed as embed,
        mix as mix,
        pull as pull,
        release as release,
        versions as versions,
    )
    from rlhive.envs import (
        Recipe as Recipe,
        RoboHiveEnv as RoboHiveEnv,
        Task as Task,
        get_task as get_task,
        make_env as make_env,
        make_policy as make_policy,
        register_task as register_task,
        setup as setup,
    )
    from rlhive.errors import RLHiveError as RLHiveError
    from rlhive.policies import load_policy as load_policy
    from rlhive.rollouts import (
        Evaluation as Evaluation,
        check as check,
        collect as collect,
        compare as compare,
        evaluate as evaluate,
        replay as replay,
    )
    from rlhive.sim_algos import (
        TrainResult as TrainResult,
        make_config as make_config,
        train as train,
        train_on_buffer as train_on_buffer,
    )
else:
    __getattr__, __dir__, __all__ = attach(__name__, __file__)
