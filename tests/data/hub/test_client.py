"""Requests to a busy, unreachable or refusing Hub: retries, errors and secrets."""

import httpx2 as httpx
import pytest
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from rlhive.data.hub import _client
from rlhive.data.hub._client import translate_errors, with_retries
from rlhive.errors import (
    DatasetNotFoundError,
    HubAccessDeniedError,
    HubConflictError,
    HubRefusedError,
    HubUnreachableError,
)
from tests.data.hub.transfers import assert_raises, open_version, push_version, read_rewards
from tests.hub_client import TOKEN, read_files
from tests.hub_server import Fault


def test_an_unreachable_hub_is_a_short_error(hub, versions, disconnected, store):
    assert_raises("HubUnreachableError", "cannot be reached", open_version, disconnected, store)
    assert_raises("HubUnreachableError", "cannot be reached", open_version, disconnected, store, revision="v1.0.0")
    assert_raises("HubUnreachableError", "cannot be reached", push_version, disconnected, versions["1.0.0"])


def test_requests_to_a_busy_hub_are_repeated_a_few_times(hub, versions, online, store):
    hub.faults += [
        Fault("GET .*/refs", 503),
        Fault("POST .*/create", 429, headers={"Retry-After": "0"}),
        Fault("POST .*/commit/", 502),
        Fault("POST .*/tag/", 500),
    ]

    push_version(online, versions["1.0.0"])

    assert [fault.times for fault in hub.faults] == [0, 0, 0, 0]
    assert open_version(online, store)[0] == "1.0.0"
    hub.broken = 429
    assert_raises("HubUnreachableError", "still answers 429 after 3 attempts", push_version, online, versions["2.0.0"])
    assert_raises("HubUnreachableError", "still answers 429", open_version, online, store, "org/other")


@pytest.mark.parametrize("status", [429, 500, 503])
def test_transfers_of_files_are_repeated_too(hub, versions, online, store, status):
    retry = {"Retry-After": "0"}
    hub.faults += [Fault(line, status, headers=retry) for line in ("POST .*/objects/batch", "PUT /lfs/")]
    push_version(online, versions["1.0.0"])
    assert [fault.times for fault in hub.faults] == [0, 0]

    hub.faults += [Fault(line, status, headers=retry) for line in ("GET .*/resolve/.*json", "GET .*/resolve/.*parquet")]
    assert open_version(online, store) == ["1.0.0", read_rewards(versions["1.0.0"])]
    assert [fault.times for fault in hub.faults] == [0] * 4
    assert read_files(store / "org/knob/1.0.0") == read_files(versions["1.0.0"])


@pytest.mark.parametrize("switch", ["0", "1"])
def test_the_hubs_own_variable_switches_progress_bars(hub, published, clients, server, store, switch):
    environment = {"HF_HUB_DISABLE_PROGRESS_BARS": switch, "HF_HOME": str(store / "home"), "TQDM_POSITION": "-1"}
    client = clients.start(server.url, **environment)

    open_version(client, store)
    push_version(client, published["1.0.0"], "org/fresh")

    log = client.log.read_text()
    assert ("Fetching" in log) == ("Upload" in log) == (switch == "0")


def test_the_token_is_in_no_log_and_no_file(hub, versions, clients, server, tmp_path, store):
    client = clients.start(server.url, HF_DEBUG="1", HF_HUB_VERBOSITY="debug", HF_HOME=str(tmp_path / "home"))
    push_version(client, versions["1.0.0"], "org/other")
    open_version(client, store, "org/other")
    hub.faults.append(Fault("POST .*/preupload", 400, headers={"X-Error-Message": f"bad token {TOKEN}"}))
    assert_raises("HubRefusedError", "bad token hf_***", push_version, client, versions["2.0.0"], "org/other")
    hub.broken = 403
    assert_raises("HubAccessDeniedError", "may not do this", push_version, client, versions["2.0.0"], "org/other")

    log = client.log.read_text()
    assert "Request" in log
    assert TOKEN not in log
    for commit in hub.repositories["org/other"].commits.values():
        assert not [path for path, data in commit.items() if TOKEN.encode() in data]
    for path in (path for path in (*store.rglob("*"), *(tmp_path / "home").rglob("*")) if path.is_file()):
        assert TOKEN.encode() not in path.read_bytes(), path


def http_error(status, **headers):
    """Return the client's error for an answer of the Hub."""
    request = httpx.Request("GET", "https://hub/api")
    return HfHubHTTPError("refused", response=httpx.Response(status, headers=headers, request=request))


def wrapped(error):
    """Return an error that wraps another one, as the client does."""
    wrapper = ValueError("a wrapper")
    wrapper.__cause__ = error
    return wrapper


@pytest.fixture
def delays(monkeypatch):
    """The seconds between attempts, which pass at once."""
    seconds = []
    monkeypatch.setattr(_client.time, "sleep", seconds.append)
    return seconds


def failing(*errors):
    """Return a function that raises the errors, one per call, and then returns its argument."""
    remaining = list(errors)

    def call(value):
        if remaining:
            raise remaining.pop(0)
        return value

    return call


@pytest.mark.parametrize(
    "error", [http_error(429), http_error(503), wrapped(http_error(500)), httpx.ReadError("closed")], ids=repr
)
def test_a_call_is_repeated_while_the_hub_is_busy_or_the_connection_breaks(error, delays):
    assert with_retries(failing(error, error), "answer") == "answer"
    assert delays == [1.0, 2.0]


def test_the_delay_is_the_hubs_retry_after_within_reason(delays):
    errors = [http_error(429, **{"Retry-After": seconds}) for seconds in ("7", "99999", "tomorrow")]

    assert with_retries(failing(*errors), "answer") == "answer"
    assert delays == [7.0, 300.0, 4.0]


def test_the_last_error_is_raised_after_the_last_attempt(delays):
    with pytest.raises(HfHubHTTPError):
        with_retries(failing(*[http_error(503)] * 5), "answer")
    assert delays == [1.0, 2.0, 4.0, 8.0]


@pytest.mark.parametrize("error", [http_error(404), http_error(412), httpx.ConnectError("no such host"), KeyError("x")])
def test_other_errors_are_raised_at_once(error, delays):
    with pytest.raises(type(error)):
        with_retries(failing(error), "answer")
    assert delays == []


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (http_error(401), HubAccessDeniedError, "org/knob: expected a valid token, got"),
        (http_error(403), HubAccessDeniedError, r"may not do this \(tag v1\)"),
        (http_error(412), HubConflictError, "org/knob: somebody else committed meanwhile"),
        (http_error(502), HubUnreachableError, "still answers 502 after 5 attempts"),
        (http_error(422), HubRefusedError, "the Hub refused tag v1 with status 422"),
        (wrapped(http_error(403)), HubAccessDeniedError, "may not do this"),
        (httpx.ConnectError("no such host"), HubUnreachableError, r"cannot be reached \(ConnectError\)"),
        (wrapped(httpx.ReadTimeout("slow")), HubUnreachableError, r"cannot be reached \(ReadTimeout\)"),
        (OfflineModeIsEnabled("offline"), HubUnreachableError, "HF_HUB_OFFLINE forbids"),
        (TimeoutError("slow"), HubUnreachableError, "cannot be reached"),
    ],
)
def test_an_error_of_the_client_becomes_an_error_of_rlhive(error, kind, message):
    with pytest.raises(kind, match=message), translate_errors("org/knob", "tag v1"):
        raise error


@pytest.mark.parametrize("error", [KeyError("x"), DatasetNotFoundError("no such dataset"), KeyboardInterrupt()])
def test_other_errors_are_not_translated(error):
    with pytest.raises(type(error)) as caught, translate_errors("org/knob", "tag v1"):
        raise error
    assert caught.value is error


def test_an_error_that_contains_the_token_is_not_shown_as_the_cause(monkeypatch):
    monkeypatch.setattr(_client, "get_token", lambda: TOKEN)

    error = ConnectionError(f"no answer for {TOKEN}")
    with pytest.raises(HubUnreachableError) as caught, translate_errors("org/knob", "tag v1"):
        raise error
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    error = ConnectionError("no answer")
    with pytest.raises(HubUnreachableError) as caught, translate_errors("org/knob", "tag v1"):
        raise error
    assert caught.value.__cause__ is error
