"""What a view holds, as text and as JSON: read from the manifest and the episode table, without torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from rlhive import keys
from rlhive._text import printable
from rlhive.data import REWARD, Field, Schema, find_unrecorded, sum_exactly
from rlhive.data.versions import Manifest
from rlhive.dataset._view import DatasetView
from rlhive.envs import get_task
from rlhive.errors import EnvNotFoundError


@dataclass(frozen=True)
class SplitSummary:
    """The episodes of one split in numbers.

    Attributes:
        split: Name of the split.
        num_episodes: Number of episodes.
        num_transitions: Number of transitions.
        success_rate: Share of the episodes whose success was recorded that were solved; None if none was recorded.
        returns: Mean, smallest and largest return; None if no return was recorded.
        lengths: Mean, smallest and largest number of transitions; None without episodes.
    """

    split: str
    num_episodes: int
    num_transitions: int
    success_rate: float | None
    returns: tuple[float, float, float] | None
    lengths: tuple[float, float, float] | None


def format_view(view: DatasetView) -> str:
    """Return name, splits, columns and location of a view as lines of text."""
    manifest = view.manifest
    splits = [
        f"{split}: {count['num_episodes']:,} episodes, {count['num_transitions']:,} transitions"
        for split, count in view.count().items()
    ]
    fields = [
        f"{field.column}: {field.dtype} {list(field.shape)}{_name_storage(field, manifest)}"
        for field in manifest.schema.fields
    ]
    operations = [printable(operation) for operation in view.operations]
    unrecorded = find_unrecorded(manifest.schema)
    lines = [
        f"RoboHiveDataset {manifest.name} {manifest.version}",
        f"  environment  {printable(manifest.env_name or 'unknown')}",
        *([f"  rate         {manifest.fps:g} frames per second"] if manifest.fps is not None else []),
        *(f"  {'splits' if not index else '':<11}  {text}" for index, text in enumerate(splits)),
        *(f"  {'keys' if not index else '':<11}  {text}" for index, text in enumerate(fields)),
        *([f"  unknown      {', '.join(unrecorded)}: not recorded"] if unrecorded else []),
        *(f"  {'view' if not index else '':<11}  {text}" for index, text in enumerate(operations)),
        f"  fingerprint  {manifest.fingerprint[:16]}",
        f"  path         {printable(view.folder)}",
    ]
    return "\n".join(lines)


def describe_view(view: DatasetView) -> dict[str, Any]:
    """Return name, version, content and location of a view as one JSON-able dict, for tools."""
    manifest = view.manifest
    return {
        "name": manifest.name,
        "version": manifest.version,
        "fingerprint": manifest.fingerprint,
        "env_name": manifest.env_name,
        "fps": manifest.fps,
        "splits": view.count(),
        "schema": manifest.schema.to_json(),
        "not_recorded": find_unrecorded(manifest.schema),
        "bytes": manifest.num_bytes,
        "license": manifest.license,
        "created": manifest.created,
        "path": str(view.folder),
    }


def summarize_splits(view: DatasetView) -> list[SplitSummary]:
    """Return success, returns and lengths of each split, from the episode table."""
    table = view.read_episode_table()
    for name in find_unrecorded(view.manifest.schema):  # older versions hold 0.0 and False there
        field = table.schema.field(name).with_nullable(nullable=True)
        table = table.set_column(table.column_names.index(name), field, pa.nulls(len(table), field.type))
    rows = list(zip(*(table[name].to_pylist() for name in ("split", "length", "success", "return")), strict=True))
    return [_summarize(split, [row[1:] for row in rows if row[0] == split]) for split in view.splits]


def reference_returns(view: DatasetView) -> dict[str, float]:
    """Return the mean returns of the task's random policy and expert; none of a task without."""
    try:
        reference = get_task(view.manifest.task or view.manifest.env_name).reference
    except EnvNotFoundError:
        return {}
    if reference is None or reference.expert is None:
        return {}
    return {"random": reference.random.return_mean, "expert": reference.expert.return_mean}


def vector_columns(schema: Schema) -> list[str]:
    """Return the columns of actions, observations and others that are numbers in at most one dimension."""
    flags = (REWARD, keys.SUCCESS, *(f"{keys.NEXT}.{flag}" for flag in keys.END_FLAGS), f"{keys.NEXT}.{keys.SUCCESS}")
    return [
        field.column
        for field in schema.fields
        if field.column not in flags
        and len(field.shape) <= 1
        and -1 not in field.shape
        and field.dtype not in ("bool", "string", "bytes")
    ]


def picture_columns(schema: Schema) -> list[str]:
    """Return the columns of pictures uint8 ``[…, H, W, C]``."""
    return [field.column for field in schema.fields if field.dtype == "uint8" and len(field.shape) >= 3]


def _summarize(split: str, rows: Sequence[tuple[int, bool | None, float | None]]) -> SplitSummary:
    """Return the summary of one split from length, success and return of its episodes; None for what is not known."""
    lengths = [length for length, _, _ in rows]
    successes = [success for _, success, _ in rows if success is not None]
    returns = [value for _, _, value in rows if value is not None]
    return SplitSummary(
        split=split,
        num_episodes=len(rows),
        num_transitions=sum(lengths),
        success_rate=sum(successes) / len(successes) if successes else None,
        returns=_summarize_range(returns),
        lengths=_summarize_range(lengths),
    )


def _summarize_range(values: Sequence[float]) -> tuple[float, float, float] | None:
    """Return mean, smallest and largest value; None without any."""
    return (sum_exactly(values) / len(values), float(min(values)), float(max(values))) if values else None


def _name_storage(field: Field, manifest: Manifest) -> str:
    """Return how a column of pictures is stored, and what was lost in the worst split."""
    if not field.is_encoded:
        return ""
    losses = [loss[field.column] for loss in manifest.picture_loss.values() if field.column in loss]
    ratios = [loss["psnr"] for loss in losses if "psnr" in loss]
    return f", stored as {field.storage}" + (f" (PSNR {min(ratios):.1f} dB)" if ratios else "")
