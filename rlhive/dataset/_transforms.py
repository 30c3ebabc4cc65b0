"""What can be made of a dataset: views that read nothing until they are used, and new versions.

::

    where · filter · select · split      a view: the same files, some of the episodes, other splits; lazy
    save · merge · append                a new version; the old ones stay as they are
    rename_ · drop_ · add_column         a new version with other columns
    relabel                              a new version with other rewards, without stepping the simulator

Every new version names its parents and what was done to them.
"""

import contextlib
import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rlhive import keys
from rlhive.data import EpisodeRecord, Schema
from rlhive.data.replay import MEAN_STD, observation_norm
from rlhive.data.versions import (
    COLUMNS,
    Compute,
    Manifest,
    Selection,
    Source,
    accepted,
    add_column,
    columns_in,
    drop_columns,
    export,
    keep,
    matching,
    merge,
    partition,
    read_episodes,
    relabel,
    rename_column,
    require_known,
    restrict,
    selection_of,
    source_of,
    stream,
)
from rlhive.envs import DENSE, SPARSE, make_env, reward_terms, weighted
from rlhive.errors import RewardUnavailable, SchemaMismatch, SplitNotFound
from rlhive.rollouts import tasks_of

if TYPE_CHECKING:
    from torchrl.envs.transforms import ObservationNorm


#: Text, an Arrow expression, or a function of the episode table that gives a mask, one truth value per row.
Condition = str | pc.Expression | Callable[[pa.Table], Any]


class Derivations:
    """The part of :class:`rlhive.RoboHiveDataset` that gives new datasets."""

    path: Path
    splits: list[str]
    _manifest: Manifest
    _store: Path | None
    _on_disk: list[str]
    _selection: Selection | None
    _operations: tuple[str, ...]

    def where(self, condition: Condition) -> Self:
        """Return a view of the episodes that meet a condition; only the episode table is read.

        Args:
            condition: ``"success and return > -40"``, see :func:`rlhive.data.versions.matching`: it is
                parsed, never run as code. Or an Arrow expression, or a function of the episode table that gives a mask.

        Raises:
            InvalidExpression: It cannot be parsed or computed; the message names the columns.
        """
        wanted = None
        if isinstance(condition, str):
            wanted = list(dict.fromkeys([keys.EPISODE, "split", *columns_in(condition)]))
        chosen = self._chosen()
        table = restrict(read_episodes(self.path, self._manifest, wanted), chosen)
        if callable(condition):
            ids = table.filter(pa.array(condition(table), pa.bool_()))[keys.EPISODE].to_pylist()
        else:
            ids = matching(table, condition)
        said = getattr(condition, "__qualname__", repr(str(condition)))
        return self._view(keep(chosen, ids), f"where({said})")

    def filter(self, predicate: Callable[[dict[str, Any]], bool]) -> Self:
        """Return a view of the episodes whose row of the episode table a function accepts.

        Args:
            predicate: Takes ``episode``, ``split``, ``length``, ``return``, ``success``, ``ended``, ``seed``,
                ``policy``, ``run``, ``content_hash`` and ``metadata`` (a dict) by name.

        Raises:
            TypeError: It is no function.
        """
        if not callable(predicate):
            msg = f"filter({predicate!r}): expected a function of an episode's row. For a condition in words: where()."
            raise TypeError(msg)
        table = read_episodes(self.path, self._manifest, list(COLUMNS))
        chosen = self._chosen()
        ids = accepted(restrict(table, chosen), predicate)
        return self._view(keep(chosen, ids), f"filter({getattr(predicate, '__qualname__', predicate)})")

    def select(self, episodes: Iterable[int]) -> Self:
        """Return a view of some episodes, given their ids.

        Raises:
            SchemaMismatch: One of them is not in this dataset.
        """
        chosen = self._chosen()
        ids = require_known(chosen, episodes)
        return self._view(keep(chosen, ids), f"select({len(ids)} ids)")

    def split(self, parts: Mapping[str, float] | Mapping[str, Iterable[int]], *, seed: int = 0) -> Self:
        """Return a view with other splits; ``view["train"]`` is one of them.

        Args:
            parts: Name → share of the episodes, together 1; or name → ids, and episodes that nobody names are left out.
            seed: Of the shares; the same seed and episodes give the same splits on any machine.

        Raises:
            SchemaMismatch: The shares are not 1 together, or an id is unknown or named twice.

        Example:
            >>> train = dataset.split({"train": 0.9, "test": 0.1})["train"].as_replay_buffer()  # doctest: +SKIP
        """
        ids = sorted(int(episode) for own in self._chosen().values() for episode in own)
        made = partition(ids, parts, seed=seed)
        said = {
            name: part if isinstance(part, (int, float)) else f"{len(made[name])} ids" for name, part in parts.items()
        }
        found = {name: np.array(own, np.int64) for name, own in made.items()}
        return self._view(found, f"split({said}, seed={seed})")

    def __getitem__(self, split: str) -> Self:
        """Return the view of one split, or of several joined by ``+``."""
        names = split.split("+")
        if not set(names) <= set(self.splits) or len(set(names)) != len(names):
            msg = (
                f"{self._manifest.name} has no split {split!r} here: expected one of {', '.join(self.splits)}, or "
                "several different ones joined by '+'."
            )
            raise SplitNotFound(msg)
        if self._selection is not None:
            return self._view({name: self._selection[name] for name in names}, f"[{split!r}]")
        view = copy.copy(self)  # whole splits: nothing is read to know what they hold
        view.splits = view._on_disk = names
        return view

    def as_source(self, schema: Schema | None = None) -> Source:
        """Return the episodes with their metadata, as :func:`rlhive.data.versions.export` takes them.

        Args:
            schema: Schema that the version must have.

        Raises:
            SchemaMismatch: The version has another one.
        """
        chosen, manifest = self._chosen(), self._manifest
        manifest.schema.require(schema or manifest.schema, where=str(self.path))
        operations = list(self._operations)
        if self._selection is None and list(manifest.splits) != self.splits:
            operations.insert(0, f"split={'+'.join(self.splits)!r}")
        parent = {"name": manifest.name, "version": manifest.version, "fingerprint": manifest.fingerprint}
        return Source(
            manifest.schema,
            partial(stream, self.path, manifest, chosen),
            ids=lambda: [int(episode) for own in chosen.values() for episode in own],
            splits=tuple(self.splits),
            runs=manifest.runs,
            parents=(parent | {"operations": operations},),
            license=manifest.license,
            description=manifest.description,
            env_name=manifest.env_name,
            task=manifest.task,
        )

    def save(self, name: str, *, version: str | None = None, license: str = "", description: str = "") -> Self:
        """Write what this is, a view for example, as a version of its own; ids stay.

        Args:
            name: ``name`` or ``namespace/name``; a new dataset or the next version of one.
            version: MAJOR.MINOR.PATCH; the right next one by default.
            license: The parent's by default.
            description: The parent's by default.

        Returns:
            The new dataset.

        Raises:
            WrongVersion, DatasetExists: As :func:`rlhive.data.versions.export`.
        """
        return self._save(self.as_source(), name, version, license, description)

    def merge(
        self, *others: "Derivations", name: str, version: str | None = None, license: str = "", description: str = ""
    ) -> Self:
        """Write the episodes of this and other datasets as one version; splits of the same name become one.

        Episodes whose content is there already are dropped, with a warning that says how many. Ids are new; seeds,
        start states, metadata and the runs' provenance stay.

        Raises:
            SchemaMismatch: The schemas differ; the message says where.
            InvalidName: The licences differ, and none was given.
        """
        merged = merge([self.as_source(), *(other.as_source() for other in others)])
        return self._save(merged, name, version, license, description, "merge")

    def append(
        self, source: Any, *, name: str = "", version: str | None = None, license: str = "", description: str = ""
    ) -> Self:
        """Write this dataset and further episodes as a version, by default the next one of the same name.

        Args:
            source: A recording, a dataset or view, or episode records; episodes get the ids after the highest here.
            name: The dataset's own by default.
            version: The right next one by default.
            license: The parents' by default.
            description: The parent's by default.

        Raises:
            SchemaMismatch: The schemas differ; the message says where.
        """
        own, more = self.as_source(), source_of(source)
        known = {field: getattr(more, field) or getattr(own, field) for field in ("license", "env_name", "task")}
        more = replace(more, **known)
        merged = merge([own, more], keep_ids_of_first=True)
        return self._save(merged, name or self._manifest.name, version, license, description, "append")

    def rename_column(self, old: str, new: str, *, name: str, version: str | None = None, license: str = "") -> Self:
        """Write a version in which a column has another name."""
        made = rename_column(self.as_source(), old, new)
        return self._save(made, name, version, license, "", f"rename_column({old!r}, {new!r})")

    def drop_column(self, *columns: str, name: str, version: str | None = None, license: str = "") -> Self:
        """Write a version without some columns."""
        made = drop_columns(self.as_source(), columns)
        return self._save(made, name, version, license, "", f"drop_column{columns}")

    def add_column(
        self,
        column: str,
        compute: Compute,
        *,
        name: str,
        unit: str | None = None,
        version: str | None = None,
        license: str = "",
    ) -> Self:
        """Write a version with one column more, computed episode by episode.

        Args:
            column: Its name.
            compute: Takes the columns ``[T, *shape]`` and the final values of an episode by name, and gives
                ``[T, …]``; or ``[T + 1, …]`` of a quantity with a value after the last action too.
            name: Of the new dataset, or of this one for its next version.
            unit: Physical unit.
            version: The right next one by default.
            license: The parent's by default.
        """
        made = add_column(self.as_source(), column, compute, unit=unit)
        return self._save(made, name, version, license, "", f"add_column({column!r})")

    def relabel(
        self,
        reward: str | Mapping[str, float] | Compute,
        *,
        name: str,
        version: str | None = None,
        license: str = "",
    ) -> Self:
        """Write a version with other rewards, recomputed from what is stored; the simulator does not step.

        Args:
            reward: ``"dense"`` or ``"sparse"``; or weights of RoboHive's own reward terms by name, those that are not
                named weighing nothing; or a function of the columns and final values of an episode that gives T
                rewards.
            name: Of the new dataset, or of this one for its next version.
            version: The right next one by default.
            license: The parent's by default.

        Raises:
            RewardUnavailable: The environment's reward needs what was not stored, or has no such term.
            RoboHiveMissing: RoboHive is not installed; a function needs none.
        """
        said = reward if isinstance(reward, str) else dict(reward) if isinstance(reward, Mapping) else "a function"
        with contextlib.ExitStack() as stack:
            compute = self._reward(reward, stack)
            made = relabel(self.as_source(), compute)
            return self._save(made, name, version, license, "", f"relabel({said!r})")

    def normalization(self, key: keys.NestedKey, *, how: str = MEAN_STD) -> "ObservationNorm":
        """Return a TorchRL transform that normalises a key by the statistics of the chosen episodes.

        Args:
            key: For example ``"observation"``, which is normalised below ``"next"`` too.
            how: ``"mean_std"``, or ``"min_max"`` or ``"quantiles"`` to -1 … 1.

        Example:
            >>> dataset.as_replay_buffer(transform=dataset.normalization("observation"))  # doctest: +SKIP
        """
        column = keys.column_of(key)
        if column not in self._manifest.schema.columns:
            known = ", ".join(self._manifest.schema.columns)
            msg = f"There is no column {column}: expected one of {known}. Name one of them."
            raise SchemaMismatch(msg)
        item = self._manifest.schema[column]
        row = self.statistics[item.column]
        return observation_norm(row, key, dtype=item.dtype, observed=item.observed, how=how)

    def _reward(
        self, reward: str | Mapping[str, float] | Compute, stack: contextlib.ExitStack
    ) -> Callable[[EpisodeRecord], np.ndarray]:
        if callable(reward):
            return lambda record: reward(dict(record.columns), dict(record.final))
        if isinstance(reward, str) and reward not in (DENSE, SPARSE):
            msg = f"Reward {reward!r}: expected 'dense', 'sparse', weights of reward terms, or a function."
            raise RewardUnavailable(msg)
        tasks, envs = tasks_of(self._manifest), {}

        def compute(record: EpisodeRecord) -> np.ndarray:
            task = tasks.get(record.run) or next(iter(tasks.values()))
            made = (task.backend, task.env_name, repr(task.env_kwargs))
            if made not in envs:
                envs[made] = make_env(task)
                stack.callback(envs[made].close)
            terms = reward_terms(envs[made], record.columns, record.final)
            return terms[reward] if isinstance(reward, str) else weighted(terms, reward)

        return compute

    def _chosen(self) -> Selection:
        if self._selection is not None:
            return self._selection
        table = read_episodes(self.path, self._manifest, [keys.EPISODE, "split"])
        return selection_of(table, self.splits)

    def _view(self, chosen: Selection, operation: str) -> Self:
        view = copy.copy(self)
        view._selection, view.splits = chosen, list(chosen)
        view._operations = (*self._operations, operation)
        return view

    def _save(
        self,
        source: Source,
        name: str,
        version: str | None,
        license: str,
        description: str,
        *operations: str,
    ) -> Self:
        parents: Sequence[Mapping[str, Any]] = [
            parent | {"operations": [*parent.get("operations", []), *operations]} for parent in source.parents
        ]
        folder = export(
            source,
            name,
            version=version,
            license=license or source.license,
            description=description,
            parents=parents,
            store=self._store,
        )
        return type(self)(folder, store=self._store)
