"""RLDS episodes in a folder that TensorFlow Datasets wrote → episodes with the ends where they belong.

What the columns are is decided here; where an episode ends, and what its last step is, in
:mod:`~rlhive.data.formats`.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from rlhive import keys
from rlhive.data._episodes import REWARD, EpisodeRecord
from rlhive.data._schema import DTYPES
from rlhive.data.formats._imported import Imported, record_of, schema_of
from rlhive.data.formats._rlds_steps import FLAGS, LAST_STEPS, STEPS, Layout, Steps, Survey
from rlhive.data.formats._tfds import Folder, Leaf, Shard
from rlhive.errors import SchemaMismatch

#: A step's own names that mean something else in a column.
_TAKEN = {*keys.END_FLAGS, keys.EPISODE, keys.STEP_COUNT, keys.SUCCESS, keys.NEXT, keys.PIXELS, keys.DEPTH}


def read(
    source: str | Path,
    *,
    last_step: str | None = None,
    drop: str | Sequence[str] = (),
    split: str | None = None,
    progress: bool = False,
) -> Imported:
    """Read a dataset of RLDS episodes in TFDS's files, TFRecord or Parquet; needs no TensorFlow.

    All files are read once before the first episode is returned: their checksums, how the episodes end, and how long
    sequences of their own at a step are. Kept: ``observation…``, ``action…``, ``next.reward``, ``discount`` and every
    other feature of a step; pictures as ``pixels.<name>`` (8 bits) or ``depth.<name>``; the features of an episode as
    its metadata, and its instruction, where it has one, as ``task``; the splits.

    Args:
        source: Folder with ``dataset_info.json``, ``~/tensorflow_datasets/bridge/0.1.0`` for example.
        last_step: "observation", the last step of an episode is its final observation alone, as RLDS wants it;
            "transition", its action and reward count and what followed is unknown; "each", the first where the step's
            action, reward and discount are empty, else the second. By default it is found out.
        drop: Features to leave out, ``"observation/wrist_image"`` for example; a dictionary with all that it holds.
        split: The only split to read; all by default.
        progress: Whether to show a progress bar while the files are looked through.

    Returns:
        The episodes; each one's metadata names its file and record. An episode without a transition is left out.

    Raises:
        SchemaMismatch: It is no such folder, a file is missing or damaged, a feature cannot be a column, the flags
            contradict each other, or the last steps do not tell what they are; the message names the place and the
            argument that decides.
        MissingExtra: google-crc32c, protobuf or, for pictures, Pillow is not installed.

    Example:
        >>> read("~/tensorflow_datasets/bridge/0.1.0").num_episodes  # doctest: +SKIP
        25460
    """
    if last_step not in (None, *LAST_STEPS):
        msg = f"last_step={last_step!r}: expected one of {', '.join(LAST_STEPS)}, or None to find it out."
        raise SchemaMismatch(msg)
    folder = Folder(Path(source).expanduser())
    dropped = (drop,) if isinstance(drop, str) else tuple(drop)
    layout, shards = _layout(folder, dropped), _chosen(folder, split)
    survey = Survey(layout)
    total = sum(shard.num_records for shard in shards)
    with tqdm(total=total, desc=f"look through {folder.full_name}", unit="ep", disable=not progress) as bar:
        for shard in shards:
            survey.look_through(shard, bar.update)
    survey = survey.decided(last_step, where=str(folder.root))

    def episodes() -> Iterator[Steps]:
        return (steps for shard in shards for steps in survey.episodes(shard))

    first = next(episodes(), None)
    if first is None:
        msg = f"{folder.root}: expected episodes with a transition, got none. Give another dataset."
        raise SchemaMismatch(msg)
    schema, run = schema_of(first.columns, first.final), _run(folder, survey)

    def records() -> Iterator[EpisodeRecord]:
        for episode, steps in enumerate(episodes()):
            told = {"split": steps.split, "run": run["run"], "metadata": steps.metadata}
            yield record_of(steps.columns, steps.final, schema, where=steps.where, episode=episode, **told)

    return Imported(
        schema,
        records,
        splits=tuple(dict.fromkeys(shard.split for shard in shards)),
        runs=(run,),
        num_episodes=survey.num_episodes,
        notes=tuple(_notes(folder, survey, dropped)),
    )


def _chosen(folder: Folder, split: str | None) -> list[Shard]:
    chosen = [shard for shard in folder.shards if split in (None, shard.split)]
    if not chosen:
        there = ", ".join(dict.fromkeys(shard.split for shard in folder.shards)) or "none"
        msg = f"{folder.root}: expected a split {split!r}, got {there}. Name one of them."
        raise SchemaMismatch(msg)
    return chosen


def _layout(folder: Folder, dropped: Sequence[str]) -> Layout:
    """Return which features there are and the columns that they become."""
    there = ", ".join(sorted(folder.leaves))
    for name in dropped:
        if not any(_is_below(leaf, name) for leaf in folder.leaves.values()):
            msg = f"{folder.root}: drop={name!r}: expected one of {there}. Name one of them."
            raise SchemaMismatch(msg)
    leaves = [leaf for leaf in folder.leaves.values() if not any(_is_below(leaf, name) for name in dropped)]
    flags = {leaf.path[1]: leaf for leaf in leaves if leaf.name in {f"{STEPS}{name}" for name in FLAGS}}
    columns: dict[str, Leaf] = {}
    for leaf in leaves:
        if leaf.name.startswith(STEPS) and leaf not in flags.values():
            _require_column(folder.root, leaf)
            column = _column(folder.root, leaf)
            if column in columns:
                msg = f"{folder.root}: expected a column for each feature, got {column} for {columns[column].name} and "
                raise SchemaMismatch(msg + f"{leaf.name}. Leave one out: drop={leaf.name!r}.")
            columns[column] = leaf
    if not {"is_last", "is_terminal"} <= flags.keys() or not any(map(_is_observed, columns)):
        msg = f"{folder.root}: expected steps with observation, is_last and is_terminal, got {there}. It is no RLDS."
        raise SchemaMismatch(msg)
    told = [leaf for leaf in leaves if not leaf.name.startswith(STEPS)]
    return Layout(
        columns=columns,
        observed=tuple(filter(_is_observed, columns)),
        flags=flags,
        told=tuple(leaf for leaf in told if leaf.kind in ("text", "tensor") and leaf.depth == 0),
    )


def _is_observed(column: str) -> bool:
    return column.split(".")[0] in (keys.OBSERVATION, keys.PIXELS, keys.DEPTH)


def _is_below(leaf: Leaf, name: str) -> bool:
    """Whether a feature is the named one, or is inside it; a step's may be named without "steps/"."""
    return any(f"{leaf.name}/".startswith(f"{above}{name.strip('/')}/") for above in ("", STEPS))


def _require_column(root: Path, leaf: Leaf) -> None:
    """Refuse what no column can hold."""
    drop = f"Leave it out: drop={leaf.name.removeprefix(STEPS)!r}."
    if leaf.kind not in ("tensor", "picture", "text"):
        msg = f"{root}: feature {leaf.name}: expected a Tensor, Scalar, Text, ClassLabel, BBoxFeature or Image, "
        raise SchemaMismatch(msg + f"got {leaf.kind}. {drop}")
    if leaf.depth > 2 or (leaf.depth == 2 and leaf.kind != "tensor") or (leaf.kind == "text" and leaf.shape):
        found = f"{leaf.depth - 1} sequences of {leaf.kind} {list(leaf.shape)} in each"
        msg = f"{root}: feature {leaf.name}: expected at each step one value or one sequence of numbers, got {found}. "
        raise SchemaMismatch(msg + drop)
    if leaf.kind != "text" and leaf.column_dtype not in DTYPES:
        msg = f"{root}: feature {leaf.name}: expected one of {', '.join(DTYPES)}, got {leaf.dtype}. {drop}"
        raise SchemaMismatch(msg)


def _column(root: Path, leaf: Leaf) -> str:
    _, *parts = leaf.path
    if parts == [keys.REWARD]:
        return REWARD
    if parts[0] == keys.OBSERVATION and leaf.kind == "picture":
        is_depth = leaf.dtype != "uint8"
        parts = [keys.DEPTH if is_depth else keys.PIXELS, *parts[1:]]
    elif parts[0] in _TAKEN:
        parts = ["info", *parts]
    try:
        return keys.column_of(tuple(parts))
    except ValueError as error:
        msg = f"{root}: feature {leaf.name}: {error} Leave it out: drop={leaf.name.removeprefix(STEPS)!r}."
        raise SchemaMismatch(msg) from error


def _run(folder: Folder, survey: Survey) -> dict[str, Any]:
    kept = {"imported_from": f"rlds-{folder.file_format}", "dataset": folder.full_name, "last_step": survey.last_step}
    run = hashlib.sha256(json.dumps([kept, survey.digests]).encode()).hexdigest()[:12]
    return {"run": run, **kept, "sha256": survey.digests}


def _notes(folder: Folder, survey: Survey, dropped: Sequence[str]) -> Iterator[str]:
    layout = survey.layout
    yield survey.said
    if survey.num_empty:
        yield f"episodes without a transition, left out: {survey.num_empty}"
    leaves = layout.columns.values()
    told = {
        "float64 that TFDS rounded to float32 when it wrote the files": [one for one in leaves if one.is_rounded],
        "JPEG pictures, decoded": [one for one in leaves if one.kind == "picture" and one.encoding == "jpeg"],
        "widened to a dtype that holds all their numbers": [
            one for one in leaves if one.kind != "text" and one.dtype != one.column_dtype
        ],
    }
    for said, found in told.items():
        if found:
            yield f"{said}: {_named(found)}"
    if survey.padded:
        yield f"sequences of different lengths, filled up with zeros to the longest: {', '.join(survey.padded)}"
    others = {leaf for leaf in folder.leaves.values() if not leaf.name.startswith(STEPS)} - set(layout.told)
    if others or dropped:
        yield f"left out: {', '.join([*dropped, *(leaf.name for leaf in sorted(others, key=lambda one: one.name))])}"
    license = (folder.info.get("redistributionInfo") or {}).get("license")
    if license:
        yield f"the files name a licence of their own: {license}"


def _named(leaves: Sequence[Leaf]) -> str:
    return ", ".join(leaf.name.removeprefix(STEPS) for leaf in leaves)
