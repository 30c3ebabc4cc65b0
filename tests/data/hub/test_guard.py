"""Limits on the Hub's answers; what a hostile Hub makes of them is in test_hostile.py."""

import httpx2 as httpx
import pytest
from huggingface_hub import get_session, set_client_factory

from rlhive.data.hub import _guard
from rlhive.data.hub._guard import Guard, guarded, read_retry_after
from rlhive.errors import HubRefusedError, HubUnreachableError


@pytest.fixture
def answers(monkeypatch):
    """A function that makes the client's transport give an answer, and the requests that it saw."""
    requests = []
    monkeypatch.setattr(_guard.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(_guard.constants, "ENDPOINT", "https://hub.test")

    def use(response):
        def answer(request):
            requests.append(request)
            return response

        set_client_factory(lambda: httpx.Client(transport=httpx.MockTransport(answer), follow_redirects=True))
        return requests

    _guard._wrap_factory.cache_clear()
    yield use
    set_client_factory(_guard._http.default_client_factory)
    _guard._wrap_factory.cache_clear()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("7", 7), (" 0 ", 0), ("3600", 3600), ("31536000", None), ("-1", None), ("²", None), ("1e3", None), ("", None)],
)
def test_a_wait_is_a_number_that_somebody_would_wait(text, seconds):
    assert read_retry_after(text) == seconds


def test_the_token_goes_to_hosts_of_the_hub_only(answers):
    requests = answers(httpx.Response(200, json=[]))
    token = {"Authorization": "Bearer x"}

    with guarded():
        for host in ("https://hub.test", "https://huggingface.co"):
            get_session().get(f"{host}/api/datasets", headers=token)
        for address in (
            "https://evil.test/api",
            "http://hub.test/api",
            "https://hub.test:8443/api",
            "https://hub.test.evil/",
        ):
            with pytest.raises(HubRefusedError, match="points to another host, "):
                get_session().get(address, headers=token)
    assert [request.url.host for request in requests] == ["hub.test", "huggingface.co"]
    get_session().get("https://other.test/", headers=token)  # of other code in this process
    assert requests[-1].headers["Authorization"] == "Bearer x"
    assert "Accept-Encoding" in requests[-1].headers


def test_headers_are_made_harmless(answers):
    headers = {"Retry-After": "99999999", "ratelimit": "r=0;t=9", "X-HF-Warning": "a; \x1b[2J"}
    answers(httpx.Response(200, headers=headers, json={}))

    with guarded():
        response = get_session().get("https://hub.test/api/x")
        assert response.headers["X-HF-Warning"] == r"a; \x1b[2J"
        assert not {"retry-after", "ratelimit"} & set(response.headers)


@pytest.mark.parametrize("name", ["X-Repo-Commit", "ETag", "X-Linked-Etag"])
def test_a_file_is_described_by_hashes(answers, name):
    healthy = {"X-Repo-Commit": "0f3c" * 10, "ETag": 'W/"0f3c"', "X-Linked-Etag": f'"{"a" * 64}"'}
    answers(httpx.Response(200, headers=healthy))
    with guarded():
        get_session().head("https://hub.test/datasets/a/b/resolve/x/y")
    for text in ("../../x", '"../x"', "main/..", "a b", ".."):
        answers(httpx.Response(200, headers=healthy | {name: text}))
        with guarded(), pytest.raises(HubRefusedError, match=f"describes a file with {name} .*: expected a hash"):
            get_session().head("https://hub.test/datasets/a/b/resolve/x/y")


def test_a_file_is_cut_a_little_beyond_its_size(answers):
    for length, is_cut in ((10 + _guard.SLACK_BYTES, False), (11 + _guard.SLACK_BYTES, True)):
        answers(httpx.Response(200, content=iter([bytes(length)])))
        with guarded({"data/a b.parquet": 10}) as guard:
            if is_cut:
                with pytest.raises(HubRefusedError, match="cut after 65546 bytes: expected no more"):
                    get_session().get("https://hub.test/datasets/a/b/resolve/x/data/a%20b.parquet")
            else:
                get_session().get("https://hub.test/datasets/a/b/resolve/x/data/a%20b.parquet")
            assert guard.is_damaged == is_cut


def test_the_size_that_the_hub_tells_counts_where_it_is_smaller():
    guard = Guard({"a": 100, "b": 50})

    guard.note_size("https://h/resolve/x/a", "https://cdn/1", 20)
    guard.note_size("https://h/resolve/x/b", "https://cdn/2", None)

    limits = [guard.body_limit(url) for url in ("https://cdn/1", "https://cdn/2", "https://cdn/3", "https://h/api/x")]
    sizes = [20, 50, 100]
    assert limits == [*(size + _guard.SLACK_BYTES for size in sizes), _guard.MAX_ANSWER_BYTES]


def test_a_call_ends_when_its_time_is_over(answers, monkeypatch):
    monkeypatch.setattr(_guard, "CALL_LIMIT_S", -1.0)
    requests = answers(httpx.Response(200, json={}))

    with guarded() as guard, pytest.raises(HubUnreachableError, match=r"https://hub\.test did not finish its answer"):
        get_session().get("https://hub.test/api/x")
    assert requests == []
    assert guard.expired


def test_an_inner_block_has_the_limits_of_the_outer_one(answers):
    answers(httpx.Response(200))
    with guarded({"a": 5}) as outer, guarded({"b": 7}) as inner:
        assert inner is outer
