"""Algorithms, offline and online: one file each, one entry point, :mod:`rlhive.sim_algos.run`."""

from typing import Any

__all__ = ["TrainResult", "make_config", "train", "train_on_buffer"]


def __getattr__(name: str) -> Any:
    """Resolve the public names lazily: importing the package loads neither torch nor Hydra."""
    if name not in __all__:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from rlhive.sim_algos import config, training

    return getattr(config if name == "make_config" else training, name)
