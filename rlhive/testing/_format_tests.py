"""Conformance tests of a file format: what every :class:`rlhive.data.formats.Format` promises."""

import fnmatch
import inspect
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhive import keys
from rlhive.data import EpisodeRecord
from rlhive.data.formats import (
    EpisodeSource,
    Format,
    export_to,
    get_hub_tag,
    import_dataset,
    is_exported,
    open_source,
)
from rlhive.data.versions import Manifest, read_records
from rlhive.dataset import RoboHiveDataset
from rlhive.errors import DatasetExistsError, RLHiveError, UnsupportedFormatError
from rlhive.testing._comparison import (
    ExpectedEpisode,
    check_arrays,
    check_records,
    list_files,
    read_contents,
)


class FormatTests:
    """Tests that a format passes; inherit them in a class whose name starts with ``Test``.

    A format that can also be written inherits :class:`WritableFormatTests`.

    The subclass sets :attr:`format` and overrides two fixtures: ``source`` makes a small source of at least two
    episodes, and ``expected`` returns what reading it must give, from the same numbers and not from the reader.

    Attributes:
        format: The format.
        read_options: Options with which the source is read.
        ignored_files: Patterns of files in the source that the reader does not need, so that damage may pass.

    Example::

        class TestJsonLines(FormatTests):
            format = JsonLines()

            @pytest.fixture
            def source(self, tmp_path):
                ...

            @pytest.fixture
            def expected(self):
                return [ExpectedEpisode(columns={...}, final={...}, ended="terminated"), ...]
    """

    format: Format
    read_options: Mapping[str, Any] = {}
    ignored_files: Collection[str] = ()

    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        """A file or folder in the format, in ``tmp_path``, that the tests may damage; every class overrides it."""
        pytest.fail(f"{type(self).__name__}: override the fixture source: a file or folder in the format")

    @pytest.fixture
    def expected(self) -> Sequence[ExpectedEpisode]:
        """The episodes of the source, in the order in which they are read; every class overrides it."""
        pytest.fail(f"{type(self).__name__}: override the fixture expected: the episodes of the source")

    @pytest.fixture
    def dataset_store(self, tmp_path: Path) -> Path:
        """An empty store for the versions that a test makes."""
        return tmp_path / "format-tests-store"

    @pytest.fixture
    def version(self, source: Path, dataset_store: Path) -> Path:
        """The folder of the version that the source is imported to."""
        return self._import(source, dataset_store)

    def test_reading_gives_the_expected_values(self, source: Path, expected: Sequence[ExpectedEpisode]) -> None:
        opened = self._open(source)
        records = list(opened.records())
        assert len(records) == len(expected) >= 2, "episodes: the source needs two at least"
        assert opened.num_episodes == len(expected)
        ids = [record.episode for record in records]
        assert ids == sorted(set(ids)), "ids rise and are unique"
        for record, episode in zip(records, expected, strict=True):
            episode.check(record, f"{self.format.name}, episode {record.episode}")
            assert {run["run"] for run in opened.runs} >= ({record.run} - {""}), "every run is described"

    def test_a_version_serves_the_expected_transitions(
        self, version: Path, expected: Sequence[ExpectedEpisode]
    ) -> None:
        """Rewards and ends are those of their own transition, and ``next`` of the last row is the final value."""
        transitions = RoboHiveDataset(version).as_tensordict()
        assert len(transitions) == sum(episode.length for episode in expected)
        # A version holds its episodes split by split, in the order of the splits' first episodes.
        splits = list(Manifest.read(version).splits)
        ordered = sorted(expected, key=lambda episode: splits.index(episode.split))
        start = 0
        for number, episode in enumerate(ordered):
            rows = transitions[start : start + episode.length]
            start += episode.length
            context = f"{self.format.name}, episode at {number}"
            numeric = {name: values for name, values in episode.with_ends().items() if values.dtype != object}
            served = {name: rows[keys.column_to_key(name)].numpy() for name in numeric}
            check_arrays(served, numeric, context)
            for name in set(episode.final) & set(numeric):
                key = keys.column_to_key(name)
                parts = (key,) if isinstance(key, str) else key
                following = np.concatenate([numeric[name][1:], np.asarray(episode.final[name])[None]])
                served = {name: rows[(keys.NEXT, *parts)].numpy()}
                check_arrays(served, {name: following}, f"{context}, next")

    def test_a_second_pass_gives_the_same_episodes(self, source: Path) -> None:
        opened = self._open(source)
        passes = [[record.identity() for record in opened.records()] for _ in range(2)]
        passes.append([record.identity() for record in self._open(source).records()])
        assert passes[0] == passes[1] == passes[2]

    def test_the_declared_options_are_those_of_the_methods(self) -> None:
        for method, declared in (
            (self.format.read, self.format.read_options),
            (self.format.write, self.format.write_options),
        ):
            names = [option.name for option in declared]
            assert len(set(names)) == len(names)
            assert all(name.isidentifier() for name in names)
            assert all(option.help.endswith(".") for option in declared), "help texts are sentences"
            parameters = inspect.signature(method).parameters.values()
            accepts_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
            accepted = {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}
            assert accepts_any or accepted - {"progress"} == set(names), method

    def test_an_unknown_option_is_refused_with_the_nearest_name(self, source: Path, dataset_store: Path) -> None:
        for wrong, option in [("no_such_option", None), *((f"{o.name}x", o.name) for o in self.format.read_options)]:
            options: dict[str, Any] = {wrong: "x"}
            with pytest.raises(UnsupportedFormatError) as refused:
                import_dataset(
                    self.format, source, "lab/unknown", license="mit", store=dataset_store, progress=False, **options
                )
            assert f"no option {wrong!r}" in str(refused.value)
            assert option is None or f"nearest {option}" in str(refused.value)
            assert list_files(dataset_store) == []

    def test_a_missing_source_is_refused_in_one_sentence(self, tmp_path: Path, dataset_store: Path) -> None:
        with pytest.raises(RLHiveError) as refused:
            self._import(tmp_path / "no-such-source", dataset_store)
        assert "no-such-source" in str(refused.value)
        assert "\n" not in str(refused.value)
        assert list_files(dataset_store) == []

    def test_a_truncated_file_is_refused_and_leaves_nothing(self, source: Path, dataset_store: Path) -> None:
        files = [path for path in list_files(source) if not self._is_ignored(path)]
        assert files
        for path in files:
            content = path.read_bytes()
            for size in (0, int(0.618 * len(content))):  # not a half: where two equal records meet, nothing is damaged
                path.write_bytes(content[:size])
                with pytest.raises(RLHiveError) as refused:
                    self._import(source, dataset_store)
                assert source.name in str(refused.value), f"{path}, {size} bytes"
                assert "\n" not in str(refused.value)
                assert list_files(dataset_store) == []
            path.write_bytes(content)

    def test_an_interrupted_import_leaves_nothing(
        self, source: Path, dataset_store: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opened = self._open(source)

        def read_and_stop(path: Path, **options: Any) -> EpisodeSource:
            return replace(opened, records=lambda: _interrupt_after_first(opened.records()))

        monkeypatch.setattr(self.format, "read", read_and_stop)
        with pytest.raises(KeyboardInterrupt):
            self._import(source, dataset_store)
        assert list_files(dataset_store) == []

    def test_a_read_only_format_refuses_to_write(self, version: Path, tmp_path: Path) -> None:
        if self.format.can_write:
            assert isinstance(self, WritableFormatTests), "a format that can be written inherits WritableFormatTests"
            return
        with pytest.raises(UnsupportedFormatError, match=f"No format '{self.format.name}' that can be written"):
            export_to(self.format, version, tmp_path / "target", progress=False)
        assert not (tmp_path / "target").exists()

    def _open(self, source: Path) -> EpisodeSource:
        return open_source(self.format, source, **self.read_options)

    def _import(self, source: Path, store: Path) -> Path:
        return import_dataset(
            self.format, source, "lab/conformance", license="mit", store=store, progress=False, **self.read_options
        )

    def _is_ignored(self, path: Path) -> bool:
        return any(fnmatch.fnmatch(path.as_posix(), f"*{pattern}") for pattern in self.ignored_files)


class WritableFormatTests(FormatTests):
    """Tests that a format passes that can also be written; see :class:`FormatTests`.

    Attributes:
        write_options: Options with which the episodes are written.
        not_kept: What writing and reading again loses: names of columns, or of split, seed, policy, start_state and
            metadata.
    """

    write_options: Mapping[str, Any] = {}
    not_kept: Collection[str] = ()

    @pytest.fixture
    def exported(self, version: Path, tmp_path: Path) -> Path:
        """The version, written in the format."""
        return export_to(self.format, version, tmp_path / "exported", progress=False, **self.write_options)

    def test_what_is_written_reads_back_bit_for_bit(self, version: Path, exported: Path) -> None:
        manifest = Manifest.read(version)
        originals = list(read_records(version, manifest, list(manifest.splits)))
        again = list(open_source(self.format, exported).records())
        assert len(again) == len(originals)
        for number, (record, original) in enumerate(zip(again, originals, strict=True)):
            check_records(record, original, self.not_kept, f"{self.format.name}, episode at {number}")

    def test_a_written_target_is_never_overwritten(self, version: Path, exported: Path) -> None:
        before = read_contents(exported)
        with pytest.raises(DatasetExistsError, match=re.escape(str(exported))):
            export_to(self.format, version, exported, progress=False, **self.write_options)
        manifest = Manifest.read(version)
        records = read_records(version, manifest, list(manifest.splits))
        with pytest.raises(DatasetExistsError):
            self.format.write(manifest, records, exported, **self.write_options)
        assert read_contents(exported) == before

    def test_an_interrupted_export_leaves_nothing(self, version: Path, exported: Path, tmp_path: Path) -> None:
        manifest, target = Manifest.read(version), tmp_path / "interrupted"
        records = read_records(version, manifest, list(manifest.splits))
        with pytest.raises(KeyboardInterrupt):
            self.format.write(manifest, _interrupt_after_first(records), target, **self.write_options)
        assert not target.exists()
        assert [path for path in list_files(tmp_path) if "interrupted" in str(path.relative_to(tmp_path))] == []

    def test_an_unknown_write_option_is_refused(self, version: Path, exported: Path, tmp_path: Path) -> None:
        with pytest.raises(UnsupportedFormatError, match="no option 'no_such_option'"):
            export_to(self.format, version, tmp_path / "unknown", progress=False, no_such_option="x")
        assert not (tmp_path / "unknown").exists()

    def test_an_exported_folder_is_recognised_where_the_format_has_a_hub_tag(
        self, version: Path, exported: Path, tmp_path: Path
    ) -> None:
        if self.format.hub_tag is None:
            with pytest.raises(UnsupportedFormatError, match=f"Format {self.format.name} cannot be pushed"):
                get_hub_tag(self.format)
            return
        assert get_hub_tag(self.format) == self.format.hub_tag
        assert re.fullmatch(r"\S+", self.format.hub_tag)
        assert is_exported(self.format, version, exported, **self.write_options)
        assert not is_exported(self.format, version, tmp_path, **self.write_options)
        other = replace(Manifest.read(version), fingerprint="0" * 64)
        assert not self.format.is_exported(other, exported, **self.write_options)


def _interrupt_after_first(records: Iterator[EpisodeRecord]) -> Iterator[EpisodeRecord]:
    yield next(iter(records))
    raise KeyboardInterrupt
