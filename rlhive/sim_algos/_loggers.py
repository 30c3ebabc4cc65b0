"""Experiment loggers: TorchRL's, one per seed, chosen by the section ``logger`` of a configuration."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torchrl.record.loggers.common import Logger
from torchrl.record.loggers.csv import CSVLogger
from torchrl.record.loggers.mlflow import MLFlowLogger
from torchrl.record.loggers.tensorboard import TensorboardLogger
from torchrl.record.loggers.wandb import WandbLogger

from rlhive.errors import InvalidOptionError, MissingExtraError

_FOLDER = "metrics"

#: Modules of the loggers that are not installed with RLHive.
_MODULES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}


def check_logger(settings: Mapping[str, Any] | None) -> None:
    """Raise unless the logger of a section ``logger`` exists and is installed.

    Raises:
        InvalidOptionError: No such logger.
        MissingExtraError: Its package is not installed.
    """
    if settings is None:
        return
    name = settings["name"]
    if name not in ("csv", *_MODULES):
        msg = f"logger.name: expected one of csv, {', '.join(_MODULES)}, got {name!r}"
        raise InvalidOptionError(msg)
    if name in _MODULES and importlib.util.find_spec(_MODULES[name]) is None:
        msg = f"logger={name} needs {_MODULES[name]}, which is not installed: pip install 'rlhive[{name}]'"
        raise MissingExtraError(msg)


class ExperimentLoggers:
    """The experiment loggers of the seeds of a training.

    Args:
        settings: Section ``logger``; None for none.
        folders: Folder of each seed's run.
        config: Configuration, logged as hyperparameters.
        curves: Learning curves of a training that goes on; the rows are logged again where the logger starts anew.
    """

    def __init__(
        self,
        settings: Mapping[str, Any] | None,
        folders: Sequence[Path],
        config: Mapping[str, Any],
        curves: Sequence[Sequence[Mapping[str, float]]],
    ) -> None:
        self._loggers = [] if settings is None else [_make_logger(settings, folder) for folder in folders]
        for logger in self._loggers:
            logger.log_hparams(_flatten_values(config))
        for index, curve in enumerate(curves if self._loggers else ()):
            for row in curve:
                self.log(index, row)

    def log(self, seed_index: int, row: Mapping[str, float]) -> None:
        """Log a row of a seed's learning curve under its ``step``."""
        if not self._loggers:
            return
        logger = self._loggers[seed_index]
        for name, value in row.items():
            if name != "step":
                logger.log_scalar(name, value, step=int(row["step"]))


def _make_logger(settings: Mapping[str, Any], folder: Path) -> Logger:
    name, log_dir = settings["name"], folder / _FOLDER
    if name == "csv":
        # A new folder: TorchRL's logger appends to files that exist.
        _remove_csv(log_dir)
        return CSVLogger(exp_name=_FOLDER, log_dir=str(folder))
    log_dir.mkdir(parents=True, exist_ok=True)
    if name == "tensorboard":
        return TensorboardLogger(exp_name=_FOLDER, log_dir=str(folder))
    if name == "wandb":
        options = {key: settings[key] for key in ("project", "entity", "group", "offline")}
        return WandbLogger(exp_name=folder.name, save_dir=str(log_dir), **options)
    uri = settings["tracking_uri"] or f"sqlite:///{(log_dir / 'mlflow.db').absolute()}"
    return MLFlowLogger(exp_name=settings["experiment"], tracking_uri=uri)


def _remove_csv(log_dir: Path) -> None:
    for path in log_dir.glob("scalars/*.csv"):
        path.unlink()


def _flatten_values(config: Mapping[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    """Return a configuration as dotted names and the values that every logger takes."""
    flat: dict[str, bool | int | float | str] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flatten_values(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value if isinstance(value, bool | int | float | str) else str(value)
    return flat
