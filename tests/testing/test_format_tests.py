"""The conformance suite rejects wrong formats: each defect below fails the test that is meant for it."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rlhive.data._store import atomic_dir
from rlhive.data.formats import EpisodeArrays, EpisodeSource, Format, Option, end_flags
from rlhive.testing import ExpectedEpisode, WritableFormatTests


class Lines(Format):
    """One episode a line, read and written without a defect."""

    name = "lines"
    read_options = (Option("split", str, "Name of the split for all episodes; train by default."),)
    write_options = (Option("note", str, "A text that the file holds."),)
    hub_tag = "v1"

    def read(self, source, *, split="train"):
        path = source / "episodes.jsonl" if source.is_dir() else source
        _, *lines = path.read_text().splitlines()
        episodes = [self.parse(json.loads(line)) for line in lines]
        schema = episodes[0].infer_schema()
        return EpisodeSource(schema, lambda: self.records(episodes, schema, split), num_episodes=len(episodes))

    def records(self, episodes, schema, split):
        for number, arrays in enumerate(episodes):
            yield arrays.to_record(schema, episode=number, split=split)

    def parse(self, line):
        states, rewards = np.array(line["states"]), np.array(line["rewards"])[:, None]
        columns = {"observation": states[:-1], "action": np.array(line["actions"]), "next.reward": rewards}
        columns |= end_flags(len(rewards), terminated=line["solved"])
        return EpisodeArrays(columns, {"observation": states[-1]}, "a line")

    def write(self, manifest, records, target, *, note=""):
        with atomic_dir(target) as partial:
            self.write_lines(partial / "episodes.jsonl", manifest, records, note)

    def write_lines(self, path, manifest, records, note):
        with path.open("w") as file:
            file.write(json.dumps([manifest.fingerprint, note]) + "\n")
            for record in records:
                file.write(json.dumps(self.format_line(record)) + "\n")

    def format_line(self, record):
        states = np.concatenate([record.columns["observation"], record.final["observation"][None]])
        rest = {"actions": record.columns["action"].tolist(), "rewards": record.columns["next.reward"].ravel().tolist()}
        return {"states": states.tolist(), **rest, "solved": record.ended == "terminated"}

    def is_exported(self, manifest, target, *, note=""):
        path = target / "episodes.jsonl"
        return path.is_file() and json.loads(path.read_text().splitlines()[0]) == [manifest.fingerprint, note]


def episode(number, length, solved):
    generator = np.random.default_rng(number)
    numbers = {"states": (length + 1, 2), "actions": (length, 1), "rewards": (length,)}
    return {name: generator.normal(size=shape) for name, shape in numbers.items()} | {"solved": solved}


EPISODES = (episode(0, 4, True), episode(1, 3, False))


class TestLines(WritableFormatTests):
    """The suite passes for a format without a defect."""

    format = Lines()

    @pytest.fixture
    def source(self, tmp_path):
        lines = [{name: np.asarray(value).tolist() for name, value in line.items()} for line in EPISODES]
        path = tmp_path / "source.jsonl"
        path.write_text("\n".join(map(json.dumps, ([], *lines))))
        return path

    @pytest.fixture
    def expected(self):
        return [
            ExpectedEpisode(
                {
                    "observation": line["states"][:-1],
                    "action": line["actions"],
                    "next.reward": line["rewards"][:, None],
                },
                {"observation": line["states"][-1]},
                "terminated" if line["solved"] else "truncated",
            )
            for line in EPISODES
        ]


class ShiftedRewards(Lines):
    def parse(self, line):
        return super().parse(line | {"rewards": [0.0, *line["rewards"][:-1]]})


class LastRowLost(Lines):
    def parse(self, line):
        return super().parse({name: value if name == "solved" else value[:-1] for name, value in line.items()})


class FinalInvented(Lines):
    def parse(self, line):
        arrays = super().parse(line)
        return replace(arrays, final={"observation": arrays.columns["observation"][-1]})


class EndsIgnored(Lines):
    def parse(self, line):
        return super().parse(line | {"solved": False})


class Rounded(Lines):
    def parse(self, line):
        return super().parse(line | {"rewards": np.array(line["rewards"], np.float32)})


class Unrepeatable(Lines):
    calls = 0

    def records(self, episodes, schema, split):
        type(self).calls += 1
        for record in super().records(episodes, schema, split):
            yield replace(record, seed=self.calls)


class UndeclaredOption(Lines):
    def read(self, source, *, split="train", secret=None):
        return super().read(source, split=split)


class OptionsIgnored(Lines):
    def require_read_options(self, options):
        pass

    def read(self, source, *, split="train", **ignored):
        return super().read(source, split=split)


class DamageIgnored(Lines):
    def read(self, source, *, split="train"):
        path = source / "episodes.jsonl" if source.is_dir() else source
        lines = [line for line in path.read_text().splitlines()[1:] if line.endswith("}")]
        episodes = [self.parse(json.loads(line)) for line in lines]
        schema = episodes[0].infer_schema()
        return EpisodeSource(schema, lambda: self.records(episodes, schema, split), num_episodes=len(episodes))


class RewardsNotWritten(Lines):
    def format_line(self, record):
        line = super().format_line(record)
        return line | {"rewards": [0.0] * len(line["rewards"])}


class Overwriting(Lines):
    def write(self, manifest, records, target, *, note=""):
        target.mkdir(exist_ok=True)
        self.write_lines(target / "episodes.jsonl", manifest, records, note)


class AnythingIsExported(Lines):
    def is_exported(self, manifest, target, *, note=""):
        return (target / "episodes.jsonl").is_file()


READS = "test_reading_gives_the_expected_values"
SERVES = "test_a_version_serves_the_expected_transitions"
RETURNS = "test_what_is_written_reads_back_bit_for_bit"
DEFECTS = {
    ShiftedRewards: {READS, SERVES, RETURNS},
    LastRowLost: {READS, SERVES, RETURNS},
    FinalInvented: {READS, SERVES},
    EndsIgnored: {READS, SERVES},
    Rounded: {READS, SERVES},
    Unrepeatable: {READS, RETURNS, "test_a_second_pass_gives_the_same_episodes"},
    UndeclaredOption: {"test_the_declared_options_are_those_of_the_methods"},
    OptionsIgnored: {"test_an_unknown_option_is_refused_with_the_nearest_name"},
    DamageIgnored: {"test_a_truncated_file_is_refused_and_leaves_nothing"},
    RewardsNotWritten: {RETURNS},
    Overwriting: {"test_a_written_target_is_never_overwritten", "test_an_interrupted_export_leaves_nothing"},
    AnythingIsExported: {"test_an_exported_folder_is_recognised_where_the_format_has_a_hub_tag"},
}


@pytest.mark.slow
def test_every_defect_fails_the_test_meant_for_it(tmp_path):
    """All defects in one run of pytest, whose modules are imported once."""
    names = [defect.__name__ for defect in DEFECTS]
    classes = "\n".join(f"class Test{name}(TestLines):\n    format = suite.{name}()" for name in names)
    (tmp_path / "test_defects.py").write_text(f"import {__name__} as suite\n\nTestLines = suite.TestLines\n{classes}\n")
    arguments = ["-q", "-p", "no:cacheprovider", "-rf", "--tb=no", "-W", "ignore", "test_defects.py"]

    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "pytest", *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env)

    failed: dict[str, set[str]] = {name: set() for name in names}
    for line in ran.stdout.splitlines():
        if line.startswith("FAILED"):
            _, group, test = line.split()[1].split("::")
            failed[group.removeprefix("Test")].add(test)
    assert failed == {defect.__name__: tests for defect, tests in DEFECTS.items()}, ran.stdout


def test_without_pytest_the_import_of_the_suites_names_the_missing_package():
    script = "import sys; sys.modules['pytest'] = None; import rlhive; print('fine'); import rlhive.testing"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ran.stdout == "fine\n"
    assert "MissingExtraError: rlhive.testing needs pytest: pip install pytest" in ran.stderr
