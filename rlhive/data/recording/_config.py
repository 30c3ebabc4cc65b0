"""Settings of a recorder, the provenance of its run and the folder of its recording."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhive import _provenance
from rlhive.data import _store
from rlhive.data._episode_builder import ON_INCOMPLETE
from rlhive.data._schema import Schema
from rlhive.data._timing import require_fps
from rlhive.data._transition_batch import BOOKKEEPING
from rlhive.data.recording._writer import require_durability
from rlhive.errors import InvalidOptionError


@dataclass(frozen=True)
class RecorderConfig:
    """Settings that hold for every episode of a recorder; see :class:`Recorder`.

    Attributes:
        split: Default split of an episode.
        policy: Default name of the behaviour policy.
        schema: Schema that every episode must have; None for that of the first one.
        on_incomplete: What becomes of an episode without an end flag, ``"unfinished"`` or ``"truncated"``.
        drop: Names of keys that are left out.
        ragged: Names of columns whose rows have different lengths.
        durability: When episodes are flushed to the disk.
    """

    split: str = "train"
    policy: str = ""
    schema: Schema | None = None
    on_incomplete: str = "unfinished"
    drop: tuple[str, ...] = BOOKKEEPING
    ragged: tuple[str, ...] = ()
    durability: str = "episode"

    def __post_init__(self) -> None:
        if self.on_incomplete not in ON_INCOMPLETE:
            msg = f"on_incomplete: expected one of {', '.join(ON_INCOMPLETE)}, got {self.on_incomplete!r}."
            raise InvalidOptionError(msg)
        require_durability(self.durability)


def require_names(names: Sequence[str], option: str) -> tuple[str, ...]:
    """Return the names that an option takes.

    Raises:
        InvalidOptionError: It is one string, which would be iterated character by character.
    """
    if isinstance(names, str):
        msg = f"{option}={names!r}: expected a list of names, [{names!r}]"
        raise InvalidOptionError(msg)
    return tuple(names)


def run_provenance(
    env: Any, policy: Any, facts: Mapping[str, Any] | str | None, fps: float | None = None
) -> dict[str, Any]:
    """Return the provenance of a run that begins now.

    Args:
        env: Environment of the episodes.
        policy: Behaviour policy.
        facts: Further JSON-able entries, ``"provenance": "full"`` among them to record the machine as well; or only
            ``"full"``.
        fps: Rate of the steps in frames per second; None where it is not known.

    Raises:
        InvalidOptionError: ``fps`` is not a positive number.
    """
    if isinstance(facts, str):
        facts = {"provenance": facts}
    described: dict[str, Any] = {}
    if env is not None:
        described["env"] = _provenance.describe_env(env)
    if policy is not None:
        described["policy"] = _provenance.describe_policy(policy)
    if fps is not None:
        described["fps"] = require_fps(fps)
    return _provenance.describe_run(**{**described, **(facts or {})})


def policy_name(run: Mapping[str, Any]) -> str:
    """Return the name of the behaviour policy in the provenance of a run; empty without a policy."""
    return str(run.get("policy", {}).get("name", ""))


def recording_path(name: str | Path, run: str, store: Path | None) -> tuple[Path, str]:
    """Return the folder of a new recording and the name of the dataset that it is meant for.

    Args:
        name: Name of a dataset; or a folder: a Path, or a string that begins with ``/``, ``.`` or ``~``.
        run: Id of the run, the last part of the folder in the store.
        store: Folder of all datasets.

    Raises:
        InvalidNameError: The name of the dataset is not accepted.
    """
    path = _store.as_path(name)
    if path is not None:
        return path, ""
    namespace, bare_name = _store.parse_name(str(name))
    folder = (store or _store.store_dir()) / ".recordings" / namespace / bare_name / run
    return folder, f"{namespace}/{bare_name}"
