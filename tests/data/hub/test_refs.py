"""Versions, datasets and revisions on the Hub, and the pin of a local version."""

import json

import pytest

from rlhive.data.hub._pin import PIN_NAME, HubPin
from rlhive.data.hub._refs import require_tag_unmoved
from rlhive.errors import CorruptDatasetError
from tests.data.hub.transfers import assert_raises
from tests.hub_server import Repository

PIN = HubPin("org/knob", "0123456789abcdef0123456789abcdef01234567")
CALL = """
from rlhive.data import hub
answer = getattr(hub, function)(*arguments)
"""


def call(client, function, *arguments):
    """Call a function of rlhive.data.hub in a client's process."""
    return client.run(CALL, function=function, arguments=arguments)


def test_a_pin_is_read_as_it_was_written(tmp_path):
    PIN.write(tmp_path)

    assert HubPin.read(tmp_path) == PIN
    assert json.loads((tmp_path / ".hub.json").read_text()) == {"repo_id": PIN.repo_id, "commit": PIN.commit}
    assert str(PIN) == "org/knob@0123456789ab"
    assert PIN.url.endswith(f"/datasets/org/knob/tree/{PIN.commit}")


@pytest.mark.parametrize(
    "content",
    [None, "", "{", "[]", "{}", '{"repo_id": "org/knob"}', '{"repo_id": "org/knob", "commit": "main"}', '"text"', "\0"],
)
def test_a_folder_without_a_valid_pin_has_none(tmp_path, content):
    if content is not None:
        (tmp_path / PIN_NAME).write_text(content)

    assert HubPin.read(tmp_path) is None


def test_the_tag_of_a_pulled_version_must_refer_to_its_commit(tmp_path):
    PIN.write(tmp_path)

    require_tag_unmoved(tmp_path, "1.0.0", PIN.commit)
    with pytest.raises(
        CorruptDatasetError, match=r"tag v1\.0\.0 was moved: expected commit 0123456789ab, .* got ffffffffffff"
    ):
        require_tag_unmoved(tmp_path, "1.0.0", "f" * 40)
    assert HubPin.read(tmp_path) == PIN


def test_a_version_that_was_not_pulled_has_no_tag_to_compare(tmp_path):
    require_tag_unmoved(tmp_path, "1.0.0", "f" * 40)


def test_versions_are_listed_from_the_oldest_to_the_newest_without_other_tags(hub, online):
    repository = hub.repositories["org/knob"] = Repository()
    tags = ["v2.0.0", "v10.0.0", "v1.9.0", "latest", "v3", "v1.0.0-rc1", "1.0.0", "v1.10.0"]
    commits = {tag: repository.commit({"README.md": tag.encode()}, tag=tag) for tag in tags}

    versions = call(online, "list_versions", "org/knob")

    assert list(versions.items()) == [(name, commits[f"v{name}"]) for name in ("1.9.0", "1.10.0", "2.0.0", "10.0.0")]


def test_a_dataset_without_a_repository_and_an_offline_client_have_no_versions(hub, published, online, offline):
    assert call(online, "list_versions", "org/other") == {}
    hub.requests.clear()

    assert call(offline, "list_versions", "org/knob") == {}
    assert hub.requests == []


def test_datasets_of_rlhive_are_listed_with_the_day_of_their_last_change(hub, published, online):
    card = {"README.md": hub.repositories["org/knob"].commits[hub.repositories["org/knob"].head]["README.md"]}
    for name, files in (("lab/arm", card), ("org/other", {"README.md": b"# of another library"})):
        hub.repositories[name] = Repository()
        hub.repositories[name].commit(files)

    assert call(online, "list_datasets") == {"org/knob": "2026-01-01", "lab/arm": "2026-01-01"}
    assert call(online, "list_datasets", "lab") == {"lab/arm": "2026-01-01"}


def test_a_list_from_a_busy_hub_is_a_short_error(hub, online):
    hub.broken = 503

    assert_raises("HubUnreachableError", "still answers 503", call, online, "list_datasets")


def test_a_revision_is_resolved_to_its_commit_and_a_commit_is_not_looked_up(hub, published, online, offline):
    repository = hub.repositories["org/knob"]

    assert call(online, "resolve_revision", "org/knob", "v1.0.0") == repository.tags["v1.0.0"]
    assert call(online, "resolve_revision", "org/knob", "main") == repository.head
    assert_raises("DatasetNotFoundError", "no revision v9", call, online, "resolve_revision", "org/knob", "v9")
    hub.requests.clear()
    assert call(offline, "resolve_revision", "org/knob", "f" * 40) == "f" * 40
    assert_raises("HubUnreachableError", "HF_HUB_OFFLINE", call, offline, "resolve_revision", "org/knob", "v1.0.0")
    assert hub.requests == []
