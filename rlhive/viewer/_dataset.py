"""What the page asks of a dataset, answered as JSON-able values of bounded size."""

import functools
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhive.errors import InvalidOptionError, SchemaMismatchError
from rlhive.viewer._flags import FlagFile, format_condition
from rlhive.viewer._json import shorten, to_tree
from rlhive.viewer._rows import list_episodes, list_scores

if TYPE_CHECKING:
    from rlhive.data import EpisodeRecord
    from rlhive.dataset import DatasetView
    from rlhive.viewer._neighbours import Neighbours
    from rlhive.viewer._pictures import Renderer

#: Episodes among which the nearest ones are looked for; of a larger dataset these many, evenly spaced.
MAX_COMPARED = 10_000
_NUM_CACHED_EPISODES = 8
_MAX_FINDING = 500


class ViewedDataset:
    """A dataset or view on the page. The episode table is read at once, transitions when they are asked for.

    Answers can be asked for by several threads.

    Args:
        folder: The version's folder.
        split: Splits to show, joined by ``+``; all by default.
        where: Condition on the episodes.
    """

    def __init__(self, folder: Path, *, split: str | None = None, where: str | None = None) -> None:
        from rlhive.dataset import open_view

        self._folder, self._split, self._where = folder, split, where
        self._view = open_view(folder, split=split, where=where)
        self._flags = FlagFile(self._view.manifest.fingerprint, store=self._view.store)
        self._lock = threading.RLock()  # of what is computed once
        self._records: dict[int, EpisodeRecord] = {}

    @property
    def label(self) -> str:
        """Name and version."""
        return f"{self._view.manifest.name} {self._view.manifest.version}"

    @property
    def view(self) -> "DatasetView":
        """The episodes that are shown."""
        return self._view

    def close(self) -> None:
        """End the rendering."""
        if "_renderer" in self.__dict__:
            self._renderer.close()

    # --- the episode table ---

    def describe(self) -> dict[str, Any]:
        """Return name, version, splits, columns and certificate."""
        from rlhive.data.versions import read_certificate
        from rlhive.dataset import reference_returns, vector_columns

        manifest = self._view.manifest
        certificate = read_certificate(manifest.fingerprint, store=self._view.store)
        return {
            "name": manifest.name,
            "version": manifest.version,
            "fps": manifest.fps,
            "operations": to_tree(self._view.operations),
            "splits": self._view.count(),
            "vectors": vector_columns(manifest.schema),
            "references": reference_returns(self._view),
            "certificate": certificate
            and {
                "ok": certificate.ok,
                "verdict": certificate.verdict,
                "text": shorten(certificate),
                "notable": to_tree(certificate.notable),
            },
        }

    def episodes(self) -> dict[str, Any]:
        """Return the columns of the list; see :func:`rlhive.viewer._rows.list_episodes`.

        Scores are among them where they were computed before.
        """
        from rlhive.data.scores import read_stored_scores

        return list_episodes(self._view, read_stored_scores(self._view.manifest, store=self._view.store))

    def scores(self) -> dict[str, Any]:
        """Compute the scores of the version if the store has none, and return them as columns of the list.

        Raises:
            SchemaMismatchError: The version has nothing that could be scored.
        """
        with self._lock:
            scores = self._view.read_scores()
        return {"columns": list_scores(scores)}

    def select(self, condition: str) -> dict[str, Any]:
        """Return the ids of the episodes that meet a condition, a text as for ``where``.

        Raises:
            InvalidExpressionError: The condition cannot be parsed or computed.
        """
        return {"episodes": self._view.where(condition).episode_ids()}

    def provenance(self) -> dict[str, Any]:
        """Return what the manifest says of the origin of the episodes."""
        manifest = self._view.manifest
        fields = {field.column: f"{field.dtype} {list(field.shape)}" for field in manifest.schema.fields}
        splits = {
            split: f"{count['num_episodes']:,} episodes, {count['num_transitions']:,} transitions"
            for split, count in manifest.splits.items()
        }
        return to_tree(
            {
                "name": manifest.name,
                "version": manifest.version,
                "environment": manifest.env_name,
                "task": manifest.task,
                "description": manifest.description,
                "licence": manifest.license,
                "created": manifest.created,
                "fingerprint": manifest.fingerprint,
                "rate": None if manifest.fps is None else f"{manifest.fps:g} frames per second",
                "splits": splits,
                "columns": fields,
                "parents": manifest.parents,
                "runs": manifest.runs,
                "files": {entry.path: f"{entry.bytes:,} bytes" for entry in manifest.files},
            }
        )

    # --- transitions ---

    def series(self, episode: int) -> dict[str, Any]:
        """Return the numbers of an episode over time; see :func:`rlhive.viewer._series.make_series`.

        Raises:
            SchemaMismatchError: There is no such episode.
        """
        return self.make_series(self.read(episode))

    def make_series(self, record: "EpisodeRecord") -> dict[str, Any]:
        """Return the numbers of an episode that was read."""
        from rlhive.viewer._series import make_series
        from rlhive.viewer._summaries import state_columns

        return make_series(record, state_columns(self._view), self._statistics, self._view.manifest.fps)

    def frames(self, episode: int, start: int, stop: int) -> dict[str, Any]:
        """Return pictures ``start`` to ``stop`` of an episode, of all cameras.

        Returns:
            ``cameras``, each with ``name`` and ``frames``, JPEG in base64; ``total``, the number of pictures.

        Raises:
            SchemaMismatchError, ReplayRefusedError, RoboHiveMissingError, RenderingUnavailableError: There are no
                pictures, and the states cannot be rendered.
            MissingExtraError: Pillow is not installed.
        """
        from rlhive.viewer._pictures import MAX_FRAMES, RENDERED, encode_frames

        if not start < stop <= start + MAX_FRAMES:
            msg = f"frames {start} to {stop}: expected 1 to {MAX_FRAMES} of them"
            raise InvalidOptionError(msg)
        record = self.read(episode)
        stored = self._stored_cameras(record)
        if stored:
            cameras = [
                {"name": shorten(name), "frames": encode_frames(frames[start:stop])} for name, frames in stored.items()
            ]
            return {"cameras": cameras, "total": max(map(len, stored.values()))}
        rendered = self._renderer.read(record, start, stop)
        return {"cameras": [{"name": RENDERED, "frames": rendered}], "total": record.length + 1}

    def encode_pictures(self, episode: int, *, max_width: int, quality: int) -> dict[str, Any]:
        """Return all pictures of an episode in another size, as :meth:`frames` does."""
        from rlhive.dataset import render_states
        from rlhive.viewer._pictures import RENDERED, encode_frames

        record = self.read(episode)
        cameras = self._stored_cameras(record) or {RENDERED: render_states(self._view, record, None)}
        encoded = [
            {"name": shorten(name), "frames": encode_frames(frames, max_width=max_width, quality=quality)}
            for name, frames in cameras.items()
        ]
        return {"cameras": encoded, "total": max(len(camera["frames"]) for camera in encoded)}

    def _stored_cameras(self, record: "EpisodeRecord") -> dict[str, Any]:
        from rlhive.dataset import picture_columns
        from rlhive.viewer._pictures import stored_cameras

        return stored_cameras(record, picture_columns(self._view.manifest.schema))

    def terms(self, episode: int) -> dict[str, Any]:
        """Return the reward's terms of an episode as RoboHive computes them from its observations.

        Raises:
            RewardUnavailableError: The observations do not determine the reward.
            ReplayRefusedError, RoboHiveMissingError: The environment cannot be built here.
        """
        from rlhive.viewer._terms import compute_terms

        record = self.read(episode)
        stride = self.series(episode)["stride"]
        return {"terms": self._renderer.run(lambda: compute_terms(self._view.manifest, record, stride))}

    def dimensions(self) -> dict[str, Any]:
        """Return the distribution of each dimension; see :func:`rlhive.viewer._summaries.summarize_view`."""
        with self._lock:
            return self._dimensions

    def neighbours(self, episode: int) -> dict[str, Any]:
        """Return the episodes that are most alike; see :mod:`rlhive.viewer._neighbours`."""
        return self.find_neighbours(self.read(episode))

    def find_neighbours(self, record: "EpisodeRecord") -> dict[str, Any]:
        """Return the episodes that are most alike to one that was read."""
        with self._lock:
            neighbours = self._neighbours
        return neighbours.find(record)

    def checks(self) -> dict[str, Any]:
        """Return the report of :func:`rlhive.check`; it reads every file of the version."""
        with self._lock:
            return self._checks

    def read(self, episode: int) -> "EpisodeRecord":
        """Return an episode; the last few are kept.

        Raises:
            SchemaMismatchError: There is no such episode.
        """
        with self._lock:
            record = self._records.pop(episode, None) or next(self._view.select([episode]).iter_records())
            self._records[episode] = record
            for oldest in list(self._records)[:-_NUM_CACHED_EPISODES]:
                del self._records[oldest]
        return record

    @functools.cached_property
    def _statistics(self) -> dict[str, Any]:
        """Mean and std of the columns in the stored splits, whichever episodes are shown."""
        return replace(self._view, selection=None, splits=self._view.stored_splits).compute_statistics()

    @functools.cached_property
    def _dimensions(self) -> dict[str, Any]:
        from rlhive.viewer._summaries import summarize_view

        return summarize_view(self._view)

    @functools.cached_property
    def _checks(self) -> dict[str, Any]:
        from rlhive.rollouts import check

        report = check(self._folder).to_json()
        for result in report["checks"]:
            result["findings"] = [shorten(finding, _MAX_FINDING) for finding in result["findings"]]
            result["note"] = shorten(result["note"], _MAX_FINDING)
        return {"ok": report["ok"], "checks": report["checks"]}

    @functools.cached_property
    def _renderer(self) -> "Renderer":
        from rlhive.dataset import render_states
        from rlhive.viewer._pictures import Renderer

        return Renderer(lambda record: render_states(self._view, record, None))

    @functools.cached_property
    def _neighbours(self) -> "Neighbours":
        from rlhive.viewer._neighbours import Neighbours
        from rlhive.viewer._summaries import state_columns

        episodes = sorted(self._view.episode_ids())
        step = -(-len(episodes) // MAX_COMPARED)
        view = self._view.select(episodes[::step]) if step > 1 else self._view
        return Neighbours(view.iter_records(), state_columns(self._view))

    # --- flags ---

    def flags(self) -> dict[str, Any]:
        """Return the flagged episodes, and the condition that the others meet."""
        stored = self._flags.read()
        flagged = sorted(stored & set(self._view.episode_ids())) if stored else []
        return {"flagged": flagged, "where": format_condition(flagged)}

    def flag(self, flagged: Sequence[int]) -> dict[str, Any]:
        """Keep which of the shown episodes are flagged; flags of episodes that are not shown stay.

        Raises:
            SchemaMismatchError: An id is not shown.
            StoreNotWritableError: The flags cannot be written.
        """
        with self._lock:
            shown = set(self._view.episode_ids())
            unknown = sorted(set(flagged) - shown)
            if unknown:
                msg = f"flags: there is no episode {unknown[0]} here"
                raise SchemaMismatchError(msg)
            self._flags.write((self._flags.read() - shown) | set(flagged))
        return self.flags()

    def save_unflagged(self, name: str, *, where: str = "") -> dict[str, Any]:
        """Write the shown episodes without a flag as a version; see :meth:`rlhive.RoboHiveDataset.save`.

        Args:
            name: Name of the dataset; of an existing one this becomes the next version.
            where: Further condition on the episodes.

        Returns:
            Name, version and number of episodes of the new version.

        Raises:
            SchemaMismatchError: No episode is left.
            InvalidExpressionError: The condition cannot be computed, or has more than 10,000 characters.
            InvalidNameError: The name is not one of a dataset.
        """
        from rlhive.dataset import RoboHiveDataset

        dataset = RoboHiveDataset(self._folder, split=self._split, where=self._where, store=self._view.store)
        for condition in filter(None, (where, self.flags()["where"])):
            dataset = dataset.where(condition)
        num_episodes = sum(count["num_episodes"] for count in dataset.counts.values())
        if not num_episodes:
            msg = f"{name}: no episode is left without a flag. Nothing was written."
            raise SchemaMismatchError(msg)
        with self._lock:
            saved = dataset.save(name)
        return {"name": saved.name, "version": saved.version, "episodes": num_episodes}
