"""Reading versions from a Hub: the unmodified huggingface_hub in a process of its own, against a loopback server."""

import json
import os
import subprocess
import sys

import pytest

from rlhive.data.export import export
from tests.data.strategies import records
from tests.hub_server import Repository, serving

CLIENT = """
import json, os, sys
from rlhive import RoboHiveDataset
from rlhive.errors import RLHiveError
for line in sys.stdin:
    name, version, store = json.loads(line)
    os.environ["RLHIVE_DATASETS_PATH"] = store
    try:
        dataset = RoboHiveDataset(name, version=version)
        rewards = dataset.as_tensordict()["next", "reward"].flatten().tolist()
        answer = [dataset.version, dataset.fingerprint, rewards]
    except RLHiveError as error:
        answer = [type(error).__name__, str(error)]
    print(json.dumps(answer), flush=True)
"""


class Client:
    """A process that opens datasets with an environment of its own, since huggingface_hub reads it at import."""

    def __init__(self, endpoint, home, *, offline=False):
        variables = {
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": str(int(offline)),
        }
        pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen([sys.executable, "-c", CLIENT], env=os.environ | variables, **pipe)

    def open(self, store, name, version=None):
        """Return version, fingerprint and rewards, or the error's name and message."""
        self.process.stdin.write(json.dumps([name, version, str(store)]) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.communicate()


@pytest.fixture(scope="module")
def server():
    with serving() as running:
        yield running


@pytest.fixture(scope="module")
def clients(server, tmp_path_factory):
    home = tmp_path_factory.mktemp("hf-home")
    opened = {
        "online": Client(server.url, home),
        "offline": Client(server.url, home, offline=True),
        "dead": Client("http://127.0.0.1:1", home),
    }
    yield opened
    for client in opened.values():
        client.close()


@pytest.fixture
def hub(server):
    server.repositories.clear()
    server.requests.clear()
    server.broken = None
    return server


@pytest.fixture
def published(hub, tmp_path):
    """Two versions on the Hub, and what they hold."""
    content, repository = {}, hub.repositories.setdefault("org/knob", Repository())
    for version, lengths in (("1.0.0", [3, 2]), ("1.1.0", [3, 2, 5])):
        schema, made = records(lengths, splits=("a",))
        folder = export(made, "org/knob", version=version, schema=schema, license="mit", store=tmp_path / "origin")
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        repository.commit(files | {".unique": str(tmp_path).encode()}, tag=f"v{version}")
        content[version] = [float(x) for record in made for x in record.columns["next.reward"].ravel()]
    return content


def test_the_newest_version_is_pulled_and_then_needs_no_network(hub, published, clients, store):
    version, fingerprint, rewards = clients["online"].open(store, "org/knob")
    assert version == "1.1.0"
    assert rewards == published["1.1.0"]
    assert hub.requests
    hub.requests.clear()

    assert clients["online"].open(store, "org/knob") == [version, fingerprint, rewards]
    assert hub.requests == []


def test_an_older_version_is_pulled_by_its_number(hub, published, clients, store):
    clients["online"].open(store, "org/knob")

    version, _, rewards = clients["online"].open(store, "org/knob", "1.0.0")

    assert version == "1.0.0"
    assert rewards == published["1.0.0"]


def test_a_version_that_is_not_there_is_refused(hub, published, clients, store):
    name, said = clients["online"].open(store, "org/knob", "3.0.0")

    assert name == "DatasetNotFound"
    assert "expected one of 1.0.0, 1.1.0" in said


def test_offline_never_asks_and_never_serves_another_version(hub, published, clients, store):
    clients["online"].open(store, "org/knob", "1.0.0")
    hub.requests.clear()

    assert clients["offline"].open(store, "org/knob", "1.0.0")[0] == "1.0.0"
    name, said = clients["offline"].open(store, "org/knob", "1.1.0")

    assert name == "DatasetNotFound"
    assert "expected one of 1.0.0" in said
    assert hub.requests == []


def test_a_flipped_byte_on_the_hub_is_refused_and_nothing_is_kept(hub, published, clients, store):
    commit = hub.repositories["org/knob"].commits[hub.repositories["org/knob"].tags["v1.1.0"]]
    path = next(path for path in commit if path.startswith("data/"))
    data = bytearray(commit[path])
    data[len(data) // 2] ^= 1
    commit[path] = bytes(data)

    name, said = clients["online"].open(store, "org/knob")

    assert name == "CorruptDataset"
    assert path in said
    assert not list(store.glob("org/knob/*/*"))


def test_a_tag_whose_manifest_is_of_another_version_is_refused(hub, published, clients, store):
    repository = hub.repositories["org/knob"]
    repository.tags["v1.1.0"] = repository.tags["v1.0.0"]

    name, said = clients["online"].open(store, "org/knob")

    assert name == "CorruptDataset"
    assert "expected that version, got 1.0.0" in said


@pytest.mark.parametrize("trouble", ["unknown", "broken", "dead"])
def test_without_an_answer_of_the_hub_the_recipe_is_next(hub, clients, store, trouble):
    if trouble == "broken":
        hub.broken = 503

    version, *_ = clients["dead" if trouble == "dead" else "online"].open(store, "toy_point")

    assert version == "1.0.0"
    assert (store / "robohive/toy_point/1.0.0/rlhive.json").exists()
