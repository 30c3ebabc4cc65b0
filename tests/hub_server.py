"""A Hub of the tests' own: what the unmodified huggingface_hub asks for when it reads a dataset, on loopback.

A repository is a dict of commits (sha → path → bytes) and of tags (name → sha). Errors carry the Hub's own headers,
without which the client cannot tell them apart.
"""

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


@dataclass
class Repository:
    """Commits and tags of one dataset repository."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], *, tag: str | None = None) -> str:
        """Add a commit and return its sha."""
        names = "".join(f"{path}{hashlib.sha256(data).hexdigest()}" for path, data in sorted(files.items()))
        sha = hashlib.sha1(f"{len(self.commits)}{names}".encode()).hexdigest()
        self.commits[sha] = dict(files)
        if tag is not None:
            self.tags[tag] = sha
        return sha

    def resolve(self, revision: str) -> str | None:
        """Return the sha of a tag, a commit or ``main``."""
        if revision == "main":
            return list(self.commits)[-1] if self.commits else None
        return self.tags.get(revision, revision if revision in self.commits else None)


@dataclass
class Hub:
    """The running server.

    Attributes:
        url: For HF_ENDPOINT.
        repositories: By ``namespace/name``.
        requests: Every request line so far.
        broken: Answer everything with this status instead.
    """

    url: str
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    broken: int | None = None


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
    """Run a Hub on a free port of the loopback interface."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    hub = server.hub = Hub(url=f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        hub: Hub = self.server.hub
        path = self.path.split("?")[0]
        hub.requests.append(f"{self.command} {path}")
        if hub.broken is not None:
            self._answer(hub.broken, b"")
            return
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "datasets"]:
            self._api("/".join(parts[2:4]), parts[4:])
        elif parts[0] == "datasets" and parts[3] == "resolve":
            self._file("/".join(parts[1:3]), unquote(parts[4]), unquote("/".join(parts[5:])))
        else:
            self._answer(404, b"")

    do_HEAD = do_GET

    def _api(self, repo_id: str, rest: list[str]) -> None:
        repository = self.server.hub.repositories.get(repo_id)
        if repository is None:
            self._error(404, "RepoNotFound")
        elif rest == ["refs"]:
            tags = [
                {"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": sha} for tag, sha in repository.tags.items()
            ]
            self._json({"branches": [], "converts": [], "tags": tags})
        elif not rest or rest[0] in ("revision", "tree"):
            revision = unquote(rest[1]) if rest else "main"
            sha = repository.resolve(revision)
            if sha is None:
                self._error(404, "RevisionNotFound")
            elif rest and rest[0] == "tree":
                self._json([_tree_entry(path, data) for path, data in repository.commits[sha].items()])
            else:
                siblings = [{"rfilename": path} for path in repository.commits[sha]]
                self._json({"id": repo_id, "sha": sha, "siblings": siblings, "tags": [], "private": False})
        else:
            self._answer(404, b"")

    def _file(self, repo_id: str, revision: str, path: str) -> None:
        repository = self.server.hub.repositories.get(repo_id)
        sha = repository.resolve(revision) if repository else None
        data = repository.commits[sha].get(path) if sha else None
        if data is None:
            self._error(404, "EntryNotFound" if sha else "RepoNotFound")
            return
        self._answer(200, data, {"X-Repo-Commit": sha, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'})

    def _json(self, value: object) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str) -> None:
        self._answer(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


def _tree_entry(path: str, data: bytes) -> dict[str, object]:
    blob = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
    return {"type": "file", "path": path, "size": len(data), "oid": blob}
