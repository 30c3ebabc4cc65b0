"""Pushes of versions to the Hub: what is sent, tagged and refused, and what a killed or a concurrent push leaves."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from rlhive.data.hub import _staging
from rlhive.data.versions._export import export
from rlhive.data.versions._manifest import Manifest
from tests.data.checks.walks import rewrite_table, write_older_table
from tests.data.hub.transfers import assert_raises, open_version, push_version, read_rewards
from tests.data.strategies import records, teleoperated_records
from tests.hub_client import TOKEN, read_files
from tests.hub_server import Repository


def test_two_versions_are_pulled_bit_for_bit_as_they_were_pushed(hub, versions, online, store):
    for version, folder in versions.items():
        published = push_version(online, folder, license="mit")
        assert (published["repo_id"], published["version"]) == ("org/knob", version)
        assert hub.repositories["org/knob"].tags[f"v{version}"] == published["commit"]

    for version, folder in versions.items():
        assert open_version(online, store, version=version) == [version, read_rewards(folder)]
        assert read_files(store / "org/knob" / version) == read_files(folder)
    assert not hub.repositories["org/knob"].private


def test_a_second_push_sends_only_what_changed(hub, versions, online):
    push_version(online, versions["1.0.0"])
    hub.received.clear()
    push_version(online, versions["2.0.0"])

    uploaded = {line.split("/")[-1] for line in hub.received if line.startswith("PUT")}
    old_files, new_files = read_files(versions["1.0.0"]), read_files(versions["2.0.0"])
    old_hashes = {hashlib.sha256(data).hexdigest() for data in old_files.values()}
    new_hashes = {hashlib.sha256(data).hexdigest() for path, data in new_files.items() if "parquet" in path}
    assert uploaded == new_hashes - old_hashes
    assert len(uploaded) == 3  # the shard with the new episode, the episode table, the statistics


def test_a_push_of_a_published_version_sends_nothing(hub, versions, online):
    first = push_version(online, versions["1.0.0"])
    hub.requests.clear()

    assert push_version(online, versions["1.0.0"]) == first
    assert not [line for line in hub.requests if line.startswith(("PUT", "POST"))]


def test_a_new_version_deletes_the_shards_of_the_last_one_and_nothing_else(hub, versions, online):
    push_version(online, versions["2.0.0"])
    repository = hub.repositories["org/knob"]
    repository.commit(repository.commits[repository.head] | {"NOTES.md": b"mine", "data/old-00000.parquet": b"old"})

    published = push_version(online, versions["1.0.0"])

    paths = set(repository.commits[published["commit"]])
    assert paths == {*read_files(versions["1.0.0"]), "NOTES.md", ".gitattributes"}


def test_card_and_manifest_have_the_name_of_the_repository_and_the_content_is_the_same(hub, versions, online, store):
    push_version(online, versions["1.0.0"], "else/where", license="cc-by-4.0", private=True)

    assert hub.repositories["else/where"].private
    assert open_version(online, store, "else/where") == ["1.0.0", read_rewards(versions["1.0.0"])]
    pulled_files, local_files = read_files(store / "else/where/1.0.0"), read_files(versions["1.0.0"])
    manifest = json.loads(pulled_files["rlhive.json"])
    assert (manifest["name"], manifest["license"]) == ("else/where", "cc-by-4.0")
    assert manifest["fingerprint"] == json.loads(local_files["rlhive.json"])["fingerprint"]
    assert b"org/knob" not in pulled_files["README.md"]
    assert b"license: cc-by-4.0" in pulled_files["README.md"]
    assert {path for path, data in local_files.items() if pulled_files[path] != data} == {"README.md", "rlhive.json"}
    assert_raises("DatasetExistsError", "its licence mit", push_version, online, versions["2.0.0"], license="cc-by-4.0")


def test_datasets_loads_a_tag_without_rlhive(hub, versions, online, tmp_path):
    for folder in versions.values():
        push_version(online, folder)
    script = """
import sys, json
sys.modules["rlhive"] = None
import datasets
loaded = {tag: datasets.load_dataset("org/knob", revision=tag) for tag in ("v1.0.0", "v2.0.0")}
streamed = datasets.load_dataset("org/knob", revision="v1.0.0", streaming=True)
rows = {tag: [x for split in loaded[tag].values() for x in split["next.reward"]] for tag in loaded}
print(json.dumps([rows, [row["next.reward"] for split in streamed.values() for row in split]]))
"""
    variables = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf-home"), "HF_HUB_OFFLINE": "0"}
    variables |= {"HF_HUB_DISABLE_XET": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    process = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, env=os.environ | variables
    )

    assert process.returncode == 0, process.stderr
    rows, streamed = json.loads(process.stdout.splitlines()[-1])
    assert rows == {f"v{version}": read_rewards(folder) for version, folder in versions.items()}
    assert streamed == rows["v1.0.0"]


def test_a_tag_is_never_moved(hub, versions, online):
    push_version(online, versions["1.0.0"])
    tags = dict(hub.repositories["org/knob"].tags)
    manifest = json.loads((versions["2.0.0"] / "rlhive.json").read_text()) | {"version": "1.0.0"}
    (versions["2.0.0"] / "rlhive.json").write_text(json.dumps(manifest))

    assert_raises("DatasetExistsError", "a tag is never moved", push_version, online, versions["2.0.0"])

    assert hub.repositories["org/knob"].tags == tags
    assert len(hub.repositories["org/knob"].commits) == 2


def test_private_data_are_not_pushed_to_a_public_repository(hub, published, online):
    assert_raises("HubRefusedError", "it is public", push_version, online, published["1.0.0"], private=True)


@pytest.mark.parametrize(
    ("role", "kind", "message"),
    [
        (None, "HubAccessDeniedError", "expected a valid token, got no token"),
        ("unknown", "HubAccessDeniedError", "expected a valid token, got the token in use"),
        ("read", "HubAccessDeniedError", "write permission"),
    ],
)
def test_without_the_right_token_nothing_is_pushed(hub, versions, clients, server, role, kind, message, online):
    hub.tokens |= {"hf_writer": "write", "hf_reader0": "read"}
    token = {None: "", "unknown": TOKEN, "read": "hf_reader0"}[role]
    client = clients.start(server.url, HF_TOKEN=token, HF_HOME=str(versions["1.0.0"].parent / "home"))

    assert_raises(kind, message, push_version, client, versions["1.0.0"])

    assert hub.repositories == {}
    hub.repositories["org/knob"] = Repository()
    hub.repositories["org/knob"].commit({})
    assert_raises(kind, message, push_version, client, versions["1.0.0"])
    assert len(hub.repositories["org/knob"].commits) == 1


def test_a_damaged_version_is_not_pushed(hub, versions, online):
    shard = next(versions["1.0.0"].glob("data/*"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"\0")

    assert_raises("CorruptDatasetError", shard.name, push_version, online, versions["1.0.0"])

    assert hub.requests == []


def test_a_version_that_fails_a_check_is_not_pushed(hub, versions, online, tmp_path):
    schema, episodes = records([3, 2])
    episodes[1].columns["action"][0, 0] = float("nan")
    options = {"schema": schema, "license": "mit", "store": tmp_path / "bad"}
    folder = export(episodes, "org/knob", version="1.0.0", **options)

    message = assert_raises("CheckFailedError", "'nan'", push_version, online, folder)

    assert "rlhive check org/knob --version 1.0.0" in message
    assert hub.requests == []


def test_a_manifest_that_contains_the_token_is_not_pushed(hub, online, tmp_path):
    schema, episodes = records([3])
    runs = [{"run": "run", "command": ["collect", f"--token={TOKEN}"]}]
    options = {"schema": schema, "license": "mit", "store": tmp_path / "secret", "runs": runs}
    folder = export(episodes, "org/knob", version="1.0.0", **options)

    assert_raises("CheckFailedError", "quotes your Hub token", push_version, online, folder)

    assert hub.requests == []


def test_a_commit_whose_answer_was_lost_is_not_repeated(hub, versions, online):
    answered = []

    def lose_the_answer(line):
        if "/commit/" in line and not answered:
            answered.append(line)
            repository = hub.repositories["org/knob"]
            repository.commit(repository.commits[repository.head] | read_files(versions["1.0.0"]))

    hub.before = lose_the_answer
    published = push_version(online, versions["1.0.0"])

    assert len(hub.repositories["org/knob"].commits) == 2
    assert published["commit"] == hub.repositories["org/knob"].head


def test_of_two_pushes_one_succeeds_and_the_other_can_be_repeated(hub, versions, online, clients, server):
    """Somebody else commits while this push uploads."""
    push_version(online, versions["1.0.0"])
    repository = hub.repositories["org/knob"]

    def commit_meanwhile(line):
        if "/commit/" in line:
            hub.before = None
            repository.commit(repository.commits[repository.head] | {"NOTES.md": b"theirs"})

    hub.before = commit_meanwhile
    assert_raises("HubConflictError", "somebody else committed meanwhile", push_version, online, versions["2.0.0"])

    assert "v2.0.0" not in repository.tags
    assert repository.commits[repository.head]["NOTES.md"] == b"theirs"
    published = push_version(online, versions["2.0.0"])
    assert repository.commits[published["commit"]]["NOTES.md"] == b"theirs"
    assert repository.commits[repository.tags["v1.0.0"]].keys() >= read_files(versions["1.0.0"]).keys()


@pytest.mark.parametrize("names", [("1.0.0", "2.0.0"), ("1.0.0", "1.0.0")])
def test_two_pushes_at_once_leave_complete_versions(hub, versions, clients, server, names):
    """Both wait for each other before their commits, so both have read the same head."""
    hub.repositories["org/knob"] = Repository()
    hub.repositories["org/knob"].commit({".gitattributes": b""})
    barrier, commits = threading.Barrier(2, timeout=60), []

    def wait_for_the_other(line):
        if "/commit/" in line and len(commits) < 2:
            commits.append(line)
            barrier.wait()

    hub.before = wait_for_the_other
    pushers = [clients.start(server.url), clients.start(server.url)]
    with ThreadPoolExecutor(2) as pool:
        pairs = zip(pushers, names, strict=True)
        tasks = [pool.submit(push_version, client, versions[name]) for client, name in pairs]
        errors = [task.exception() for task in tasks if task.exception()]

    repository = hub.repositories["org/knob"]
    assert len(repository.commits) == 2
    assert [error.kind for error in errors] == (["HubConflictError"] if names[0] != names[1] else [])
    assert len(repository.tags) == 1
    for client, name in zip(pushers, names, strict=True):
        published = push_version(client, versions[name])
        assert read_files(versions[name]).items() <= repository.commits[published["commit"]].items()
    assert repository.tags.keys() == {f"v{name}" for name in names}


def test_a_killed_push_continues_where_it_stopped(hub, versions, clients, server, online):
    victim = clients.start(server.url)
    uploads = []

    def kill(line):
        if line.startswith("PUT"):
            uploads.append(line)
        if len(uploads) == 3:
            hub.before = None
            victim.kill()

    hub.before = kill
    with pytest.raises((EOFError, ConnectionError)):
        push_version(victim, versions["2.0.0"])
    stored = set(hub.objects)
    assert "org/knob" in hub.repositories
    assert hub.repositories["org/knob"].tags == {}
    hub.received.clear()

    push_version(online, versions["2.0.0"])

    sent_again = {line.split("/")[-1] for line in hub.received if line.startswith("PUT")}
    assert stored
    assert not sent_again & stored
    repository = hub.repositories["org/knob"]
    assert read_files(versions["2.0.0"]).items() <= repository.commits[repository.tags["v2.0.0"]].items()


@pytest.mark.parametrize("is_older", [False, True])
def test_the_card_under_another_name_says_what_was_not_recorded(is_older, tmp_path):
    folder = export(teleoperated_records([5, 6]), "lab/teleop", license="mit", store=tmp_path)
    if is_older:  # its table holds return 0.0 and success False
        rewrite_table(folder, "meta/episodes.parquet", write_older_table)

    with _staging.stage_files(folder, Manifest.read(folder), "org/teleop", None) as (files, _):
        card = files["README.md"].read_text(encoding="utf-8")

    assert card == (folder / "README.md").read_text(encoding="utf-8").replace("lab/teleop", "org/teleop")
    assert "| train | 2 | 11 | not recorded | not recorded |" in card


def test_a_repository_of_another_dataset_is_not_pushed_into(hub, versions, online, tmp_path):
    push_version(online, versions["1.0.0"])
    before = hub.repositories["org/knob"].head
    _, episodes = records([6, 7])
    options = {"license": "mit", "version": "2.0.0"}
    other = export(episodes, "org/knob", store=tmp_path / "elsewhere", **options)

    message = assert_raises(
        "DatasetExistsError", "got another dataset: 1.0.0 with 3 episodes", push_version, online, other
    )

    assert "--unrelated" in message
    assert hub.repositories["org/knob"].head == before
    assert push_version(online, other, unrelated=True)["version"] == "2.0.0"


@pytest.mark.parametrize("relation", ["an episode", "a run", "a parent", "a version beside it"])
def test_what_belongs_to_a_repository_is_pushed(hub, versions, online, tmp_path, relation):
    run, (old, other) = {"run": "20260101-000000-abcd"}, (records([6])[1], records([7], splits=("b",))[1])
    options = {"license": "mit", "store": tmp_path / "elsewhere"}
    first = export(old, "org/door", version="1.0.0", runs=[run], **options)
    push_version(online, first, "org/door")
    if relation != "a version beside it":
        options["store"] = tmp_path / "third"
    further = [*old, replace(other[0], episode=old[0].episode + 1)] if relation == "an episode" else other
    if relation == "a run":
        options["runs"] = [run]
    if relation == "a parent":
        options["parents"] = [{"fingerprint": Manifest.read(first).fingerprint}]

    second = export(further, "org/door", version="2.0.0", **options)

    assert push_version(online, second, "org/door")["version"] == "2.0.0"
