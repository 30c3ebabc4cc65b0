"""``RoboHiveDataset("kitchen_knob1")``: from a name to a version, from a version to views and buffers."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tensordict import TensorDict
from torchrl.data import RobotDatasetMetadata
from torchrl.data.datasets import register_dataset

from rlhive import keys
from rlhive.data import EpisodeRecord, Schema, merge_all, unpack
from rlhive.data.hub import Pin, Published, batches_of, complete, push, stream_records
from rlhive.data.versions import (
    Manifest,
    positions,
    read_episodes,
    read_rows,
    read_summaries,
    restrict,
    rows,
    shards_holding,
    summaries_of,
    verified_shards,
)
from rlhive.dataset import _lookup
from rlhive.dataset._loaders import Feeding
from rlhive.dataset._robot_metadata import robot_metadata
from rlhive.dataset._transforms import Condition
from rlhive.errors import DatasetNotFound, InvalidName, SplitNotFound
from rlhive.rollouts import check

if TYPE_CHECKING:
    import datasets

# `torchrl.data.datasets.load_dataset("rlhive:kitchen_knob1")`; TorchRL imports the room when it is asked for one.
register_dataset("rlhive", "rlhive.dataset._registry:open_replay_buffer", replace=True)


class RoboHiveDataset(Feeding):
    """One version of a dataset, or some of its splits or episodes; read-only.

    A name is looked up in the local store, then on the Hugging Face Hub, and otherwise made by running the recipe
    of the catalogue's task of that name, after a line that says so. Without ``version`` the newest one is taken of
    the first place that has any. What is in the local store is opened without a network. From the Hub comes the whole
    version, or only the shards of the splits asked for; every file is verified.

    Args:
        name: ``"kitchen_knob1"``, ``"org/name"``, or the path of a version's folder (a Path, or a string that begins
            with ``/``, ``.`` or ``~``).
        split: ``"expert"``, or several joined by ``+``: ``"expert+random"``. All by default.
        version: ``"1.0.0"``; the newest by default.
        revision: Instead of a version: a tag, branch or commit of the Hub. A commit that was pulled needs no network.
        where: Only the episodes that meet a condition, see :meth:`where`; from the Hub come the shards that hold any.
        streaming: Whether transitions stay on the Hub and are fetched while :meth:`iter_episodes` and
            :meth:`iter_batches` go over them; the other views are then refused.
        generate: Whether a recipe may be run.
        store: Folder of all datasets; by default ``$RLHIVE_DATASETS_PATH`` or ``~/.rlhive/datasets``.

    Raises:
        DatasetNotFound: No such dataset or version; the message names the nearest names or the versions there are.
        HubUnreachable, HubAccessDenied: It is not here, and the Hub does not answer or does not give it.
        SplitNotFound: No such split; the message names those there are.
        CorruptDataset: A file is not what the manifest recorded.

    Example:
        >>> RoboHiveDataset("kitchen_knob1", split="expert").as_replay_buffer().sample()  # doctest: +SKIP
    """

    def __init__(
        self,
        name: str | Path,
        *,
        split: str | None = None,
        version: str | None = None,
        revision: str | None = None,
        where: Condition | None = None,
        streaming: bool = False,
        generate: bool = True,
        store: Path | None = None,
    ):
        self._store, self._streaming = store, streaming
        splits = None if split is None else split.split("+")
        if where is not None or streaming:
            splits = []  # the episode table comes first
        options = {"splits": splits, "generate": generate, "store": store}
        self.path = _lookup.find(name, version=version, revision=revision, **options)
        self._manifest = Manifest.read(self.path)
        if version not in (None, self.version):
            msg = f"{self.path}: expected version {version}, got {self.version}. Leave the version out."
            raise DatasetNotFound(msg)
        self.splits = _choose_splits(split, self._manifest)
        self._on_disk, self._selection, self._operations = self.splits, None, ()
        self._here = self._manifest
        if where is not None:
            self.__dict__ |= vars(self.where(where))
            ids = np.concatenate([np.empty(0, np.int64), *self._selection.values()])
            self._here = self._manifest.only(shards_holding(self.path, self._manifest, ids))
        if not streaming:
            needed = [entry for entry in self._here.files if not entry.split or entry.split in self.splits]
            complete(self.path, self._manifest, needed)

    @property
    def name(self) -> str:
        """``namespace/name``."""
        return self._manifest.name

    @property
    def version(self) -> str:
        """MAJOR.MINOR.PATCH."""
        return self._manifest.version

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the version's content, whatever files it lies in."""
        return self._manifest.fingerprint

    @property
    def schema(self) -> Schema:
        """Keys, dtypes and shapes of a transition."""
        return self._manifest.schema

    @property
    def env_name(self) -> str:
        """Id of the environment that the episodes come from."""
        return self._manifest.env_name

    @property
    def task_name(self) -> str:
        """Name of the task in the catalogue; empty where there is none."""
        return self._manifest.task

    @property
    def manifest(self) -> Manifest:
        """Everything that the version says of itself, provenance included."""
        return self._manifest

    @property
    def robot_metadata(self) -> RobotDatasetMetadata:
        """What the version says of its robot and actions, in TorchRL's own form; statistics of the chosen splits."""
        pin = Pin.read(self.path)
        return robot_metadata(self._manifest, self.statistics, source_url=pin and pin.url)

    @property
    def episodes(self) -> pa.Table:
        """The episode table of the chosen splits, in rising order of ids.

        Columns: ``episode``, ``split``, ``length``, ``return``, ``success``, ``ended``, ``seed``, ``policy``,
        ``run``, ``content_hash``, ``metadata``, and ``final.*`` and ``start.*`` (final observation, simulator state).
        """
        table = read_episodes(self.path, self._manifest)
        if self._selection is not None:
            return restrict(table, self._selection)
        return table.filter(pc.is_in(table["split"], pa.array(self.splits, pa.string())))

    @property
    def statistics(self) -> dict[str, dict[str, Any]]:
        """Count, mean, std, min, max and quantiles of every column over the chosen splits, one number per element.

        Pictures are summarised per channel. Versions from before there were quantiles have none.
        """
        if self._selection is not None:
            summaries = summaries_of(self.as_source())
        else:
            summaries = merge_all(read_summaries(self.path, self._manifest, self.splits))
        return {column: summary.to_json() for column, summary in summaries.items()}

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """``num_episodes`` and ``num_transitions`` of each chosen split."""
        if self._selection is None:
            return {split: dict(self._manifest.splits[split]) for split in self.splits}
        table = read_episodes(self.path, self._manifest, [keys.EPISODE, "length"])
        lengths = table["length"].to_numpy()
        found = {}
        for split, ids in self._selection.items():
            own = lengths[positions(table[keys.EPISODE].to_numpy(), {split: ids})]
            found[split] = {"num_episodes": len(ids), "num_transitions": int(own.sum())}
        return found

    def __len__(self) -> int:
        return sum(count["num_transitions"] for count in self.counts.values())

    def as_arrow(self) -> pa.Table:
        """Return all chosen transitions as an Arrow table in memory, one row each, columns named ``next.reward``."""
        self._shards(self._on_disk)
        table = read_rows(self.path, self._here, self._on_disk)
        if self._selection is None:
            return table
        return table.take(rows(table[keys.EPISODE].to_numpy(), self._selection))

    def to_hf(self) -> "datasets.Dataset":
        """Return all chosen transitions as a Hugging Face dataset, mapped from its own cache; files are verified."""
        import datasets

        self._shards(self._on_disk)
        paths = verified_shards(self.path, self._here, self._on_disk)
        table = datasets.Dataset.from_parquet([str(path) for path in paths])
        if self._selection is None:
            return table
        return table.select(rows(table.data[keys.EPISODE].to_numpy(), self._selection))

    def iter_episodes(self) -> Iterator[TensorDict]:
        """Yield the chosen episodes as TED TensorDicts ``[T]``, split by split, from disk or straight from the Hub.

        Memory: the row groups at hand. Every episode is checked against its content hash.

        Raises:
            CorruptDataset: An episode is not what the episode table vouches for.
            HubUnreachable, HubAccessDenied: The Hub does not answer or does not give it.
        """
        for record in self._records():
            yield unpack(record.columns, record.final, self.schema, episode=record.episode)

    def iter_batches(
        self, batch_size: int = 256, *, shuffle: int = 0, seed: int | None = None, drop_last: bool = False
    ) -> Iterator[TensorDict]:
        """Yield the chosen transitions as TED batches, each once, from disk or straight from the Hub.

        Args:
            batch_size: Transitions per batch.
            shuffle: Size of the pool that batches are drawn from, in transitions; 0 keeps the order.
            seed: The same seed gives the same batches.
            drop_last: Whether a smaller last batch is left out.
        """
        return batches_of(self._records(), self.schema, batch_size, shuffle=shuffle, seed=seed, drop_last=drop_last)

    def _records(self) -> Iterator[EpisodeRecord]:
        chosen = self._selection
        wanted = None if chosen is None else [int(episode) for ids in chosen.values() for episode in ids]
        return stream_records(self.path, self._manifest, self._on_disk, wanted)

    def push_to_hub(
        self, repo_id: str = "", *, private: bool = False, license: str | None = None, progress: bool = True
    ) -> Published:
        """Publish the whole version, all splits, under the tag ``v<version>``, which is never moved.

        What the Hub holds already is not sent again; an interrupted push goes on where it stopped.

        Args:
            repo_id: ``"org/name"``; the dataset's own name by default.
            private: Whether a new repository is private.
            license: Licence to publish under, where ``repo_id`` is not the dataset's own name.
            progress: Whether to show progress bars.

        Returns:
            Where it is: repository, version, commit and page.

        Raises:
            DatasetExists: The Hub has another content under that version.
            HubConflict: Somebody else pushed meanwhile; push again.
            HubAccessDenied, HubUnreachable, HubRefused: The Hub's answer, in one sentence.
            CorruptDataset, CheckFailed: The version fails :func:`rlhive.rollouts.check`; nothing was sent.
            InvalidName: This is a choice of its episodes and no version.
        """
        if self._selection is not None:
            view = self._operations[-1]
            msg = f"{self.name} {self.version}: expected a version, got a view of it ({view}). Save it first: save()"
            raise InvalidName(msg)
        complete(self.path, self._manifest, self._manifest.files, progress=progress)
        target = repo_id or self.name
        options = {"private": private, "license": license, "progress": progress}
        return push(self.path, target, check=check, **options)

    def __repr__(self) -> str:
        counts = self.counts
        chosen = [
            f"{split}: {counts[split]['num_episodes']:,} episodes, {counts[split]['num_transitions']:,} transitions"
            for split in self.splits
        ]
        fields = [f"{field.column}: {field.dtype} {list(field.shape)}" for field in self.schema.fields]
        lines = [
            f"RoboHiveDataset {self.name} {self.version}",
            f"  environment  {self.env_name or 'unknown'}",
            *(f"  {'splits' if not index else '':<11}  {text}" for index, text in enumerate(chosen)),
            *(f"  {'keys' if not index else '':<11}  {text}" for index, text in enumerate(fields)),
            *(f"  {'view' if not index else '':<11}  {text}" for index, text in enumerate(self._operations)),
            f"  fingerprint  {self.fingerprint[:16]}",
            f"  path         {self.path}",
        ]
        return "\n".join(lines)


def _choose_splits(split: str | None, manifest: Manifest) -> list[str]:
    if split is None:
        return list(manifest.splits)
    chosen = split.split("+")
    unknown = [name for name in chosen if name not in manifest.splits]
    if unknown or len(set(chosen)) != len(chosen):
        msg = (
            f"{manifest.name} {manifest.version} has no split {split!r}: expected one of "
            f"{', '.join(manifest.splits)}, or several different ones joined by '+'."
        )
        raise SplitNotFound(msg)
    return chosen


def describe(dataset: RoboHiveDataset) -> Mapping[str, Any]:
    """Return what a dataset is as one JSON-able dict, for tools."""
    return {
        "name": dataset.name,
        "version": dataset.version,
        "fingerprint": dataset.fingerprint,
        "env_name": dataset.env_name,
        "splits": dataset.counts,
        "schema": dataset.schema.to_json(),
        "bytes": dataset.manifest.num_bytes,
        "license": dataset.manifest.license,
        "created": dataset.manifest.created,
        "path": str(dataset.path),
    }
