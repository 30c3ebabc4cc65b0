"""Checks of timestamps: they rise, agree with the rate of their run, and miss no frame."""

import numpy as np

from rlhive.data._timing import StepTimes, count_dropped, find_unordered, parse_fps
from rlhive.data.checks._report import ReportBuilder
from rlhive.data.versions import Manifest

#: Share of a period from which the 95th percentile of the jitter is reported.
JITTER_SHARE = 0.25
_CHECKS = ("timestamps", "dropped_frames", "jitter")


class ClockChecks:
    """Collector of the timestamps of all episodes that reports which of them are defects.

    Args:
        manifest: The version's manifest.
        builder: Builder of the report.
    """

    def __init__(self, manifest: Manifest, builder: ReportBuilder):
        self._builder = builder
        self._rates = {str(run.get("run", "")): parse_fps(run.get("fps")) for run in manifest.runs}
        self._times: dict[float, StepTimes] = {}
        self._has_timestamps = False

    def add(self, timestamps: np.ndarray | None, *, run: str, context: str) -> None:
        """Check an episode.

        Args:
            timestamps: Its timestamps; None where it has none.
            run: Id of the run that recorded it.
            context: Prefix of a finding.
        """
        if timestamps is None:
            return
        self._has_timestamps = True
        row = find_unordered(timestamps)
        if row >= 0:
            before = f"after {timestamps[row - 1]}" if row else "in the first row"
            finding = f"row {row}: expected a timestamp that rises, got {timestamps[row]} {before}"
            self._builder.add("timestamps", f"{context}, {finding}.")
        fps = self._rates.get(run)
        if fps is None:
            return
        self._times.setdefault(fps, StepTimes(fps)).add(timestamps)
        num_dropped, first_row = count_dropped(timestamps, fps)
        if num_dropped:
            step_s = timestamps[first_row + 1] - timestamps[first_row]
            finding = (
                f"{num_dropped} dropped, the first after row {first_row}: {step_s:.3g} s to the next, at {fps:g} fps"
            )
            self._builder.add("dropped_frames", f"{context}: {finding}.")

    def finish(self) -> None:
        """Run the checks that need all episodes."""
        if not self._has_timestamps:
            for check in _CHECKS:
                self._builder.note(check, "the version has no timestamps: no column timestamp of seconds")
            return
        if not self._times:
            for check in _CHECKS[1:]:
                self._builder.skip(check, "no run recorded a rate")
        for fps, times in self._times.items():
            problem = times.describe_contradiction()
            if problem:
                self._builder.add("timestamps", f"{problem}.")
            if times.jitter_s is not None:
                self._check_jitter(fps, times.jitter_s, times.period_s)

    def _check_jitter(self, fps: float, jitter_s: float, period_s: float) -> None:
        text = f"95 % of the steps are within {1e3 * jitter_s:.3g} ms of {1e3 * period_s:.3g} ms, at {fps:g} fps"
        if jitter_s > JITTER_SHARE * period_s:
            self._builder.add("jitter", f"{text}: more than a quarter of a period.")
        else:
            self._builder.note("jitter", f"{text}.")
