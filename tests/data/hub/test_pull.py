"""Pulls of versions from the Hub: what is fetched, verified and refused."""

import json
import shutil
from dataclasses import replace

import pytest

from rlhive.data.versions._export import export
from rlhive.data.versions._manifest import Manifest
from rlhive.data.versions._reader import read_records
from tests.data.hub.transfers import assert_raises, open_version, push_version, read_rewards
from tests.data.strategies import records
from tests.hub_client import TOKEN, ClientError, read_files
from tests.hub_server import Fault


def test_the_newest_version_is_pulled_and_then_needs_no_network(hub, published, online, store):
    assert open_version(online, store) == ["2.0.0", read_rewards(published["2.0.0"])]
    assert hub.requests
    hub.requests.clear()

    assert open_version(online, store) == ["2.0.0", read_rewards(published["2.0.0"])]
    assert open_version(online, store, version="2.0.0")[0] == "2.0.0"
    assert open_version(online, store, revision="v2.0.0")[0] == "2.0.0"
    assert open_version(online, store, revision=hub.repositories["org/knob"].tags["v2.0.0"])[0] == "2.0.0"
    assert hub.requests == []


@pytest.mark.parametrize("revision", ["v1.0.0", "main", "commit"])
def test_a_revision_is_a_tag_a_branch_or_a_commit(hub, published, online, store, revision):
    repository = hub.repositories["org/knob"]
    name = repository.tags["v1.0.0"] if revision == "commit" else revision
    expected = "2.0.0" if revision == "main" else "1.0.0"

    assert open_version(online, store, revision=name) == [expected, read_rewards(published[expected])]
    assert_raises("DatasetNotFoundError", "no revision v9", open_version, online, store, revision="v9")


def test_only_requested_splits_are_fetched_and_the_others_later(hub, published, online, offline, store):
    folder = published["1.0.0"]

    assert open_version(online, store, version="1.0.0", split="a")[1] == read_rewards(folder, "a")
    assert not [path for path in hub.served if path.startswith("data/b")]
    assert not list(store.glob("org/knob/1.0.0/data/b*"))
    assert open_version(offline, store, version="1.0.0", split="a")[1] == read_rewards(folder, "a")
    assert_raises("HubUnreachableError", "data/b-00000", open_version, offline, store, version="1.0.0")

    hub.served.clear()
    assert open_version(online, store, version="1.0.0")[1] == read_rewards(folder)
    assert {path[:6] for path in hub.served} == {"data/b"}
    assert open_version(offline, store, version="1.0.0", split="b")[1] == read_rewards(folder, "b")
    assert read_files(store / "org/knob/1.0.0") == read_files(folder)


PULL = """
import os
os.environ["RLHIVE_DATASETS_PATH"] = store
from rlhive.dataset import pull
answer = str(pull(name, **options))
"""


def test_a_split_that_only_an_older_version_has_is_named(hub, published, online, store, tmp_path):
    manifest = Manifest.read(published["2.0.0"])
    records = (replace(record, split="b") for record in read_records(published["2.0.0"], manifest, ["a", "b"]))
    records = sorted(records, key=lambda record: record.episode)
    folder = export(records, "org/knob", version="3.0.0", license="mit", store=tmp_path / "new")
    hub.repositories["org/knob"].commit(read_files(folder), tag="v3.0.0")

    def pull(**options):
        return online.run(PULL, store=str(store), name="org/knob", options=options)

    message = assert_raises("SplitNotFoundError", "3.0.0 has no split 'a': expected one of b", pull, splits=["a"])
    assert message.endswith("2.0.0 has it: rlhive pull org/knob --version 2.0.0 --split a")
    message = assert_raises("SplitNotFoundError", "has no split 'c'", pull, splits=["b", "c"])
    assert message.endswith("expected one of b.")
    assert not list(store.glob("org/knob/*"))
    assert pull(splits=["b"]).endswith("org/knob/3.0.0")


def test_a_version_that_the_hub_does_not_have_is_an_error(hub, published, online, store):
    assert_raises("DatasetNotFoundError", "expected one of 1.0.0, 2.0.0", open_version, online, store, version="3.0.0")
    assert_raises("DatasetNotFoundError", "not on the Hub", open_version, online, store, "org/unknown")


def test_offline_no_request_is_sent_and_no_other_version_is_opened(hub, published, online, offline, store):
    open_version(online, store, version="1.0.0")
    hub.requests.clear()

    assert open_version(offline, store, version="1.0.0")[0] == "1.0.0"
    assert open_version(offline, store, revision="v1.0.0")[0] == "1.0.0"
    assert_raises("DatasetNotFoundError", "expected one of 1.0.0", open_version, offline, store, version="2.0.0")
    assert_raises("HubUnreachableError", "HF_HUB_OFFLINE", open_version, offline, store, revision="v2.0.0")
    assert_raises("HubUnreachableError", "HF_HUB_OFFLINE", open_version, offline, store, revision="main")
    assert hub.requests == []


@pytest.mark.parametrize("name", ["data/a-00000", "meta/episodes", "README.md", "rlhive.json"])
def test_a_file_that_is_damaged_in_transit_is_fetched_again(hub, published, online, store, name):
    hub.faults.append(Fault(f"GET .*{name}", 1))

    assert open_version(online, store)[1] == read_rewards(published["2.0.0"])
    assert hub.faults[0].times == 0
    assert read_files(store / "org/knob/2.0.0") == read_files(published["2.0.0"])


@pytest.mark.parametrize("name", ["data/a-00000", "README.md", "rlhive.json"])
def test_a_file_that_stays_damaged_is_refused_and_nothing_is_stored(hub, published, online, store, name):
    hub.faults.append(Fault(f"GET .*{name}", 1, times=99))

    message = assert_raises("CorruptDatasetError", name, open_version, online, store)

    assert "twice" in message
    assert not list(store.glob("org/knob/*/*"))


def test_a_tag_with_the_manifest_of_another_version_is_refused(hub, published, online, store):
    repository = hub.repositories["org/knob"]
    repository.tags["v2.0.0"] = repository.tags["v1.0.0"]

    assert_raises("CorruptDatasetError", "expected version 2.0.0, got 1.0.0", open_version, online, store)


def test_a_version_with_other_content_does_not_replace_the_local_one(hub, published, versions, online, store):
    open_version(online, store, version="1.0.0")
    repository = hub.repositories["org/knob"]
    manifest = json.loads(read_files(versions["2.0.0"])["rlhive.json"]) | {"version": "1.0.0"}
    files = read_files(versions["2.0.0"]) | {"rlhive.json": json.dumps(manifest).encode()}
    sha = repository.commit(files)
    before = read_files(store / "org/knob/1.0.0")

    assert_raises("DatasetExistsError", "holds fingerprint", open_version, online, store, revision=sha)

    assert read_files(store / "org/knob/1.0.0") == before


def test_errors_of_private_and_gated_repositories_name_the_next_step(hub, published, clients, server, store, online):
    hub.tokens |= {TOKEN: "read"}
    hub.repositories["org/knob"].gated = True
    message = assert_raises("HubAccessDeniedError", "is gated", open_version, online, store)
    assert "/datasets/org/knob" in message

    hub.tokens.clear()
    hub.repositories["org/knob"].private = True
    client = clients.start(server.url, HF_TOKEN="", HF_HOME=str(store / "home"))
    assert_raises("DatasetNotFoundError", "no token may not see it", open_version, client, store, revision="v1.0.0")


@pytest.mark.parametrize("trouble", ["unknown", "busy"])
def test_the_recipe_runs_if_the_hub_does_not_have_the_dataset_or_does_not_answer(hub, online, store, trouble):
    online.run("import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])")  # one worker is enough
    if trouble == "busy":
        hub.broken = 503

    assert open_version(online, store, "toy_point")[0] == "1.0.0"
    assert (store / "robohive/toy_point/1.0.0/rlhive.json").exists()


def test_a_killed_pull_continues_where_it_stopped(hub, published, clients, server, store):
    environment = {"HF_HOME": str(store / "home")}
    victim, served = clients.start(server.url, **environment), []

    def kill(line):
        if line.startswith("GET") and "/data/" in line:
            served.append(line)
        if len(served) == 3:
            hub.before = None
            victim.kill()

    hub.before = kill
    with pytest.raises((EOFError, ConnectionError)):
        open_version(victim, store)
    assert not list(store.glob("org/knob/*/rlhive.json"))
    before = sum(hub.served.values())

    assert open_version(clients.start(server.url, **environment), store)[1] == read_rewards(published["2.0.0"])

    whole = sum(len(data) for data in read_files(published["2.0.0"]).values())
    assert before > 0
    assert sum(hub.served.values()) < before + whole


def test_videos_are_pushed_and_pulled(hub, online, store, tmp_path):
    pytest.importorskip("av")
    from tests.data.test_picture_storage import make_records

    episodes = list(make_records(shapes={"pixels": (32, 40, 3)}))
    folder = export(episodes, "org/cameras", license="mit", store=tmp_path / "made", storage={"pixels": "h264"})
    push_version(online, folder, "org/cameras")

    assert open_version(online, store, "org/cameras") == ["1.0.0", read_rewards(folder)]
    pulled = store / "org/cameras/1.0.0"
    assert read_files(pulled) == read_files(folder)
    for record, expected in zip(
        *(read_records(path, Manifest.read(path), ["train"]) for path in (pulled, folder)), strict=True
    ):
        assert record.content_hash() == expected.content_hash()


IN_OBJECT_STORE = """
import os
os.environ.update(environment)
from rlhive import RoboHiveDataset
from rlhive.dataset import pull, versions
folder = pull("org/knob", **options)
dataset = RoboHiveDataset(folder)
answer = [dataset.version, dataset.fingerprint, dataset.as_arrow()["next.reward"].to_pylist(), versions("org/knob")[0]]
"""
PUSH_FROM_OBJECT_STORE = """
import os, shutil
os.environ.update(environment)
from rlhive import RoboHiveDataset
shutil.rmtree(os.environ["RLHIVE_CACHE_PATH"])
dataset = RoboHiveDataset("org/knob", version="1.0.0", split="a")
answer = dataset.push_to_hub("org/copy").url
"""


def test_an_object_store_gets_the_whole_version_and_publishes_it(
    hub, published, clients, server, object_store, tmp_path
):
    environment = object_store.environment(tmp_path)
    client = clients.start(server.url, HF_HOME=str(tmp_path / "home"))

    version, fingerprint, rewards, rows = client.run(
        IN_OBJECT_STORE, environment=environment, options={"version": "1.0.0", "splits": ["a"]}
    )

    manifest = Manifest.read(published["1.0.0"])
    assert (version, fingerprint) == ("1.0.0", manifest.fingerprint)
    assert rewards == read_rewards(published["1.0.0"])
    assert rows["1.0.0"]["path"] == f"{object_store.url}/org/knob/1.0.0"
    assert rows["2.0.0"]["path"] is None
    assert len(object_store.list_keys()) == 1 + len(manifest.files)
    assert client.run(PUSH_FROM_OBJECT_STORE, environment=environment).endswith("org/copy/tree/v1.0.0")
    repository = hub.repositories["org/copy"]
    assert set(repository.commits[repository.tags["v1.0.0"]]) >= {entry.path for entry in manifest.files}


def test_an_object_store_keeps_its_version_where_the_hub_has_another_of_that_number(
    hub, published, clients, server, object_store, tmp_path
):
    environment = object_store.environment(tmp_path)
    client = clients.start(server.url, HF_HOME=str(tmp_path / "home"))
    schema, episodes = records([6])
    folder = export(episodes, "org/knob", license="mit", schema=schema)
    other = Manifest.read(folder).fingerprint
    shutil.rmtree(folder)
    keys = object_store.list_keys()

    with pytest.raises(ClientError, match="expected the version of the Hub, the store has another of that number"):
        client.run(IN_OBJECT_STORE, environment=environment, options={"version": "1.0.0"})

    assert object_store.list_keys() == keys
    assert json.loads(object_store.get("org/knob/1.0.0.json"))["fingerprint"] == other
