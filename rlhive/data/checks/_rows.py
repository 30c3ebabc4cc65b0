"""Checks of the rows: their facts compared with the episode table, with each other, and with the manifest."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from rlhive import keys
from rlhive.data._statistics import flatten_elements, to_json_numbers
from rlhive.data.checks._clock import ClockChecks
from rlhive.data.checks._duplicates import find_near_duplicates
from rlhive.data.checks._report import ReportBuilder
from rlhive.data.checks._scan import NAN, ChunkFacts, EpisodeFacts, Extremes, NonFiniteValue, ObservationHashes
from rlhive.data.versions import Manifest, compute_fingerprint

#: Share of rows at an extreme value from which an element is called saturated.
SATURATED_SHARE = 0.5
#: Share of episodes whose final observation equals the last row's from which that is a defect. A robot can stand still
#: at the end of some episodes.
COPIED_SHARE = 0.9
_EPISODE_COLUMNS = (keys.EPISODE, "split", "length", "return", "success", "ended", "run", "content_hash")


class RowChecks:
    """Collector of the facts of all chunks that reports which of them are defects.

    Args:
        manifest: The version's manifest.
        episodes: The episode table.
        builder: Builder of the report.
    """

    def __init__(self, manifest: Manifest, episodes: pa.Table, builder: ReportBuilder):
        self._manifest = manifest
        self._builder = builder
        self._rows = episodes.select(_EPISODE_COLUMNS).to_pylist()
        self._horizons = _read_horizons(manifest)
        self._extremes: dict[str, dict[str, Extremes]] = {split: {} for split in manifest.splits}
        self._identities: dict[int, str] = {}
        self._observations: dict[int, ObservationHashes] = {}
        self._codes: dict[int, np.ndarray] = {}
        self._unavailable_reason = ""
        self._unfinished: list[int] = []
        self._clock = ClockChecks(manifest, builder)

    def add(self, facts: ChunkFacts) -> None:
        """CheckReport the defects of a chunk, and keep what :meth:`finish` needs."""
        if facts.error:
            self._builder.add("pages", facts.error)
            return
        for episode, codes in zip(facts.episodes, facts.codes, strict=True):
            self._identities[episode.position] = episode.identity
            self._observations[episode.position] = episode.observations
            self._codes[episode.position] = codes
            run, name = self._rows[episode.position]["run"], self._name_episode(episode.position)
            self._clock.add(episode.timestamps, run=run, context=name)
            for check, finding in self._find_defects(episode, self._rows[episode.position]):
                self._builder.add(check, f"{self._name_episode(episode.position)}: {finding}.")
            if episode.reward_defects.get("unavailable"):
                self._unavailable_reason = episode.reward_defects["unavailable"]
        split = self._rows[facts.chunk.positions[0]]["split"]
        _merge_extremes(self._extremes[split], facts.extremes)
        for value in facts.non_finite:
            self._report_non_finite(value)

    def finish(self, skip_reason: str) -> None:
        """Run the checks that need all rows.

        Args:
            skip_reason: Why no rewards were recomputed; empty if they were.
        """
        if len(self._identities) == len(self._rows):
            self._check_fingerprint()
            self._check_statistics()
        else:
            self._builder.skip("statistics", "not all rows could be read")
        self._check_duplicates()
        self._check_near_duplicates()
        self._check_finals()
        self._check_elements()
        self._check_unfinished()
        self._clock.finish()
        reason = skip_reason or self._unavailable_reason
        if reason:
            self._builder.skip("reward", reason)
            self._builder.skip("success", reason)
        if keys.SUCCESS not in self._manifest.schema.columns:
            self._builder.skip("success", "the version has no column success")

    def _name_episode(self, position: int) -> str:
        return f"episode {self._rows[position][keys.EPISODE]} ({self._rows[position]['split']})"

    def _report_non_finite(self, value: NonFiniteValue) -> None:
        row = f"row {value.row}" if value.row < self._rows[value.position]["length"] else "final value"
        nan_check = "nan" if keys.is_main_column(value.column) else "nan_elsewhere"
        check = nan_check if value.kind == NAN else "infinite"
        self._builder.add(check, f"{self._name_episode(value.position)}, {row}: {value.column} is {value.kind}.")

    def _find_defects(self, facts: EpisodeFacts, row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Yield check and finding for every defect of an episode, given its row of the episode table."""
        if facts.order_defect:
            yield "order", facts.order_defect
        if facts.content_hash != row["content_hash"]:
            yield "content", f"expected content hash {row['content_hash']}, got {facts.content_hash}"
        computed = {"return": facts.episode_return, "success": facts.success, "ended": facts.ended}
        for name, value in computed.items():
            # Versions that were written before the table had nulls hold 0.0 and False for what was not recorded.
            is_older_zero = value is None and not row[name]
            if not is_older_zero and not _equal_or_nan(value, row[name]):
                yield "summary", f"{name} is {row[name]} in the episode table, {value} by its rows"
        yield from self._find_ending_defects(facts, row["length"], self._horizons.get(row["run"]))
        for name in ("reward", "success"):
            if facts.reward_defects.get(name):
                yield name, facts.reward_defects[name]

    def _find_ending_defects(self, facts: EpisodeFacts, length: int, horizon: int | None) -> Iterator[tuple[str, str]]:
        if facts.early_end >= 0:
            yield "ends", f"row {facts.early_end}: expected the end at the last row, {length - 1}, got one here"
        if facts.ended == "unfinished":
            self._unfinished.append(facts.position)
        if horizon is None:
            return
        if length > horizon:
            yield "ends", f"expected at most the horizon's {horizon} rows, got {length}"
        elif length == horizon and facts.ended == "unfinished":
            yield "ends", f"expected to end at the horizon, row {length - 1}, got no end"
        elif length < horizon and facts.ended == "truncated":
            yield "horizon", f"is truncated after {length} of {horizon} rows"

    def _check_unfinished(self) -> None:
        """Find the episodes without an end; where no episode has one, nobody recorded why they end."""
        if len(self._unfinished) == len(self._rows):
            self._builder.skip("horizon", "why the episodes end was not recorded: no row sets an end flag")
            return
        for position in sorted(self._unfinished):
            finding = f"does not end; its last row is {self._rows[position]['length'] - 1}"
            self._builder.add("horizon", f"{self._name_episode(position)}: {finding}.")

    def _check_fingerprint(self) -> None:
        identities = [self._identities[position] for position in range(len(self._rows))]
        fingerprint = compute_fingerprint(self._manifest.schema, identities)
        if fingerprint != self._manifest.fingerprint:
            msg = f"expected the fingerprint {self._manifest.fingerprint}, got {fingerprint}."
            self._builder.add("content", msg)

    def _check_statistics(self) -> None:
        shapes = {field.column: field.shape for field in self._manifest.schema.fields}
        for split, extremes in self._extremes.items():
            recorded = self._manifest.statistics.get(split, {})
            for column in sorted(extremes.keys() | recorded.keys()):
                difference = _compare_statistics(recorded.get(column), extremes.get(column), shapes.get(column, ()))
                if difference:
                    self._builder.add("statistics", f"split {split}, {column}: {difference}.")

    def _check_duplicates(self) -> None:
        first_positions: dict[str, int] = {}
        for position, row in enumerate(self._rows):
            first = first_positions.setdefault(row["content_hash"], position)
            if first != position:
                check = "duplicates" if row["split"] == self._rows[first]["split"] else "split_leak"
                finding = f"{self._name_episode(position)} is {self._name_episode(first)} again, bit for bit."
                self._builder.add(check, finding)

    def _check_near_duplicates(self) -> None:
        positions = sorted(self._codes)
        for pair in find_near_duplicates([self._codes[position] for position in positions]):
            first, second = positions[pair.first], positions[pair.second]
            if self._rows[first]["content_hash"] != self._rows[second]["content_hash"]:
                shared = f"{pair.shared} of the {pair.codes} different rows of the shorter one"
                finding = f"{self._name_episode(first)} and {self._name_episode(second)} share {shared}."
                self._builder.add("near_duplicates", finding)

    def _check_finals(self) -> None:
        """Find final observations that are those of the last row, or the first of the next episode.

        Both are common mistakes of loaders and recorders. Episodes whose observation does not change are left out.
        """
        moving = {position: hashes for position, hashes in self._observations.items() if hashes.first != hashes.last}
        copies = [position for position, hashes in moving.items() if hashes.last == hashes.final]
        if len(copies) > COPIED_SHARE * len(moving):
            msg = f"the final observation is that of the last row in {len(copies)} of {len(moving)} episodes"
            self._builder.add("final", f"{self._name_episode(copies[0])}: {msg}.")
        for position, hashes in moving.items():
            following = self._observations.get(position + 1)
            if following is not None and hashes.final == following.first:
                msg = f"the final observation is the first of {self._name_episode(position + 1)}"
                self._builder.add("final", f"{self._name_episode(position)}: {msg}.")
                break  # one episode names the mistake

    def _check_elements(self) -> None:
        """Find elements that never change, and elements that are at an extreme value most of the time."""
        merged: dict[str, Extremes] = {}
        for split_extremes in self._extremes.values():
            _merge_extremes(merged, split_extremes)
        input_columns = {field.column for field in self._manifest.schema.observed} | {keys.ACTION}
        for column, extremes in merged.items():
            if extremes.count < 2 or extremes.low.dtype == bool:
                continue
            constant = extremes.low == extremes.high
            if extremes.low.dtype.itemsize == 1 and not constant.all():
                continue  # constant pixels are common; only a blank image is a finding
            if constant.any():
                self._builder.add("constant", f"{column}: {_name_elements(constant)} never change.")
            share = np.maximum(extremes.num_low, extremes.num_high) / extremes.count
            saturated = ~constant & (share >= SATURATED_SHARE)
            if saturated.any() and column in input_columns:
                most = f"{share[saturated].max():.0%} of the rows"
                finding = f"{column}: {_name_elements(saturated)} stand at an extreme in up to {most}."
                self._builder.add("saturated", finding)


def _read_horizons(manifest: Manifest) -> dict[str, int]:
    """Return the horizon of each run that recorded one, by the run's id."""
    horizons = {}
    for run in manifest.runs:
        env = run.get("env")
        horizon = env.get("horizon") if isinstance(env, Mapping) else None
        if isinstance(horizon, int) and horizon > 0:
            horizons[str(run.get("run", ""))] = horizon
    return horizons


def _merge_extremes(total: dict[str, Extremes], part: Mapping[str, Extremes]) -> None:
    """Merge the extremes of further rows into those of all rows, in place."""
    for column, extremes in part.items():
        total[column] = total[column].merge(extremes) if column in total else extremes


def _equal_or_nan(left: Any, right: Any) -> bool:
    """Whether two values are equal or both NaN."""
    return left == right or (left != left and right != right)


def _compare_statistics(recorded: Mapping[str, Any] | None, extremes: Extremes | None, shape: tuple[int, ...]) -> str:
    """Return how the manifest's statistics of a column differ from its rows; empty if they do not."""
    if extremes is None:
        return "" if recorded is None or not recorded.get("min") else "expected no rows, got statistics"
    if recorded is None:
        return "expected statistics, got none"
    low, high = (flatten_elements(values.reshape(1, *shape)) for values in (extremes.low, extremes.high))
    computed = {
        "count": extremes.count * len(low),
        "min": to_json_numbers(low.min(axis=0)),
        "max": to_json_numbers(high.max(axis=0)),
    }
    for name, value in computed.items():
        if recorded.get(name) != value:
            return f"{name} is {recorded.get(name)} in the manifest, {value} by the rows"[:300]
    return ""


def _name_elements(mask: np.ndarray) -> str:
    """Return a description of the elements that a mask selects: ``"2 of 75 elements (3, 7)"``."""
    indices = np.flatnonzero(mask)
    names = ", ".join(map(str, indices[:8])) + (", …" if len(indices) > 8 else "")
    return f"{len(indices)} of {mask.size} elements ({names})"
