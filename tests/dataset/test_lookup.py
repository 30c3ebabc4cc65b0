"""Lookup of a version by name: local store, Hub, recipe, and the errors for unknown names."""

import contextlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rlhive.data.versions import list_local_datasets, list_local_versions
from rlhive.dataset import _lookup
from rlhive.dataset._dataset import RoboHiveDataset
from rlhive.errors import DatasetNotFoundError, HubUnreachableError, InvalidNameError


def test_a_name_opens_the_local_version(filled):
    dataset = RoboHiveDataset("toy_point", generate=False)

    assert dataset.name == "robohive/toy_point"
    assert dataset.version == "1.0.0"
    assert dataset.path == filled / "robohive/toy_point/1.0.0"
    assert dataset.env_name == "ToyPoint-v0"
    assert dataset.task_name == "toy_point"
    assert dataset.splits == ["expert", "medium", "random"]
    assert len(dataset) == 480
    assert dataset.fingerprint == RoboHiveDataset(dataset.path).fingerprint
    assert RoboHiveDataset(str(dataset.path), version="1.0.0").path == dataset.path


def test_the_newest_version_is_the_highest_number(filled):
    folder = filled / "robohive/toy_point"
    for version in ("0.9.0", "1.10.0", "1.9.0"):
        shutil.copytree(folder / "1.0.0", folder / version)
        manifest = folder / version / "rlhive.json"
        manifest.write_text(manifest.read_text().replace('"version": "1.0.0"', f'"version": "{version}"'))
    (folder / "2.0.0").mkdir()  # no manifest: not a version

    assert list(list_local_versions("toy_point")) == ["0.9.0", "1.0.0", "1.9.0", "1.10.0"]
    assert RoboHiveDataset("toy_point").version == "1.10.0"
    assert RoboHiveDataset("toy_point", version="1.9.0").version == "1.9.0"
    assert list_local_datasets() == ["robohive/toy_point"]


def test_generate_false_runs_no_recipe(store):
    with pytest.raises(DatasetNotFoundError, match="rlhive collect toy_point"):
        RoboHiveDataset("toy_point", generate=False)

    assert not store.exists()


def test_without_the_hub_an_unknown_name_is_compared_with_the_store(filled, monkeypatch):
    def refuse(repo_id):
        msg = f"{repo_id}: the Hub cannot be reached."
        raise HubUnreachableError(msg)

    monkeypatch.setattr(_lookup.hub, "list_versions", refuse)
    with pytest.raises(
        HubUnreachableError, match=r"has no version of it\. Nearest: toy_point, rob.*\. List all: rlhive list"
    ):
        RoboHiveDataset("toy_pont")
    with pytest.raises(HubUnreachableError, match=r"has no version of it\. List all: rlhive list"):
        RoboHiveDataset("zzzzzzzz")
    with pytest.raises(HubUnreachableError, match=r"store has 1\.0\.0 of it\."):
        RoboHiveDataset("toy_point", version="3.0.0")


def test_errors_for_unknown_names_list_similar_names_or_versions(filled):
    with pytest.raises(DatasetNotFoundError, match="Nearest: toy_point"):
        RoboHiveDataset("toy_pont")
    with pytest.raises(DatasetNotFoundError, match=r"has no version 3\.0\.0: expected one of 1\.0\.0"):
        RoboHiveDataset("toy_point", version="3.0.0")
    with pytest.raises(DatasetNotFoundError, match=r"expected version 2\.0\.0, got 1\.0\.0"):
        RoboHiveDataset(filled / "robohive/toy_point/1.0.0", version="2.0.0")
    for name in ("a/b/c", "../x/y/z", "name with space", "a/..b", ""):
        with pytest.raises((InvalidNameError, DatasetNotFoundError)):
            RoboHiveDataset(name)
    with pytest.raises(InvalidNameError, match=r"MAJOR\.MINOR\.PATCH"):
        RoboHiveDataset("toy_point", version="latest")


def test_a_folder_without_manifest_is_refused(tmp_path):
    (tmp_path / "half" / "data").mkdir(parents=True)

    with pytest.raises(DatasetNotFoundError, match=r"folder without rlhive\.json"):
        RoboHiveDataset(tmp_path / "half")


def test_a_name_is_looked_up_in_the_store_then_on_the_hub_then_collected(filled, monkeypatch):
    asked = []
    monkeypatch.setattr(_lookup.hub, "list_versions", lambda repo_id: asked.append(repo_id) or {})

    RoboHiveDataset("toy_point", version="1.0.0")
    assert asked == []
    shutil.rmtree(filled)
    RoboHiveDataset("toy_point")
    assert asked == ["robohive/toy_point"]


def test_finding_a_local_version_imports_no_torch(filled):
    script = """
import sys
from rlhive.dataset import find_version
print(find_version("toy_point"), "torch" in sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert ran.stdout.split() == [str(filled / "robohive/toy_point/1.0.0"), "False"]


def test_delete_removes_the_cache_unless_another_version_has_the_same_content(filled):
    from rlhive.data import memmap_dir

    dataset = RoboHiveDataset("toy_point")
    dataset.as_storage()
    cache = memmap_dir(dataset.fingerprint, dtype="float32")
    copied = dataset.save("my/copy")
    assert copied.fingerprint == dataset.fingerprint
    assert cache.exists()

    _lookup.delete("my/copy", "1.0.0")
    assert cache.exists()
    _lookup.delete("toy_point", "1.0.0")
    assert not cache.exists()
    with pytest.raises(DatasetNotFoundError, match=r"toy_point has no version 1\.0\.0 in"):
        _lookup.delete("toy_point", "1.0.0")


@pytest.mark.parametrize("stop_at", range(1, 7))
def test_a_killed_delete_is_finished_by_the_next_one(filled, monkeypatch, stop_at):
    """The n-th removal or renaming never happens, as if the process had been killed there."""

    class Killed(BaseException):
        pass

    dataset = RoboHiveDataset("toy_point")
    dataset.as_storage()
    calls = []

    def counted(function):
        def call(*args, **kwargs):
            calls.append(function.__name__)
            if len(calls) == stop_at:
                raise Killed
            return function(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", counted(shutil.rmtree))
        patch.setattr(Path, "rename", counted(Path.rename))
        with contextlib.suppress(Killed):
            _lookup.delete("toy_point", "1.0.0")
    with contextlib.suppress(DatasetNotFoundError):  # where the first call had finished
        assert _lookup.delete("toy_point", "1.0.0") == dataset.path

    left = [path for path in filled.rglob("*") if path.is_file() and not path.name.endswith(".lock")]
    assert [path for path in left if "toy_point" in str(path) or dataset.fingerprint in str(path)] == []
    with pytest.raises(DatasetNotFoundError):
        _lookup.find_deletable("toy_point", "1.0.0")


def test_a_packed_version_is_opened_without_the_hubs_client_and_pandas(filled):
    RoboHiveDataset("toy_point").as_replay_buffer(8)
    script = """if True:
        import sys
        from rlhive import RoboHiveDataset
        RoboHiveDataset("toy_point").as_replay_buffer(8).sample()
        print([name for name in ("huggingface_hub", "datasets", "pandas", "matplotlib") if name in sys.modules])
    """
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
