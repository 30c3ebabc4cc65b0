"""Every exception that RLHive raises on purpose.

A message says what failed and where, "expected X, got Y", and one next step. Each class also inherits the
builtin that a stranger would catch.
"""


class RLHiveError(Exception):
    """Base of all of them: ``except RLHiveError`` catches what RLHive foresaw."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else self.__class__.__name__


class InvalidName(RLHiveError, ValueError):
    """A dataset name or a version number is not of the accepted form."""


class InvalidLicenseError(InvalidName):
    """A licence identifier does not have the accepted form.

    A subclass of InvalidName, so that ``except InvalidName`` catches it.
    """


class InvalidOptionError(InvalidName):
    """An option does not have one of its accepted values.

    A subclass of InvalidName, so that ``except InvalidName`` catches it.
    """


class UnsavedViewError(InvalidName):
    """A view was given where a version is needed.

    A subclass of InvalidName, so that ``except InvalidName`` catches it.
    """


class DatasetNotFound(RLHiveError, FileNotFoundError):
    """No dataset of that name or version, locally, on the Hub or as a recipe."""


class DatasetExists(RLHiveError, FileExistsError):
    """A version is never overwritten."""


class RecordingInUse(RLHiveError, BlockingIOError):
    """A live process holds the recording."""


class InvalidExpression(RLHiveError, ValueError):
    """A condition on the episode table cannot be parsed or computed."""


class WrongVersion(RLHiveError, ValueError):
    """The number does not say what changed since the version before it; the message names the right one."""


class CorruptDataset(RLHiveError, OSError):
    """A file's content is not what the manifest recorded, or there is no manifest."""


class UnsupportedFormat(RLHiveError, ValueError):
    """The manifest asks for a layout that this RLHive does not read."""


class SchemaMismatch(RLHiveError, ValueError):
    """Data do not have the keys, dtypes or shapes that the schema promises."""


class SplitNotFound(RLHiveError, LookupError):
    """The version has no split of that name."""


class EpisodesTooShort(RLHiveError, ValueError):
    """No episode holds a window of the length that was asked for."""


class StreamingOnly(RLHiveError, TypeError):
    """A dataset that was opened for streaming has no files for this view."""


class StoreNotWritable(RLHiveError, PermissionError):
    """The dataset store or the cache cannot be written."""


class DiskFull(RLHiveError, OSError):
    """No space was left; what had been committed before is intact."""


class CheckFailed(RLHiveError, ValueError):
    """A version's content fails a check, so it is not published."""


class HubUnreachable(RLHiveError, ConnectionError):
    """The Hub does not answer, is too busy, or HF_HUB_OFFLINE forbids asking it."""


class HubAccessDenied(RLHiveError, PermissionError):
    """The token is missing, not valid, or may not do this; or the repository is gated."""


class HubConflict(RLHiveError, RuntimeError):
    """Somebody else changed the repository meanwhile; nothing was overwritten."""


class HubRefused(RLHiveError, OSError):
    """The Hub refused for another reason, which the message quotes."""


class EnvNotFound(RLHiveError, LookupError):
    """No environment or task of that name."""


class EnvClosed(RLHiveError, RuntimeError):
    """The environment was closed before."""


class InvalidSetting(RLHiveError, ValueError):
    """An argument of an environment, or a row of the catalogue, that cannot be."""


class RoboHiveMissing(RLHiveError, ImportError):
    """RoboHive or its simulation assets are not installed."""


class RenderingUnavailable(RLHiveError, RuntimeError):
    """OpenGL is not installed, cannot draw here, or was inherited by a fork."""


class AssetsCorrupt(RLHiveError, OSError):
    """Simulation assets do not have the recorded hash."""


class SetupFailed(RLHiveError, OSError):
    """`rlhive setup` could not get or write what it needs; nothing half-written is left."""


class InvalidAction(RLHiveError, ValueError):
    """An action holds a NaN or lies outside the action space."""


class SimulationDiverged(RLHiveError, RuntimeError):
    """The physics blew up; the episode is not valid.

    Attributes:
        step: In which step of the episode, from 1 on; 0 where nobody counted.
    """

    def __init__(self, message: str, step: int = 0) -> None:
        super().__init__(message, step)
        self.step = step


class RewardUnavailable(RLHiveError, ValueError):
    """A reward cannot be recomputed: it needs what the stored observations do not hold."""


class ReplayRefused(RLHiveError, ValueError):
    """A manifest asks for an environment that it may not ask for."""


class MissingExtra(RLHiveError, ImportError):
    """An optional dependency is not installed."""


class CheckpointMismatch(RLHiveError, ValueError):
    """A checkpoint does not fit the environment or is not one of RLHive's."""


class TrainingDiverged(RLHiveError, ArithmeticError):
    """A loss became NaN or infinite; no checkpoint was written."""
