"""A store at hf://: versions as files of a repository, through the Hub's file system."""

from rlhive.data.versions import Manifest
from tests.hub_server import Repository

COMMIT = """
import os, shutil
os.environ.update(RLHIVE_DATASETS_PATH="hf://datasets/org/store/lab", RLHIVE_CACHE_PATH=cache)
from rlhive.data.versions import Manifest, export, find_stored_version, list_all_versions, read_records
from tests.data.strategies import records
schema, episodes = records([3, 2])
folder = export(episodes, "org/knob", license="mit", schema=schema)
shutil.rmtree(cache)
assert find_stored_version("org/knob") == folder
manifest = Manifest.read(folder)
identities = [record.identity() for record in read_records(folder, manifest, manifest.splits)]
answer = manifest.fingerprint, identities == [record.identity() for record in episodes], list(list_all_versions())
"""


def test_a_repository_of_the_hub_holds_versions(hub, clients, server, tmp_path):
    hub.repositories["org/store"] = Repository()
    hub.repositories["org/store"].commit({"README.md": b""})
    client = clients.start(server.url, HF_HOME=str(tmp_path / "home"))

    fingerprint, is_equal, names = client.run(COMMIT, cache=str(tmp_path / "stores"))

    files = list(hub.repositories["org/store"].commits.values())[-1]
    (tmp_path / "rlhive.json").write_bytes(files["lab/org/knob/1.0.0.json"])
    manifest = Manifest.read(tmp_path)
    assert manifest.fingerprint == fingerprint
    assert is_equal
    assert names == ["org/knob"]
    assert len(files) == 2 + len(manifest.files)
