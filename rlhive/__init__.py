"""RLHive: offline robot learning with RoboHive.

::

    envs.robohive ─► collect ─► (replay buffer | recorder) ─► data.export ─► dataset version ─► data.hub
                                                                                  │
    evaluate ◄─ sim_algos ◄─ data.buffer ◄─ packed memmap cache ◄─ data.load ◄────┘

The one line to remember::

    RoboHiveDataset("kitchen_knob1").as_replay_buffer()

The names below are resolved when first used, so that ``import rlhive`` loads neither torch nor a simulator.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "RoboHiveDataset": "rlhive.dataset",
    "Recorder": "rlhive.data.record",
    "RoboHiveEnv": "rlhive.envs.robohive",
    "make_env": "rlhive.envs.make",
    "make_policy": "rlhive.envs.make",
    "Recipe": "rlhive.envs.tasks",
    "Task": "rlhive.envs.tasks",
    "get_task": "rlhive.envs.tasks",
    "register_task": "rlhive.envs.tasks",
    "RLHiveError": "rlhive.errors",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        msg = f"module 'rlhive' has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
