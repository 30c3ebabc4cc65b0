"""Versions to a Hub and back: the unmodified huggingface_hub, in processes of their own, against a loopback server."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from rlhive.data.versions._export import export
from tests.data.strategies import records
from tests.hub_client import TOKEN, ClientError, files_of
from tests.hub_server import Fault, Repository

OPEN = """
import os
os.environ["RLHIVE_DATASETS_PATH"] = store
from rlhive import RoboHiveDataset
dataset = RoboHiveDataset(name, **options)
answer = [dataset.version, dataset.as_tensordict()["next", "reward"].flatten().tolist()]
"""
PUSH = """
from pathlib import Path
from rlhive import RoboHiveDataset
answer = RoboHiveDataset(Path(folder)).push_to_hub(name, **options).__dict__
"""


def open_(client, store, name="org/knob", **options):
    """Return version and rewards."""
    return client.run(OPEN, store=str(store), name=name, options=options)


def push(client, folder, name="org/knob", **options):
    """Return repo_id, version, commit and url."""
    return client.run(PUSH, folder=str(folder), name=name, options=options)


def raises(kind, says, function, *arguments, **options):
    """Check that a client raises one clear sentence, and return it."""
    with pytest.raises(ClientError) as caught:
        function(*arguments, **options)
    assert caught.value.kind == kind, caught.value.shown
    assert says in caught.value.said
    assert "\n" not in caught.value.said
    assert TOKEN not in caught.value.shown
    return caught.value.said


def sent(server):
    """Return the bytes of all uploads so far, and forget them."""
    total = sum(server.received.values())
    server.received.clear()
    return total


@pytest.fixture
def made(two_versions):
    return two_versions


@pytest.fixture(scope="module")
def server(hub_server):
    return hub_server


@pytest.fixture(scope="module")
def offline(clients, server):
    return clients.start(server.url, HF_HUB_OFFLINE="1")


@pytest.fixture(scope="module")
def dead(clients):
    return clients.start("http://127.0.0.1:1")


def rewards_of(folder, split=None):
    import pyarrow.parquet as pq

    manifest = json.loads((folder / "rlhive.json").read_text())
    shards = [row["path"] for row in manifest["files"] if row["split"] and split in (None, row["split"])]
    return [value for path in shards for value in pq.read_table(folder / path)["next.reward"].to_pylist()]


# -- there and back --------------------------------------------------------------------------------------------------


def test_two_versions_come_back_bit_for_bit(hub, made, online, store):
    for version, folder in made.items():
        done = push(online, folder, license="mit")
        assert (done["repo_id"], done["version"]) == ("org/knob", version)
        assert hub.repositories["org/knob"].tags[f"v{version}"] == done["commit"]

    for version, folder in made.items():
        assert open_(online, store, version=version) == [version, rewards_of(folder)]
        assert files_of(store / "org/knob" / version) == files_of(folder)
    assert not hub.repositories["org/knob"].private


def test_a_second_push_sends_only_what_changed(hub, made, online):
    push(online, made["1.0.0"])
    sent(hub)
    push(online, made["2.0.0"])

    uploaded = {line.split("/")[-1] for line in hub.received if line.startswith("PUT")}
    kept = {hashlib.sha256(data).hexdigest() for data in files_of(made["1.0.0"]).values()}
    new = {hashlib.sha256(data).hexdigest() for path, data in files_of(made["2.0.0"]).items() if "parquet" in path}
    assert uploaded == new - kept
    assert len(uploaded) == 3  # the shard with the new episode, the episode table, the statistics


def test_a_push_of_what_is_there_sends_nothing(hub, made, online):
    first = push(online, made["1.0.0"])
    hub.requests.clear()

    assert push(online, made["1.0.0"]) == first
    assert not [line for line in hub.requests if line.startswith(("PUT", "POST"))]


def test_a_new_version_deletes_the_shards_that_it_does_not_have_and_nothing_else(hub, made, online):
    push(online, made["2.0.0"])
    repository = hub.repositories["org/knob"]
    repository.commit(repository.commits[repository.head] | {"NOTES.md": b"mine", "data/old-00000.parquet": b"old"})

    done = push(online, made["1.0.0"])

    there = set(repository.commits[done["commit"]])
    assert there == {*files_of(made["1.0.0"]), "NOTES.md", ".gitattributes"}


def test_another_name_stands_in_card_and_manifest_and_the_content_is_the_same(hub, made, online, store):
    push(online, made["1.0.0"], "else/where", license="cc-by-4.0", private=True)

    assert hub.repositories["else/where"].private
    assert open_(online, store, "else/where") == ["1.0.0", rewards_of(made["1.0.0"])]
    there, own = files_of(store / "else/where/1.0.0"), files_of(made["1.0.0"])
    manifest = json.loads(there["rlhive.json"])
    assert (manifest["name"], manifest["license"]) == ("else/where", "cc-by-4.0")
    assert manifest["fingerprint"] == json.loads(own["rlhive.json"])["fingerprint"]
    assert b"org/knob" not in there["README.md"]
    assert b"license: cc-by-4.0" in there["README.md"]
    assert {path for path in own if there[path] != own[path]} == {"README.md", "rlhive.json"}
    raises("DatasetExists", "its licence mit", push, online, made["2.0.0"], license="cc-by-4.0")


def test_datasets_loads_a_tag_where_rlhive_is_not_importable(hub, made, online, tmp_path):
    for folder in made.values():
        push(online, folder)
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
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, env=os.environ | variables
    )

    assert ran.returncode == 0, ran.stderr
    rows, streamed = json.loads(ran.stdout.splitlines()[-1])
    assert rows == {f"v{version}": rewards_of(folder) for version, folder in made.items()}
    assert streamed == rows["v1.0.0"]


# -- pulling ---------------------------------------------------------------------------------------------------------


def test_the_newest_version_is_pulled_and_then_needs_no_network(hub, published, online, store):
    assert open_(online, store) == ["2.0.0", rewards_of(published["2.0.0"])]
    assert hub.requests
    hub.requests.clear()

    assert open_(online, store) == ["2.0.0", rewards_of(published["2.0.0"])]
    assert open_(online, store, version="2.0.0")[0] == "2.0.0"
    assert open_(online, store, revision="v2.0.0")[0] == "2.0.0"
    assert open_(online, store, revision=hub.repositories["org/knob"].tags["v2.0.0"])[0] == "2.0.0"
    assert hub.requests == []


@pytest.mark.parametrize("revision", ["v1.0.0", "main", "commit"])
def test_a_revision_is_a_tag_a_branch_or_a_commit(hub, published, online, store, revision):
    repository = hub.repositories["org/knob"]
    names = {"commit": repository.tags["v1.0.0"]}
    expected = "2.0.0" if revision == "main" else "1.0.0"

    assert open_(online, store, revision=names.get(revision, revision)) == [expected, rewards_of(published[expected])]
    raises("DatasetNotFound", "no revision v9", open_, online, store, revision="v9")


def test_only_the_split_that_is_asked_for_is_fetched_and_the_rest_when_it_is(hub, published, online, offline, store):
    folder = published["1.0.0"]

    assert open_(online, store, version="1.0.0", split="a")[1] == rewards_of(folder, "a")
    assert not [path for path in hub.served if path.startswith("data/b")]
    assert not list(store.glob("org/knob/1.0.0/data/b*"))
    assert open_(offline, store, version="1.0.0", split="a")[1] == rewards_of(folder, "a")
    raises("HubUnreachable", "data/b-00000", open_, offline, store, version="1.0.0")

    hub.served.clear()
    assert open_(online, store, version="1.0.0")[1] == rewards_of(folder)
    assert {path[:6] for path in hub.served} == {"data/b"}
    assert open_(offline, store, version="1.0.0", split="b")[1] == rewards_of(folder, "b")
    assert files_of(store / "org/knob/1.0.0") == files_of(folder)


def test_a_version_that_is_not_there_is_refused(hub, published, online, store):
    raises("DatasetNotFound", "expected one of 1.0.0, 2.0.0", open_, online, store, version="3.0.0")
    raises("DatasetNotFound", "not on the Hub", open_, online, store, "org/unknown")


def test_offline_never_asks_and_never_serves_another_version(hub, published, online, offline, store):
    open_(online, store, version="1.0.0")
    hub.requests.clear()

    assert open_(offline, store, version="1.0.0")[0] == "1.0.0"
    assert open_(offline, store, revision="v1.0.0")[0] == "1.0.0"
    raises("DatasetNotFound", "expected one of 1.0.0", open_, offline, store, version="2.0.0")
    raises("HubUnreachable", "HF_HUB_OFFLINE", open_, offline, store, revision="v2.0.0")
    raises("HubUnreachable", "HF_HUB_OFFLINE", open_, offline, store, revision="main")
    assert hub.requests == []


@pytest.mark.parametrize("name", ["data/a-00000", "meta/episodes", "README.md", "rlhive.json"])
def test_a_byte_that_flips_on_the_way_is_fetched_again(hub, published, online, store, name):
    hub.faults.append(Fault(f"GET .*{name}", 1))

    assert open_(online, store)[1] == rewards_of(published["2.0.0"])
    assert hub.faults[0].times == 0
    assert files_of(store / "org/knob/2.0.0") == files_of(published["2.0.0"])


@pytest.mark.parametrize("name", ["data/a-00000", "README.md", "rlhive.json"])
def test_a_byte_that_stays_flipped_is_refused_and_nothing_is_kept(hub, published, online, store, name):
    hub.faults.append(Fault(f"GET .*{name}", 1, times=99))

    said = raises("CorruptDataset", name, open_, online, store)

    assert "twice" in said
    assert not list(store.glob("org/knob/*/*"))


def test_a_tag_whose_manifest_is_of_another_version_is_refused(hub, published, online, store):
    repository = hub.repositories["org/knob"]
    repository.tags["v2.0.0"] = repository.tags["v1.0.0"]

    raises("CorruptDataset", "expected that version, got 1.0.0", open_, online, store)


def test_one_version_never_holds_two_things(hub, published, made, online, store):
    open_(online, store, version="1.0.0")
    repository = hub.repositories["org/knob"]
    manifest = json.loads(files_of(made["2.0.0"])["rlhive.json"]) | {"version": "1.0.0"}
    files = files_of(made["2.0.0"]) | {"rlhive.json": json.dumps(manifest).encode()}
    sha = repository.commit(files)
    before = files_of(store / "org/knob/1.0.0")

    raises("DatasetExists", "holds fingerprint", open_, online, store, revision=sha)

    assert files_of(store / "org/knob/1.0.0") == before


@pytest.mark.parametrize("trouble", ["unknown", "busy"])
def test_without_an_answer_of_the_hub_the_recipe_is_next(hub, online, store, trouble):
    online.run("import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])")  # one worker is enough
    if trouble == "busy":
        hub.broken = 503

    assert open_(online, store, "toy_point")[0] == "1.0.0"
    assert (store / "robohive/toy_point/1.0.0/rlhive.json").exists()


# -- what can go wrong -----------------------------------------------------------------------------------------------


def test_a_dead_server_is_one_sentence(hub, made, dead, store):
    raises("HubUnreachable", "cannot be reached", open_, dead, store)
    raises("HubUnreachable", "cannot be reached", open_, dead, store, revision="v1.0.0")
    raises("HubUnreachable", "cannot be reached", push, dead, made["1.0.0"])


def test_a_busy_hub_is_asked_again_and_then_given_up(hub, made, online, store):
    hub.faults += [
        Fault("GET .*/refs", 503),
        Fault("POST .*/create", 429, headers={"Retry-After": "0"}),
        Fault("POST .*/commit/", 502),
        Fault("POST .*/tag/", 500),
    ]

    push(online, made["1.0.0"])

    assert [fault.times for fault in hub.faults] == [0, 0, 0, 0]
    assert open_(online, store)[0] == "1.0.0"
    hub.broken = 429
    raises("HubUnreachable", "still answers 429 after 3 attempts", push, online, made["2.0.0"])
    raises("HubUnreachable", "still answers 429", open_, online, store, "org/other")


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_hub_is_asked_again_for_files_too(hub, made, online, store, status):
    retry = {"Retry-After": "0"}
    hub.faults += [Fault(line, status, headers=retry) for line in ("POST .*/objects/batch", "PUT /lfs/")]
    push(online, made["1.0.0"])
    assert [fault.times for fault in hub.faults] == [0, 0]

    hub.faults += [Fault(line, status, headers=retry) for line in ("GET .*/resolve/.*json", "GET .*/resolve/.*parquet")]
    assert open_(online, store) == ["1.0.0", rewards_of(made["1.0.0"])]
    assert [fault.times for fault in hub.faults] == [0] * 4
    assert files_of(store / "org/knob/1.0.0") == files_of(made["1.0.0"])


def test_a_commit_whose_answer_was_lost_is_not_made_twice(hub, made, online):
    answered = []

    def lose_the_answer(line):
        if "/commit/" in line and not answered:
            answered.append(line)
            repository = hub.repositories["org/knob"]
            repository.commit(repository.commits[repository.head] | files_of(made["1.0.0"]))

    hub.before = lose_the_answer
    done = push(online, made["1.0.0"])

    assert len(hub.repositories["org/knob"].commits) == 2
    assert done["commit"] == hub.repositories["org/knob"].head


@pytest.mark.parametrize(
    ("role", "kind", "says"),
    [
        (None, "HubAccessDenied", "expected a valid token, got no token"),
        ("unknown", "HubAccessDenied", "expected a valid token, got the token in use"),
        ("read", "HubAccessDenied", "write permission"),
    ],
)
def test_without_the_right_token_nothing_is_pushed(hub, made, clients, server, role, kind, says, online):
    hub.tokens |= {"hf_writer": "write", "hf_reader0": "read"}
    token = {None: "", "unknown": TOKEN, "read": "hf_reader0"}[role]
    client = clients.start(server.url, HF_TOKEN=token, HF_HOME=str(made["1.0.0"].parent / "home"))

    raises(kind, says, push, client, made["1.0.0"])

    assert hub.repositories == {}
    hub.repositories["org/knob"] = Repository()
    hub.repositories["org/knob"].commit({})
    raises(kind, says, push, client, made["1.0.0"])
    assert len(hub.repositories["org/knob"].commits) == 1


def test_private_and_gated_repositories_say_what_to_do(hub, published, clients, server, store, online):
    hub.tokens |= {TOKEN: "read"}
    hub.repositories["org/knob"].gated = True
    said = raises("HubAccessDenied", "is gated", open_, online, store)
    assert "/datasets/org/knob" in said

    hub.tokens.clear()
    hub.repositories["org/knob"].private = True
    client = clients.start(server.url, HF_TOKEN="", HF_HOME=str(store / "home"))
    raises("DatasetNotFound", "no token may not see it", open_, client, store, revision="v1.0.0")


def test_what_should_be_private_is_not_pushed_where_all_can_see_it(hub, published, online):
    raises("HubRefused", "it is public", push, online, published["1.0.0"], private=True)


def test_a_tag_is_never_moved(hub, made, online):
    push(online, made["1.0.0"])
    tags = dict(hub.repositories["org/knob"].tags)
    manifest = json.loads((made["2.0.0"] / "rlhive.json").read_text()) | {"version": "1.0.0"}
    (made["2.0.0"] / "rlhive.json").write_text(json.dumps(manifest))

    raises("DatasetExists", "a tag is never moved", push, online, made["2.0.0"])

    assert hub.repositories["org/knob"].tags == tags
    assert len(hub.repositories["org/knob"].commits) == 2


def test_a_damaged_version_is_not_pushed(hub, made, online):
    shard = next(made["1.0.0"].glob("data/*"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"\0")

    raises("CorruptDataset", shard.name, push, online, made["1.0.0"])

    assert hub.requests == []


def test_a_version_that_fails_a_check_is_not_pushed(hub, made, online, tmp_path):
    schema, episodes = records([3, 2])
    episodes[1].columns["action"][0, 0] = float("nan")
    options = {"schema": schema, "license": "mit", "store": tmp_path / "bad"}
    folder = export(episodes, "org/knob", version="1.0.0", **options)

    said = raises("CheckFailed", "'nan'", push, online, folder)

    assert "rlhive check org/knob --version 1.0.0" in said
    assert hub.requests == []


def test_of_two_pushers_one_wins_and_the_other_loses_nothing(hub, made, online, clients, server):
    """The other one commits while this one uploads."""
    push(online, made["1.0.0"])
    repository = hub.repositories["org/knob"]

    def commit_meanwhile(line):
        if "/commit/" in line:
            hub.before = None
            repository.commit(repository.commits[repository.head] | {"NOTES.md": b"theirs"})

    hub.before = commit_meanwhile
    raises("HubConflict", "somebody else committed meanwhile", push, online, made["2.0.0"])

    assert "v2.0.0" not in repository.tags
    assert repository.commits[repository.head]["NOTES.md"] == b"theirs"
    done = push(online, made["2.0.0"])
    assert repository.commits[done["commit"]]["NOTES.md"] == b"theirs"
    assert repository.commits[repository.tags["v1.0.0"]].keys() >= files_of(made["1.0.0"]).keys()


@pytest.mark.parametrize("names", [("1.0.0", "2.0.0"), ("1.0.0", "1.0.0")])
def test_two_pushers_at_once_leave_whole_versions(hub, made, clients, server, names):
    """They meet before their commits: each has seen the same head."""
    hub.repositories["org/knob"] = Repository()
    hub.repositories["org/knob"].commit({".gitattributes": b""})
    meeting, met = threading.Barrier(2, timeout=60), []

    def meet(line):
        if "/commit/" in line and len(met) < 2:
            met.append(line)
            meeting.wait()

    hub.before = meet
    pushers = [clients.start(server.url), clients.start(server.url)]
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(push, client, made[name]) for client, name in zip(pushers, names, strict=True)]
        failed = [task.exception() for task in running if task.exception()]

    repository = hub.repositories["org/knob"]
    assert len(repository.commits) == 2
    assert [error.kind for error in failed] == (["HubConflict"] if names[0] != names[1] else [])
    assert len(repository.tags) == 1
    for client, name in zip(pushers, names, strict=True):
        done = push(client, made[name])
        assert files_of(made[name]).items() <= repository.commits[done["commit"]].items()
    assert repository.tags.keys() == {f"v{name}" for name in names}


def test_a_push_that_was_killed_goes_on_where_it_stopped(hub, made, clients, server, online):
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
        push(victim, made["2.0.0"])
    stored = set(hub.objects)
    assert "org/knob" in hub.repositories
    assert hub.repositories["org/knob"].tags == {}
    hub.received.clear()

    push(online, made["2.0.0"])

    again = {line.split("/")[-1] for line in hub.received if line.startswith("PUT")}
    assert stored
    assert not again & stored
    repository = hub.repositories["org/knob"]
    assert files_of(made["2.0.0"]).items() <= repository.commits[repository.tags["v2.0.0"]].items()


def test_a_pull_that_was_killed_goes_on_where_it_stopped(hub, published, clients, server, store):
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
        open_(victim, store)
    assert not list(store.glob("org/knob/*/rlhive.json"))
    before = sum(hub.served.values())

    assert open_(clients.start(server.url, **environment), store)[1] == rewards_of(published["2.0.0"])

    whole = sum(len(data) for data in files_of(published["2.0.0"]).values())
    assert before > 0
    assert sum(hub.served.values()) < before + whole


def test_a_manifest_that_quotes_the_token_is_not_pushed(hub, online, tmp_path):
    schema, episodes = records([3])
    runs = [{"run": "run", "command": ["collect", f"--token={TOKEN}"]}]
    options = {"schema": schema, "license": "mit", "store": tmp_path / "secret", "runs": runs}
    folder = export(episodes, "org/knob", version="1.0.0", **options)

    raises("CheckFailed", "quotes your Hub token", push, online, folder)

    assert hub.requests == []


@pytest.mark.parametrize("switch", ["0", "1"])
def test_the_switch_for_progress_bars_is_the_hubs(hub, published, clients, server, store, switch):
    environment = {"HF_HUB_DISABLE_PROGRESS_BARS": switch, "HF_HOME": str(store / "home"), "TQDM_POSITION": "-1"}
    client = clients.start(server.url, **environment)

    open_(client, store)
    push(client, published["1.0.0"], "org/fresh")

    log = client.log.read_text()
    assert ("Fetching" in log) == ("Upload" in log) == (switch == "0")


def test_the_token_is_nowhere(hub, made, clients, server, tmp_path, store):
    client = clients.start(server.url, HF_DEBUG="1", HF_HUB_VERBOSITY="debug", HF_HOME=str(tmp_path / "home"))
    push(client, made["1.0.0"], "org/other")
    open_(client, store, "org/other")
    hub.faults.append(Fault("POST .*/preupload", 400, headers={"X-Error-Message": f"bad token {TOKEN}"}))
    raises("HubRefused", "bad token hf_***", push, client, made["2.0.0"], "org/other")
    hub.broken = 403
    raises("HubAccessDenied", "may not do this", push, client, made["2.0.0"], "org/other")

    log = client.log.read_text()
    assert "Request" in log
    assert TOKEN not in log
    for commit in hub.repositories["org/other"].commits.values():
        assert not [path for path, data in commit.items() if TOKEN.encode() in data]
    for path in (path for path in (*store.rglob("*"), *(tmp_path / "home").rglob("*")) if path.is_file()):
        assert TOKEN.encode() not in path.read_bytes(), path
