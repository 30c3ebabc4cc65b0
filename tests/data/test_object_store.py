"""Files in an object store: S3 by moto, and a folder and the memory by fsspec; faults end in a sentence."""

import random
import threading
import uuid

import pytest

from rlhive.data import _object_store
from rlhive.data._object_store import ObjectStore, in_parallel
from rlhive.errors import CorruptDatasetError, MissingExtraError, StoreAccessDeniedError, StoreUnreachableError
from tests.object_server import ACCESS_DENIED, SLOW_DOWN


@pytest.fixture(params=["s3", "file", "memory"])
def files(request, tmp_path):
    """An empty store of each kind."""
    if request.param == "s3":
        return ObjectStore(request.getfixturevalue("object_store").url)
    return ObjectStore(f"file://{tmp_path}/files" if request.param == "file" else f"memory://{uuid.uuid4().hex}")


def test_what_is_written_is_listed_and_read(files, tmp_path):
    (tmp_path / "shard").write_bytes(bytes(range(100)))

    assert files.list_folder() == {}
    assert files.list_files("a/b") == {}
    assert files.read("a/b.json", 10) is None
    files.upload(tmp_path / "shard", "a/b/data/shard.x")
    assert files.create("a/b.json", b"12")
    assert files.create("a/empty", b"")

    assert files.list_folder() == {"a": None}
    assert files.list_folder("a") == {"b": None, "b.json": 2, "empty": 0}
    assert files.list_files("a/b") == {"a/b/data/shard.x": 100}
    assert files.read("a/b.json", 2) == b"12"
    assert files.read("a/empty", 2) == b""
    with pytest.raises(CorruptDatasetError, match=r"a/b\.json: expected at most 1 bytes, got 2"):
        files.read("a/b.json", 1)


def test_a_file_is_downloaded_in_pieces_and_read_in_ranges(files, tmp_path, monkeypatch):
    content = bytes(range(50))
    (tmp_path / "shard").write_bytes(content)
    files.upload(tmp_path / "shard", "shard")
    monkeypatch.setattr(_object_store, "PIECE_BYTES", 7)

    files.download("shard", tmp_path / "new/copy", 50)
    opened = files.open("shard", 50)

    assert (tmp_path / "new/copy").read_bytes() == content
    assert opened.seek(-10, 2) == 40
    assert opened.read(4) == content[40:44]
    assert opened.tell() == 44
    assert opened.read() == content[44:]
    assert opened.read(1) == b""
    with pytest.raises(StoreUnreachableError, match="none: expected a file, the store has none"):
        files.download("none", tmp_path / "none", 5)


def test_a_large_file_is_sent_in_parts(object_store, tmp_path):
    files, content = ObjectStore(object_store.url), random.Random(0).randbytes(20 * 2**20)
    (tmp_path / "shard").write_bytes(content)

    files.upload(tmp_path / "shard", "shard")
    files.download("shard", tmp_path / "copy", len(content))

    assert object_store.server.count("PUT", "partNumber=") == 3
    assert (tmp_path / "copy").read_bytes() == content


def test_a_key_is_created_once(files):
    assert files.create("a/b.json", b"first")
    assert not files.create("a/b.json", b"other")
    assert not files.create("a/b.json", b"longer than the first")
    assert files.create("a/b.json", b"first")  # as after an answer that was lost
    assert files.read("a/b.json", 99) == b"first"


def test_what_others_wrote_since_the_last_look_is_seen(object_store):
    files = ObjectStore(object_store.url)
    object_store.put("a/x", b"1")
    assert files.list_folder("a") == {"x": 1}
    assert files.list_files("a") == {"a/x": 1}

    object_store.put("a/y", b"23")
    object_store.put("a/x", b"456")

    assert files.list_folder("a") == {"x": 3, "y": 2}
    assert files.list_files("a") == {"a/x": 3, "a/y": 2}
    assert files.read("a/x", 9) == b"456"


def test_copies_and_removals(files):
    files.create("a/x", b"content")

    assert files.copy("a/x", "b/y")
    assert not files.copy("a/none", "b/z")
    files.remove(["a/x", "a/none"])

    assert files.list_files("a") == {}
    assert files.read("b/y", 99) == b"content"


def test_of_many_creators_one_wins(object_store):
    start = threading.Barrier(8)

    def create(index):
        files = ObjectStore(object_store.url)
        start.wait()
        return files.create("x/1.0.0.json", b"%d" % index)

    results = in_parallel(create, range(8))

    assert results.count(True) == 1
    assert object_store.get("x/1.0.0.json") == b"%d" % results.index(True)


@pytest.mark.parametrize("status", [409, 412])
def test_a_refused_creation_is_looked_at_and_tried_again(object_store, monkeypatch, status):
    monkeypatch.setattr(_object_store, "_CREATE_DELAYS_S", (0.0, 0.0))
    code = {409: b"ConditionalRequestConflict", 412: b"PreconditionFailed"}[status]  # 412 as MinIO gives it
    refusals = iter([b"<Error><Code>%b</Code><Message>no</Message></Error>" % code] * 5)
    object_store.server.fault = lambda method, _: (status, next(refusals)) if method == "PUT" else None
    files = ObjectStore(object_store.url)

    with pytest.raises(StoreUnreachableError, match="lab/a: the store refuses to create it, and shows no such file"):
        files.create("a", b"1")
    assert object_store.server.count("PUT") == 3
    object_store.put("a", b"other")
    assert not files.create("a", b"1")
    assert files.create("a", b"other")
    assert object_store.server.count("PUT") == 3
    object_store.remove("a")
    object_store.server.fault = lambda method, _: (
        (status, body) if method == "PUT" and (body := next(refusals, None)) else None
    )
    assert files.create("a", b"1")
    assert object_store.get("a") == b"1"


@pytest.mark.parametrize("verb", ["HEAD", "PUT"])
def test_a_busy_store_is_asked_again(object_store, verb):
    remaining = iter([SLOW_DOWN] * 3)
    object_store.server.fault = lambda method, _: (
        (503, body) if method == verb and (body := next(remaining, None)) else None
    )

    assert ObjectStore(object_store.url).create("a", b"1")
    assert object_store.server.count(verb) == 4


def test_a_store_that_stays_busy_is_named_within_the_limit(object_store, monkeypatch):
    monkeypatch.setattr(_object_store, "REQUEST_LIMIT_S", 0.3)
    object_store.server.fault = lambda *_: (503, SLOW_DOWN)

    with pytest.raises(StoreUnreachableError, match=r"lab/a: the store did not finish its answer in time"):
        ObjectStore(object_store.url).create("a", b"1")


def test_an_answer_that_trickles_is_cut(object_store, monkeypatch):
    object_store.put("a", bytes(1000))
    monkeypatch.setattr(_object_store, "REQUEST_LIMIT_S", 0.3)
    object_store.server.fault = lambda method, _: 0.05 if method == "GET" else None

    with pytest.raises(StoreUnreachableError, match=r"lab/a: the store did not finish its answer in time"):
        ObjectStore(object_store.url).read_range("a", 0, 1000)


@pytest.mark.parametrize("ask", ["list_folder", "list_files", "read", "create", "copy", "upload"])
def test_a_store_that_denies_access_is_a_sentence(object_store, tmp_path, ask):
    (tmp_path / "file").write_bytes(b"1")
    object_store.server.fault = lambda *_: (403, ACCESS_DENIED)

    with pytest.raises(StoreAccessDeniedError, match=r"lab.*: the store denies access \(PermissionError"):
        _ask(ObjectStore(object_store.url), ask, tmp_path / "file")


@pytest.mark.parametrize("ask", ["list_folder", "list_files", "read", "create", "upload"])
def test_a_bucket_that_does_not_exist_is_a_sentence(object_store, tmp_path, ask):
    (tmp_path / "file").write_bytes(b"1")

    with pytest.raises(StoreUnreachableError, match="s3://no-such-bucket/lab: the store has no such bucket"):
        _ask(ObjectStore("s3://no-such-bucket/lab"), ask, tmp_path / "file")


def test_a_closed_port_and_missing_credentials_are_sentences(object_store, monkeypatch):
    object_store.server.fault = lambda *_: (
        403,
        b"<Error><Code>SignatureDoesNotMatch</Code><Message>no</Message></Error>",
    )
    with pytest.raises(StoreAccessDeniedError, match="denies access"):
        ObjectStore(object_store.url).list_folder()
    monkeypatch.setattr(_object_store, "REQUEST_LIMIT_S", 1.0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("s3fs.S3FileSystem.cachable", False)
    with pytest.raises(StoreUnreachableError, match=r"s3://.*/lab: the store did not|does not answer"):
        ObjectStore(object_store.url).list_folder()


def test_an_address_of_another_kind_says_what_is_missing():
    with pytest.raises(StoreUnreachableError, match=r"foo://bucket: .*Protocol not known: foo"):
        ObjectStore("foo://bucket").list_folder()
    with pytest.raises(MissingExtraError, match=r"gs://bucket: expected a package for gs://, got none"):
        ObjectStore("gs://bucket").list_folder()


def _ask(files, method, file):
    arguments = {
        "read": ("a", 1),
        "create": ("a", b"1"),
        "copy": ("a", "b"),
        "upload": (file, "a"),
        "list_files": ("a",),
    }
    return getattr(files, method)(*arguments.get(method, ()))
