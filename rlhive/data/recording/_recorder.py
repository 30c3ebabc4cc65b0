"""Record episodes: from a TorchRL collector, a replay buffer or step by step, to a recording that survives the process.

    batches ─► intake: whole episodes, checked, hashed, flushed to the disk ─► commit ─► dataset version

What is written is safe; what is not is at most the episode in flight of each environment.
"""

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tensordict import TensorDictBase

from rlhive import _provenance as provenances
from rlhive.data import _store
from rlhive.data._episode_builder import BOOKKEEPING
from rlhive.data._replay_reader import is_replay_buffer
from rlhive.data._schema import Schema
from rlhive.data.recording._intake import Intake, Rules
from rlhive.data.recording._recording import Recording
from rlhive.data.recording._recover import commit_recording, find_recording
from rlhive.errors import DatasetExists, DatasetNotFound, InvalidName

CUT_AS = ("unfinished", "truncated")


class Recorder:
    """Collects episodes and keeps them safe; a context manager.

    An episode is on the disk, power loss included, when the call that brought its end returns. Leaving the block writes
    the open ones too; :meth:`commit` then makes a dataset version of it all.

    Several processes record into one recording by pickling the recorder, by forking, or by :meth:`resume`: each has a
    stream and a range of episode ids of its own. One recorder is not for several threads.

    What collectors and samplers add for themselves (``("collector", …)``, ``mask``, ``index``, ``is_init``, names that
    begin with ``_``) serves to tell episodes apart and is not recorded, nor is ``step_count``, which versions have.

    Where the environment gives the simulator's state below ``state``, as ``RoboHiveEnv(…, state=True)`` does, that of
    the first row is the episode's start state; ``drop=(*BOOKKEEPING, "state")`` then leaves the other rows' out.

    Args:
        name: The dataset that it shall become, ``"my/knob"``: it is recorded in the store. Or the folder of the
            recording, a Path or a string that begins with ``/``, ``.`` or ``~``.
        env: What the episodes come from; see :func:`rlhive.describe_env`.
        policy: What acted; see :func:`rlhive.describe_policy`. Its name goes into the episode table.
        provenance: More about the run, JSON-able; the seeds for example.
        split: Split of the episodes, unless a call says otherwise.
        schema: What every episode must hold; by default what the first one does.
        cut_as: What becomes of an episode that nothing ended: ``"unfinished"`` keeps it as it is, ``"truncated"``
            marks its last transition, so that values are bootstrapped from there.
        drop: Names of keys that are left out, at the root and below ``"next"``.
        store: Folder of all datasets.

    Raises:
        DatasetExists: There is a recording in that folder; :meth:`resume` goes on with it.
        InvalidName: The name, the split or ``cut_as`` is not accepted.
        StoreNotWritable: The folder cannot be made.

    Attributes:
        recording: What is recorded, readable at any time.

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
        provenance: Mapping[str, Any] | None = None,
        split: str = "train",
        schema: Schema | None = None,
        cut_as: str = "unfinished",
        drop: Sequence[str] = BOOKKEEPING,
        store: Path | None = None,
    ):
        run = _run_of(env, policy, provenance)
        path, name = _place(name, run["run"], store)
        if (path / "recording.json").exists():
            msg = f"{path}: expected no recording, got one. Go on with it: Recorder.resume({str(path)!r})"
            raise DatasetExists(msg)
        self._begin(path, name, run, split=split, schema=schema, cut_as=cut_as, drop=tuple(drop), store=store)

    @classmethod
    def resume(cls, name: str | Path, *, env: Any = None, policy: Any = None, **options: Any) -> "Recorder":
        """Go on with a recording where it stopped, or beside the processes that write to it.

        Args:
            name: Its folder; or the dataset that it is meant for, if the store has one recording for it.
            env: As for a new recorder: what is recorded from here on is a run of its own.
            policy: As for a new recorder.
            **options: As for a new recorder.

        Raises:
            DatasetNotFound: No recording is meant, or several.
        """
        recording = find_recording(str(name), store=options.get("store"))
        run = _run_of(env, policy, options.pop("provenance", None))
        defaults = {"split": "train", "schema": None, "cut_as": CUT_AS[0], "drop": BOOKKEEPING, "store": None}
        unknown = options.keys() - defaults.keys()
        if unknown:
            msg = f"Recorder.resume() got unexpected arguments: {', '.join(sorted(unknown))}"
            raise TypeError(msg)
        return _rejoin(recording.path, recording.name, run, defaults | options)

    def _begin(self, path: Path, name: str, run: Mapping[str, Any], **options: Any) -> None:
        if options["cut_as"] not in CUT_AS:
            msg = f"cut_as: expected one of {', '.join(CUT_AS)}, got {options['cut_as']!r}. Choose one of them."
            raise InvalidName(msg)
        self.recording = Recording.create(path, provenance=run, name=name)
        self._run, self._options = dict(run), options
        self._new_process()

    def _new_process(self) -> None:
        """Start as a writer of one's own: what a fork inherited belongs to the parent."""
        self._process, options = os.getpid(), self._options
        rules = Rules(
            split=options["split"],
            policy=str(self._run.get("policy", {}).get("name", "")),
            schema=options["schema"],
            truncates=options["cut_as"] == "truncated",
            drop=tuple(options["drop"]),
        )
        self._intake = Intake(self.recording, run=self._run["run"], rules=rules)
        self._held: contextlib.ExitStack | None = contextlib.ExitStack()
        self._held.enter_context(self.recording.shared())

    @property
    def path(self) -> Path:
        """Folder of the recording."""
        return self.recording.path

    @property
    def num_episodes(self) -> int:
        """Number of episodes that this process has recorded."""
        return self._intake.writer.num_episodes

    @property
    def num_transitions(self) -> int:
        """Number of transitions in them."""
        return self._intake.writer.num_transitions

    @property
    def num_open(self) -> int:
        """Number of episodes in flight."""
        return self._intake.num_open

    def extend(
        self,
        data: TensorDictBase | Any,
        *,
        split: str | None = None,
        policy: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Take what a collector, a rollout or a replay buffer holds and record the episodes that it ends.

        Pieces of an episode may come in several calls; they are put together by the collector's trajectory ids, and
        without them by line. A line whose observations do not go on where they stopped begins a new episode; the open
        one is recorded as ``cut_as`` says. After a collector that resets at each batch, call :meth:`cut`.

        Args:
            data: A TED TensorDict, batch size ``[time]`` or ``[*lines, time]``, padded with a mask or not. Or a whole
                replay buffer: its stored transitions, oldest first, in bounded memory; what is open at its end is
                recorded, and what lost its beginning in a ring that was written over is dropped, with a warning.
            split: Split of the episodes that begin in it.
            policy: Name of the policy that acts in them.
            metadata: The user's own about each of them, JSON-able.

        Returns:
            Ids of the recorded episodes.

        Raises:
            SchemaMismatch: Names the episode and the key at fault. The other episodes of the call are recorded.
            DiskFull: No space left; earlier episodes are intact.
        """
        self._require_open()
        take = self._intake.take_buffer if is_replay_buffer(data) else self._intake.take
        return take(data, self._intake.about(split, policy, metadata))

    def step(self, transition: TensorDictBase, *, env_index: int = 0) -> list[int]:
        """Take one transition of one environment, or one of each of several.

        Args:
            transition: What ``env.step(td)`` returned: observation, action and ``"next"``; batch size ``[]``, or
                ``[n]`` for the environments ``env_index`` to ``env_index + n - 1``.
            env_index: Number of the environment.

        Returns:
            Ids of the episodes that it ended and that were recorded.

        Raises:
            SchemaMismatch, DiskFull: As for :meth:`extend`.
        """
        self._require_open()
        return self._intake.take_step(transition, env_index)

    def begin(
        self,
        *,
        env_index: int = 0,
        seed: int | None = None,
        start_state: Mapping[str, np.ndarray] | None = None,
        split: str | None = None,
        policy: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Say of the next episode of an environment what its transitions do not; call it at each reset.

        The environment's open episode is over by this, and recorded as ``cut_as`` says.

        Args:
            env_index: Number of the environment: of a line of ``extend``, or as in :meth:`step`.
            seed: Seed that reproduces the episode.
            start_state: Simulator state before the first action, ``env.get_state()``: named float64 arrays, the same
                parts for every episode of a recording.
            split: Split that it belongs to.
            policy: Name of the policy that acts.
            metadata: The user's own, JSON-able.

        Returns:
            Ids of the episodes that were recorded by this.
        """
        ids = self.cut(env_index=env_index)
        self._intake.announce(env_index, self._intake.about(split, policy, metadata, seed, start_state))
        return ids

    def add(
        self,
        transitions: TensorDictBase,
        *,
        seed: int | None = None,
        start_state: Mapping[str, np.ndarray] | None = None,
        split: str | None = None,
        policy: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> int:
        """Record one whole episode.

        Args:
            transitions: TED, batch size ``[T]``; without an end flag in its last row it is recorded as ``cut_as`` says.
            seed: As in :meth:`begin`.
            start_state: As in :meth:`begin`.
            split: As in :meth:`begin`.
            policy: As in :meth:`begin`.
            metadata: As in :meth:`begin`.

        Returns:
            Its id.

        Raises:
            SchemaMismatch: Names the key and row at fault; nothing was recorded.
            DiskFull: No space left; earlier episodes are intact.
        """
        self._require_open()
        return self._intake.take_episode(transitions, self._intake.about(split, policy, metadata, seed, start_state))

    def cut(self, *, env_index: int | None = None) -> list[int]:
        """Record the open episodes, or that of one environment, as ``cut_as`` says; return their ids."""
        self._require_open()
        return self._intake.cut(env_index)

    def close(self) -> list[int]:
        """Record the open episodes and close; again is allowed. The recording stays until it is committed."""
        if self._held is None or os.getpid() != self._process:
            return []
        try:
            return self.cut()
        finally:
            self._intake.writer.close()
            self._held.close()
            self._held = None

    def commit(self, *, license: str, version: str | None = None, name: str = "", **options: Any) -> Path:
        """Close, make a dataset version of the recording, and remove the recording.

        Args:
            license: Identifier that the Hub knows, ``"cc-by-4.0"`` for example; asked for, never guessed.
            version: MAJOR.MINOR.PATCH; by default the right next one.
            name: The dataset; by default the name that the recorder was made with.
            **options: Of :func:`rlhive.data.versions.export`: ``description``, ``splits``, ``env_name``, ….

        Returns:
            The version's folder.

        Raises:
            RecordingInUse: Another process writes to the recording.
            DatasetExists: That version is there; the recording is kept.
            DatasetNotFound: It was committed or discarded before.
        """
        self.close()
        if not self.path.exists():
            msg = f"Recording {self.path}: expected it there, got nothing: a version holds it already. Open that one."
            raise DatasetNotFound(msg)
        options = {"store": self._options["store"], **options}
        return commit_recording(self.recording, name, version=version, license=license, **options)

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __reduce__(self) -> tuple:
        return _rejoin, (self.path, self.recording.name, self._run, self._options)

    def _require_open(self) -> None:
        if os.getpid() != self._process:
            self._new_process()
        if self._held is None:
            msg = f"The recorder of {self.path} is closed. Go on: Recorder.resume({str(self.path)!r})"
            raise ValueError(msg)


def _rejoin(path: Path, name: str, run: Mapping[str, Any], options: Mapping[str, Any]) -> Recorder:
    recorder = Recorder.__new__(Recorder)
    recorder._begin(path, name, run, **options)
    return recorder


def _run_of(env: Any, policy: Any, more: Mapping[str, Any] | None) -> dict[str, Any]:
    known = {} if env is None else {"env": provenances.describe_env(env)}
    known |= {} if policy is None else {"policy": provenances.describe_policy(policy)}
    return provenances.describe_run(**known, **(more or {}))


def _place(name: str | Path, run: str, store: Path | None) -> tuple[Path, str]:
    """Return the folder of a new recording and the dataset that it is meant for."""
    path = _store.as_path(name)
    if path is not None:
        return path, ""
    namespace, bare = _store.parse_name(str(name))
    return (store or _store.store_dir()) / ".recordings" / namespace / bare / run, f"{namespace}/{bare}"
