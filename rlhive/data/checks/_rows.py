"""From the facts of the rows to findings: compared with the episode table, with each other, and with the manifest."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from rlhive import keys
from rlhive.data._statistics import flatten_elements
from rlhive.data.checks._duplicates import near_duplicates
from rlhive.data.checks._report import ReportBuilder
from rlhive.data.checks._scan import ChunkFacts, EpisodeFacts, Extremes
from rlhive.data.versions import Manifest, compute_fingerprint

#: An element that stands at its extreme value in so many rows is called saturated.
SATURATED_SHARE = 0.5
#: In so many episodes a final observation like the last row is no accident; a robot may well stand still at the end.
COPIED_SHARE = 0.9
_TOLD = (keys.EPISODE, "split", "length", "return", "success", "ended", "run", "content_hash")


class RowChecks:
    """Gathers the facts of all chunks and says which of them are defects.

    Args:
        manifest: Of the version.
        episodes: Its episode table.
        findings: Where to say so.
    """

    def __init__(self, manifest: Manifest, episodes: pa.Table, findings: ReportBuilder):
        self._manifest, self._findings = manifest, findings
        self._told = episodes.select(_TOLD).to_pylist()
        self._horizons = _horizons(manifest)
        self._extremes: dict[str, dict[str, Extremes]] = {split: {} for split in manifest.splits}
        self._identities: dict[int, str] = {}
        self._codes: dict[int, np.ndarray] = {}
        self._ends: dict[int, tuple[int, int, int]] = {}
        self._unavailable = ""

    def add(self, facts: ChunkFacts) -> None:
        """Take the facts of a chunk."""
        if facts.error:
            self._findings.add("pages", facts.error)
            return
        for row, codes in zip(facts.episodes, facts.codes, strict=True):
            self._identities[row.position] = row.identity
            self._codes[row.position] = codes
            self._ends[row.position] = (row.first, row.last, row.final)
            for name, finding in self._defects_of(row, self._told[row.position]):
                self._findings.add(name, f"{self._name(row.position)}: {finding}.")
        own = self._extremes[self._told[facts.chunk.positions[0]]["split"]]
        for name, part in facts.extremes.items():
            own[name] = own[name].merge(part) if name in own else part
        for column, position, row, kind in facts.odd:
            where = f"row {row}" if row < self._told[position]["length"] else "final value"
            name = "nan" if kind == "NaN" else "infinite"
            self._findings.add(name, f"{self._name(position)}, {where}: {column} is {kind}.")

    def finish(self, why_no_rewards: str) -> None:
        """Compare what only all rows together show.

        Args:
            why_no_rewards: Why no rewards were computed anew; empty where they were.
        """
        if len(self._identities) == len(self._told):
            self._fingerprint()
            self._statistics()
        else:
            self._findings.skip("statistics", "not all rows could be read")
        self._duplicates()
        self._finals()
        self._elements()
        for name in ("reward", "success"):
            if why_no_rewards or self._unavailable:
                self._findings.skip(name, why_no_rewards or self._unavailable)
        if keys.SUCCESS not in self._manifest.schema.columns:
            self._findings.skip("success", "the version has no column success")

    def _name(self, position: int) -> str:
        return f"episode {self._told[position][keys.EPISODE]} ({self._told[position]['split']})"

    def _defects_of(self, row: EpisodeFacts, told: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        if row.disorder:
            yield "order", row.disorder
        if row.content_hash != told["content_hash"]:
            yield "content", f"expected content hash {told['content_hash']}, got {row.content_hash}"
        pairs = {"return": row.episode_return, "success": row.success, "ended": row.ended}
        for name, got in pairs.items():
            if not _equal(got, told[name]):
                yield "summary", f"{name} is {told[name]} in the episode table, {got} by its rows"
        yield from self._ending(row, told["length"], self._horizons.get(told["run"]))
        for name in ("reward", "success"):
            if row.judged and row.judged.get(name):
                yield name, row.judged[name]
        if row.judged and row.judged.get("unavailable"):
            self._unavailable = row.judged["unavailable"]

    def _ending(self, row: EpisodeFacts, length: int, horizon: int | None) -> Iterator[tuple[str, str]]:
        if row.early >= 0:
            yield "ends", f"row {row.early}: expected the end at the last row, {length - 1}, got one here"
        if row.ended == "unfinished":
            yield "horizon", f"does not end; its last row is {length - 1}"
        if horizon is None:
            return
        if length > horizon:
            yield "ends", f"expected at most the horizon's {horizon} rows, got {length}"
        elif length == horizon and row.ended == "unfinished":
            yield "ends", f"expected to end at the horizon, row {length - 1}, got no end"
        elif length < horizon and row.ended == "truncated":
            yield "horizon", f"is truncated after {length} of {horizon} rows"

    def _fingerprint(self) -> None:
        identities = [self._identities[position] for position in range(len(self._told))]
        found = compute_fingerprint(self._manifest.schema, identities)
        if found != self._manifest.fingerprint:
            self._findings.add("content", f"expected the fingerprint {self._manifest.fingerprint}, got {found}.")

    def _statistics(self) -> None:
        shapes = {item.column: item.shape for item in self._manifest.schema.fields}
        for split, columns in self._extremes.items():
            told = self._manifest.statistics.get(split, {})
            for name in sorted(columns.keys() | told.keys()):
                problem = _differs(told.get(name), columns.get(name), shapes.get(name, ()))
                if problem:
                    self._findings.add("statistics", f"split {split}, {name}: {problem}.")

    def _duplicates(self) -> None:
        seen: dict[str, int] = {}
        exact = set()
        for position, told in enumerate(self._told):
            first = seen.setdefault(told["content_hash"], position)
            if first != position:
                exact.add((first, position))
                leaks = told["split"] != self._told[first]["split"]
                name = "split_leak" if leaks else "duplicates"
                self._findings.add(name, f"{self._name(position)} is {self._name(first)} again, bit for bit.")
        positions = sorted(self._codes)
        for pair in near_duplicates([self._codes[position] for position in positions]):
            first, second = positions[pair.first], positions[pair.second]
            if self._told[first]["content_hash"] != self._told[second]["content_hash"]:
                alike = f"{pair.shared} of the {pair.codes} different rows of the shorter one"
                self._findings.add("near_duplicates", f"{self._name(first)} and {self._name(second)} share {alike}.")

    def _finals(self) -> None:
        """Look for loaders' favourite mistakes: the last row taken for the final one, or the next episode's first."""
        moving = {position: ends for position, ends in self._ends.items() if len(set(ends[:2])) == 2}
        copies = [position for position, (_, last, final) in moving.items() if last == final]
        if len(copies) > COPIED_SHARE * len(moving):
            said = f"the final observation is that of the last row in {len(copies)} of {len(moving)} episodes"
            self._findings.add("final", f"{self._name(copies[0])}: {said}.")
        resets = [p for p, ends in moving.items() if p + 1 in self._ends and ends[2] == self._ends[p + 1][0]]
        if resets:
            said = f"the final observation is the first of {self._name(resets[0] + 1)}"
            self._findings.add("final", f"{self._name(resets[0])}: {said}.")

    def _elements(self) -> None:
        """Look for elements that never change, and for those that mostly stand at an end of their range."""
        whole: dict[str, Extremes] = {}
        for columns in self._extremes.values():
            for name, part in columns.items():
                whole[name] = whole[name].merge(part) if name in whole else part
        movable = {item.column for item in self._manifest.schema.observed} | {keys.ACTION}
        for name, part in whole.items():
            if part.count < 2 or part.low.dtype == bool:
                continue
            constant = part.low == part.high
            if part.low.dtype.itemsize == 1 and not constant.all():
                continue  # of a picture, only a blank one is worth a word
            if constant.any():
                self._findings.add("constant", f"{name}: {_elements(constant)} never change.")
            share = np.maximum(part.num_low, part.num_high) / part.count
            stuck = ~constant & (share >= SATURATED_SHARE)
            if stuck.any() and name in movable:
                most = f"{share[stuck].max():.0%} of the rows"
                self._findings.add("saturated", f"{name}: {_elements(stuck)} stand at an extreme in up to {most}.")


def _horizons(manifest: Manifest) -> dict[str, int]:
    """Return the horizon of each run that recorded one, by the run's id."""
    found = {}
    for run in manifest.runs:
        env = run.get("env") if isinstance(run, Mapping) else None
        horizon = env.get("horizon") if isinstance(env, Mapping) else None
        if isinstance(horizon, int) and horizon > 0:
            found[str(run.get("run", ""))] = horizon
    return found


def _equal(left: Any, right: Any) -> bool:
    return left == right or (left != left and right != right)  # a NaN is itself


def _differs(told: Mapping[str, Any] | None, found: Extremes | None, shape: tuple[int, ...]) -> str:
    """Say how the statistics of the manifest differ from those of the rows; nothing where they do not."""
    if found is None:
        return "" if told is None or not told.get("min") else "expected no rows, got statistics"
    if told is None:
        return "expected statistics, got none"
    low, high = (flatten_elements(values.reshape(1, *shape)) for values in (found.low, found.high))
    pairs = {"count": (told.get("count"), found.count * len(low))}
    for name, values in (("min", low.min(axis=0)), ("max", high.max(axis=0))):
        numbers = values.astype(np.float64)
        pairs[name] = (told.get(name), np.where(np.isfinite(numbers), numbers, None).tolist())
    wrong = [
        f"{name} is {said} in the manifest, {got} by the rows" for name, (said, got) in pairs.items() if said != got
    ]
    return wrong[0][:300] if wrong else ""


def _elements(mask: np.ndarray) -> str:
    """Name some elements of a column: "elements 3 and 7 of 75"."""
    indices = np.flatnonzero(mask)
    named = ", ".join(map(str, indices[:8])) + (", …" if len(indices) > 8 else "")
    return f"{len(indices)} of {mask.size} elements ({named})"
