"""The exceptions of RLHive.

A message says what failed and where, what was expected and what was got, and the next step where there is one. Each
class also inherits the builtin exception that fits, so that code which does not know RLHive can catch it.
"""

import warnings
from typing import TYPE_CHECKING

from rlhive._text import printable


class RLHiveError(Exception):
    """Base class: ``except RLHiveError`` catches every error that RLHive raises on purpose."""

    def __str__(self) -> str:
        # A message quotes what came from outside: a manifest, a file, an answer of the Hub.
        return printable(self.args[0], multiline=True) if self.args else self.__class__.__name__


class InvalidArgumentError(RLHiveError, ValueError):
    """A name, a licence or an option does not have an accepted value."""


class InvalidNameError(InvalidArgumentError):
    """The name of a dataset or a version number does not have the accepted form."""


class InvalidLicenseError(InvalidArgumentError):
    """A licence identifier does not have the accepted form."""


class InvalidOptionError(InvalidArgumentError):
    """An option, or a field of a task, does not have one of its accepted values."""


class UnsavedViewError(InvalidArgumentError):
    """A view was given where a version is needed."""


class DatasetNotFoundError(RLHiveError, FileNotFoundError):
    """No dataset of that name or version, locally, on the Hub or as a recipe."""


class DatasetExistsError(RLHiveError, FileExistsError):
    """A version or a recording of that name exists; it is not overwritten."""


class RecordingInUseError(RLHiveError, BlockingIOError):
    """Another process writes to the recording, or commits or discards it."""


class InvalidExpressionError(RLHiveError, ValueError):
    """A condition on the episode table cannot be parsed or evaluated."""


class WrongVersionError(RLHiveError, ValueError):
    """The version number does not fit what changed since the version before; the message gives the right number."""


class CorruptDatasetError(RLHiveError, OSError):
    """A file differs from what the manifest recorded, or the manifest is missing or damaged."""


class UnsupportedFormatError(RLHiveError, ValueError):
    """The format version, or another library's format, is not supported."""


class SchemaMismatchError(RLHiveError, ValueError):
    """Data do not have the keys, dtypes or shapes of the schema."""


class SplitNotFoundError(RLHiveError, LookupError):
    """The version has no split of that name."""


class EpisodesTooShortError(RLHiveError, ValueError):
    """No episode is as long as the requested slice."""


class StreamingOnlyError(RLHiveError, TypeError):
    """A dataset that was opened with ``streaming=True`` can only be iterated."""


class StoreNotWritableError(RLHiveError, PermissionError):
    """The dataset store or the cache cannot be written."""


class StoreAccessDeniedError(RLHiveError, PermissionError):
    """The credentials for an object store are missing, invalid or do not suffice."""


class StoreUnreachableError(RLHiveError, ConnectionError):
    """The object store does not answer or is too busy, or has no such bucket."""


class ClusterUnreachableError(RLHiveError, ConnectionError):
    """No Ray cluster answers at the address, or it cannot be used from here."""


class WorkerDiedError(RLHiveError, RuntimeError):
    """The worker processes that ran a job died again and again."""


class DiskFullError(RLHiveError, OSError):
    """The disk is full; what was committed before is intact."""


class CheckFailedError(RLHiveError, ValueError):
    """A version fails a check and is not published."""


class HubUnreachableError(RLHiveError, ConnectionError):
    """The Hub does not answer or is too busy, or HF_HUB_OFFLINE is set."""


class HubAccessDeniedError(RLHiveError, PermissionError):
    """The token is missing, invalid or lacks the permission, or the repository is gated."""


class HubConflictError(RLHiveError, RuntimeError):
    """The repository changed during the push; nothing was overwritten."""


class HubRefusedError(RLHiveError, OSError):
    """The Hub refused the request for another reason, which the message quotes."""


class EnvNotFoundError(RLHiveError, LookupError):
    """No environment or task of that name."""


class EnvClosedError(RLHiveError, RuntimeError):
    """The environment is closed."""


class RoboHiveMissingError(RLHiveError, ImportError):
    """RoboHive or its simulation assets are not installed."""


class RenderingUnavailableError(RLHiveError, RuntimeError):
    """OpenGL is not installed, cannot render on this machine, or was inherited by a fork."""


class AssetsCorruptError(RLHiveError, OSError):
    """Simulation assets do not have the recorded hash."""


class SetupFailedError(RLHiveError, OSError):
    """``rlhive setup`` could not download or write what it needs; nothing half-written is left."""


class InvalidActionError(RLHiveError, ValueError):
    """An action holds a NaN or lies outside the action space."""


class SimulationDivergedError(RLHiveError, RuntimeError):
    """The simulation became unstable; the episode is invalid.

    Attributes:
        step: Number of the step in which it became unstable, from 1; 0 if unknown.
    """

    def __init__(self, message: str, step: int = 0) -> None:
        super().__init__(message, step)
        self.step = step


class RewardUnavailableError(RLHiveError, ValueError):
    """A reward cannot be recomputed from the stored observations."""


class ReplayRefusedError(RLHiveError, ValueError):
    """A manifest names an environment or an argument that manifests may not use."""


class MissingExtraError(RLHiveError, ImportError):
    """An optional dependency is not installed."""


class CheckpointMismatchError(RLHiveError, ValueError):
    """A checkpoint does not fit the environment or is not one of RLHive's."""


class StateNotCapturedError(RLHiveError, RuntimeError):
    """An environment holds state that a checkpoint of it cannot contain."""


class TrainingDivergedError(RLHiveError, ArithmeticError):
    """A loss became NaN or infinite; no checkpoint was written."""


#: Old names, without the suffix, and the classes that they name. They go away in 0.2.
_OLD_NAMES = {
    "AssetsCorrupt": AssetsCorruptError,
    "CheckFailed": CheckFailedError,
    "CheckpointMismatch": CheckpointMismatchError,
    "CorruptDataset": CorruptDatasetError,
    "DatasetExists": DatasetExistsError,
    "DatasetNotFound": DatasetNotFoundError,
    "DiskFull": DiskFullError,
    "EnvClosed": EnvClosedError,
    "EnvNotFound": EnvNotFoundError,
    "EpisodesTooShort": EpisodesTooShortError,
    "HubAccessDenied": HubAccessDeniedError,
    "HubConflict": HubConflictError,
    "HubRefused": HubRefusedError,
    "HubUnreachable": HubUnreachableError,
    "InvalidAction": InvalidActionError,
    "InvalidExpression": InvalidExpressionError,
    "InvalidName": InvalidArgumentError,  # which was also raised for licences and options
    "InvalidSetting": InvalidOptionError,
    "MissingExtra": MissingExtraError,
    "RecordingInUse": RecordingInUseError,
    "RenderingUnavailable": RenderingUnavailableError,
    "ReplayRefused": ReplayRefusedError,
    "RewardUnavailable": RewardUnavailableError,
    "RoboHiveMissing": RoboHiveMissingError,
    "SchemaMismatch": SchemaMismatchError,
    "SetupFailed": SetupFailedError,
    "SimulationDiverged": SimulationDivergedError,
    "SplitNotFound": SplitNotFoundError,
    "StoreNotWritable": StoreNotWritableError,
    "StreamingOnly": StreamingOnlyError,
    "TrainingDiverged": TrainingDivergedError,
    "UnsupportedFormat": UnsupportedFormatError,
    "WrongVersion": WrongVersionError,
}


if not TYPE_CHECKING:  # a type checker reports the old names

    def __getattr__(name: str) -> type[RLHiveError]:
        if name not in _OLD_NAMES:
            msg = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(msg)
        new_name = _OLD_NAMES[name].__name__
        warnings.warn(f"{__name__}.{name} is renamed {new_name}; the old name goes away in 0.2.", DeprecationWarning, 2)
        return _OLD_NAMES[name]
