"""Reading the folders that trainings leave: configuration, learning curve and evaluations. They may come from anyone.

::

    <run>/checkpoint.json     algorithm, configuration, dataset, seed
          curve.json          [{"step": 100, "seconds": 3.1, "loss": 0.2, "eval/return": -40.1}, …]
          evaluations.json    [{"step": 100, "first_seed": 1000000, "returns": [-38.0, …], "successes": [true, …]}, …]
          training_state/     only before the training's end
    <run>/seed_<n>/           the same, for a training of several seeds
"""

import itertools
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhive._text import printable

#: The names are not imported from rlhive.policies, which loads torch for seconds.
CHECKPOINT_FILE = "checkpoint.json"
CURVE_FILE = "curve.json"
EVALUATIONS_FILE = "evaluations.json"
POLICY_FILE = "policy.pt"
#: A training that has not ended keeps it.
STATE_FOLDER = "training_state"
#: Hydra makes it when a job starts.
_HYDRA_FOLDER = ".hydra"

#: Metrics of a result, and their names in a learning curve, the first that is there.
METRICS = {
    "success": ("eval/success_rate", "success_rate"),
    "return": ("eval/return", "return"),
}

#: A curve of half a million rows is this large; what is larger was not written by a training.
_MAX_BYTES = 64 * 2**20
_MAX_TEXT = 200

#: Entries of a configuration that do not change what is learned.
_BOOKKEEPING = {"seed", "seeds", "num_seeds", "progress", "resume", "logger", "output_dir"}

#: Entries that the identity of the dataset replaces.
_DATASET_ENTRIES = {"dataset", "version"}


class _RunError(ValueError):
    """A folder that is no complete run; the message says why."""


@dataclass(frozen=True)
class RunEvaluation:
    """The episodes of one evaluation during a training.

    Attributes:
        step: Number of gradient steps before it.
        returns: Return of each episode.
        successes: Whether each episode was solved; None without a success signal.
    """

    step: int
    returns: tuple[float, ...]
    successes: tuple[bool, ...] | None


@dataclass(frozen=True)
class TrainingRun:
    """A finished training.

    Attributes:
        folder: Its folder.
        algorithm: Name of the algorithm.
        config: The flat configuration without seed and dataset: ``{"optim.lr": "0.001"}``, values as Hydra writes them.
        dataset: ``name@version`` with the first digits of the fingerprint; empty without a dataset.
        seed: Seed of the training.
        steps: Number of gradient steps.
        seconds: Wall time.
        curve: Name of a metric in METRICS → ``{step: value}``.
        evaluations: Evaluations with their episodes, in the order of the steps.
    """

    folder: Path
    algorithm: str
    config: Mapping[str, str]
    dataset: str
    seed: int
    steps: int
    seconds: float
    curve: Mapping[str, Mapping[int, float]]
    evaluations: tuple[RunEvaluation, ...]


@dataclass(frozen=True)
class SkippedFolder:
    """A folder that looks like a run and is none.

    Attributes:
        folder: The folder.
        reason: What is wrong with it, on one line of printable characters.
    """

    folder: Path
    reason: str


def find_runs(folder: Path) -> Iterator[TrainingRun | SkippedFolder]:
    """Yield the runs in a folder and below it, in the order of their names; links to folders are not followed."""
    for name, subfolders, files in os.walk(folder):
        parent = Path(name)
        is_started = _HYDRA_FOLDER in subfolders or {POLICY_FILE, CURVE_FILE, EVALUATIONS_FILE} & set(files)
        has_seeds = any((parent / subfolder / CHECKPOINT_FILE).is_file() for subfolder in subfolders)
        if STATE_FOLDER in subfolders:
            subfolders[:] = []
            yield SkippedFolder(parent, "unfinished: it holds the state from which resume=auto goes on")
        elif CHECKPOINT_FILE in files:
            subfolders[:] = []  # copies of the run's checkpoint, such as its best one
            yield _read_folder(parent)
        elif is_started and not has_seeds:  # the folder of several seeds holds a folder for each
            yield SkippedFolder(parent, f"incomplete: no {CHECKPOINT_FILE}, which a training writes at its end")
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))


def _read_folder(folder: Path) -> TrainingRun | SkippedFolder:
    try:
        return _read_run(folder)
    except RecursionError:
        return SkippedFolder(folder, f"{CHECKPOINT_FILE}: nested too deeply")
    except (ValueError, OSError) as error:
        return SkippedFolder(folder, printable(error)[:_MAX_TEXT])


def _read_run(folder: Path) -> TrainingRun:
    record = _load_json(folder / CHECKPOINT_FILE)
    if not isinstance(record, dict) or not isinstance(record.get("config"), dict):
        msg = f"{CHECKPOINT_FILE}: expected the record of a training with its config"
        raise _RunError(msg)
    algorithm = record.get("algorithm")
    if not isinstance(algorithm, str) or not algorithm:
        msg = f"{CHECKPOINT_FILE}: expected the name of an algorithm, got {_shorten(algorithm)}"
        raise _RunError(msg)
    if type(record.get("seed")) is not int or abs(record["seed"]) >= 2**64:
        msg = f"{CHECKPOINT_FILE}: expected a whole number as seed, got {_shorten(record.get('seed'))}"
        raise _RunError(msg)
    curve, last_row = _parse_curve(_load_json(folder / CURVE_FILE))
    path = folder / EVALUATIONS_FILE
    return TrainingRun(
        folder=folder,
        algorithm=printable(algorithm)[:_MAX_TEXT],
        config=_flatten_config(record["config"], has_dataset=isinstance(record.get("dataset"), dict)),
        dataset=_describe_dataset(record.get("dataset")),
        seed=record["seed"],
        steps=int(last_row["step"]),
        seconds=_parse_number(record.get("seconds", last_row.get("seconds", 0.0)), "seconds"),
        curve=curve,
        evaluations=_parse_evaluations(_load_json(path)) if path.exists() else (),
    )


def _load_json(path: Path) -> Any:
    if not path.is_file():
        msg = f"incomplete: no {path.name}"
        raise _RunError(msg)
    with path.open("rb") as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        msg = f"{path.name}: expected at most {_MAX_BYTES} bytes"
        raise _RunError(msg)
    try:
        return json.loads(content.decode("utf-8"))
    except RecursionError as error:
        msg = f"{path.name}: nested too deeply"
        raise _RunError(msg) from error
    except ValueError as error:  # no UTF-8, no JSON, or an integer of thousands of digits
        msg = f"{path.name}: expected JSON"
        raise _RunError(msg) from error


def _flatten_config(config: Mapping[str, Any], *, has_dataset: bool) -> dict[str, str]:
    """Return the entries that determine what is learned by dotted names, with values as on Hydra's command line."""
    flat: dict[str, str] = {}
    ignored = _BOOKKEEPING | {"algorithm"} | (_DATASET_ENTRIES if has_dataset else set())

    def add(prefix: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for name, entry in value.items():
                add(f"{prefix}.{name}", entry)
        else:
            flat[printable(prefix)[:_MAX_TEXT]] = _to_hydra(value)

    for name, value in config.items():
        if name not in ignored:
            add(name, value)
    return flat


def _to_hydra(value: Any) -> str:
    """Return a value as it would be typed on the command line, shortened."""
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    return printable(text)[:_MAX_TEXT]


def _describe_dataset(dataset: Any) -> str:
    """Return the name, version and first digits of the fingerprint of the dataset in a record."""
    if not isinstance(dataset, dict):
        return ""
    name, version, fingerprint = (dataset.get(key) for key in ("name", "version", "fingerprint"))
    if not isinstance(name, str) or not isinstance(version, str):
        msg = f"{CHECKPOINT_FILE}: expected name and version of the dataset, got {_shorten(dataset)}"
        raise _RunError(msg)
    digits = f" {fingerprint.removeprefix('sha256:')[:8]}" if isinstance(fingerprint, str) else ""
    return printable(f"{name[:_MAX_TEXT]}@{version[:40]}{digits}")


def _parse_curve(rows: Any) -> tuple[dict[str, dict[int, float]], Mapping[str, Any]]:
    """Return the values of METRICS by step, and the last row."""
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        msg = f"{CURVE_FILE}: expected a list of rows"
        raise _RunError(msg)
    curve: dict[str, dict[int, float]] = {}
    for row in rows:
        step = row.get("step")
        if type(step) is not int or not 0 <= step < 2**53:
            msg = f"{CURVE_FILE}: expected the number of gradient steps as step, got {_shorten(step)}"
            raise _RunError(msg)
        for name in itertools.chain.from_iterable(METRICS.values()):
            if row.get(name) is not None:
                curve.setdefault(name, {})[step] = _parse_number(row[name], f"{CURVE_FILE}: {name}")
    return curve, rows[-1]


def _parse_evaluations(rows: Any) -> tuple[RunEvaluation, ...]:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        msg = f"{EVALUATIONS_FILE}: expected a list of evaluations"
        raise _RunError(msg)
    evaluations = {}
    for row in rows:
        step, returns, successes = row.get("step"), row.get("returns"), row.get("successes")
        if type(step) is not int or not 0 <= step < 2**53 or not isinstance(returns, list) or not returns:
            msg = f"{EVALUATIONS_FILE}: expected a step and the returns of its episodes, got {_shorten(row)}"
            raise _RunError(msg)
        is_flags = isinstance(successes, list) and successes and all(isinstance(value, bool) for value in successes)
        if successes is not None and not is_flags:
            msg = f"{EVALUATIONS_FILE}: expected true or false for each episode, got {_shorten(successes)}"
            raise _RunError(msg)
        if successes is not None and len(successes) == len(returns) and isinstance(row.get("invalid"), list):
            successes = [*successes, *[False] * len(row["invalid"])]  # a diverged episode has no return
        numbers = tuple(_parse_number(value, f"{EVALUATIONS_FILE}: returns") for value in returns)
        evaluations[step] = RunEvaluation(step, numbers, None if successes is None else tuple(successes))
    return tuple(evaluations[step] for step in sorted(evaluations))


def _parse_number(value: Any, name: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 1e300:  # not NaN either
        return float(value)
    msg = f"{name}: expected a finite number, got {_shorten(value)}"
    raise _RunError(msg)


def _shorten(value: Any) -> str:
    return repr(value)[:60] if not isinstance(value, int) or math.log2(abs(value) + 1) < 100 else "a huge number"
