"""An S3 on the loopback interface: moto's, with faults that a test chooses, and a record of what was asked."""

import contextlib
import re
import threading
import time
import urllib.request
import uuid
from collections import Counter
from dataclasses import dataclass, field

ACCESS_DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


# moto looks at whether a request is signed, and not at the signature.
_PAST_FAULTS = {
    "x-test": "1",
    "Authorization": "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request",
    "Content-Type": "application/octet-stream",
}


@dataclass
class ObjectServer:
    """What the tests see of the server.

    Attributes:
        url: Its address.
        requests: Method and path of every request.
        uploads: Path of every object whose content was sent, and not copied.
        latency_s: Seconds before each answer.
        bytes_per_s: Speed of all answers with ranges together, which come from memory then; None without a limit.
        sent_bytes: Bytes of these answers, by path.
        fault: Function of method and path that returns None, a status and body in place of the answer, or a number of
            seconds between two bytes of the answer.
    """

    url: str
    requests: list = field(default_factory=list)
    uploads: list = field(default_factory=list)
    latency_s: float = 0.0
    bytes_per_s: float | None = None
    sent_bytes: Counter = field(default_factory=Counter)
    fault: object = None

    def send(self, method, path, content=None):
        """Send a request past the client and past the faults, and return the answer's body."""
        request = urllib.request.Request(self.url + path, data=content, method=method, headers=_PAST_FAULTS)
        with urllib.request.urlopen(request) as answer:
            return answer.read()

    def reset(self):
        """Make the server well."""
        self.requests.clear()
        self.uploads.clear()
        self.sent_bytes.clear()
        self.latency_s, self.bytes_per_s, self.fault = 0.0, None, None

    def count(self, method, text=""):
        """Return how many requests of a method had a path with this text."""
        return sum(verb == method and text in path for verb, path in self.requests)


class Bucket:
    """A new bucket with a store in it.

    Args:
        server: The server.
    """

    def __init__(self, server):
        self.server = server
        self.name = f"bucket-{uuid.uuid4().hex[:8]}"
        self.url = f"s3://{self.name}/lab"
        server.send("PUT", f"/{self.name}", b"")

    def environment(self, folder):
        """Return the variables for the store, whose mirror lies in a folder."""
        return {
            "RLHIVE_DATASETS_PATH": self.url,
            "RLHIVE_CACHE_PATH": str(folder / "stores"),
            "AWS_ENDPOINT_URL": self.server.url,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": str(folder / "none"),
            "AWS_SHARED_CREDENTIALS_FILE": str(folder / "none"),
        }

    def put(self, key, content):
        """Put an object."""
        self.server.send("PUT", f"/{self.name}/lab/{key}", content)

    def get(self, key):
        """Return the content of an object."""
        return self.server.send("GET", f"/{self.name}/lab/{key}")

    def remove(self, key):
        """Remove an object."""
        self.server.send("DELETE", f"/{self.name}/lab/{key}")

    def list_keys(self):
        """Return the keys of all objects in the store."""
        text = self.server.send("GET", f"/{self.name}?list-type=2").decode()
        return [key.removeprefix("lab/") for key in re.findall("<Key>(.*?)</Key>", text)]

    def find(self, pattern):
        """Return the only key that a regular expression finds."""
        (key,) = (key for key in self.list_keys() if re.search(pattern, key))
        return key


class _Faulty:
    """moto's application with the server's faults before it."""

    def __init__(self, application):
        self.application = application
        self.server = None
        self.lock = threading.Lock()
        self.free_at = 0.0
        self.contents = {}

    def __call__(self, environ, start_response):
        method = environ["REQUEST_METHOD"]
        path = environ["PATH_INFO"] + (f"?{environ['QUERY_STRING']}" if environ["QUERY_STRING"] else "")
        if "HTTP_X_TEST" in environ:
            return self.application(environ, start_response)
        self.server.requests.append((method, path))
        if method == "PUT" and "HTTP_X_AMZ_COPY_SOURCE" not in environ:
            self.server.uploads.append(path)
        time.sleep(self.server.latency_s)
        fault = self.server.fault(method, path) if self.server.fault else None
        if isinstance(fault, tuple):
            status, body = fault
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response(f"{status} Fault", [("Content-Type", "text/xml"), ("Content-Length", str(len(body)))])
            return [] if method == "HEAD" else [body]  # else the client sees bytes after the end of the answer
        if self.server.bytes_per_s is not None and method == "GET" and "HTTP_RANGE" in environ:
            return self._answer_range(path, environ, start_response)
        answer = self.application(environ, start_response)
        return answer if fault is None else _drip(answer, fault)

    def _answer_range(self, path, environ, start_response):
        """Answer from memory: moto takes longer for a range than a fast network."""
        first, last = map(int, environ["HTTP_RANGE"].removeprefix("bytes=").split("-"))
        with self.lock:
            if path not in self.contents:
                whole = {name: value for name, value in environ.items() if name != "HTTP_RANGE"}
                headers = []
                content = b"".join(self.application(whole, lambda _, given, *__: headers.extend(given)))
                of_whole = ("content-length", "x-amz-checksum")  # S3 sends no checksum with a range
                headers = [item for item in headers if not item[0].lower().startswith(of_whole)]
                self.contents[path] = content, headers
        content, headers = self.contents[path]
        part = content[first : last + 1]
        self._wait_for_transfer(path, len(part))
        span = ("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(content)}")
        start_response("206 Partial Content", [*headers, span, ("Content-Length", str(len(part)))])
        return [part]

    def _wait_for_transfer(self, path, num_bytes):
        """Wait for as long as the answers up to this one take."""
        with self.lock:
            self.server.sent_bytes[path] += num_bytes
            self.free_at = max(self.free_at, time.monotonic()) + num_bytes / self.server.bytes_per_s
            seconds = self.free_at - time.monotonic()
        time.sleep(max(seconds, 0.0))


def _drip(answer, pause_s):
    for chunk in answer:
        for start in range(len(chunk)):
            time.sleep(pause_s)
            yield chunk[start : start + 1]


@contextlib.contextmanager
def serving():
    """Yield an :class:`ObjectServer` while it serves."""
    from moto.moto_server.werkzeug_app import create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, *_):
            pass

    application = _Faulty(create_backend_app("s3"))
    http = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Quiet)
    application.server = ObjectServer(f"http://127.0.0.1:{http.server_port}")
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield application.server
    finally:
        http.shutdown()
        thread.join()
