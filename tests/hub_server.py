"""A loopback Hub for tests, with the API that the unmodified huggingface_hub and datasets use.

Repositories can be created, written by commits (LFS and regular files, `parentCommit`), tagged, listed and read,
including byte ranges; the role of the token gives the permissions. Errors have the Hub's headers, by which the clients
distinguish them. Pull requests, branches besides `main` and limits are not implemented. Of xet, only the upload is
implemented, into the file store of the client's library, to measure what the client sends.
"""

import base64
import contextlib
import hashlib
import json
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

DATE = "2026-01-01T00:00:00.000Z"


@dataclass
class Repository:
    """Commits (sha → path → bytes, oldest first) and tags of one dataset repository.

    Attributes:
        private: Only tokens may see it.
        gated: Only tokens with the role "write" may read its files.
    """

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False

    def commit(self, files: dict[str, bytes], *, tag: str | None = None) -> str:
        """Add a commit that holds exactly these files, and return its sha."""
        names = "".join(f"{path}{_sha256(data)}" for path, data in sorted(files.items()))
        sha = hashlib.sha1(f"{len(self.commits)}{names}".encode()).hexdigest()
        self.commits[sha] = dict(files)
        if tag is not None:
            self.tags[tag] = sha
        return sha

    @property
    def head(self) -> str | None:
        """The sha of ``main``."""
        return next(reversed(self.commits), None)

    def resolve(self, revision: str) -> str | None:
        """Return the sha of a tag, a commit or ``main``."""
        if revision in ("main", "refs/heads/main"):
            return self.head
        revision = revision.removeprefix("refs/tags/")
        return self.tags.get(revision, revision if revision in self.commits else None)


class Stored(bytes):
    """A file whose content lies in xet's store, empty here; known by its SHA-256 and size."""

    oid: str
    size: int


@dataclass
class Fault:
    """An answer out of order: ``status`` (0 hangs up, 1 flips a bit) to the next ``times`` requests that match.

    Attributes:
        match: Regular expression for ``"METHOD /path"``.
        status: What is answered.
        times: How often; afterwards the server is well again.
        headers: Sent with it.
    """

    match: str
    status: int
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Hub:
    """The running server.

    Attributes:
        url: For HF_ENDPOINT.
        repositories: By ``namespace/name``.
        objects: LFS objects by their SHA-256.
        tokens: Role by token: "write" or "read"; while empty, any token may write.
        requests: Every request line so far, without its query.
        received: Bytes of request bodies, by request line.
        served: Bytes of file content sent, by path in the repository.
        faults: What goes wrong next.
        before: Called with every request line before it is answered.
        hostile: Called with the handler, the request line, and status, body and headers of every answer; where it
            returns True, it has answered itself.
        broken: Answer everything with this status instead.
        xet_store: Folder in which the client's own xet store keeps what it is sent; None without xet.
        lock: Held while a repository changes.
    """

    url: str
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    received: Counter = field(default_factory=Counter)
    served: Counter = field(default_factory=Counter)
    faults: list[Fault] = field(default_factory=list)
    before: Callable[[str], None] | None = None
    hostile: Callable[..., bool] | None = None
    broken: int | None = None
    xet_store: Path | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def reset(self) -> None:
        """Forget everything, as if newly started."""
        for member in (self.repositories, self.objects, self.tokens, self.requests, self.received, self.served):
            member.clear()
        self.faults.clear()
        self.before = self.hostile = self.broken = self.xet_store = None

    def fault(self, line: str) -> Fault | None:
        """Return the fault that is due for a request, and count it."""
        for fault in self.faults:
            if fault.times and re.search(fault.match, line):
                fault.times -= 1
                return fault
        return None


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
    disable_nagle_algorithm = True

    def answer(self) -> None:
        self.hub: Hub = self.server.hub
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        line = f"{self.command} {url.path}"
        self.hub.requests.append(line)
        fault = self.hub.fault(line)
        if (
            fault is not None and fault.status == 0
        ):  # before the body is read: a connection that breaks during an upload
            self.close_connection = True
            return
        self.flip = fault is not None and fault.status == 1
        self.body = self._read_body()
        self.hub.received[line] += len(self.body)
        if self.hub.before is not None:
            self.hub.before(line)
        if fault is not None and not self.flip:
            self._answer(fault.status, b"{}", fault.headers)
        elif self.hub.broken is not None:
            self._answer(self.hub.broken, b"")
        else:
            self._route(url.path.strip("/").split("/"))  # split before unquoting: a revision may hold a quoted slash

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

    def _route(self, parts: list[str]) -> None:
        match parts:
            case ["api", "datasets"]:
                self._list()
            case ["api", "datasets", namespace, name, *rest]:
                self._api(f"{namespace}/{name}", [unquote(part) for part in rest])
            case ["api", "repos", "create"]:
                self._create()
            case ["api", "validate-yaml"]:
                self._json({"errors": [], "warnings": []})
            case ["datasets", namespace, name, "info", "lfs", "objects", "batch"]:
                self._lfs_batch(f"{namespace}/{name.removesuffix('.git')}")
            case ["lfs", oid]:
                self._lfs_put(oid)
            case ["datasets", namespace, name, "resolve", revision, *path]:
                self._file(f"{namespace}/{name}", unquote(revision), unquote("/".join(path)))
            case _:
                self._answer(404, b"")

    # -- who may -------------------------------------------------------------------------------------------------

    @property
    def role(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        return (self.hub.tokens.get(token) if self.hub.tokens else "write") if token else None

    def _may_write(self) -> bool:
        if self.role == "write":
            return True
        status = 401 if self.role is None else 403
        message = "Invalid username or password." if status == 401 else "you must use a write token to push"
        self._answer(status, json.dumps({"error": message}).encode(), {"X-Error-Message": message})
        return False

    def _repository(self, repo_id: str) -> Repository | None:
        """Return a repository that the token may see, or answer that there is none."""
        repository = self.hub.repositories.get(repo_id)
        if repository is None or (repository.private and self.role is None):
            self._error(404 if self.role else 401, "RepoNotFound")
            return None
        return repository

    # -- writing -------------------------------------------------------------------------------------------------

    def _create(self) -> None:
        asked = json.loads(self.body)
        if not self._may_write():
            return
        repo_id = f"{asked['organization']}/{asked['name']}"
        status = 409 if repo_id in self.hub.repositories else 200
        if status == 200:
            repository = self.hub.repositories[repo_id] = Repository(private=asked.get("visibility") == "private")
            repository.commit({".gitattributes": b"*.parquet filter=lfs diff=lfs merge=lfs -text\n"})
        self._json({"url": f"{self.hub.url}/datasets/{repo_id}", "id": repo_id}, status)

    def _preupload(self, repository: Repository) -> None:
        files_by_path = repository.commits.get(repository.head, {})
        files = []
        for file in json.loads(self.body)["files"]:
            path, data = file["path"], files_by_path.get(file["path"])
            oid = None if data is None else _sha256(data) if _is_lfs(path) else _blob(data)
            mode = "lfs" if _is_lfs(path) else "regular"
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._json({"files": files})

    def _lfs_batch(self, repo_id: str) -> None:
        if self._repository(repo_id) is None or not self._may_write():
            return
        objects = []
        for item in json.loads(self.body)["objects"]:
            if item["oid"] not in self.hub.objects:
                item["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{item['oid']}", "header": {}}}
            objects.append(item)
        self._json({"transfer": "basic", "objects": objects})

    def _lfs_put(self, oid: str) -> None:
        good = _sha256(self.body) == oid
        if good:
            self.hub.objects[oid] = self.body
        self._answer(200 if good else 422, b"")

    def _commit(self, repository: Repository, repo_id: str) -> None:
        header, *changes = [json.loads(line) for line in self.body.splitlines()]
        parent = header["value"].get("parentCommit")
        if parent not in (None, repository.head):
            message = "A commit has happened since. Please refresh and try again."
            self._answer(412, json.dumps({"error": message}).encode(), {"X-Error-Message": message})
            return
        files = dict(repository.commits.get(repository.head, {}))
        for change in changes:
            value = change["value"]
            if change["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif change["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects.get(value["oid"]) or self._stored(value)
            elif change["key"] == "deletedFile":
                del files[value["path"]]
        sha = repository.commit(files)
        self._json({"commitOid": sha, "commitUrl": f"{self.hub.url}/datasets/{repo_id}/commit/{sha}"})

    def _stored(self, value: dict[str, object]) -> Stored:
        file = Stored()
        file.oid, file.size = value["oid"], value["size"]
        return file

    def _xet_token(self) -> None:
        about = {"casUrl": f"local://{self.hub.xet_store}", "accessToken": "x", "exp": 2**32}
        names = {"casUrl": "X-Xet-Cas-Url", "accessToken": "X-Xet-Access-Token", "exp": "X-Xet-Token-Expiration"}
        headers = {names[key]: str(value) for key, value in about.items()}
        self._answer(200, json.dumps(about).encode(), headers | {"Content-Type": "application/json"})

    def _tag(self, repository: Repository, revision: str) -> None:
        if self.command == "DELETE":
            del repository.tags[revision]
            self._json({})
            return
        tag, sha = json.loads(self.body)["tag"], repository.resolve(revision)
        if sha is None:
            self._error(404, "RevisionNotFound")
        elif tag in repository.tags:
            self._answer(409, b'{"error": "Tag reference exists already."}')
        else:
            repository.tags[tag] = sha
            self._json({})

    # -- reading -------------------------------------------------------------------------------------------------

    def _list(self) -> None:
        author, wanted = self.query.get("author", [""])[0], self.query.get("filter", [])
        rows = []
        for repo_id, repository in self.hub.repositories.items():
            files = repository.commits.get(repository.head, {})
            card = files.get("README.md", b"").decode()
            visible = not repository.private or self.role is not None
            if visible and repo_id.startswith(author) and all(f"- {tag}\n" in card for tag in wanted):
                rows.append({"id": repo_id, "sha": repository.head, "lastModified": DATE, "tags": [], "downloads": 0})
        self._json(rows)

    def _api(self, repo_id: str, rest: list[str]) -> None:
        repository = self._repository(repo_id)
        if repository is None:
            return
        match rest:
            case ["preupload" | "commit" | "tag", *_] if not self._may_write():
                pass
            case ["xet-write-token", _] if self.hub.xet_store is not None:
                self._xet_token()
            case ["preupload", _]:
                self._preupload(repository)
            case ["commit", _]:
                with self.hub.lock:
                    self._commit(repository, repo_id)
            case ["tag", *revision]:
                with self.hub.lock:
                    self._tag(repository, "/".join(revision))
            case ["refs"]:
                tags = [{"name": t, "ref": f"refs/tags/{t}", "targetCommit": s} for t, s in repository.tags.items()]
                main = [{"name": "main", "ref": "refs/heads/main", "targetCommit": repository.head}]
                self._json({"branches": main if repository.head else [], "converts": [], "tags": tags})
            case [] | ["revision", _]:
                self._revision(repo_id, repository, rest[1] if rest else "main")
            case ["tree" | "paths-info" as verb, revision, *path]:
                self._tree(repository, verb, revision, "/".join(path))
            case _:
                self._answer(404, b"")

    def _revision(self, repo_id: str, repository: Repository, revision: str) -> None:
        sha = repository.resolve(revision)
        if sha is None:
            self._error(404, "RevisionNotFound")
            return
        siblings = [{"rfilename": path} for path in repository.commits[sha]]
        about = {"id": repo_id, "sha": sha, "siblings": siblings, "tags": [], "private": repository.private}
        self._json(about | {"lastModified": DATE, "createdAt": DATE, "downloads": 0, "likes": 0, "gated": False})

    def _tree(self, repository: Repository, verb: str, revision: str, folder: str) -> None:
        sha = repository.resolve(revision)
        if sha is None:
            self._error(404, "RevisionNotFound")
            return
        files = repository.commits[sha]
        folders = {str(parent) for path in files for parent in PurePosixPath(path).parents} - {"."}
        rows = [_tree_entry(path, data) for path, data in files.items()]
        rows += [{"type": "directory", "path": path, "size": 0, "oid": _blob(path.encode())} for path in folders]
        if verb == "paths-info":
            wanted = parse_qs(self.body.decode())["paths"]
            self._json([row for row in rows if row["path"] in wanted])
            return
        inside = [row for row in rows if not folder or row["path"].startswith(f"{folder}/")]
        if self.query.get("recursive", ["false"])[0].lower() not in ("true", "1"):
            inside = [row for row in inside if row["path"].rpartition("/")[0] == folder]
        if folder and not inside:
            self._error(404, "EntryNotFound", sha)
        else:
            self._json(inside)

    def _file(self, repo_id: str, revision: str, path: str) -> None:
        repository = self._repository(repo_id)
        if repository is None:
            return
        sha = repository.resolve(revision)
        if sha is None or path not in repository.commits[sha]:
            self._error(404, "EntryNotFound" if sha else "RevisionNotFound", sha)
            return
        if repository.gated and self.role != "write":
            self._error(403 if self.role else 401, "GatedRepo")
            return
        data = repository.commits[sha][path]
        headers = {"X-Repo-Commit": sha, "Accept-Ranges": "bytes", "ETag": f'"{_blob(data)}"'}
        if _is_lfs(path):
            headers |= {"X-Linked-Etag": f'"{_sha256(data)}"', "X-Linked-Size": str(len(data))}
        if self.flip and data:
            data = data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]
        status, whole = 200, len(data)
        if byte_range := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, stop = int(byte_range[1]), min(int(byte_range[2] or whole - 1), whole - 1)
            status, data = 206, data[start : stop + 1]
            headers["Content-Range"] = f"bytes {start}-{stop}/{whole}"
        if self.command == "GET":
            self.hub.served[path] += len(data)
        self._answer(status, data, headers)

    # -- the wire ------------------------------------------------------------------------------------------------

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            pieces = []
            while size := int(self.rfile.readline(), 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _json(self, value: object, status: int = 200) -> None:
        self._answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str, sha: str | None = None) -> None:
        commit = {"X-Repo-Commit": sha} if sha else {}
        self._answer(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code} | commit)

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        line = f"{self.command} {urlsplit(self.path).path}"
        if self.hub.hostile is not None and self.hub.hostile(self, line, status, body, headers or {}):
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


def _is_lfs(path: str) -> bool:
    return path.endswith(".parquet")


def _sha256(data: bytes) -> str:
    if isinstance(data, Stored):
        return data.oid
    return hashlib.sha256(data).hexdigest()


def _blob(data: bytes) -> str:
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


def _tree_entry(path: str, data: bytes) -> dict[str, object]:
    size = data.size if isinstance(data, Stored) else len(data)
    entry: dict[str, object] = {"type": "file", "path": path, "size": size, "oid": _blob(data)}
    if _is_lfs(path):
        entry["lfs"] = {"oid": _sha256(data), "size": size, "pointerSize": 130}
    return entry


if (
    __name__ == "__main__"
):  # to try the verbs by hand: HF_ENDPOINT=… HF_TOKEN=anything HF_HUB_DISABLE_XET=1 rlhive push …
    with serving() as hub:
        sys.stdout.write(f"{hub.url}\n")
        sys.stdout.flush()
        threading.Event().wait()
