"""``RoboHiveDataset("kitchen_knob1")``: one object to open, select from, transform and load a dataset version.

The class is a facade::

    _lookup                 name ─► folder of a version (store, Hub, or the task's recipe)
    _view                   folder ─► frozen view: splits, selected episodes, operations
    _loaders                view ─► replay buffer, DataLoader, storage, TensorDict, table, iterator
    _transforms, _render    view ─► new version
    _ray                    view ─► Ray dataset, replay buffer in an actor
    _scores                 version ─► scores of its episodes
    _plots, _film, _rerun   view ─► figures, videos, Rerun recordings
    _publish                view ─► version on the Hub
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack

import pyarrow as pa
import torch
from tensordict import TensorDict
from torchrl.data import RobotDatasetMetadata
from torchrl.data.datasets import register_dataset

from rlhive import keys as keys_
from rlhive._ray import require_ray
from rlhive.data import Schema, parse_splits, store_dir
from rlhive.data.hub import BatchStream, HubPin, StreamOptions
from rlhive.data.replay import (
    MEAN_STD,
    BatchTransform,
    DataLoaderOptions,
    EpochLoader,
    ImageCache,
    Normalize,
    PackedStorage,
    RaggedChoice,
    ReadOptions,
    SamplingOptions,
    ShortEpisodes,
)
from rlhive.data.versions import ColumnFunction, Manifest, VersionSource
from rlhive.dataset import _loaders, _lookup, _transforms
from rlhive.dataset._description import describe_view, format_view
from rlhive.dataset._film import save_video
from rlhive.dataset._loaders import ReadKeywords
from rlhive.dataset._plots import DatasetPlots
from rlhive.dataset._publish import push_view
from rlhive.dataset._render import render_view
from rlhive.dataset._rerun import save_rerun
from rlhive.dataset._robot_metadata import robot_metadata
from rlhive.dataset._transforms import Target
from rlhive.dataset._view import Condition, DatasetView, open_view
from rlhive.rollouts import RenderRequest

if TYPE_CHECKING:
    import datasets
    import ray.data
    from torchrl.data import TensorDictReplayBuffer
    from torchrl.data.replay_buffers.ray_buffer import RayReplayBuffer
    from torchrl.data.replay_buffers.samplers import Sampler
    from torchrl.envs.transforms import ObservationNorm

    from rlhive.data.formats import RewardOption, SuccessOption
    from rlhive.data.hub import PublishedVersion

# For `torchrl.data.datasets.load_dataset("rlhive:kitchen_knob1")`; TorchRL imports the module on the first use.
register_dataset("rlhive", "rlhive.dataset._registry:open_replay_buffer", replace=True)


class RoboHiveDataset:
    """One version of a dataset, or a view of some of its splits or episodes; read-only.

    A name is looked up in the store, then on the Hugging Face Hub. If neither has the dataset and the task
    catalogue has a recipe of that name, the recipe is run, after a log line that says so. Without ``version`` the
    newest version of the first place that has any is opened. A version in a store on this disk is opened without
    network access. From the Hub or an object store the whole version is fetched, or only the shards of the requested
    splits; every file is verified against its hash.

    Args:
        name: ``"kitchen_knob1"``, ``"org/name"``, or the path of a version's folder (a Path, or a string that begins
            with ``/``, ``.`` or ``~``). Or the address of another library's dataset, ``"lerobot:org/name"``,
            ``"lerobot:/folder"`` or ``"aloha:/folder"``: it is imported into the store at first, and again when it has
            changed.
        split: One split, ``"expert"``, or several joined by ``+``: ``"expert+random"``. All splits by default.
        version: Version to open, ``"1.0.0"``; the newest by default.
        revision: Tag, branch or commit on the Hub, instead of a version. A commit that was pulled before needs no
            network access.
        where: Condition on the episodes, see :meth:`where`. From the Hub only the shards with a matching episode are
            fetched.
        streaming: Whether transitions stay on the Hub or in the object store and are fetched while
            :meth:`iter_episodes` and :meth:`iter_batches` iterate over them. Buffers and tables are not available then.
        generate: Whether a recipe may be run.
        reward: For an address: what the rewards are, ``"sparse"``, a column or a function, see
            :func:`~rlhive.data.formats.import_dataset`; by default those of the files.
        success: For an address: what success is, ``"all"``, a column or a function.
        rename: For an address: columns by their names in the files.
        store: Folder of all datasets; by default ``$RLHIVE_DATASETS_PATH``, which may also be an address such as
            ``s3://bucket/prefix``, or ``~/.rlhive/datasets``.

    Raises:
        DatasetNotFoundError: No such dataset or version; the message names similar datasets or the existing versions.
        HubUnreachableError, HubAccessDeniedError: The dataset is not in the store, and the Hub does not answer or
            denies access.
        SplitNotFoundError: No such split; the message names the existing ones.
        CorruptDatasetError: The hash of a file is not the one in the manifest.

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
        where: "Condition | None" = None,
        streaming: bool = False,
        generate: bool = True,
        reward: "RewardOption | None" = None,
        success: "SuccessOption | None" = None,
        rename: Mapping[str, str] | None = None,
        store: Path | None = None,
    ):
        splits = None if split is None else parse_splits(split)
        if where is not None or streaming:
            splits = []  # the lookup fetches the episode table only; open_view() fetches the shards that are needed
        folder = _lookup.find_version(
            name,
            version=version,
            revision=revision,
            splits=splits,
            generate=generate,
            store=store,
            import_options={"reward": reward, "success": success, "rename": rename},
        )
        self._view = open_view(folder, split=split, version=version, where=where, streaming=streaming, store=store)

    def _with_view(self, view: DatasetView) -> Self:
        dataset = object.__new__(type(self))
        dataset._view = view
        return dataset

    @property
    def path(self) -> Path:
        """Folder of the version."""
        return self._view.folder

    @property
    def store(self) -> Path:
        """Folder of all datasets, in which the transforms write."""
        return self._view.store or store_dir()

    @property
    def splits(self) -> list[str]:
        """Names of the splits, in order."""
        return list(self._view.splits)

    @property
    def name(self) -> str:
        """Name of the dataset, ``namespace/name``."""
        return self.manifest.name

    @property
    def version(self) -> str:
        """Version number, MAJOR.MINOR.PATCH."""
        return self.manifest.version

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the version's content; it does not depend on the files that hold the content."""
        return self.manifest.fingerprint

    @property
    def outcome_fingerprint(self) -> str:
        """SHA-256 of seed, length, end and success of every episode of this dataset or view.

        It is the same where a recipe ran on another processor, whose observations differ in their last bits.
        """
        return self._view.compute_outcome_fingerprint()

    @property
    def schema(self) -> Schema:
        """Keys, dtypes and shapes of a transition."""
        return self.manifest.schema

    @property
    def env_name(self) -> str:
        """Id of the environment that the episodes come from."""
        return self.manifest.env_name

    @property
    def fps(self) -> float | None:
        """Rate of the steps in frames per second: as recorded, or the inverse of the environment's time step.

        None where nobody recorded either, or runs of several rates were merged.
        """
        return self.manifest.fps

    @property
    def task_name(self) -> str:
        """Name of the task in the catalogue; empty if the catalogue has none."""
        return self.manifest.task

    @property
    def manifest(self) -> Manifest:
        """Manifest of the version: schema, splits, files with hashes, provenance of the runs."""
        return self._view.manifest

    @property
    def robot_metadata(self) -> RobotDatasetMetadata:
        """Robot and action metadata in TorchRL's format, with the statistics of this dataset or view."""
        pin = HubPin.read(self.path)
        return robot_metadata(self.manifest, self.statistics, source_url=pin.url if pin else None)

    @property
    def episodes(self) -> pa.Table:
        """The episode table, one row per episode of this dataset or view, in rising order of ids.

        Columns: ``episode``, ``split``, ``length``, ``return``, ``success``, ``ended``, ``seed``, ``policy``,
        ``run``, ``content_hash``, ``metadata``, and ``final.*`` and ``start.*`` (final observation, simulator state).
        Without rewards ``return`` is null, and without a column ``success`` that is.
        """
        return self._view.read_episode_table()

    @property
    def statistics(self) -> dict[str, dict[str, Any]]:
        """Count, mean, std, min, max and quantiles of every column, one number per element.

        Images are summarised per channel. Versions written before quantiles were stored have none. The statistics of
        whole splits are stored in the version; those of selected episodes are computed in one pass over them.
        """
        return self._view.compute_statistics()

    def score(self, *, force: bool = False) -> pa.Table:
        """Return scores of the episodes by which bad ones are found; conditions of :meth:`where` take them as columns.

        They are computed once, from the numbers of the whole version whichever of its episodes this view shows, and
        kept in ``<store>/.scores``. Columns, null where a score is not known:

        ``jerk``
            Root mean square of the third difference of the actions, in action units per second³; per step³ where the
            rate is not known.
        ``idle``
            Share of the steps whose action equals the one before, within a thousandth of each dimension's range.
        ``path_length``
            Length of the path of the observed numbers, in standard deviations.
        ``saturation``
            Share of the actions' numbers at the smallest or largest value of their dimension in the version, within a
            thousandth of its range.
        ``distance_to_goal``
            Distance between ``achieved_goal`` and ``desired_goal`` at the end of the episode. Without these columns
            minus RoboHive's sparse reward, in tasks where that is a distance and if RoboHive is installed.
        ``isolation``
            Mean distance of the episode's transitions, at most 16 of them, to the five nearest transitions of other
            episodes, in standard deviations: large where no other episode comes near.
        ``duplicate_distance``, ``duplicate``
            Distance to the nearest other episode, and whether an earlier one is within 0.01 standard deviations.
        ``outlier``
            Names of the scores by which the episode stands out from its split, such as ``"jerk, idle"``; empty for
            most. See docs/decisions/047-episode-scores.md for the rule.

        Args:
            force: Whether to compute them again, for example after RoboHive was installed.

        Returns:
            Table with ``episode``, ``split`` and the scores, in rising order of ids.

        Raises:
            SchemaMismatchError: The dataset has neither actions nor observed numbers.
            StreamingOnlyError: It was opened with ``streaming=True``, and the store has no scores of it.

        Example:
            >>> dataset.where("jerk < 300 and not duplicate").as_replay_buffer()  # doctest: +SKIP
        """
        return self._view.read_scores(force=force)

    @property
    def plot(self) -> DatasetPlots:
        """Figures of this dataset or view: ``plot.returns()``, ``.episode(7)``, ``.dimensions()``, ``.coverage()``."""
        return DatasetPlots(self._view)

    def save_video(self, episode: int, path: str | Path, *, camera: str | None = None) -> Path:
        """Write a video of an episode: of its stored pictures, or of its states, which the simulator renders.

        Args:
            episode: Id of the episode.
            path: File, whose suffix is ``.mp4`` or ``.gif``.
            camera: Name of a camera of the simulator; the stored pictures by default, or where there are none the
                environment's first camera.

        Returns:
            The file.

        Raises:
            InvalidOptionError: The suffix is another one, or the environment has no such camera.
            SchemaMismatchError: The dataset has no such episode, or nothing from which it could be rendered.
            ReplayRefusedError, RoboHiveMissingError, RenderingUnavailableError: It cannot be rendered here.
            StoreNotWritableError: The file cannot be written.
        """
        return save_video(self._view, episode, path, camera=camera)

    def save_rerun(self, episode: int, path: str | Path, *, camera: str | None = None) -> Path:
        """Write an episode for the Rerun viewer (https://rerun.io), which opens it with ``rerun FILE``.

        Pictures and numbers stand on the timelines ``step`` and, where the rate is known, ``time``; what an action led
        to stands at the state after it. Needs ``pip install 'rlhive[rerun]'``.

        Args:
            episode: Id of the episode.
            path: File, whose suffix is ``.rrd``.
            camera: Name of a camera of the simulator, which renders the stored states; by default the stored pictures,
                if there are any.

        Returns:
            The file.

        Raises:
            InvalidOptionError: The suffix is another one, or the environment has no such camera.
            SchemaMismatchError: The dataset has no such episode.
            MissingExtraError: Rerun's SDK is not installed.
            ReplayRefusedError, RoboHiveMissingError, RenderingUnavailableError: It cannot be rendered here.
            StoreNotWritableError: The file cannot be written.
        """
        return save_rerun(self._view, episode, path, camera=camera)

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """``num_episodes`` and ``num_transitions`` of each split."""
        return self._view.count()

    def __len__(self) -> int:
        return sum(count["num_transitions"] for count in self.counts.values())

    def where(self, condition: Condition) -> Self:
        """Return a view of the episodes that meet a condition; only the episode table is read.

        A text that names a score, such as ``"jerk < 300"``, computes the scores first where the store has none: see
        :meth:`score`.

        Args:
            condition: Text such as ``"success and return > -40"``, which is parsed and never run as code, see
                :func:`rlhive.data.versions.select_where`. Or an Arrow expression, or a function that takes the episode
                table and returns a boolean mask.

        Raises:
            InvalidExpressionError: The condition cannot be parsed or computed; the message names the columns. Or it
                needs a return, success or seed that was not recorded: ``"success is None"`` may be asked.
        """
        return self._with_view(self._view.where(condition))

    def filter(self, predicate: Callable[[dict[str, Any]], bool]) -> Self:
        """Return a view of the episodes for which a function of their row in the episode table returns True.

        Args:
            predicate: Function of a dict with ``episode``, ``split``, ``length``, ``return``, ``success``, ``ended``,
                ``seed``, ``policy``, ``run``, ``content_hash`` and ``metadata`` (a dict).

        Raises:
            TypeError: ``predicate`` is not a function.
        """
        return self._with_view(self._view.filter(predicate))

    def select(self, episodes: Iterable[int]) -> Self:
        """Return a view of some episodes, given their ids.

        Raises:
            SchemaMismatchError: An id is not in this dataset.
        """
        return self._with_view(self._view.select(episodes))

    def split(self, parts: Mapping[str, float] | Mapping[str, Iterable[int]], *, seed: int = 0) -> Self:
        """Return a view with the episodes in other splits; ``view["train"]`` is the view of one of them.

        Args:
            parts: Fraction of the episodes of each split, which sum to 1. Or episode ids of each split; episodes that
                no split names are left out.
            seed: Seed of the random assignment. The same seed and episodes give the same splits on any machine.

        Raises:
            SchemaMismatchError: The fractions do not sum to 1, or an id is unknown or named twice.

        Example:
            >>> train = dataset.split({"train": 0.9, "test": 0.1})["train"].as_replay_buffer()  # doctest: +SKIP
        """
        return self._with_view(self._view.split(parts, seed=seed))

    def __getitem__(self, split: str) -> Self:
        """Return the view of one split, or of several joined by ``+``."""
        return self._with_view(self._view.select_splits(split))

    def as_replay_buffer(
        self,
        batch_size: int = 256,
        *,
        split: str | None = None,
        where: "Condition | None" = None,
        keys: Sequence[keys_.NestedKey] | None = None,
        slice_len: int | None = None,
        short_episodes: ShortEpisodes = "drop",
        n_step: int = 1,
        gamma: float | None = None,
        frame_stack: int = 1,
        return_to_go: bool = False,
        action_chunk: int | None = None,
        normalize: Normalize = False,
        dtype: torch.dtype | None = torch.float32,
        ragged: RaggedChoice = "error",
        image_cache: ImageCache | None = None,
        sampler: "Sampler | None" = None,
        transform: BatchTransform | None = None,
        device: torch.device | str = "cpu",
        in_memory: bool | None = None,
        prefetch: int | None = None,
        pin_memory: bool = False,
        seed: int | None = None,
    ) -> "TensorDictReplayBuffer":
        """Return a TorchRL replay buffer over the transitions; read-only, memory-mapped from disk.

        The first call for a version builds its memmap cache from Parquet; later calls open it in milliseconds.

        Args:
            batch_size: Transitions per ``sample()``, all slices together.
            split: Some of the dataset's splits: ``"expert"``, ``"expert+random"``.
            where: Condition on the episodes, see :meth:`where`: ``"success and return > -40"`` for example.
            keys: Fields to serve; an observed field comes with its twin below ``"next"``. ``episode`` and the flags
                are always served. Large fields that are left out are not read.
            slice_len: Length of slices. A batch then holds slices of so many consecutive transitions of one episode,
                flat, with ``truncated`` at the end of each, as TorchRL's ``SliceSampler`` returns them.
            short_episodes: What happens to episodes shorter than a slice: ``"drop"`` them, ``"pad"`` them with
                ``("collector", "mask")`` False, or take a ``"shorter"`` slice.
            n_step: Number of steps, as in TorchRL's ``MultiStepTransform``: ``("next", "reward")`` is the discounted
                sum of so many rewards, and the rest of ``"next"`` lies so many steps ahead, fewer at an episode's end.
                As in TorchRL, the flags stay those of the first step; losses discount by ``steps_to_next_obs``.
            gamma: Discount of ``n_step`` (0.99 by default) and of ``return_to_go`` (no discount by default).
            frame_stack: Number of frames, as in TorchRL's ``CatFrames`` with ``padding="same"``: ``observation`` (and
                ``pixels``, ``depth``) concatenated with the preceding ones along the last dimension.
            return_to_go: Whether to add ``return_to_go``, the sum of the rewards from here to the episode's end.
            action_chunk: Number of actions per chunk. Adds ``action_chunk`` ``[batch_size, action_chunk, *shape]``, the
                action and those that follow it in the episode, and ``action_chunk_mask``, True for actions of the
                episode; those after its last action repeat it.
            normalize: True normalises ``observation``, and a list its keys, by the statistics of this dataset or view;
                ``{key: (mean, std)}`` brings its own numbers. The rule is that of :mod:`rlhive.normalization`:
                ``(value - mean) / std`` as TorchRL's ``ObservationNorm``, clipped to ±10; elements that do not vary
                are not scaled.
            dtype: Dtype of all floating-point fields in batches, float32 by default whatever was stored, since
                float32 is what networks and TorchRL's losses compute in. ``None`` serves the stored values, bit for
                bit. Integers, bools and pictures keep their dtype.
            ragged: What becomes of fields whose rows have different lengths, such as audio: an ``"error"`` that names
                them, ``"nested"`` tensors of layout jagged, or ``"drop"``. Slices of :meth:`as_dataloader` and buffers
                that grow take no nested tensors.
            image_cache: How the cache stores images (any field of 4 KB or more): ``"raw"`` rows, read at memory
                speed, or ``"encoded"`` losslessly, decoded on all cores: a seventh of the size for rendered pictures of
                a camera that does not move, hardly smaller than raw with a sensor's noise or of a lossy video; or
                ``"none"``: pictures stay in the version's videos, and are decoded when they are read.
                By default as an existing cache does; otherwise raw while that takes at most half of the memory and of
                the free disk space.
            sampler: A TorchRL sampler; uniform with replacement by default. Slice samplers get the episode boundaries
                from the episode table.
            transform: Transform that is applied to every batch.
            device: Device of the batches. A GPU with enough free memory holds the dataset and samples there;
                otherwise batches are prefetched and copied from pinned memory.
            in_memory: Whether to copy the dataset into the device's memory first.
            prefetch: Number of batches that threads prepare ahead.
            pin_memory: Whether batches are page-locked for a copy to a GPU.
            seed: Seed of the sampler. The same seed gives the same batches, with any ``prefetch``. Each rank of
                ``torch.distributed``, where it is initialised, draws batches of its own from it.

        Returns:
            A buffer. Batches hold ``observation``, ``action``, ``success``, ``episode``
            (int64), and below ``"next"`` ``observation`` (the true one, also at an episode's end), ``reward``,
            ``terminated``, ``truncated`` and ``done`` with a trailing dimension of 1. A batch owns its memory. Its
            tensors are windows into one block: use ``reshape`` instead of ``view``, and ``.contiguous()`` for a
            tensor that is kept for long.

        Raises:
            SchemaMismatchError: A key names no field, or not one of the kind that an option needs; or ``dtype`` cannot
                represent a stored number, such as 1e300.
            EpisodesTooShortError: No episode is as long as a slice.
            SplitNotFoundError: No such split.
        """
        options = ReadOptions(
            keys=keys,
            n_step=n_step,
            gamma=gamma,
            frame_stack=frame_stack,
            return_to_go=return_to_go,
            action_chunk=action_chunk,
            normalize=normalize,
            dtype=dtype,
            ragged=ragged,
            image_cache=image_cache,
            device=device,
            in_memory=in_memory,
        )
        sampling = SamplingOptions(
            batch_size=batch_size,
            slice_len=slice_len,
            short_episodes=short_episodes,
            sampler=sampler,
            transform=transform,
            prefetch=prefetch,
            pin_memory=pin_memory,
            seed=seed,
        )
        return _loaders.load_replay_buffer(self._view.narrow(split=split, where=where), options, sampling)

    def as_dataloader(
        self,
        batch_size: int = 256,
        *,
        slice_len: int | None = None,
        shuffle: bool = True,
        drop_last: bool = False,
        num_workers: int = 0,
        seed: int | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        split: str | None = None,
        where: "Condition | None" = None,
        **options: Unpack[ReadKeywords],
    ) -> EpochLoader:
        """Return a torch ``DataLoader`` of TensorDicts; an epoch holds every transition once.

        The order of an epoch depends on the seed and the epoch's number alone. ``state_dict()`` of the loader is the
        position after the batches that the loop has received, JSON-able; after ``load_state_dict()`` another loader
        goes on from there, on any number of ranks and workers.

        Args:
            batch_size: Items per batch, over all ranks.
            slice_len: Length of slices. An item is then a window of so many transitions, one per possible start, and
                batches are ``[batch_size, slice_len]``. Shorter episodes are left out.
            shuffle: Whether every epoch has a new random order.
            drop_last: Whether the last batch of an epoch is left out if it is smaller.
            num_workers: Processes that gather batches; they share the page cache. Any number gives the same batches.
            seed: Seed of the shuffle; needed on several ranks.
            rank: Part of every batch that this process gets, from 0. With ``world_size``, or both from
                ``torch.distributed`` where it is initialised, else 0 of 1.
            world_size: Number of parts. Their sizes differ by at most 1; the last batch of an epoch can have fewer
                items than parts, unless ``drop_last``.
            split: Some of the dataset's splits, as for :meth:`as_replay_buffer`.
            where: Condition on the episodes, see :meth:`where`.
            options: Further keywords of :meth:`as_storage`: ``keys``, ``n_step``, ``normalize``, …

        Raises:
            InvalidOptionError: Rank, number of ranks and batch size do not fit together, or several ranks have no seed.
        """
        iteration = DataLoaderOptions(
            batch_size=batch_size,
            slice_len=slice_len,
            shuffle=shuffle,
            drop_last=drop_last,
            num_workers=num_workers,
            seed=seed,
            rank=rank,
            world_size=world_size,
        )
        view = self._view.narrow(split=split, where=where)
        return _loaders.load_dataloader(view, ReadOptions(**options), iteration)

    def as_storage(
        self, *, split: str | None = None, where: "Condition | None" = None, **options: Unpack[ReadKeywords]
    ) -> PackedStorage:
        """Return the read-only TorchRL storage of :meth:`as_replay_buffer`; its arguments are documented there."""
        return _loaders.load_storage(self._view.narrow(split=split, where=where), ReadOptions(**options))

    def as_tensordict(
        self, *, split: str | None = None, where: "Condition | None" = None, **options: Unpack[ReadKeywords]
    ) -> TensorDict:
        """Return all transitions as one TED TensorDict in memory, episode by episode.

        The arguments are those of :meth:`as_storage`; ``dtype`` is None by default, so that nothing is lost.
        """
        options.setdefault("dtype", None)
        return _loaders.load_tensordict(self._view.narrow(split=split, where=where), ReadOptions(**options))

    def as_arrow(self) -> pa.Table:
        """Return all transitions as an Arrow table in memory, one row each, with columns such as ``next.reward``."""
        return _loaders.load_table(self._view)

    def to_hf(self) -> "datasets.Dataset":
        """Return all transitions as a Hugging Face dataset, memory-mapped from its own cache; files are verified."""
        return _loaders.load_hf_dataset(self._view)

    def to_ray(self) -> "ray.data.Dataset":
        """Return all transitions as a Ray dataset with the rows of :meth:`as_arrow`; needs ``rlhive[ray]``.

        A block is read by a task of its own, from as few row groups of a file as hold whole episodes. No block splits
        an episode, and none is cut or joined later unless you ask for it: ``map_batches(…, batch_size=None)`` gets
        whole episodes. The task compares the file with its hash before it reads. The rows of a view are those of its
        episodes. Blocks come in the order in which tasks end, unless Ray's ``execution_options.preserve_order`` is set.

        Unless ``ray.init`` was called, the cluster is that of ``$RAY_ADDRESS`` or the one that runs on this machine;
        without any Ray starts here. The version's folder must be at the same path on all machines of the cluster.

        Raises:
            MissingExtraError: Ray is not installed.
            ClusterUnreachableError: No cluster answers at ``$RAY_ADDRESS``.
            CorruptDatasetError: A shard contradicts the manifest. Raised by the task that reads, where its hash does.
            StreamingOnlyError: The dataset was opened with ``streaming=True``.
        """
        require_ray()
        from rlhive.dataset._ray import load_ray_dataset

        return load_ray_dataset(self._view)

    def as_ray_buffer(
        self,
        batch_size: int = 256,
        *,
        split: str | None = None,
        where: "Condition | None" = None,
        slice_len: int | None = None,
        short_episodes: ShortEpisodes = "drop",
        sampler: "Sampler | None" = None,
        transform: BatchTransform | None = None,
        seed: int | None = None,
        num_cpus: float = 1,
        **options: Unpack[ReadKeywords],
    ) -> "RayReplayBuffer":
        """Return a replay buffer in an actor of the Ray cluster, from which any process of the cluster samples.

        It is TorchRL's ``RayReplayBuffer``: ``buffer.client()`` can be sent to tasks and actors, and
        ``buffer.shutdown()`` ends the actor. Its batches are those of :meth:`as_replay_buffer`, whose arguments it
        takes, and are copied from the actor: on one machine a buffer in each process is faster, since they share the
        memory of the cache. Ray is started or connected as by :meth:`to_ray`.

        Args:
            batch_size: As for :meth:`as_replay_buffer`, and so are the following ones.
            split: Some of the dataset's splits.
            where: Condition on the episodes.
            slice_len: Length of slices.
            short_episodes: What happens to episodes shorter than a slice.
            sampler: A TorchRL sampler.
            transform: Transform that is applied to every batch, in the actor.
            seed: Seed of the sampler.
            num_cpus: CPUs that Ray reserves for the actor.
            options: Further keywords of :meth:`as_storage`: ``keys``, ``n_step``, ``normalize``, …

        Raises:
            MissingExtraError: Ray is not installed.
            ClusterUnreachableError: No cluster answers at ``$RAY_ADDRESS``.
            SchemaMismatchError, EpisodesTooShortError, SplitNotFoundError: As :meth:`as_replay_buffer`.
        """
        require_ray()
        from rlhive.dataset._ray import load_ray_buffer

        sampling = SamplingOptions(
            batch_size=batch_size,
            slice_len=slice_len,
            short_episodes=short_episodes,
            sampler=sampler,
            transform=transform,
            seed=seed,
        )
        view = self._view.narrow(split=split, where=where)
        return load_ray_buffer(view, ReadOptions(**options), sampling, num_cpus=num_cpus)

    def iter_episodes(self) -> Iterator[TensorDict]:
        """Yield the episodes as TED TensorDicts ``[T]``, split by split, from disk or directly from the Hub.

        Memory: the row groups of the current episodes. Every episode is checked against its content hash.

        Raises:
            CorruptDatasetError: The content hash of an episode is not the one in the episode table.
            HubUnreachableError, HubAccessDeniedError: The Hub does not answer or denies access.
        """
        return _loaders.iter_episodes(self._view)

    def iter_batches(
        self,
        batch_size: int = 256,
        *,
        shuffle: int = 0,
        seed: int | None = None,
        drop_last: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
        prefetch: int = 4,
        cache_gb: float = 10.0,
        dtype: torch.dtype | None = torch.float32,
        ragged: RaggedChoice = "error",
    ) -> BatchStream:
        """Return an iterator of TED batches, each transition once per epoch, from disk or directly from a remote store.

        Each ``for`` loop over it goes through one epoch. Shards and row groups of all splits are read in a random
        order, which is a function of the seed and the epoch, and batches are drawn at random from a pool. Ranks share
        each batch and have transitions of their own, as the processes of ``stream.to_dataloader(num_workers)`` have.

        ``state_dict()`` is the position, JSON-able. After ``load_state_dict()`` a stream of as many ranks and workers
        goes on with the batches that were due, one of another number of them with the transitions that were left.

        Memory: the ``shuffle`` transitions of the pool, and ``prefetch`` + 1 chunks: row groups that hold whole
        episodes, 32 MB or 10,000 transitions where RLHive wrote them. In every process.

        Args:
            batch_size: Transitions per batch, over all ranks.
            shuffle: Size of the shuffle pool of each process in transitions, at least that of its batches; 0 keeps the
                stored order.
            seed: Seed of the shuffle; needed on several ranks. The same seed gives the same batches.
            drop_last: Whether the last batch of an epoch is left out if it is smaller.
            rank: Part of every batch that this process gets, from 0. With ``world_size``, or both from
                ``torch.distributed`` where it is initialised, else 0 of 1.
            world_size: Number of parts. Their sizes differ by at most 1; the last batch of an epoch can have fewer
                transitions than parts, unless ``drop_last``.
            prefetch: Number of chunks that are read ahead, by as many threads.
            cache_gb: Size in gigabytes of the cache on this machine's disk for remote shards, of all streamed versions
                together; 0 keeps nothing. The first epoch fills it, and what does not fit is fetched in every epoch.
                Every episode is compared with its content hash, from the cache too.
            dtype: Dtype of the floating-point fields, as for :meth:`as_replay_buffer`; None for the stored ones.
            ragged: What becomes of fields whose rows have different lengths, as for :meth:`as_replay_buffer`.

        Raises:
            InvalidOptionError: Rank, number of ranks, batch size and pool do not fit together, or several ranks have no
                seed.
            CorruptDatasetError: The content hash of an episode is not the one in the episode table. While iterating.
        """
        options = StreamOptions(
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            drop_last=drop_last,
            rank=rank,
            world_size=world_size,
            prefetch=prefetch,
            cache_gb=cache_gb,
        )
        return _loaders.load_batch_stream(self._view, options, dtype=dtype, ragged=ragged)

    def normalization(
        self, key: keys_.NestedKey, *, how: str = MEAN_STD, dtype: torch.dtype | None = torch.float32
    ) -> "ObservationNorm":
        """Return a TorchRL transform that normalises a key by the statistics of the dataset or view.

        With ``how="mean_std"`` mean, scale and result equal those of ``as_replay_buffer(normalize=[key])`` bit for bit.

        Args:
            key: Key to normalise, for example ``"observation"``; its twin below ``"next"`` is normalised as well.
            how: ``"mean_std"`` gives ``(value - mean) / std``, clipped to ±10, see :mod:`rlhive.normalization`.
                ``"min_max"`` maps the extremes and ``"quantiles"`` the 1 % and 99 % quantiles to -1 and 1.
            dtype: Dtype of the result, whatever the dtype of the observation; None for that of the observation.

        Returns:
            An ``ObservationNorm`` for a replay buffer, for an environment, or as the first module of a policy:
            ``TensorDictSequential(dataset.normalization("observation"), actor)``.

        Raises:
            SchemaMismatchError: There is no such column, it holds no floats, or its statistics are not finite.

        Example:
            >>> dataset.as_replay_buffer(transform=dataset.normalization("observation"))  # doctest: +SKIP
        """
        return _loaders.load_normalization(self._view, key, how=how, dtype=dtype)

    def as_source(self, schema: Schema | None = None) -> VersionSource:
        """Return the episodes with their metadata, as :func:`rlhive.data.versions.export` takes them.

        Args:
            schema: Schema that the version must have.

        Raises:
            SchemaMismatchError: The version has another schema.
        """
        return self._view.to_source(schema)

    def save(self, name: str, *, version: str | None = None, license: str = "", description: str = "") -> Self:
        """Write this dataset or view as a version of its own; episode ids stay.

        Args:
            name: ``name`` or ``namespace/name``; a new dataset, or the next version of an existing one.
            version: MAJOR.MINOR.PATCH; the one that follows from the changes by default.
            license: Licence of the version; the parent's by default.
            description: Description of the version; the parent's by default.

        Returns:
            The new dataset.

        Raises:
            WrongVersionError, DatasetExistsError: As :func:`rlhive.data.versions.export`.
        """
        target = Target(name=name, version=version, license=license, description=description)
        return self._open(_transforms.save_view(self._view, target))

    def merge(
        self,
        *others: "RoboHiveDataset",
        name: str,
        version: str | None = None,
        license: str = "",
        description: str = "",
    ) -> Self:
        """Write the episodes of this and other datasets as one version; splits of the same name are joined.

        Episodes with the same content are written once, with a warning that says how many were dropped. Episodes get
        new ids; seeds, start states, metadata and the provenance of the runs stay.

        Args:
            others: Datasets or views with the same schema.
            name: Name of the new dataset.
            version: MAJOR.MINOR.PATCH; the one that follows from the changes by default.
            license: Licence of the version; the parents' by default.
            description: Description of the version; the first parent's by default.

        Raises:
            SchemaMismatchError: The schemas differ; the message says where.
            InvalidLicenseError: The licences differ, and ``license`` is empty.
        """
        target = Target(name=name, version=version, license=license, description=description)
        sources = [other.as_source() for other in others]
        return self._open(_transforms.save_merged(self._view, sources, target))

    def append(
        self, source: Any, *, name: str = "", version: str | None = None, license: str = "", description: str = ""
    ) -> Self:
        """Write this dataset and further episodes as a version, by default the next one of the same name.

        Args:
            source: A recording, a dataset or view, or episode records; their episodes get the ids after the highest
                id of this dataset.
            name: Name of the dataset; this dataset's own by default.
            version: MAJOR.MINOR.PATCH; the one that follows from the changes by default.
            license: Licence of the version; the parents' by default.
            description: Description of the version; the parent's by default.

        Raises:
            SchemaMismatchError: The schemas differ; the message says where.
        """
        target = Target(name=name or self.name, version=version, license=license, description=description)
        return self._open(_transforms.save_appended(self._view, source, target))

    def rename_column(self, old: str, new: str, *, name: str, version: str | None = None, license: str = "") -> Self:
        """Write a version in which a column has another name; the other arguments are those of :meth:`save`."""
        target = Target(name=name, version=version, license=license)
        return self._open(_transforms.save_renamed(self._view, old, new, target))

    def drop_column(self, *columns: str, name: str, version: str | None = None, license: str = "") -> Self:
        """Write a version without some columns; the other arguments are those of :meth:`save`."""
        target = Target(name=name, version=version, license=license)
        return self._open(_transforms.save_dropped(self._view, columns, target))

    def add_column(
        self,
        column: str,
        compute: ColumnFunction,
        *,
        name: str,
        unit: str | None = None,
        version: str | None = None,
        license: str = "",
    ) -> Self:
        """Write a version with an additional column, computed episode by episode.

        Args:
            column: Name of the new column.
            compute: Function of an episode's columns ``[T, *shape]`` and final values, each a dict by name. It
                returns ``[T, …]``, or ``[T + 1, …]`` for a quantity that has a value after the last action as well.
            name: Name of a new dataset, or of this one for its next version.
            unit: Physical unit of the column.
            version: MAJOR.MINOR.PATCH; the one that follows from the changes by default.
            license: Licence of the version; the parent's by default.
        """
        target = Target(name=name, version=version, license=license)
        return self._open(_transforms.save_added(self._view, column, compute, target, unit=unit))

    def relabel(
        self,
        reward: str | Mapping[str, float] | ColumnFunction,
        *,
        name: str,
        version: str | None = None,
        license: str = "",
    ) -> Self:
        """Write a version with other rewards, computed from what is stored; the simulator does not step.

        Args:
            reward: ``"dense"`` or ``"sparse"``; or weights of RoboHive's reward terms by name, where a term without
                a weight counts 0; or a function of an episode's columns and final values that returns T rewards.
            name: Name of a new dataset, or of this one for its next version.
            version: MAJOR.MINOR.PATCH; the one that follows from the changes by default.
            license: Licence of the version; the parent's by default.

        Raises:
            RewardUnavailableError: The environment's reward needs values that were not stored, or has no such term.
            RoboHiveMissingError: RoboHive is not installed. A function as reward does not need it.
        """
        target = Target(name=name, version=version, license=license)
        return self._open(_transforms.save_relabelled(self._view, reward, target))

    def render(
        self,
        *,
        cameras: Sequence[str] | None = None,
        image_size: tuple[int, int] = (84, 84),
        depth: bool = False,
        segmentation: bool = False,
        render_quality: str = "fast",
        column: str = keys_.PIXELS,
        name: str = "",
        version: str | None = None,
        force: bool = False,
        num_workers: int | None = None,
        progress: bool = True,
    ) -> Self:
        """Write a version with pictures of its states, which the simulator renders again.

        The stored actions are stepped from the stored start states, and observations and rewards are compared with the
        stored ones (within 1e-6): the pictures show what was recorded, or nothing is written. They are those that
        :class:`rlhive.RoboHiveEnv` with the same options gives in these states. What is rendered is kept until the
        version is written: an interrupted call goes on where it was.

        Args:
            cameras: Names of the model's cameras; by default those of a ``visual_*`` id, or all.
            image_size: Height and width in pixels.
            depth: Whether to add the distance in metres as well, in the column ``depth``, or ``<column>_depth`` for
                another ``column``.
            segmentation: Whether to add number and type of the object that each pixel shows, in the column
                ``segmentation``, or ``<column>_segmentation``; see :class:`rlhive.RoboHiveEnv`.
            render_quality: "fast", "robohive" or another one of docs/visual.md.
            column: Column of the pictures.
            name: Name of a new dataset; this dataset's own by default.
            version: MAJOR.MINOR.PATCH; the next MINOR version by default.
            force: Whether to render with another compiled model than the recorded one. The parent's operations name it.
            num_workers: Worker processes; one per core by default.
            progress: Whether to show a progress bar.

        Returns:
            The new version. Its pictures are uint8 ``[camera, H, W, 3]``, the depth is float32 ``[camera, H, W]``, the
            segmentation int16 ``[camera, H, W, 2]``.

        Raises:
            InvalidOptionError: There is no such camera or quality, the environment cannot render, or the column exists.
            ReplayRefusedError: An episode cannot be stepped again or differs from what was recorded, or the installed
                model is another one.
            DiskFullError: The pictures do not fit on the disk; nothing was rendered.
            RoboHiveMissingError, RenderingUnavailableError: The simulator or OpenGL is not installed here.
        """
        request = RenderRequest(
            cameras=None if cameras is None else tuple(cameras),
            image_size=image_size,
            depth=depth,
            segmentation=segmentation,
            quality=render_quality,
        )
        target = Target(name=name or self.name, version=version)
        return self._open(
            render_view(
                self._view,
                request,
                target,
                column=column,
                force=force,
                num_workers=num_workers,
                progress=progress,
            )
        )

    def encode(self, storage: Mapping[str, str], *, name: str = "", version: str | None = None) -> Self:
        """Write the same transitions with some columns stored otherwise.

        A PATCH version where nothing is lost, with the same fingerprint unless pictures were lossy before; a MINOR
        version where a storage is lossy. Pictures that are in a requested storage already are copied as they are.

        Args:
            storage: Storage by column. Nothing is lost in ``"png"``, pictures that ``datasets`` and the Hub's viewer
                show, ``"ffv1"``, a video, and ``"raw"``, lists of numbers. ``"jpeg"`` (quality 90) and the videos
                ``"av1"``, ``"h264"`` and ``"h265"`` lose detail; ``manifest.picture_loss`` says how much. Options:
                ``"jpeg:80"``, ``"av1:crf=20:gop=10:preset=8"``.
            name: Name of the dataset; this dataset's own by default.
            version: MAJOR.MINOR.PATCH; the one that follows by default.

        Raises:
            InvalidOptionError: There is no such column or storage, or a column cannot have its storage.
            MissingExtraError: A storage is a video, and PyAV is not installed.
        """
        target = Target(name=name or self.name, version=version)
        return self._open(_transforms.save_encoded(self._view, storage, target))

    def scrub(self, name: str = "", *, version: str | None = None) -> Self:
        """Write the same transitions as a PATCH version, without what identifies a machine and without secrets.

        The command line and the host go; in runs, metadata and the description absolute paths are shortened to their
        last part, and tokens and passwords of known forms are replaced by ``***``. Nothing is changed on the Hub:
        older versions that were pushed stay there until they are deleted there.

        Args:
            name: Name of the dataset; this dataset's own by default.
            version: MAJOR.MINOR.PATCH; the next free PATCH version after this one by default.
        """
        return self._open(_transforms.save_scrubbed(self._view, Target(name=name or self.name, version=version)))

    def _open(self, folder: Path) -> Self:
        return type(self)(folder, store=self._view.store)

    def push_to_hub(
        self,
        repo_id: str = "",
        *,
        private: bool = False,
        license: str | None = None,
        unrelated: bool = False,
        progress: bool = True,
    ) -> "PublishedVersion":
        """Publish the whole version, all splits, under the tag ``v<version>``, which is never moved.

        Files that the Hub already has are not sent again; an interrupted push is resumed.

        Args:
            repo_id: Repository, ``"org/name"``. By default the dataset's own name, if that is where it lies or was
                pulled from, and not only what a manifest says, which can come from anyone.
            private: Whether a new repository is private.
            license: Licence to publish under, if ``repo_id`` is not the dataset's own name.
            unrelated: Whether to publish into a repository that holds another dataset: no episode, recording run or
                parent of its newest version belongs to this dataset.
            progress: Whether to show progress bars.

        Returns:
            Repository, version, commit and page of the published version.

        Raises:
            DatasetExistsError: The Hub has other content under that version, or another dataset in the repository.
            HubConflictError: The repository changed during the push; push again.
            HubAccessDeniedError, HubUnreachableError, HubRefusedError: The Hub denies access, does not answer or
                refuses the push.
            CorruptDatasetError, CheckFailedError: The version fails :func:`rlhive.check`; nothing was sent.
            UnsavedViewError: This is a view of some episodes and not a version.
            InvalidNameError: ``repo_id`` is missing, and the name comes from the manifest alone.
        """
        return push_view(self._view, repo_id, private=private, license=license, unrelated=unrelated, progress=progress)

    def __repr__(self) -> str:
        return format_view(self._view)


def describe(dataset: RoboHiveDataset) -> dict[str, Any]:
    """Return name, version, content and location of a dataset as one JSON-able dict, for tools."""
    return describe_view(dataset._view)
