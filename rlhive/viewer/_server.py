"""The server of the page: the loopback interface, a secret in the address, and nothing from the file system.

A page of another site that the browser shows at the same time must learn nothing and change nothing:

- the address holds a random token, without which every request is answered by 404;
- the Host header must name this machine, so that a foreign name that resolves to 127.0.0.1 (DNS rebinding) is refused;
- the Content-Security-Policy lets the page load this server's own files only, and run no inline script.

A path is looked up in a table of files that were read at the start and a table of answers; no part of it becomes a path
on disk.
"""

import hmac
import json
import logging
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any
from urllib.parse import parse_qs, urlsplit

from rlhive.errors import InvalidOptionError, RLHiveError
from rlhive.viewer._dataset import ViewedDataset
from rlhive.viewer._json import encode_json, shorten

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
#: Largest answer in bytes.
MAX_ANSWER_BYTES = 64 * 2**20
#: Largest request body in bytes.
MAX_BODY_BYTES = 2**20

#: Files of the page, by name in the address: file of the package, and its type.
_FILES = {
    "": ("index.html", "text/html"),
    "viewer.js": ("viewer.js", "text/javascript"),
    "viewer.css": ("viewer.css", "text/css"),
    "uplot.js": ("uplot.js", "text/javascript"),
    "filter.js": ("filter.js", "text/javascript"),
    "uplot.css": ("uplot.css", "text/css"),
}

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")


class ViewerServer:
    """A server of datasets on ``127.0.0.1``; it runs in :meth:`serve_forever` until :meth:`close`.

    Args:
        datasets: One dataset, or two to compare.
        port: Port; 0 takes a free one.

    Raises:
        InvalidOptionError: The port is taken or not allowed.
    """

    def __init__(self, datasets: Sequence[ViewedDataset], *, port: int = 0) -> None:
        self._datasets = tuple(datasets)
        self._token = secrets.token_urlsafe(16)
        files = {name: (read_page_file(file), kind) for name, (file, kind) in _FILES.items()}
        handler = type("_BoundHandler", (_Handler,), {"token": self._token, "files": files, "datasets": self._datasets})
        try:
            self._server = ThreadingHTTPServer((HOST, port), handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            msg = f"Port {port} of {HOST} cannot be used: {reason}. Choose another one, or 0 for a free one."
            raise InvalidOptionError(msg) from error

    @property
    def port(self) -> int:
        """Port of the server."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """Address of the page, with its token."""
        return f"http://{HOST}:{self.port}/{self._token}/"

    def serve_forever(self) -> None:
        """Answer requests until :meth:`close` is called or the process is interrupted."""
        self._server.serve_forever(poll_interval=0.05)  # how long close() waits

    def start(self) -> None:
        """Answer requests in a thread."""
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop the server and free its port."""
        self._server.shutdown()
        self._server.server_close()
        for dataset in self._datasets:
            dataset.close()

    def __enter__(self) -> "ViewerServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_page_file(name: str) -> bytes:
    """Return a file of the page."""
    return (resources.files("rlhive.viewer") / "page" / name).read_bytes()


class _Handler(BaseHTTPRequestHandler):
    """Answers one request. ``token``, ``files`` and ``datasets`` are set by :class:`ViewerServer`."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "rlhive", ""
    timeout = 60
    token: str
    files: Mapping[str, tuple[bytes, str]]
    datasets: Sequence[ViewedDataset]

    def do_GET(self) -> None:
        """Answer with a file of the page, or with values of a dataset."""
        route = self._find_route()
        if route is None:
            self._refuse(HTTPStatus.NOT_FOUND, "nothing here")
        elif route in self.files:
            content, kind = self.files[route]
            self._send(HTTPStatus.OK, content, kind)
        elif route in _ANSWERS:
            self._answer(lambda: _ANSWERS[route](self, _Query(urlsplit(self.path).query)))
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "nothing here")

    def do_POST(self) -> None:
        """Keep flags, and write the episodes without one as a version if a name is given."""
        if self._find_route() != "api/flags":
            self._refuse(HTTPStatus.NOT_FOUND, "nothing here")
        elif self.headers.get_content_type() != "application/json":
            self._refuse(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected application/json")
        else:
            self._answer(lambda: self._flag(self._read_json()))

    def dataset(self, query: "_Query") -> ViewedDataset:
        """Return the dataset that a query names by its index."""
        return self._find_dataset(query.integer("dataset", 0))

    def _find_dataset(self, index: int) -> ViewedDataset:
        if not 0 <= index < len(self.datasets):
            msg = f"dataset={index}: expected 0 to {len(self.datasets) - 1}"
            raise InvalidOptionError(msg)
        return self.datasets[index]

    def _flag(self, content: Any) -> dict[str, Any]:
        index, flagged, name, where = _parse_flags(content)
        dataset = self._find_dataset(index)
        answer = dataset.flag(flagged)
        return answer | {"saved": dataset.save_unflagged(name, where=where)} if name else answer

    def _read_json(self) -> Any:
        """Return the body of a request.

        Raises:
            InvalidOptionError: It is too long, or no JSON.
        """
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > MAX_BODY_BYTES:
            self.close_connection = True  # the body is not read
            msg = f"expected a body of at most {MAX_BODY_BYTES:,} bytes"
            raise InvalidOptionError(msg)
        try:
            return json.loads(self.rfile.read(int(length)))
        except ValueError as error:
            msg = "expected JSON"
            raise InvalidOptionError(msg) from error

    def _find_route(self) -> str | None:
        """Return what follows the token in the address; None without the token or under a foreign host name."""
        if not _is_loopback(self.headers.get("Host", "")):
            return None
        token, _, route = urlsplit(self.path).path.removeprefix("/").partition("/")
        return route if hmac.compare_digest(token.encode(), self.token.encode()) else None

    def _answer(self, compute: Callable[[], Any]) -> None:
        """Send what a function returns; an error of RLHive as its sentence, any other one without details.

        A sentence is an answer as well, with status 200: the browser's console is for errors of the page.
        """
        try:
            content = encode_json(compute())
        except RLHiveError as error:
            self._refuse(HTTPStatus.OK, str(error))
        except Exception:
            logger.exception("The viewer could not answer %s", shorten(urlsplit(self.path).path.rpartition("/")[2]))
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, "an error of RLHive; the terminal shows it")
        else:
            if len(content) > MAX_ANSWER_BYTES:
                self._refuse(HTTPStatus.OK, f"the answer has {len(content):,} bytes, more than is sent")
            else:
                self._send(HTTPStatus.OK, content, "application/json")

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        self._send(status, encode_json({"error": shorten(message, 2000)}), "application/json")

    def _send(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            for name, value in _HEADERS.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)
        except ConnectionError:  # the browser went on to another episode
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Write nothing: the address holds the token."""


class _Query:
    """The parameters of an address."""

    def __init__(self, text: str) -> None:
        self._values = parse_qs(text, keep_blank_values=True, max_num_fields=8)

    def text(self, name: str) -> str:
        """Return a parameter; empty if it is missing."""
        return self._values.get(name, [""])[0]

    def integer(self, name: str, default: int | None = None) -> int:
        """Return a parameter as an integer of 0 or more."""
        value = self.text(name)
        if not value and default is not None:
            return default
        if not (value.isascii() and value.isdigit() and len(value) < 20):
            msg = f"{name}={shorten(value, 40)!r}: expected an integer of 0 or more"
            raise InvalidOptionError(msg)
        return int(value)


def _is_loopback(host: str) -> bool:
    """Whether a Host header names this machine; any port is allowed, since ``ssh -L`` can take another one."""
    name, separator, port = host.rpartition(":")
    if not separator or host.endswith("]"):
        name, port = host, ""
    return name.lower() in _LOOPBACK_NAMES and (not port or port.isdigit())


#: Answers by route.
_ANSWERS: dict[str, Callable[[_Handler, _Query], Any]] = {
    "api/datasets": lambda handler, query: {"datasets": [dataset.describe() for dataset in handler.datasets]},
    "api/episodes": lambda handler, query: handler.dataset(query).episodes(),
    "api/scores": lambda handler, query: handler.dataset(query).scores(),
    "api/where": lambda handler, query: handler.dataset(query).select(query.text("condition")),
    "api/flags": lambda handler, query: handler.dataset(query).flags(),
    "api/provenance": lambda handler, query: handler.dataset(query).provenance(),
    "api/series": lambda handler, query: handler.dataset(query).series(query.integer("episode")),
    "api/frames": lambda handler, query: handler.dataset(query).frames(
        query.integer("episode"), query.integer("start"), query.integer("stop")
    ),
    "api/terms": lambda handler, query: handler.dataset(query).terms(query.integer("episode")),
    "api/neighbours": lambda handler, query: handler.dataset(query).neighbours(query.integer("episode")),
    "api/dimensions": lambda handler, query: handler.dataset(query).dimensions(),
    "api/coverage": lambda handler, query: project_datasets(handler.datasets, query.text("key")),
    "api/checks": lambda handler, query: handler.dataset(query).checks(),
}


def project_datasets(datasets: Sequence[ViewedDataset], key: str) -> dict[str, Any]:
    """Return the coverage of all datasets; see :func:`rlhive.viewer._summaries.project_views`."""
    from rlhive.viewer._summaries import project_views

    return project_views([dataset.view for dataset in datasets], key)


def _parse_flags(content: Any) -> tuple[int, list[int], str, str]:
    """Return dataset, flagged episodes, name of the version to save and its condition from the body of a request.

    Raises:
        InvalidOptionError: The body has another form.
    """
    fields = content if isinstance(content, dict) else {}
    dataset, flagged = fields.get("dataset"), fields.get("flagged")
    name, where = fields.get("save_as", ""), fields.get("where", "")
    if not (
        type(dataset) is int
        and isinstance(flagged, list)
        and all(type(episode) is int for episode in flagged)
        and isinstance(name, str)
        and isinstance(where, str)
    ):
        msg = 'flags: expected {"dataset": 0, "flagged": [3, 17]}, and optionally the texts save_as and where'
        raise InvalidOptionError(msg)
    return dataset, flagged, name, where
