"""Record episodes from a TorchRL collector, a replay buffer or a loop of steps, safe on disk as soon as they end.

    batches ─► EpisodeBuilder: checked EpisodeRecords ─► StreamWriter: flushed to the disk ─► commit ─► dataset version

If the process dies, at most the last seconds of the open episode of each environment are lost.
"""

import os
import warnings
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tensordict import TensorDictBase

from rlhive.data._episode_builder import ChunkList, EpisodeBuilder, InfoByEnv
from rlhive.data._episodes import EpisodeInfo, EpisodeRecord
from rlhive.data._replay_reader import is_replay_buffer, read_replay_buffer
from rlhive.data._schema import Schema
from rlhive.data._transition_batch import BOOKKEEPING
from rlhive.data.recording._config import RecorderConfig, policy_name, recording_path, require_names, run_provenance
from rlhive.data.recording._journal import EpisodeJournal
from rlhive.data.recording._plain_data import to_transition, to_transitions
from rlhive.data.recording._recording import Recording
from rlhive.data.recording._recover import commit_recording, find_recording, recover_interrupted
from rlhive.data.recording._starts import find_start, watch_starts
from rlhive.data.recording._writer import StreamWriter
from rlhive.errors import DatasetExistsError, DatasetNotFoundError, SchemaMismatchError


class Recorder:
    """Records episodes durably; a context manager.

    An episode is on the disk, power loss included, when the call that brought its end returns (see ``durability``).
    Leaving the block also writes the open episodes; :meth:`commit` then makes a dataset version of the recording.

    An open episode is written every 2 seconds or 4 MB, whichever comes first, and takes no more memory than that. If
    the process dies, :meth:`resume`, :meth:`commit` and ``rlhive recover`` record what was written of it.

    Several processes can record into one recording: pickle the recorder, fork, or call :meth:`resume`. Each process
    has a stream and a range of episode ids of its own. A recorder is not thread-safe.

    Keys that collectors and samplers add for their own use (``("collector", …)``, ``mask``, ``index``, ``is_init``,
    names that begin with ``_``) separate the episodes and are not recorded. Nor is ``step_count``, which every version
    has.

    A robot may know neither reward nor success, end flags, seed and start state; ``"next"`` may be missing as a whole.
    What nobody recorded is null in the episode table; an episode without an end flag ends as ``on_incomplete`` says.

    With ``env=RoboHiveEnv(…)``, the start state of each of its episodes is recorded, and the seed where the environment
    was seeded for the episode, so that ``rlhive replay`` can step them again. Resets that came before the recorder, and
    environments in other processes, give none.

    Where the environment gives the simulator state below ``state``, as ``RoboHiveEnv(…, state=True)`` does, the state
    in the first row is the episode's start state; ``drop=(*BOOKKEEPING, "state")`` leaves out the states of all rows.

    Args:
        name: Name of the dataset that the recording is meant for, ``"my/knob"``: the recording lies in the store. Or
            the folder of the recording: a Path, or a string that begins with ``/``, ``.`` or ``~``.
        env: Environment of the episodes; see :func:`rlhive.describe_env`.
        policy: Behaviour policy; see :func:`rlhive.describe_policy`. Its name is stored with each episode.
        provenance: Further JSON-able facts about the run, the seeds for example. ``"task"`` is the dataset's task in
            the catalogue, whose reference returns normalise scores. ``"full"``, or ``{"provenance": "full", …}``, also
            records the command line, the machine and absolute paths, which are
            published with the dataset; by default they are left out. Secrets in arguments are never written.
        split: Default split of the episodes.
        schema: Schema that every episode must have; by default that of the first one.
        on_incomplete: What becomes of an episode without an end flag: ``"unfinished"`` keeps it as it is,
            ``"truncated"`` marks its last transition as truncated, so that values are bootstrapped from there.
        drop: Names of keys that are left out, at the root and below ``"next"``.
        ragged: Names of columns whose rows have different lengths, ``["audio", "lidar.points"]``: the first dimension
            of their arrays differs from step to step. Nested tensors of torch need no name here. Buffers serve them as
            nested tensors or leave them out; see ``as_replay_buffer(ragged=…)``.
        fps: Rate of the steps in frames per second, as LeRobot calls it; the dataset has it as ``dataset.fps``. A key
            ``timestamp`` (seconds, float64, from any origin) may come with each step; :meth:`commit` compares its
            median step with the rate.
        durability: What an episode has survived when the call that brought its end returns. ``"episode"``: a power
            loss; the call waits for the disk. ``"batch"``: the death of the process. A power loss may take what was
            recorded since the last flush, which the first call after a second makes, and the end of the block.
            ``"none"``: the death of the process; the operating system alone decides when the disk has it. Under all
            three, :meth:`commit` returns when the version is on the disk.
        store: Folder of all datasets.
        cut_as: Deprecated name of ``on_incomplete``.

    Raises:
        DatasetExistsError: The folder holds a recording; :meth:`resume` continues it.
        InvalidNameError: The name is not accepted.
        InvalidOptionError: ``on_incomplete`` or ``durability`` is not an accepted value, or ``fps`` is not a positive
            number.
        StoreNotWritableError: The folder cannot be made.

    Attributes:
        recording: The recording, readable at any time.

    Example:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> flags = torch.tensor([[False], [True]])
        >>> after = {"observation": torch.ones(2, 3), "reward": torch.ones(2, 1), "truncated": flags}
        >>> after["observation"][0] = 0.5
        >>> td = TensorDict({"observation": torch.zeros(2, 3), "action": torch.ones(2, 1), "next": after}, [2])
        >>> td["observation"][1] = 0.5
        >>> td["next", "terminated"] = torch.zeros(2, 1, dtype=torch.bool)
        >>> with Recorder("my/knob", policy="by hand") as recorder:
        ...     recorder.extend(td)
        [0]
        >>> recorder.commit(version="0.1.0", license="cc-by-4.0").name
        '0.1.0'
    """

    def __init__(
        self,
        name: str | Path,
        *,
        env: Any = None,
        policy: Any = None,
        provenance: Mapping[str, Any] | str | None = None,
        split: str = "train",
        schema: Schema | None = None,
        on_incomplete: str = "unfinished",
        drop: Sequence[str] = BOOKKEEPING,
        ragged: Sequence[str] = (),
        fps: float | None = None,
        durability: str = "episode",
        store: Path | None = None,
        cut_as: str | None = None,
    ):
        run = run_provenance(env, policy, provenance, fps)
        path, dataset_name = recording_path(name, run["run"], store)
        if (path / "recording.json").exists():
            msg = f"{path}: expected no recording, got one. Continue it with Recorder.resume({str(path)!r})"
            raise DatasetExistsError(msg)
        on_incomplete = _renamed_cut_as(on_incomplete, cut_as)
        names = require_names(ragged, "ragged")
        config = RecorderConfig(split, policy_name(run), schema, on_incomplete, tuple(drop), names, durability)
        self._attach(path, dataset_name, run, config, store, watch_starts(env))

    @classmethod
    def resume(
        cls,
        name: str | Path,
        *,
        env: Any = None,
        policy: Any = None,
        provenance: Mapping[str, Any] | str | None = None,
        split: str = "train",
        schema: Schema | None = None,
        on_incomplete: str = "unfinished",
        drop: Sequence[str] = BOOKKEEPING,
        ragged: Sequence[str] = (),
        fps: float | None = None,
        durability: str = "episode",
        store: Path | None = None,
        cut_as: str | None = None,
    ) -> "Recorder":
        """Continue a recording after its process ended, or beside the processes that write to it.

        Args:
            name: Folder of the recording; or the dataset that it is meant for, if the store has one recording for it.
            env: As for a new recorder; episodes recorded from here on belong to a run of their own.
            policy: As for a new recorder.
            provenance: As for a new recorder.
            split: As for a new recorder.
            schema: As for a new recorder, where no episode was recorded yet.
            on_incomplete: As for a new recorder.
            drop: As for a new recorder.
            ragged: As for a new recorder.
            fps: Rate of the recording, which is the default.
            durability: As for a new recorder.
            store: As for a new recorder.
            cut_as: Deprecated name of ``on_incomplete``.

        Raises:
            DatasetNotFoundError: No recording matches, or several do.
            InvalidOptionError: The recording has another rate, or none.
        """
        recording = find_recording(str(name), store=store)
        run = run_provenance(env, policy, provenance, recording.choose_fps(fps))
        recover_interrupted(recording)
        on_incomplete = _renamed_cut_as(on_incomplete, cut_as)
        names = require_names(ragged, "ragged")
        config = RecorderConfig(split, policy_name(run), schema, on_incomplete, tuple(drop), names, durability)
        return _attach_recorder(recording.path, recording.name, run, config, store, watch_starts(env))

    def _attach(
        self,
        path: Path,
        name: str,
        run: Mapping[str, Any],
        config: RecorderConfig,
        store: Path | None,
        take_start: Any,
    ) -> None:
        self.recording = Recording.create(path, provenance=run, name=name)
        self._run = dict(run)
        self._config = config
        self._store = store
        self._take_start = take_start
        self._journals: weakref.WeakSet[EpisodeJournal] = weakref.WeakSet()
        self._start_process()

    def _start_process(self) -> None:
        """Open a stream for this process; what a fork inherited belongs to its parent."""
        for journal in self._journals:
            journal.close()
        self._journals = weakref.WeakSet()
        self._process_id = os.getpid()
        self._next_info: dict[int, EpisodeInfo] = {}
        self._writer = StreamWriter(self.recording, run=self._run["run"], durability=self._config.durability)
        self._builder = EpisodeBuilder(**self._builder_options(), make_chunks=self._make_journal)
        self._ended_journals: list[EpisodeJournal] = []

    def _builder_options(self) -> dict[str, Any]:
        return {
            "schema": self.recording.schema or self._config.schema,
            "on_incomplete": self._config.on_incomplete,
            "drop": self._config.drop,
            "ragged": self._config.ragged,
            "context": lambda _: self._next_context,
            "accept": self.recording.accept,
            "find_start": lambda chunk: find_start(self._take_start, chunk),
        }

    def _make_journal(self, info: EpisodeInfo) -> EpisodeJournal:
        journal = EpisodeJournal(self.path, info, run=self._run["run"], on_incomplete=self._config.on_incomplete)
        self._journals.add(journal)
        return journal

    @property
    def path(self) -> Path:
        """Folder of the recording."""
        return self.recording.path

    @property
    def num_episodes(self) -> int:
        """Number of episodes that this process has recorded."""
        return self._writer.num_episodes

    @property
    def num_transitions(self) -> int:
        """Number of transitions that this process has recorded."""
        return self._writer.num_transitions

    @property
    def num_open(self) -> int:
        """Number of episodes that have not ended yet."""
        return self._builder.num_open

    def extend(
        self,
        data: TensorDictBase | Mapping[str, Any] | Any,
        *,
        split: str | None = None,
        policy: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Add the transitions of a collector, a rollout or a replay buffer and record the episodes that end in them.

        The transitions of an episode may come in several calls. They are matched by the collector's trajectory id, or
        by environment index where there is none, and must continue the observations; if they do not, a new episode
        begins and the open one is recorded as ``on_incomplete`` says. After a collector that resets its environments
        at each batch, call :meth:`end_episode`.

        Args:
            data: A TED TensorDict, batch size ``[time]`` or ``[*envs, time]``, padded with a mask or not. Or a dict of
                arrays of one environment, as :meth:`add_episode` takes it. Or a whole TorchRL replay buffer: its stored
                transitions are read oldest first in bounded memory, its open episodes are recorded, and episodes whose
                beginning was overwritten are dropped with a warning.
            split: Split of the episodes that begin in the data.
            policy: Name of their behaviour policy.
            metadata: User metadata of each of them, JSON-able.

        Returns:
            Ids of the recorded episodes.

        Raises:
            SchemaMismatchError: Names the first episode and key that do not fit. The other episodes are recorded.
            DiskFullError: No space left; earlier episodes are intact.
        """
        self._require_open()
        info_by_env = self._info_by_env(self._make_info(split, policy, metadata))
        if is_replay_buffer(data):
            context = f"Replay buffer for {self.path}"
            builder = EpisodeBuilder(**self._builder_options())
            return self._write(read_replay_buffer(data, builder, info_by_env, context=context), builder)
        return self._write(self._builder.add_batch(to_transitions(data, self._next_context), info_by_env))

    def step(self, transition: TensorDictBase | Mapping[str, Any], *, env_index: int = 0) -> list[int]:
        """Add one transition of one environment, or one of each of several environments.

        Args:
            transition: Result of ``env.step(td)``: observation, action and ``"next"``; batch size ``[]``, or ``[n]``
                for the environments ``env_index`` to ``env_index + n - 1``. Or a plain dict of the values of one
                environment, with a dict below ``"next"`` and in any other group. A NumPy array (or a tensor) keeps its
                dtype and shape. A Python float becomes float64, an int int64, a bool bool, and a NumPy scalar keeps
                its dtype: each is a column of shape ``(1,)``, as TorchRL's rewards and flags. A str is text. Lists
                are refused, since they have no dtype.
            env_index: Index of the environment.

        Returns:
            Ids of the episodes that ended and were recorded.

        Raises:
            SchemaMismatchError, DiskFullError: As for :meth:`extend`.

        Example:
            >>> after = {"observation": np.ones(7, np.float32), "reward": 0.5, "terminated": True, "truncated": False}
            >>> step = {"observation": np.zeros(7, np.float32), "action": np.zeros(7, np.float32), "next": after}
            >>> with Recorder("my/arm") as recorder:
            ...     recorder.step(step)
            [0]
        """
        self._require_open()
        info_by_env = self._info_by_env(self._make_info())
        steps = to_transition(transition, self._next_context)
        return self._write(self._builder.add_step(steps, info_by_env, first_env=env_index))

    def start_episode(
        self,
        *,
        env_index: int = 0,
        seed: int | None = None,
        start_state: Mapping[str, np.ndarray] | None = None,
        split: str | None = None,
        policy: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Set the metadata of the next episode of an environment; call it at each reset.

        The environment's open episode ends and is recorded as ``on_incomplete`` says.

        Args:
            env_index: Index of the environment in the batches of :meth:`extend`, or as in :meth:`step`.
            seed: Seed that reproduces the episode.
            start_state: Simulator state before the first action, ``env.get_state()``: named float64 arrays, the same
                parts in every episode of a recording that has one.
            split: Name of the split that the episode belongs to.
            policy: Name of the behaviour policy.
            metadata: User metadata, JSON-able.

        Returns:
            Ids of the episodes that ended and were recorded.
        """
        episode_ids = self.end_episode(env_index=env_index)
        self._next_info[env_index] = self._make_info(split, policy, metadata, seed, start_state)
        return episode_ids

    def add_episode(
        self,
        transitions: TensorDictBase | Mapping[str, Any],
        *,
        seed: int | None = None,
        start_state: Mapping[str, np.ndarray] | None = None,
        split: str | None = None,
        policy: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> int:
        """Record all transitions of one episode.

        Args:
            transitions: TED, batch size ``[T]``; or a dict of NumPy arrays ``[T, *shape]`` and lists of T texts, nested
                as in :meth:`step`, where ``[T]`` counts as ``[T, 1]``. Without an end flag in the last row, the
                episode is recorded as ``on_incomplete`` says.
            seed: As in :meth:`start_episode`.
            start_state: As in :meth:`start_episode`.
            split: As in :meth:`start_episode`.
            policy: As in :meth:`start_episode`.
            metadata: As in :meth:`start_episode`.

        Returns:
            Id of the episode.

        Raises:
            SchemaMismatchError: Names the key and row that do not fit; nothing was recorded.
            DiskFullError: No space left; earlier episodes are intact.
        """
        self._require_open()
        info = self._make_info(split, policy, metadata, seed, start_state)
        episode = to_transitions(transitions, self._next_context)
        (episode_id,) = self._write(self._builder.add_episode(episode, info))
        return episode_id

    def end_episode(self, *, env_index: int | None = None) -> list[int]:
        """Record the open episode of one environment, or of all, as ``on_incomplete`` says; return the ids."""
        self._require_open()
        return self._write(self._builder.end_episodes(env_index))

    def close(self) -> list[int]:
        """Record the open episodes and close; again is allowed. The recording stays until it is committed."""
        if self._writer.closed or os.getpid() != self._process_id:
            return []
        try:
            return self.end_episode()
        finally:
            self._writer.close()
            self._remove_ended_journals()

    def commit(
        self, *, license: str = "", version: str | None = None, name: str = "", append: bool = False, **options: Any
    ) -> Path:
        """Close the recorder, make a dataset version of the recording, and remove the recording.

        If the recording has a rate and timestamps, their median step may be at most 20 % from ``1 / fps``. Otherwise
        nothing is written, and the recording is kept: ``commit(fps=…)`` corrects the rate.

        Args:
            license: License identifier as the Hub knows it, ``"cc-by-4.0"`` for example; required, except to append.
            version: MAJOR.MINOR.PATCH; by default the number that follows from the changes.
            name: Name of the dataset; by default the name that the recorder was made with.
            append: Whether the version begins with the episodes of the newest version in the store, if there is one:
                what was recorded on earlier days. Their shards are shared, not copied, where the file system has hard
                links. Without it, a warning says how many episodes the new version does not hold.
            **options: Options of :func:`rlhive.data.versions.export`: ``description``, ``splits``,
                ``storage={"pixels": "av1"}``, ….

        Returns:
            The version's folder.

        Raises:
            RecordingInUseError: Another process writes to the recording.
            DatasetExistsError: The version exists; the recording is kept.
            SchemaMismatchError: The columns are not those of the version that is appended to; the recording is kept.
            DatasetNotFoundError: The recording was committed or discarded before.
        """
        self.close()
        if not self.path.exists():
            msg = f"Recording {self.path}: expected a folder, got none: a version holds it already."
            raise DatasetNotFoundError(msg)
        options = {"store": self._store, **options}
        return commit_recording(self.recording, name, version=version, license=license, append=append, **options)

    def begin(self, **options: Any) -> list[int]:
        """Call :meth:`start_episode`; deprecated name."""
        _warn_renamed("Recorder.begin()", "start_episode()")
        return self.start_episode(**options)

    def add(self, transitions: TensorDictBase, **options: Any) -> int:
        """Call :meth:`add_episode`; deprecated name."""
        _warn_renamed("Recorder.add()", "add_episode()")
        return self.add_episode(transitions, **options)

    def cut(self, *, env_index: int | None = None) -> list[int]:
        """Call :meth:`end_episode`; deprecated name."""
        _warn_renamed("Recorder.cut()", "end_episode()")
        return self.end_episode(env_index=env_index)

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _attach_recorder, (self.path, self.recording.name, self._run, self._config, self._store)

    @property
    def _next_context(self) -> str:
        return f"{self.path}, episode {self._writer.next_id}"

    def _require_open(self) -> None:
        if os.getpid() != self._process_id:
            self._start_process()
        if self._writer.closed:
            msg = f"The recorder of {self.path} is closed. Continue with Recorder.resume({str(self.path)!r})"
            raise ValueError(msg)
        if self._builder.schema is None:
            self._builder.schema = self.recording.schema  # another process may have recorded the first episode

    def _make_info(
        self,
        split: str | None = None,
        policy: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        seed: int | None = None,
        start_state: Mapping[str, np.ndarray] | None = None,
    ) -> EpisodeInfo:
        """Return the metadata of an episode; the configuration gives the defaults."""
        return EpisodeInfo.create(
            split=split or self._config.split,
            policy=self._config.policy if policy is None else policy,
            metadata=metadata,
            seed=seed,
            start_state=start_state,
            context=self._next_context,
        )

    def _info_by_env(self, default: EpisodeInfo) -> InfoByEnv:
        return lambda env_index: self._next_info.pop(env_index, default)

    def _write(self, records: Iterable[EpisodeRecord], builder: EpisodeBuilder | None = None) -> list[int]:
        """Write episodes, with at most one flush to the disk, and return their ids.

        Records that could not be written, since the disk is full or the user interrupted, stay queued for the next
        call.
        """
        builder = builder or self._builder
        try:
            episode_ids = [self._append(record, builder.last_chunks) for record in records]
        except SchemaMismatchError:  # raised after the episodes that fit
            self._flush()
            raise
        self._flush()
        return episode_ids

    def _append(self, record: EpisodeRecord, chunks: ChunkList) -> int:
        if not isinstance(chunks, EpisodeJournal) or not chunks.is_saved:
            return self._writer.append(record)
        self._ended_journals.append(chunks)
        return self._writer.append(record, journal=chunks.token)

    def _flush(self) -> None:
        self._writer.flush()
        self._remove_ended_journals()

    def _remove_ended_journals(self) -> None:
        """Remove the journals of ended episodes, unless those may still be lost."""
        if self._writer.keeps_promise:
            for journal in self._ended_journals:
                journal.remove()
            self._ended_journals = []


def _attach_recorder(
    path: Path,
    name: str,
    run: Mapping[str, Any],
    config: RecorderConfig,
    store: Path | None,
    take_start: Any = None,
) -> Recorder:
    """Return a recorder for an existing recording."""
    recorder = Recorder.__new__(Recorder)
    recorder._attach(path, name, run, config, store, take_start)
    return recorder


def _renamed_cut_as(on_incomplete: str, cut_as: str | None) -> str:
    if cut_as is None:
        return on_incomplete
    _warn_renamed("Recorder(cut_as=…)", "on_incomplete=", stacklevel=4)
    return cut_as


def _warn_renamed(old: str, new: str, *, stacklevel: int = 3) -> None:
    msg = f"{old} is renamed {new}; the old name goes away in 0.2"
    warnings.warn(msg, DeprecationWarning, stacklevel=stacklevel)
