"""A pass over the episodes of a source: the common options, one form of every column, and the checks of a record."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlhive import keys
from rlhive.data._encoded_pictures import EncodedPictures
from rlhive.data._episodes import REWARD, Columns, EpisodeRecord
from rlhive.data._picture_codecs import parse_storage
from rlhive.data._schema import Schema
from rlhive.data._video_files import Clip
from rlhive.data.formats._column_forms import ColumnForms, describe_dtypes
from rlhive.data.formats._episode_source import EpisodeArrays, EpisodeSource, PendingEpisode
from rlhive.data.formats._import_rules import ImportRules
from rlhive.data.formats._transitions import finish_episode
from rlhive.errors import RLHiveError, SchemaMismatchError

#: Ids of episodes that a note names.
_MAX_IDS = 8


class FormsChangedError(Exception):
    """An episode has a column of another form than those before; all must be looked at before the first is written."""


@dataclass(frozen=True)
class _Episode:
    """An episode under its final column names, in the dtypes of its file."""

    pending: PendingEpisode
    length: int
    fields: Mapping[str, Any]
    columns: Columns
    observed: Columns
    context: str
    clips: Mapping[str, Clip]


class ImportPass:
    """The episodes of a source as the common options give them.

    Args:
        source: What a format's reader returned.
        rules: The common options.
        context: The path of the source, for messages.
    """

    def __init__(self, source: EpisodeSource, rules: ImportRules, context: str):
        self._source = source
        self._rules = rules
        self._context = context
        self._forms = ColumnForms()
        self._findings: dict[str, Counter[str]] = {}
        self._ids: dict[str, list[int]] = {}
        self._dtypes: dict[str, set[str]] = {}
        self._all_ids: list[int] = []
        self._codecs: dict[str, str] | None = None
        self.num_episodes = 0

    @property
    def schema(self) -> Schema:
        """The schema of the episodes that were looked at."""
        return self._forms.schema

    @property
    def storages(self) -> dict[str, str]:
        """Codec of the columns that are videos in the files of all episodes that were looked at, by column."""
        return dict(self._codecs or {})

    def look_at_first(self) -> None:
        """Learn the columns from the first episode.

        Raises:
            SchemaMismatchError: No episode is left, or the first cannot be read.
        """
        for episode in self._prepare():
            self._forms.add(episode.columns, episode.observed, episode.context)
            self._keep_common_codecs(episode)
            return
        self._refuse_empty()

    def look_at_all(self, raise_if_interrupted: Callable[[], None] = lambda: None) -> None:
        """Learn the columns, and what the notes say, from all episodes.

        Raises:
            SchemaMismatchError: An episode cannot be read, or no column can hold the values of all.
        """
        for episode in self._prepare():
            raise_if_interrupted()
            self._forms.add(episode.columns, episode.observed, episode.context)
            self._keep_common_codecs(episode)
            self.num_episodes += 1
        self._finish()

    def records(self, *, strict: bool = False) -> Iterator[EpisodeRecord]:
        """Yield the episodes in one form.

        Args:
            strict: Whether an episode of another form raises FormsChangedError; otherwise all were looked at before.
        """
        for episode in self._prepare():
            changed = self._forms.add(episode.columns, episode.observed, episode.context)
            changed |= self._keep_common_codecs(episode)
            if changed and strict:
                raise FormsChangedError
            record = self._build_record(episode)
            if record is not None:
                self.num_episodes += 1
                yield record
        self._finish()

    def notes(self) -> tuple[str, ...]:
        """Return what the last pass renamed, converted and left out, in sentences."""
        notes = [f"{name} is taken as {column}" for name, column in self._rules.aliases.items()]
        notes += [
            f"{name} is taken as {column}, as the option rename says" for name, column in self._rules.rename.items()
        ]
        changed = list(
            describe_dtypes({name: self._dtypes[name] for name in self._dtypes if name in self._columns}, self._forms)
        )
        if changed:
            notes.append(f"widened to a dtype that holds all their numbers: {', '.join(changed)}")
        if self._forms.list_padded():
            padded = ", ".join(self._forms.list_padded())
            notes.append(f"sequences of different lengths, padded with zeros to the longest: {padded}")
        if self._forms.list_empty():
            notes.append(f"left out, without any value: {', '.join(self._forms.list_empty())}")
        notes += self._rules.success_rewards.notes()
        notes += [f"video kept as it is, {codec}: {name}" for name, codec in self.storages.items()]
        if self._rules.drop:
            notes.append(f"left out, as the option drop says: {', '.join(self._rules.drop)}")
        for finding, subjects in self._findings.items():
            parts = (f"{subject} (in {count} episodes)" for subject, count in sorted(subjects.items()))
            notes.append(f"{finding}: {', '.join(parts)}")
        for finding, ids in self._ids.items():
            listed = ", ".join(map(str, ids[:_MAX_IDS])) + (", …" if len(ids) > _MAX_IDS else "")
            notes.append(f"{finding}: {len(ids)} (ids {listed})")
        return tuple(notes)

    @property
    def _columns(self) -> set[str]:
        return {item.column for item in self.schema.fields}

    def _prepare(self) -> Iterator[_Episode]:
        """Yield the episodes that are wanted, under their final names; a new pass starts."""
        self._findings, self._ids, self._all_ids, self.num_episodes = {}, {}, [], 0
        for item in self._iterate_pending():
            self._all_ids.append(item.episode)
            if item.episode in self._rules.skip_episode:
                self._count_episode("episodes left out, as the option skip_episode says", item)
                continue
            try:
                episode = self._prepare_one(item)
            except SchemaMismatchError as error:
                raise _advise(error, item) from error
            except (RLHiveError, MemoryError):
                raise
            except Exception as error:
                unforeseen = describe_unforeseen(error, item.context, self._rules.format_name)
                raise _advise(unforeseen, item) from error
            if episode is not None:
                yield episode

    def _iterate_pending(self) -> Iterator[PendingEpisode]:
        try:
            if self._source.pending is not None:
                yield from self._source.pending()
            else:
                yield from map(self._wait_for, self._source.records())
        except (RLHiveError, MemoryError):
            raise
        except Exception as error:
            raise describe_unforeseen(error, self._context, self._rules.format_name) from error

    def _wait_for(self, record: EpisodeRecord) -> PendingEpisode:
        """Return a record that a reader made as an episode that is read already."""
        names = ("split", "seed", "start_state", "policy", "run", "metadata")
        fields = {name: getattr(record, name) for name in names}
        arrays = EpisodeArrays(record.columns, record.final, self._context, fields)
        return PendingEpisode(record.episode, self._context, lambda keeps: arrays)

    def _prepare_one(self, item: PendingEpisode) -> _Episode | None:
        arrays = item.read(self._rules.keeps)
        applied = self._rules.apply(arrays)
        finished = finish_episode(applied)
        for name in (finished or applied).left_out:
            self._findings.setdefault("left out", Counter())[name] += 1
        if finished is None:
            self._count_episode("episodes without a transition, left out", item)
            return None
        columns, observed = finished.split()
        in_file = {**columns, **observed, **finished.columns}  # the last has the dtypes of the file
        for name, rows in in_file.items():
            if rows.dtype != object and not rows.dtype.names and rows.dtype.kind not in "SU":
                self._dtypes.setdefault(name, set()).add(rows.dtype.newbyteorder("=").name)
        name = f", episode {item.episode}"
        context = finished.context if finished.context.endswith(name) else finished.context + name
        episode = _Episode(item, finished.length, finished.fields, columns, observed, context, finished.clips)
        return episode if self._accept_nan({**columns, **observed}, episode) else None

    def _keep_common_codecs(self, episode: _Episode) -> bool:
        """Forget the codecs that an episode has not; return whether there are any."""
        codecs = {name: clip.video.codec for name, clip in episode.clips.items()}
        before = codecs if self._codecs is None else self._codecs
        self._codecs = {name: codec for name, codec in before.items() if codecs.get(name) == codec}
        return self._codecs != before

    def _accept_nan(self, columns: Columns, episode: _Episode) -> bool:
        """Return whether an episode is kept although values are NaN; refuse or count it as the option says."""
        for name, rows in columns.items():
            if rows.dtype.kind != "f" or not np.isnan(rows).any():
                continue
            policy = self._rules.on_nan or ("refuse" if keys.is_main_column(name) else "keep")
            if policy == "skip":
                self._count_episode("episodes left out, since a value is NaN", episode.pending)
                return False
            if policy == "refuse":
                row = int(np.isnan(rows).reshape(len(rows), -1).any(axis=1).argmax())
                msg = (
                    f"{episode.context}, row {row}: column {name} is NaN. The option drop={name} leaves it out, "
                    f"skip_episode={episode.pending.episode} the episode, on_nan=skip every such episode; on_nan=keep "
                    "keeps the values."
                )
                raise SchemaMismatchError(msg)
            self._findings.setdefault("NaN, kept", Counter())[name] += 1
        return True

    def _build_record(self, episode: _Episode) -> EpisodeRecord | None:
        columns, final = self._forms.fit(episode.columns, episode.observed, episode.length, episode.context)
        given = {**episode.columns, **episode.observed}
        filled = {name: rows for name, rows in columns.items() if name not in given or given[name].dtype == object}
        if not self._accept_nan(filled, episode):
            return None
        for name in episode.observed.keys() - final.keys():
            if name in columns:
                self._findings.setdefault("final values left out, since other episodes have none", Counter())[name] += 1
        if REWARD in columns and columns[REWARD].dtype == object:
            msg = f"{episode.context}: column {REWARD}: expected numbers, got text. The option drop leaves it out."
            raise SchemaMismatchError(msg)
        fields: dict[str, Any] = {"split": "train", **episode.pending.fields, **episode.fields}
        fields["seed"], metadata = split_seed(fields.get("seed"), fields.get("metadata") or {})
        if metadata is not None:
            fields["metadata"] = metadata
            self._count_episode("seeds that are no int64, kept in the metadata", episode.pending)
        fields["encoded"] = {
            name: EncodedPictures(str(parse_storage(codec)), 1, episode.length, clips=(episode.clips[name],))
            for name, codec in self.storages.items()
        }
        return EpisodeRecord(episode=episode.pending.episode, columns=columns, final=final, **fields)

    def _count_episode(self, finding: str, item: PendingEpisode) -> None:
        self._ids.setdefault(finding, []).append(item.episode)

    def _finish(self) -> None:
        if not self._forms:
            self._refuse_empty()
        self._rules.require_used(self._all_ids, self._context)

    def _refuse_empty(self) -> None:
        reasons = "; ".join(self.notes()) or "none in the files"
        msg = f"{self._context}: expected episodes with a transition, got none: {reasons}."
        raise SchemaMismatchError(msg)


def split_seed(seed: Any, metadata: Any) -> tuple[int | None, dict[str, Any] | None]:
    """Return a seed as an int64; for any other seed, None and the metadata with it, in which it is exact.

    Minari draws seeds of 64 bits without a sign, and half of them are no int64.
    """
    if seed is None:
        return None, None
    value = seed.item() if isinstance(seed, np.generic) or getattr(seed, "size", 0) == 1 else seed
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    if isinstance(value, (int, float)) and value == value and abs(value) != float("inf") and int(value) == value:
        if -(2**63) <= value < 2**63:
            return int(value), None
        value = int(value)
    elif hasattr(value, "tolist"):
        value = value.tolist()
    json.dumps(value)
    return None, {**metadata, "seed": value}


def describe_unforeseen(error: Exception, context: str, format_name: str) -> SchemaMismatchError:
    """Return one of RLHive's errors for an exception that a reader did not foresee.

    The file may be whole: nothing here says that it is damaged.
    """
    cause = " ".join((str(error) if isinstance(error, OSError) else repr(error)).split())
    return SchemaMismatchError(f"{context}: not understood as {format_name}: {cause}.")


def _advise(error: SchemaMismatchError, item: PendingEpisode) -> SchemaMismatchError:
    """Return an error that names the option which leaves the episode out."""
    message = str(error)
    if "skip_episode" in message:
        return error
    return SchemaMismatchError(f"{message} The option skip_episode={item.episode} leaves the episode out.")
