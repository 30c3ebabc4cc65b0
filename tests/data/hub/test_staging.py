"""Releases that are pushed with their versions: addresses, checksums, tags that stay, and what a later push removes."""

import hashlib
import json

import pytest

from rlhive.data.release import RELEASE_FILES, write_release
from tests.data.hub.transfers import assert_raises, open_version, push_version, read_rewards
from tests.data.release.samples import ANSWERS
from tests.hub_client import read_files


@pytest.fixture(autouse=True)
def _unvalidated(monkeypatch):
    monkeypatch.setattr("rlhive.data.release._write.validate_croissant", lambda path: None)


def assert_sums_hold(files):
    """Check that SHA256SUMS lists every other file of a commit with its hash."""
    lines = files["SHA256SUMS"].decode().splitlines()
    sums = {path: digest for digest, _, path in (line.partition("  ") for line in lines)}
    hashes = {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}
    assert sums == {path: digest for path, digest in hashes.items() if path not in ("SHA256SUMS", ".gitattributes")}


@pytest.mark.parametrize("repo_id", ["org/knob", "else/where"])
def test_a_release_is_pushed_with_the_addresses_of_the_repository(hub, versions, online, store, repo_id):
    write_release(versions["1.0.0"], ANSWERS)
    published = push_version(online, versions["1.0.0"], repo_id)

    files = hub.repositories[repo_id].commits[published["commit"]]
    assert_sums_hold(files)
    described = json.loads(files["croissant.json"])
    page = f"{hub.url}/datasets/{repo_id}"
    assert (described["url"], described["name"]) == (page, repo_id.split("/")[1])
    addresses = {item["@id"]: item.get("contentUrl") for item in described["distribution"]}
    assert addresses["rlhive.json" if "rlhive.json" in addresses else "README.md"].startswith(f"{page}/resolve/v1.0.0/")
    readme = next(item for item in described["distribution"] if item["@id"] == "README.md")
    assert readme["sha256"] == hashlib.sha256(files["README.md"]).hexdigest()
    assert described["rai:dataLimitations"] == ANSWERS["limitations"]
    assert f"# Datasheet of {repo_id} 1.0.0" in files["DATASHEET.md"].decode()
    assert open_version(online, store, repo_id) == ["1.0.0", read_rewards(versions["1.0.0"])]
    hub.requests.clear()
    assert push_version(online, versions["1.0.0"], repo_id) == published
    assert not [line for line in hub.requests if line.startswith(("PUT", "POST"))]


def test_a_release_after_the_push_is_committed_and_the_tag_stays(hub, versions, online):
    published = push_version(online, versions["1.0.0"])
    repository = hub.repositories["org/knob"]
    write_release(versions["1.0.0"], ANSWERS)

    assert push_version(online, versions["1.0.0"]) == published
    assert repository.tags == {"v1.0.0": published["commit"]}
    assert repository.head != published["commit"]
    assert_sums_hold(repository.commits[repository.head])
    assert not set(RELEASE_FILES) & repository.commits[published["commit"]].keys()
    head = repository.head
    assert push_version(online, versions["1.0.0"]) == published
    assert repository.head == head

    write_release(versions["1.0.0"], {"limitations": "Others."})
    push_version(online, versions["1.0.0"])
    assert b"Others." in repository.commits[repository.head]["DATASHEET.md"]
    assert_sums_hold(repository.commits[repository.head])


def test_a_later_version_has_its_own_release_or_none(hub, versions, online):
    write_release(versions["1.0.0"], ANSWERS)
    push_version(online, versions["1.0.0"])
    repository = hub.repositories["org/knob"]
    push_version(online, versions["2.0.0"])

    assert repository.commits[repository.head].keys() >= read_files(versions["2.0.0"]).keys()
    assert not set(RELEASE_FILES) & repository.commits[repository.head].keys()
    write_release(versions["1.0.0"], {"limitations": "Corrected too late."})
    before = repository.head, dict(repository.tags)
    push_version(online, versions["1.0.0"])  # logs that the main branch holds another version
    assert (repository.head, repository.tags) == before

    write_release(versions["2.0.0"])
    push_version(online, versions["2.0.0"])
    assert_sums_hold(repository.commits[repository.head])
    assert b"Corrected too late." in repository.commits[repository.head]["DATASHEET.md"]


def test_a_description_that_the_owner_wrote_stays(hub, versions, online):
    push_version(online, versions["1.0.0"])
    repository = hub.repositories["org/knob"]
    repository.commit(repository.commits[repository.head] | {"croissant.json": b"mine", "DATASHEET.md": b"mine"})

    published = push_version(online, versions["2.0.0"])
    assert repository.commits[published["commit"]]["croissant.json"] == b"mine"


def test_a_secret_in_an_answer_or_a_damaged_one_is_not_published(hub, versions, online):
    release = write_release(versions["1.0.0"], ANSWERS | {"limitations": "token ghp_" + "aB3" * 12})
    assert_raises("CheckFailedError", "holds a GitHub token", push_version, online, versions["1.0.0"])
    (release / "release.yaml").write_text("limitations: x\n")
    with pytest.raises(Exception, match="needs an answer to intended_use, personal_information"):
        push_version(online, versions["1.0.0"])
    assert "org/knob" not in hub.repositories
