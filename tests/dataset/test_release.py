"""``rlhive.release``: by name, newest version, and gone with the version that it describes."""

import pytest
import yaml

import rlhive
from rlhive.data import release_dir
from rlhive.errors import DatasetNotFoundError, InvalidOptionError
from tests.data.release.samples import ANSWERS


@pytest.fixture(autouse=True)
def _unvalidated(monkeypatch):
    monkeypatch.setattr("rlhive.data.release._write.validate_croissant", lambda path: None)


def test_a_release_is_made_by_name_kept_and_deleted_with_its_version(filled, tmp_path):
    version = filled / "robohive/toy_point/1.0.0"
    (tmp_path / "answers.yaml").write_text(yaml.safe_dump(ANSWERS))

    release = rlhive.release("toy_point", tmp_path / "answers.yaml")
    assert release == release_dir(version)
    assert "Not for robots beside people." in (release / "DATASHEET.md").read_text()
    assert rlhive.release("toy_point") == rlhive.release(version) == release
    assert rlhive.RoboHiveDataset("toy_point").path == version
    assert list(rlhive.versions("toy_point")[0]) == ["1.0.0"]

    rlhive.delete("toy_point", "1.0.0")
    assert not release.exists()
    assert not version.exists()


def test_what_is_missing_is_an_error_and_writes_nothing(filled):
    before = sorted(filled.rglob("*"))
    with pytest.raises(InvalidOptionError, match="needs an answer to intended_use, personal_information"):
        rlhive.release("toy_point", {"limitations": "x"})
    with pytest.raises(DatasetNotFoundError):
        rlhive.release("toy_point", ANSWERS, version="7.0.0")
    assert sorted(filled.rglob("*")) == before
