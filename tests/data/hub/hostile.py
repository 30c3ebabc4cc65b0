"""Answers that no Hub gives: each kind is a function that writes one to the connection of a handler."""

import json
import random
import time
import zlib
from collections.abc import Callable
from typing import Any

HTML = b"<!DOCTYPE html><html><body>Please log in to the \x1b[31mnetwork</body></html>"
ESCAPES = "no \x1b[2J\x9b31m\u202eway"
#: What a value of an answer is replaced by.
ODD = [None, True, 0, -1, 2**70, 1.5, "", "main", "../../x", ESCAPES, "\ud800", [], {}, [None], {"a": 1}, "x" * 5000]


def send(handler: Any, status: int, body: bytes, headers: dict[str, str] | None = None, *, length: Any = None) -> None:
    """Send an answer, whose Content-Length may be another than the body's; "" leaves it out."""
    lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in (headers or {}).items())]
    length = len(body) if length is None else length
    lines += [f"Content-Length: {length}"] if length != "" else []
    text = "\r\n".join([*lines, "Connection: close", "", ""])
    handler.wfile.write(text.encode("utf-8", "surrogatepass") + (b"" if handler.command == "HEAD" else body))
    handler.wfile.flush()


def send_slowly(handler: Any, content: bytes, *, seconds: float, pause: float = 0.05) -> None:
    """Send bytes one by one, then wait until the time is over."""
    stop = time.monotonic() + seconds
    for byte in content:
        if time.monotonic() > stop:
            return
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        time.sleep(pause)
    time.sleep(max(0.0, stop - time.monotonic()))


def replace_leaf(value: Any, generator: random.Random) -> Any:
    """Return JSON in which one value, at any depth, is another one, is missing, or stands twice."""
    if isinstance(value, dict) and value and generator.random() < 0.85:
        name = generator.choice(sorted(value))
        if generator.random() < 0.2:
            return {key: item for key, item in value.items() if key != name}
        return value | {name: replace_leaf(value[name], generator)}
    if isinstance(value, list) and value and generator.random() < 0.85:
        index = generator.randrange(len(value))
        return [*value[:index], replace_leaf(value[index], generator), *value[index + 1 :]]
    return generator.choice(ODD)


def mutate(body: bytes, generator: random.Random) -> bytes:
    """Return JSON with another value somewhere; other content with another byte."""
    try:
        return json.dumps(replace_leaf(json.loads(body), generator)).encode()
    except ValueError:
        index = generator.randrange(len(body) + 1)
        return body[:index] + bytes([generator.randrange(256)]) + body[index + 1 :]


class Hostility:
    """The kinds of answers, by name.

    Args:
        elsewhere: Address of another host, which must never see the token.
        seconds: How long slow answers take.
    """

    def __init__(self, elsewhere: str, seconds: float):
        self.elsewhere = elsewhere
        self.seconds = seconds

    def kinds(self) -> dict[str, Callable[[Any, int, bytes, dict[str, str], random.Random], None]]:
        """Return every kind of answer."""
        bodies = {
            "login page": HTML,
            "empty": b"",
            "null": b"null",
            "number": b"5",
            "text": b'"text"',
            "list": b"[]",
            "object": b"{}",
            "numbers": b"[1, 2]",
            "lists": b"[[], [[]]]",
            "deep": b"[" * 200_000,
            "bad utf-8": b'{"branches": "\xff\xfe"}',
            "huge number": b"1" * 10_000,
            "nan": b'{"branches": [NaN], "tags": Infinity}',
        }
        headers = {
            "no commit": {"X-Repo-Commit": ""},
            "branch as commit": {"X-Repo-Commit": "main"},
            "path as commit": {"X-Repo-Commit": "../../../evil"},
            "path as tag": {"ETag": '"../../../../evil"', "X-Linked-Etag": '"../../../../evil"'},
            "no tag": {"ETag": "", "X-Linked-Etag": ""},
            "size no number": {"X-Linked-Size": "many"},
            "size negative": {"X-Linked-Size": "-5"},
            "size huge": {"X-Linked-Size": str(10**17)},
            "next page elsewhere": {"Link": f'<{self.elsewhere}/api/datasets?x=1>; rel="next"'},
            "next page nowhere": {"Link": '<http://[>; rel="next"'},
            "warning": {"X-HF-Warning": f"topic; {ESCAPES}"},
            "gzip": {"Content-Encoding": "gzip"},
            "range": {"Content-Range": "bytes 0-1/none"},
        }
        refusals = {
            "teapot": (418, {"X-Error-Message": ESCAPES}),
            "denied": (403, {"X-Error-Message": ESCAPES}),
            "bad request": (400, {"X-Error-Code": ESCAPES}),
            "gone": (410, {}),
            "moved nowhere": (302, {}),
            "moved to nonsense": (302, {"Location": "http://[nonsense"}),
            "moved to a file": (302, {"Location": "file:///etc/passwd"}),
            "moved elsewhere": (307, {"Location": f"{self.elsewhere}/api/x"}),
            "not modified": (304, {}),
            "busy for a year": (429, {"Retry-After": "31536000", "ratelimit": '"api";r=0;t=31536000'}),
            "busy for ever": (503, {"Retry-After": "²" * 30}),
            "busy until Monday": (503, {"Retry-After": "-1"}),
        }
        kinds: dict[str, Callable[..., None]] = {
            name: getattr(self, name) for name in dir(self) if name.startswith(("cut_", "endless_", "slow_", "silent"))
        }
        kinds["html"] = lambda handler, *_: send(handler, 200, HTML, {"Content-Type": "text/html"})
        kinds["mutated"] = lambda handler, status, body, sent, generator: send(
            handler, status, mutate(body, generator), sent
        )
        for name, content in bodies.items():
            kinds[name] = lambda handler, status, body, sent, generator, content=content: send(
                handler, 200, content, sent
            )
        for name, extra in headers.items():
            kinds[name] = lambda handler, status, body, sent, generator, extra=extra: send(
                handler, status, body, sent | extra
            )
        for name, (code, extra) in refusals.items():
            kinds[name] = lambda handler, status, body, sent, generator, code=code, extra=extra: send(
                handler, code, json.dumps({"error": ESCAPES}).encode(), extra
            )
        return kinds

    def cut_short(self, handler: Any, status: int, body: bytes, headers: dict[str, str], _: random.Random) -> None:
        """Send half of what was told."""
        send(handler, status, body[: len(body) // 2], headers, length=len(body))

    def cut_length(self, handler: Any, status: int, body: bytes, headers: dict[str, str], _: random.Random) -> None:
        """Tell half of what is sent."""
        send(handler, status, body, headers, length=len(body) // 2)

    def cut_nonsense(self, handler: Any, status: int, body: bytes, headers: dict[str, str], _: random.Random) -> None:
        """Tell a length that is none."""
        send(handler, status, body, headers, length="ten")

    def cut_header(self, handler: Any, *_: Any) -> None:
        """Hang up in the headers."""
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Le")

    def endless_body(self, handler: Any, status: int, body: bytes, headers: dict[str, str], _: random.Random) -> None:
        """Send a body without end, in chunks."""
        chunk = b"%x\r\n%s\r\n" % (2**20, b"[" * 2**20)
        send(handler, status, b"", headers | {"Transfer-Encoding": "chunked"}, length="")
        for _number in range(0 if handler.command == "HEAD" else 300):
            handler.wfile.write(chunk)

    def endless_zip(self, handler: Any, status: int, body: bytes, headers: dict[str, str], _: random.Random) -> None:
        """Send 30 kB that decompress to 32 MB."""
        content = zlib.compress(b" " * 2**25)
        send(handler, status, content, headers | {"Content-Encoding": "deflate"})

    def endless_redirect(self, handler: Any, *_: Any) -> None:
        """Redirect to the same address."""
        send(handler, 302, b"", {"Location": handler.path})

    def endless_pages(self, handler: Any, status: int, body: bytes, headers: dict[str, str], _: random.Random) -> None:
        """Say that the next page is this one."""
        address = f"http://{handler.headers['Host']}{handler.path}"
        send(handler, status, body, headers | {"Link": f'<{address}>; rel="next"'})

    def slow_body(self, handler: Any, status: int, body: bytes, headers: dict[str, str], _: random.Random) -> None:
        """Send the body byte by byte."""
        send(handler, status, b"", headers, length=max(len(body), 10_000))
        send_slowly(handler, body, seconds=self.seconds)

    def slow_headers(self, handler: Any, *_: Any) -> None:
        """Send headers byte by byte."""
        send_slowly(handler, b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 10_000, seconds=self.seconds)

    def silent(self, handler: Any, *_: Any) -> None:
        """Send nothing."""
        time.sleep(self.seconds)
