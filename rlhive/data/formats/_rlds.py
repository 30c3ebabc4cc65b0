"""RLDS episodes in a folder that TensorFlow Datasets wrote, read into episodes.

The columns are chosen here; the ends of episodes are found by the scan, :mod:`~rlhive.data.formats._rlds_scan`.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from rlhive import keys
from rlhive.data._dtypes import DTYPES
from rlhive.data.formats._episode_source import EpisodeSource, PendingEpisode
from rlhive.data.formats._pending_source import build_source
from rlhive.data.formats._rlds_reader import RldsReader
from rlhive.data.formats._rlds_scan import FLAGS, STEPS, LastStep, RldsScan, StepFeatures
from rlhive.data.formats._tfds import Feature, TfdsFolder, TfdsShard
from rlhive.errors import SchemaMismatchError

#: Names of a step's features that mean something else in a column.
_RESERVED = {*keys.END_FLAGS, keys.EPISODE, keys.STEP_COUNT, keys.SUCCESS, keys.NEXT, keys.PIXELS, keys.DEPTH}


def read_rlds(
    source: Path,
    *,
    last_step: str | None = None,
    drop: str | Sequence[str] = (),
    split: str | None = None,
    progress: bool = False,
) -> EpisodeSource:
    """Read a dataset of RLDS episodes in TFDS's files, TFRecord or Parquet; needs no TensorFlow.

    All files are read once before the first episode is returned, for their checksums, the ends of the episodes, and the
    lengths of sequences at a step. Kept: ``observation…``, ``action…``, ``next.reward``, ``discount`` and every other
    feature of a step; pictures as ``pixels.<name>`` (8 bits) or ``depth.<name>``; the features of an episode as its
    metadata, and its instruction, where it has one, as ``task``; the splits.

    Args:
        source: Folder with ``dataset_info.json``, ``~/tensorflow_datasets/bridge/0.1.0`` for example.
        last_step: "observation" if the last step of an episode is its final observation alone, as RLDS specifies.
            "transition" if its action and reward count and what followed is unknown. "each" for the first where the
            step's action, reward and discount are empty and the second elsewhere. By default it is detected.
        drop: Features to leave out, ``"observation/wrist_image"`` for example, or their columns; a dictionary with all
            its features.
        split: The only split to read; all by default.
        progress: Whether to show a progress bar during the first pass.

    Returns:
        The episodes; the metadata of each names its file and record. An episode without a transition is left out.

    Raises:
        SchemaMismatchError: The folder holds no such dataset, a file is missing or damaged, a feature cannot be a
            column, the flags contradict each other, or the last steps do not show what they are; the message has the
            address and the option that decides.
        MissingExtraError: google-crc32c, protobuf or, for pictures, Pillow is not installed.

    Example:
        >>> read_rlds(Path("~/tensorflow_datasets/bridge/0.1.0").expanduser()).num_episodes  # doctest: +SKIP
        25460
    """
    folder = TfdsFolder(source)
    dropped = (drop,) if isinstance(drop, str) else tuple(drop)
    features = _assign_features(folder, dropped)
    shards = _select_split(folder, split)
    scan = RldsScan(features, folder.features)
    total = sum(shard.num_records for shard in shards)
    with tqdm(total=total, desc=f"scan {folder.full_name}", unit="ep", disable=not progress) as bar:
        for shard in shards:
            scan.add(shard, bar.update)
    decision = scan.decide_last_step(last_step, str(folder.root))
    num_episodes, num_without_transition = scan.count_episodes(decision.kind)
    reader = RldsReader(features, decision.kind, scan.sequence_lengths)

    if not num_episodes:
        msg = f"{folder.root}: expected episodes with a transition, got none."
        raise SchemaMismatchError(msg)
    run = _describe_rlds_run(folder, decision.kind, scan.digests)

    def pending() -> Iterator[PendingEpisode]:
        shard_episodes = (item for shard in shards for item in reader.find_episodes(shard))
        for episode, (context, read) in enumerate(shard_episodes):
            yield PendingEpisode(episode, context, read, {"run": run["run"]})

    return build_source(
        pending,
        strict=True,
        splits=tuple(dict.fromkeys(shard.split for shard in shards)),
        runs=(run,),
        num_episodes=num_episodes,
        notes=(
            *_describe_rlds_import(folder, reader, decision, num_without_transition, dropped),
            *_describe_unlisted(scan),
        ),
    )


def _select_split(folder: TfdsFolder, split: str | None) -> list[TfdsShard]:
    shards = [shard for shard in folder.shards if split in (None, shard.split)]
    if not shards:
        splits = ", ".join(dict.fromkeys(shard.split for shard in folder.shards)) or "none"
        msg = f"{folder.root}: expected a split {split!r}, got {splits}."
        raise SchemaMismatchError(msg)
    return shards


def _assign_features(folder: TfdsFolder, dropped: Sequence[str]) -> StepFeatures:
    """Return the features by their roles, and the columns that they become."""
    names = ", ".join(sorted(folder.features))
    for name in dropped:
        if not any(_is_at_or_below(feature, name) for feature in folder.features.values()):
            msg = f"{folder.root}: drop={name!r}: expected one of {names}."
            raise SchemaMismatchError(msg)
    features = [
        feature for feature in folder.features.values() if not any(_is_at_or_below(feature, name) for name in dropped)
    ]
    flags = {feature.path[1]: feature for feature in features if feature.name in {f"{STEPS}{name}" for name in FLAGS}}
    columns: dict[str, Feature] = {}
    for feature in features:
        if feature.name.startswith(STEPS) and feature not in flags.values():
            _require_readable(folder.root, feature)
            column = _name_column(folder.root, feature)
            if column in columns:
                msg = (
                    f"{folder.root}: expected a column for each feature, got {column} for {columns[column].name} and "
                    f"{feature.name}. drop={feature.name!r} leaves one out."
                )
                raise SchemaMismatchError(msg)
            columns[column] = feature
    if not {"is_last", "is_terminal"} <= flags.keys() or not any(map(_is_observed, columns)):
        msg = f"{folder.root}: expected steps with observation, is_last and is_terminal, got {names}: no RLDS dataset."
        raise SchemaMismatchError(msg)
    of_episode = [feature for feature in features if not feature.name.startswith(STEPS)]
    return StepFeatures(
        columns=columns,
        observed=tuple(filter(_is_observed, columns)),
        flags=flags,
        episode=tuple(feature for feature in of_episode if feature.kind in ("text", "tensor") and feature.depth == 0),
    )


def _is_observed(column: str) -> bool:
    return column.split(".")[0] in (keys.OBSERVATION, keys.PIXELS, keys.DEPTH)


def _is_at_or_below(feature: Feature, name: str) -> bool:
    """Return whether a feature is the named one or inside it; a step's may be named without "steps/", and by dots."""
    path = name.strip("/").replace(".", "/")
    return any(f"{feature.name}/".startswith(f"{root}{path}/") for root in ("", STEPS)) or (
        feature.name.startswith(STEPS) and f"{'/'.join(_rename_parts(feature))}/".startswith(f"{path}/")
    )


def _require_readable(root: Path, feature: Feature) -> None:
    """Refuse a feature that no column can hold."""
    drop = f"drop={feature.name.removeprefix(STEPS)!r} leaves it out."
    if feature.kind not in ("tensor", "picture", "text"):
        msg = (
            f"{root}: feature {feature.name}: expected a Tensor, Scalar, Text, ClassLabel, BBoxFeature or Image, "
            f"got {feature.kind}. {drop}"
        )
        raise SchemaMismatchError(msg)
    is_nested = feature.depth > 2 or (feature.depth == 2 and feature.kind != "tensor")
    if is_nested or (feature.kind == "text" and feature.shape):
        nesting = f"{feature.depth - 1} sequences of {feature.kind} {list(feature.shape)} in each"
        msg = (
            f"{root}: feature {feature.name}: expected at each step one value or one sequence of numbers, "
            f"got {nesting}. {drop}"
        )
        raise SchemaMismatchError(msg)
    if feature.kind != "text" and feature.column_dtype not in DTYPES:
        msg = f"{root}: feature {feature.name}: expected one of {', '.join(DTYPES)}, got {feature.dtype}. {drop}"
        raise SchemaMismatchError(msg)


def _name_column(root: Path, feature: Feature) -> str:
    """Return the column of a step's feature."""
    try:
        return keys.key_to_column(tuple(_rename_parts(feature)))
    except ValueError as error:
        drop = f"drop={feature.name.removeprefix(STEPS)!r} leaves it out."
        msg = f"{root}: feature {feature.name}: {error} {drop}"
        raise SchemaMismatchError(msg) from error


def _rename_parts(feature: Feature) -> list[str]:
    """Return the parts of the name of a step's column."""
    _, *parts = feature.path
    if parts == [keys.REWARD]:
        return [keys.NEXT, keys.REWARD]
    if parts[0] == keys.OBSERVATION and feature.kind == "picture":
        return [keys.PIXELS if feature.dtype == "uint8" else keys.DEPTH, *parts[1:]]
    return ["info", *parts] if parts[0] in _RESERVED else parts


def _describe_rlds_run(folder: TfdsFolder, last_step: str, digests: dict[str, str]) -> dict[str, Any]:
    origin = {"imported_from": f"rlds-{folder.file_format}", "dataset": folder.full_name, "last_step": last_step}
    run_id = hashlib.sha256(json.dumps([origin, digests]).encode()).hexdigest()[:12]
    return {"run": run_id, **origin, "sha256": digests}


def _describe_unlisted(scan: RldsScan) -> Iterator[str]:
    """Yield what the records hold beside the features of features.json."""
    if scan.num_unlisted:
        counts = ", ".join(f"{name} (in {number} records)" for name, number in sorted(scan.num_unlisted.items()))
        yield f"left out, as features.json does not list them: {counts}"


def _describe_rlds_import(
    folder: TfdsFolder, reader: RldsReader, decision: LastStep, num_without_transition: int, dropped: Sequence[str]
) -> Iterator[str]:
    """Yield what was detected, converted and left out."""
    yield decision.reason
    if num_without_transition:
        yield f"episodes without a transition, left out: {num_without_transition}"
    features = reader.features.columns.values()
    changed = {
        "float64 that TFDS rounded to float32 when it wrote the files": [f for f in features if f.is_rounded],
        "JPEG pictures, decoded": [f for f in features if f.kind == "picture" and f.encoding == "jpeg"],
        "widened to a dtype that holds all their numbers": [
            f for f in features if f.kind != "text" and f.dtype != f.column_dtype
        ],
    }
    for change, changed_features in changed.items():
        if changed_features:
            yield f"{change}: {', '.join(feature.name.removeprefix(STEPS) for feature in changed_features)}"
    if reader.padded_columns:
        yield f"sequences of different lengths, padded with zeros to the longest: {', '.join(reader.padded_columns)}"
    of_episode = {feature for feature in folder.features.values() if not feature.name.startswith(STEPS)}
    ignored = sorted(feature.name for feature in of_episode - set(reader.features.episode))
    if ignored or dropped:
        yield f"left out: {', '.join([*dropped, *ignored])}"
    license = (folder.info.get("redistributionInfo") or {}).get("license")
    if license:
        yield f"the files name a licence: {license}"
