"""Limits on what the Hub answers: its size, its duration, and to whom a request goes.

`huggingface_hub` waits for ever for an answer, keeps on reading one that does not end, waits as long as a Retry-After
says, and sends the token to whatever address a "next page" link has. Its HTTP client is shared by the whole process, so
two hooks are added to it that act on RLHive's own requests only, those inside a :func:`guarded` block::

    request  ─► time left? host of the Hub?  ─► sent, with a limit on silence
    response ─► headers made harmless, target of a redirect or link checked ─► body read up to its limit

A watchdog closes the connections of a block whose time is over, whatever they wait for.
"""

import contextlib
import functools
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from huggingface_hub import close_session, constants, get_session, set_client_factory
from huggingface_hub.utils import _http
from huggingface_hub.utils._runtime import is_xet_available

from rlhive._text import printable
from rlhive.errors import HubRefusedError, HubUnreachableError

#: Seconds that the answers of one call may take in all, besides the waiting that the Hub asks for.
CALL_LIMIT_S = 120.0
#: Seconds without a single byte after which a connection counts as broken.
SILENCE_LIMIT_S = 60.0
#: The slowest connection over which files are transferred: they give a call more time than CALL_LIMIT_S, in bytes/s.
SLOWEST_BYTES_PER_S = 10_000
#: Longest time to wait because of a Retry-After, in seconds, and the longest that is believed.
LONGEST_WAIT_S = 300.0
LONGEST_BELIEVED_WAIT_S = 3600
#: Size of the largest answer that is not a file, in bytes.
MAX_ANSWER_BYTES = 64 * 2**20
#: Bytes by which a file may be longer than it should be before its transfer is cut.
SLACK_BYTES = 2**16

_MARK = "x-rlhive-call"
_EXTENSION = "rlhive_guard"
_DEFAULT_PORTS = {"http": 80, "https": 443}
_ENTITY_TAG = re.compile(r'(W/)?"?[A-Za-z0-9_+=-][A-Za-z0-9._+=-]{0,199}"?', re.ASCII)
_FILE_HEADERS = {
    "X-Repo-Commit": re.compile(r"[0-9a-f]{40}", re.ASCII),
    "ETag": _ENTITY_TAG,
    "X-Linked-Etag": _ENTITY_TAG,
}
_OTHER_HUBS = ("https://huggingface.co", "https://hf.co", "https://hub-ci.huggingface.co")


class Guard:
    """Limits of one call, with all of its requests.

    Args:
        sizes: Size of every file that is transferred, in bytes by its path.
        is_upload: Whether the files are sent, so that their sizes can be believed.
    """

    def __init__(self, sizes: Mapping[str, int], *, is_upload: bool = False):
        self.mark = uuid.uuid4().hex
        self.expired = False
        self.is_damaged = False  # whether an answer was longer than it should be
        self._sizes = {quote(path): size for path, size in sizes.items()}
        self._sizes_by_url: dict[str, int] = {}
        # Bytes that are sent, or that xet receives, do not pass through the hooks.
        is_unseen = is_upload or (is_xet_available() and not constants.HF_HUB_DISABLE_XET)
        self._limit_s = CALL_LIMIT_S + (sum(sizes.values()) / SLOWEST_BYTES_PER_S if is_unseen else 0.0)
        self._deadline = time.monotonic() + self._limit_s
        self._timer: threading.Timer | None = None

    @property
    def headers(self) -> dict[str, str]:
        """Headers that mark the requests of other threads as this guard's; they are not sent."""
        return {_MARK: self.mark}

    def extend(self, seconds: float) -> None:
        """Move the deadline, after a wait."""
        self._deadline += seconds

    def require_time(self) -> float:
        """Return how many seconds are left.

        Raises:
            HubUnreachableError: The time of the call is over.
        """
        remaining = self._deadline - time.monotonic()
        if self.expired or remaining <= 0:
            raise self.make_error()
        return remaining

    def make_error(self) -> HubUnreachableError:
        """Return the error for a call whose time is over."""
        msg = (
            f"The Hub at {hub_url()} did not finish its answer within {self._limit_s:.0f} s. Check the network, and "
            "run the same command again."
        )
        return HubUnreachableError(msg)

    def note_size(self, request_url: str, target: str, declared_size: int | None) -> None:
        """Remember how large a file is, as the Hub declares before it sends the file from a target."""
        sizes = [size for size in (self._size_of(request_url), declared_size) if size is not None]
        if sizes:
            self._sizes_by_url[target] = min(sizes)

    def body_limit(self, url: str) -> int:
        """Return how many bytes an answer from an address may have."""
        size = self._sizes_by_url.get(url, self._size_of(url))
        if size is None and self._sizes and "/api/" not in url:
            size = max(self._sizes.values())
        return MAX_ANSWER_BYTES if size is None else size + SLACK_BYTES

    def watch(self) -> None:
        """Close the connections when the time is over; the deadline may have moved by then."""
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            self.expired = True
            close_session()
            return
        self._timer = threading.Timer(min(remaining + 0.01, threading.TIMEOUT_MAX), self.watch)
        self._timer.daemon = True
        self._timer.start()

    def stop(self) -> None:
        """End the watchdog."""
        if self._timer is not None:
            self._timer.cancel()

    def _size_of(self, url: str) -> int | None:
        path = urlsplit(url).path
        return next((size for name, size in self._sizes.items() if path.endswith(f"/{name}")), None)


_current: ContextVar[Guard | None] = ContextVar("_current", default=None)
_active: dict[str, Guard] = {}


@contextlib.contextmanager
def guarded(sizes: Mapping[str, int] | None = None, *, is_upload: bool = False) -> Iterator[Guard]:
    """Limit the requests of the block, in this thread and in those that send :attr:`Guard.headers`.

    Inside another such block the outer one's limits hold.

    Args:
        sizes: Size of every file that is transferred, in bytes by its path in the repository.
        is_upload: Whether the files are sent.
    """
    outer = _current.get()
    if outer is not None:
        yield outer
        return
    guard = Guard(sizes or {}, is_upload=is_upload)
    _install_hooks()
    _active[guard.mark] = guard
    token = _current.set(guard)
    guard.watch()
    try:
        yield guard
    finally:
        guard.stop()
        _current.reset(token)
        del _active[guard.mark]


def hub_url() -> str:
    """Return the Hub's address without credentials."""
    parts = urlsplit(constants.ENDPOINT)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}"


def read_retry_after(text: str) -> int | None:
    """Return the seconds of a Retry-After; None if it is no number, or a time that nobody would wait."""
    seconds = int(text) if re.fullmatch(r"[0-9]{1,9}", text.strip(), re.ASCII) else None
    return None if seconds is None or seconds > LONGEST_BELIEVED_WAIT_S else seconds


@functools.cache
def _wrap_factory() -> None:
    """Add the hooks to every client that is made from now on: the old one is closed when a connection fails."""
    make_client: Callable[[], Any] = _http._GLOBAL_CLIENT_FACTORY
    set_client_factory(lambda: _add_hooks(make_client()))


def _install_hooks() -> None:
    _wrap_factory()
    _add_hooks(get_session())  # whose factory may have been replaced since


def _add_hooks(client: Any) -> Any:
    hooks = client.event_hooks
    if _check_request not in hooks["request"]:
        client.event_hooks = {
            "request": [*hooks["request"], _check_request],
            "response": [*hooks["response"], _check_response],
        }
    return client


def _check_request(request: Any) -> None:
    """Limit the silence of a request of a guarded call, and raise if it would take the token elsewhere."""
    guard = request.extensions.get(_EXTENSION) or _active.get(request.headers.pop(_MARK, "")) or _current.get()
    limit_s = SILENCE_LIMIT_S
    if guard is not None:
        limit_s = min(limit_s, guard.require_time())
        request.headers["Accept-Encoding"] = "identity"  # what is compressed has no size
        if "Authorization" in request.headers:
            _require_hub(str(request.url))
    elif not _active:
        return
    timeouts = request.extensions.get("timeout") or {}
    limits = {name: min(timeouts.get(name) or limit_s, limit_s) for name in ("connect", "read", "write", "pool")}
    request.extensions = {**request.extensions, "timeout": limits, _EXTENSION: guard}


def _check_response(response: Any) -> None:
    """Make an answer harmless: its headers, its links, and the length of its body."""
    request = response.request
    guard: Guard | None = request.extensions.get(_EXTENSION)
    if guard is None:
        return
    remaining = guard.require_time()
    url, headers = str(request.url), response.headers
    _clean_headers(headers, min(remaining, LONGEST_WAIT_S))
    target = _join(url, headers.get("Location", ""))
    if "/api/" in urlsplit(url).path:
        _require_hub(target)
        _require_hub(_join(url, str(response.links.get("next", {}).get("url", ""))))
    if request.method == "HEAD":
        _require_file_names(headers)
        guard.note_size(url, target, _read_size(headers))
        return
    if headers.get("Content-Encoding", "identity").lower() != "identity":
        msg = f"The Hub at {hub_url()} compressed an answer, although it was asked not to. Check the network's proxy."
        raise HubRefusedError(msg)
    response.stream = _limit_stream(response.stream, guard, url)


def _clean_headers(headers: Any, longest_wait_s: float) -> None:
    """Escape what the client would print, and leave out waits that nobody would wait; it obeys any number."""
    for name in ("X-HF-Warning", "X-Error-Message", "X-Request-Id", "X-Amzn-Trace-Id", "X-Amz-Cf-Id"):
        if name in headers:
            headers[name] = printable(headers[name])[:500]
    headers.pop("ratelimit", None)
    if "Retry-After" in headers:
        seconds = read_retry_after(headers.pop("Retry-After"))
        if seconds is not None:
            headers["Retry-After"] = str(int(min(seconds, longest_wait_s)))


def _require_file_names(headers: Any) -> None:
    """Raise unless the headers of a file hold a commit and tags: the client uses them as names of files on disk."""
    for name, form in _FILE_HEADERS.items():
        if name in headers and not form.fullmatch(headers[name]):
            text = printable(headers[name])[:80]
            msg = f"The Hub at {hub_url()} describes a file with {name} {text!r}: expected a hash."
            raise HubRefusedError(msg)


def _read_size(headers: Any) -> int | None:
    text = headers.get("X-Linked-Size") or headers.get("Content-Length") or ""
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text, re.ASCII) else None


def _require_hub(url: str) -> None:
    """Raise unless an address is one of the Hub's."""
    if _origin(url) not in {_origin(hub) for hub in (constants.ENDPOINT, *_OTHER_HUBS)}:
        host = printable(_origin(url)[1] or url)[:100]
        msg = (
            f"The Hub at {hub_url()} points to another host, {host}: expected one of the Hub's. It was not asked, and "
            "the token was not sent there."
        )
        raise HubRefusedError(msg)


def _join(url: str, target: str) -> str:
    """Return the address to which a link points, or the link itself where it is no address."""
    try:
        return urljoin(url, target)
    except ValueError:
        return target


def _origin(url: str) -> tuple[str, str, int | None]:
    """Return scheme, host and port of an address; ("", "", None) for one that cannot be read."""
    try:
        parts = urlsplit(url)
        return parts.scheme, (parts.hostname or "").lower(), parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return "", "", None


def _limit_stream(stream: Any, guard: Guard, url: str) -> Any:
    """Return the body of an answer, which ends with an error when it is too long or takes too long.

    The class is made from the client's own, because its HTTP library is not a dependency of RLHive.
    """
    base = next(kind for kind in type(stream).__mro__ if kind.__name__ == "SyncByteStream")
    limit, is_file = guard.body_limit(url), "/api/" not in url

    def iterate(_: Any) -> Iterator[bytes]:
        num_bytes = 0
        for chunk in stream:
            num_bytes += len(chunk)
            if num_bytes > limit:
                guard.is_damaged = True
                msg = (
                    f"The Hub's answer was cut after {limit} bytes: expected no more ({printable(urlsplit(url).path)})."
                )
                raise HubRefusedError(msg)
            guard.require_time()
            if is_file:
                guard.extend(len(chunk) / SLOWEST_BYTES_PER_S)
            yield chunk

    return type("_LimitedStream", (base,), {"__iter__": iterate, "close": lambda _: stream.close()})()
