"""The verb ``rlhive release``: answers from a file, from a person, or an error that names the option."""

import json

import pytest
import yaml

from tests.cli.conftest import invoke
from tests.data.release.samples import ANSWERS


@pytest.fixture(autouse=True)
def _unvalidated(monkeypatch):
    monkeypatch.setattr("rlhive.data.release._write.validate_croissant", lambda path: None)


def test_release_takes_answers_from_a_file_and_keeps_them(filled, tmp_path):
    path = tmp_path / "answers.yaml"
    path.write_text(yaml.safe_dump(ANSWERS))

    made = json.loads(invoke("release", "toy_point", "--answers", path, "--json").stdout)
    assert made == {
        "path": str(filled / "robohive/toy_point/1.0.0.release"),
        "files": ["croissant.json", "DATASHEET.md", "release.yaml", "SHA256SUMS"],
    }
    path.unlink()
    ran = invoke("release", "toy_point")
    assert (ran.exit_code, "1.0.0.release: croissant.json, DATASHEET.md" in ran.stdout) == (0, True)


def test_without_answers_and_terminal_the_error_names_option_and_questions(filled):
    ran = invoke("release", "toy_point")

    assert ran.exit_code == 1
    assert "needs an answer to intended_use, limitations, personal_information" in ran.stderr
    assert "--answers FILE" in ran.stderr
    assert not list(filled.rglob("*.release*"))


def test_a_person_is_asked_for_what_is_missing(filled, tmp_path, monkeypatch):
    (tmp_path / "answers.yaml").write_text("limitations: Few.\n")
    asked = []

    def answer(text, **options):
        asked.append(text)
        return "Said."

    monkeypatch.setattr("rlhive.cli._release._is_terminal", lambda: True)
    monkeypatch.setattr("typer.prompt", answer)
    ran = invoke("release", "toy_point", "--answers", tmp_path / "answers.yaml")

    assert ran.exit_code == 0, ran.stderr
    assert [text.splitlines()[1] for text in asked] == ["intended_use", "personal_information"]
    kept = yaml.safe_load((filled / "robohive/toy_point/1.0.0.release/release.yaml").read_text())
    assert kept == {"intended_use": "Said.", "limitations": "Few.", "personal_information": "Said."}
