"""A hostile Hub: whatever it answers is one of RLHive's errors, within the time limit, and the token stays here.

The server is real, and so is the client. Each run draws some answers at random; `make fuzz` draws many more.
"""

import contextlib
import json
import os
import random
import re
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from rlhive import errors
from tests.data.hub.hostile import Hostility, send
from tests.hub_client import TOKEN, ClientError, read_files
from tests.hub_server import Repository

EXAMPLES = int(os.environ.get("RLHIVE_FUZZ", "16"))
#: Seconds that the client grants to a call here, and after which it must have ended.
CALL_LIMIT_S = 2.0
LIMIT_S = 15.0
ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\ud800-\udfff]")
OURS = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.RLHiveError)}

PRELUDE = f"""
import time
from huggingface_hub.utils import _http
from huggingface_hub import file_download
from rlhive.data.hub import _client, _guard
_guard.CALL_LIMIT_S, _guard.SILENCE_LIMIT_S = {CALL_LIMIT_S}, 1.0
class Clock:
    sleep = staticmethod(lambda seconds, sleep=time.sleep: sleep(min(seconds, 0.02)))
    def __getattr__(self, name):
        return getattr(time, name)
_http.time = file_download.time = Clock()
"""
OPERATIONS = {
    "open": 'RoboHiveDataset("org/knob", version="1.0.0", generate=False).as_arrow().num_rows',
    "revision": 'RoboHiveDataset("org/knob", revision="main", generate=False).version',
    "versions": 'versions("org/knob")',
    "pull": 'str(pull("org/knob"))',
    "list": "list_datasets()",
    "stream": 'len(list(RoboHiveDataset("org/knob", streaming=True, generate=False).iter_episodes()))',
    "push": "vars(RoboHiveDataset(Path(folder)).push_to_hub(progress=False))",
}
#: Requests whose answers are replaced.
TARGETS = ["", "/refs", "/tree/", "HEAD .*/resolve/", "GET .*/resolve/", "/revision/", "POST ", "GET /api/datasets$"]

RUN = """
import os
os.environ["RLHIVE_DATASETS_PATH"] = store
from pathlib import Path
from huggingface_hub import constants
constants.HF_HUB_CACHE = cache
from rlhive import RoboHiveDataset
from rlhive.data.hub import list_datasets
from rlhive.dataset import pull, versions
answer = {operation}
"""


@pytest.fixture(scope="module")
def client(clients, hub_server):
    """A client with short limits."""
    client = clients.start(hub_server.url)
    client.run(PRELUDE)
    return client


@pytest.fixture(scope="module")
def elsewhere():
    """Another host, and the headers of the requests that it saw."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(dict(self.headers))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"[]")

        do_HEAD = do_POST = do_PUT = do_GET

        def log_message(self, *arguments):
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", seen
    server.shutdown()


def attempt(client, hub, two_versions, tmp_path, operation, hostile):
    """Run an operation against a hostile Hub; return the error's class and message ("" without one) and the seconds."""
    hub.reset()
    repository = hub.repositories["org/knob"] = Repository()
    for version, folder in two_versions.items():
        if operation != "push" or version == "1.0.0":
            repository.commit(read_files(folder), tag=f"v{version}")
    hub.hostile = hostile
    names = {"store": str(tmp_path / "store"), "cache": str(tmp_path / "cache"), "folder": str(two_versions["2.0.0"])}
    started = time.monotonic()
    try:
        client.run(RUN.format(operation=OPERATIONS[operation]), **names)
    except ClientError as error:
        return error.kind, error.message, time.monotonic() - started, error.traceback
    finally:
        hub.hostile = None
    return "", "", time.monotonic() - started, ""


def test_every_hostile_answer_is_an_error_of_rlhive(hub, client, two_versions, elsewhere, tmp_path):
    url, seen = elsewhere
    kinds = Hostility(url, seconds=3 * CALL_LIMIT_S).kinds()
    seed = int(os.environ.get("RLHIVE_FUZZ_SEED", "0"))
    # The plain run draws the same answers each time; make fuzz draws others.
    generator = random.Random(seed or (time.time_ns() if "RLHIVE_FUZZ" in os.environ else 1))
    slow = [name for name in kinds if name.startswith(("slow", "silent"))]
    quick = [name for name in kinds if name not in slow]
    failures, num_errors = [], 0
    for number in range(EXAMPLES):
        # A slow answer takes seconds, so that few are drawn.
        kind = generator.choice(slow if number % 16 == 15 else quick)
        operation, target = generator.choice(sorted(OPERATIONS)), generator.choice(TARGETS)
        times = generator.choice([1, 2, 1000])
        remaining = [times]

        def hostile(handler, line, *answer, kind=kind, target=target, remaining=remaining):
            if not re.search(target, line) or not remaining[0]:
                return False
            remaining[0] -= 1
            with contextlib.suppress(OSError):  # the client hung up
                kinds[kind](handler, *answer, generator)
            return True

        folder = tmp_path / str(number)
        name, message, seconds, trace = attempt(client, hub, two_versions, folder, operation, hostile)
        num_errors += bool(name)
        if name not in {"", *OURS} or ACTING.search(message) or seconds > LIMIT_S or TOKEN in trace:
            failures.append((kind, operation, target, times, name, message[:200], round(seconds, 1), trace[-600:]))
        assert not list(tmp_path.rglob("evil*"))
    assert failures == []
    assert not [headers for headers in seen if TOKEN in str(headers)]
    assert num_errors > EXAMPLES // 8


def answer_with(elsewhere, kind, target, *, times=10**9):
    """Return a hostility of one kind for some requests."""
    kinds, generator, remaining = Hostility(elsewhere, seconds=30.0).kinds(), random.Random(0), [times]

    def hostile(handler, line, *answer):
        if not re.search(target, line) or not remaining[0]:
            return False
        remaining[0] -= 1
        with contextlib.suppress(OSError):
            kinds[kind](handler, *answer, generator)
        return True

    return hostile


@pytest.mark.parametrize(
    ("kind", "target", "operation", "name", "part"),
    [
        ("html", "/refs", "open", "HubRefusedError", "got an answer that no Hub gives (JSONDecodeError"),
        ("html", "resolve", "open", "HubRefusedError", "A proxy or the login page of a network may have answered"),
        ("number", "/refs", "open", "HubRefusedError", "expected its tags from"),
        ("deep", "/refs", "open", "HubRefusedError", "RecursionError"),
        ("bad utf-8", "/tree/", "open", "HubRefusedError", "UnicodeDecodeError"),
        ("endless_redirect", "/refs", "open", "HubRefusedError", "redirects in a circle"),
        ("next page elsewhere", "/tree/", "open", "HubRefusedError", "points to another host, 127.0.0.1"),
        ("moved elsewhere", "/refs", "versions", "", ""),
        ("next page elsewhere", "/api/datasets$", "list", "HubRefusedError", "the token was not sent there"),
        ("next page nowhere", "/api/datasets$", "list", "HubRefusedError", "points to another host, http://["),
        ("moved nowhere", "/api/datasets$", "list", "HubRefusedError", "expected their list from"),
        ("endless_redirect", "/api/datasets$", "list", "HubRefusedError", "redirects in a circle"),
        ("branch as commit", "resolve", "open", "HubRefusedError", "X-Repo-Commit 'main': expected a hash"),
        ("path as tag", "resolve", "open", "HubRefusedError", "expected a hash"),
        ("busy for a year", "/refs", "open", "HubUnreachableError", "still answers 429 after"),
        ("busy for ever", "/tree/", "open", "HubUnreachableError", "still answers 503 after"),
        ("endless_pages", "/tree/", "open", "HubUnreachableError", "did not finish its answer within 2 s"),
        ("slow_body", "/refs", "open", "HubUnreachableError", "did not finish its answer within 2 s"),
        ("slow_headers", "/refs", "open", "HubUnreachableError", "did not finish its answer within 2 s"),
        ("silent", "/tree/", "push", "HubUnreachableError", "did not finish its answer within 2 s"),
        ("denied", "POST ", "push", "HubAccessDeniedError", "may not do this"),
        ("teapot", "POST ", "push", "HubRefusedError", r"no \x1b[2J"),
    ],
)
def test_an_answer_that_no_hub_gives(
    hub, client, two_versions, elsewhere, tmp_path, kind, target, operation, name, part
):
    hostile = answer_with(elsewhere[0], kind, target)

    got, message, seconds, trace = attempt(client, hub, two_versions, tmp_path, operation, hostile)

    assert (got, part in message) == (name, True), (got, message, trace)
    assert not ACTING.search(message)
    assert seconds < LIMIT_S
    assert not [headers for headers in elsewhere[1] if TOKEN in str(headers)]
    assert not list(tmp_path.parent.rglob("evil*"))


@pytest.mark.parametrize(("kind", "times", "name"), [
    ("endless_body", 1, ""), ("endless_body", 1000, "HubRefusedError"),
    ("cut_short", 1, ""), ("cut_length", 1, ""), ("cut_length", 1000, "HubRefusedError"),
])  # fmt: skip
def test_a_file_longer_or_shorter_than_told_is_cut_and_asked_for_once_more(
    hub, client, two_versions, elsewhere, tmp_path, kind, times, name
):
    hostile = answer_with(elsewhere[0], kind, r"GET .*/resolve/.*/data/a.*parquet", times=times)

    got, message, _, trace = attempt(client, hub, two_versions, tmp_path, "open", hostile)

    assert got == name, (message, trace)
    stored = [path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()]
    assert max(stored) < 2**20
    if not name:
        files = read_files(tmp_path / "store/org/knob/1.0.0")
        assert files == read_files(two_versions["1.0.0"])


def test_a_wrong_list_of_files_is_not_kept(hub, client, two_versions, elsewhere, tmp_path):
    hostile = answer_with(elsewhere[0], "list", "/tree/")

    assert attempt(client, hub, two_versions, tmp_path, "open", hostile)[0] == "DatasetNotFoundError"
    assert attempt(client, hub, two_versions, tmp_path, "open", None)[:2] == ("", "")


@pytest.mark.parametrize("commit", ["main", "0f3c", None, 5, "A" * 40])
def test_a_commit_that_is_none_is_refused(hub, client, two_versions, tmp_path, commit):
    def hostile(handler, line, status, body, headers):
        if "/refs" not in line:
            return False
        content = json.loads(body)
        content["tags"][0]["targetCommit"] = commit
        send(handler, status, json.dumps(content).encode(), headers)
        return True

    got, message, _, trace = attempt(client, hub, two_versions, tmp_path, "open", hostile)

    assert got == "HubRefusedError", (message, trace)
    assert f"expected the 40 hexadecimal digits of a commit for tag v1.0.0, got {commit!r} from the Hub" in message


def test_a_repository_whose_manifest_names_another_dataset_keeps_its_own_name(hub, client, two_versions, tmp_path):
    repository = hub.repositories["evil/knob"] = Repository()
    repository.commit(read_files(two_versions["1.0.0"]), tag="v1.0.0")
    store = tmp_path / "store"

    answer = client.run(
        """
import os, io, logging
os.environ["RLHIVE_DATASETS_PATH"] = store
said = io.StringIO()
handler = logging.StreamHandler(said)
logging.getLogger().addHandler(handler)
from rlhive import RoboHiveDataset
dataset = RoboHiveDataset("evil/knob")
try:
    dataset.push_to_hub(progress=False)
    error = ""
except Exception as raised:
    error = type(raised).__name__
logging.getLogger().removeHandler(handler)
answer = dataset.name, repr(dataset).splitlines()[0], said.getvalue(), error
""",
        store=str(store),
    )

    name, shown, said, error = answer
    assert (name, shown) == ("evil/knob", "RoboHiveDataset evil/knob 1.0.0")
    assert "its manifest names another dataset, org/knob; it is opened as evil/knob" in said
    assert error == "DatasetExistsError"  # it has that tag, with the files that name org/knob
    assert "org/knob" not in hub.repositories


def test_a_name_that_only_a_manifest_says_is_not_pushed_to(hub, client, two_versions, tmp_path):
    folder = two_versions["1.0.0"].rename(tmp_path / "downloaded")

    with pytest.raises(ClientError) as refused:
        client.run(PUSH_WITHOUT_NAME, folder=str(folder))

    assert refused.value.kind == "InvalidNameError"
    assert "only its manifest says that it is org/knob 1.0.0. Name one: push_to_hub('YOUR-NAME/knob')" in str(
        refused.value
    )
    assert hub.requests == []


PUSH_WITHOUT_NAME = """
from pathlib import Path
from rlhive import RoboHiveDataset
RoboHiveDataset(Path(folder)).push_to_hub()
"""
