"""The viewer's server: who gets an answer, and what a stranger's page or dataset cannot do."""

import json
import socket

import pytest

from rlhive.errors import InvalidOptionError
from rlhive.viewer import ViewedDataset, ViewerServer, _server


def test_only_this_machine_is_listened_to(viewer):
    assert viewer.address.hostname == "127.0.0.1"
    with pytest.raises(InvalidOptionError, match=rf"Port {viewer.address.port} of 127.0.0.1 cannot be used"):
        ViewerServer([], port=viewer.address.port)


@pytest.mark.parametrize("path", ["", "viewer.js", "filter.js", "viewer.css", "uplot.js", "uplot.css", "api/datasets"])
def test_nothing_is_answered_without_the_token(viewer, path):
    assert viewer.request(path)[0] == 200
    for token in ("", "wrong", viewer.address.path.strip("/")[:-1], viewer.address.path.strip("/") + "x"):
        assert viewer.request(f"/{token}/{path}", absolute=True)[0] == 404


def test_a_foreign_host_name_is_refused(viewer):
    """A name that an attacker lets resolve to 127.0.0.1 is the origin of the attacker's page."""
    for host in ("attacker.example", "127.0.0.1.attacker.example", "localhost.attacker.example:80", "", "127.0.0.1:x"):
        assert viewer.request("", Host=host)[0] == 404, host
    for host in ("127.0.0.1:1234", "localhost", "LOCALHOST:9999", "[::1]:80"):  # ssh -L may take another port
        assert viewer.request("", Host=host)[0] == 200, host


@pytest.mark.parametrize(
    "path",
    [
        "../rlhive.json",
        "%2e%2e/rlhive.json",
        "page/viewer.js",
        "uplot-LICENSE.txt",
        "viewer.js/../../_server.py",
        "/etc/passwd",
        "api/../viewer.js",
        "api",
        "api/read",
    ],
)
def test_no_path_reaches_the_file_system(viewer, path):
    assert viewer.request(path)[0] == 404


def test_the_page_may_load_its_own_files_only(viewer):
    headers = viewer.request("")[1]
    policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))

    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"


def test_the_page_names_no_other_machine():
    for name in ("index.html", "viewer.js", "viewer.css", "uplot.css"):
        text = _server.read_page_file(name).decode()
        assert "https://" not in text, name
        assert "innerHTML" not in text
        assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert b"MIT License" in _server.read_page_file("uplot-LICENSE.txt")


def test_flags_are_taken_as_json_only(viewer):
    value = {"dataset": 0, "flagged": [3]}

    assert viewer.send(value)[0] == 200
    status, answer = viewer.send(value, **{"Content-Type": "text/plain"})  # what a form of another site can send
    assert (status, answer) == (415, {"error": "expected application/json"})
    assert viewer.request("api/datasets", method="POST", body="{}")[0] == 404
    assert viewer.request("api/flags", method="PUT", body="{}")[0] == 501


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"dataset": "0", "flagged": []},
        {"dataset": 0, "flagged": [True]},
        {"dataset": 0, "flagged": ["3"]},
    ],
)
def test_flags_of_another_form_are_refused(viewer, value):
    status, answer = viewer.send(value)

    assert status == 200
    assert 'expected {"dataset": 0, "flagged": [3, 17]}' in answer["error"]


def test_a_long_body_is_not_read(viewer):
    with socket.create_connection((viewer.address.hostname, viewer.address.port), timeout=10) as client:
        head = f"POST {viewer.address.path}api/flags HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        client.sendall(f"{head}Content-Length: 99999999999\r\n\r\n".encode())
        answer = b"".join(iter(lambda: client.recv(65536), b"")).decode()  # until the server closes the connection

    assert " 200 " in answer.splitlines()[0]
    assert "expected a body of at most 1,048,576 bytes" in answer


def test_an_answer_is_bounded(viewer, monkeypatch):
    monkeypatch.setattr(_server, "MAX_ANSWER_BYTES", 1000)

    assert "more than is sent" in viewer.refused("episodes")


def test_an_error_of_rlhive_is_a_sentence_and_another_one_a_hint(viewer, monkeypatch, caplog):
    def fail(self):
        raise ZeroDivisionError

    assert viewer.refused("series?episode=99") == (
        "There is no episode 99 in splits expert, medium, random. dataset.episodes lists the ids."
    )
    assert "episode='-1': expected an integer" in viewer.refused("series?episode=-1")
    assert "dataset=1: expected 0 to 0" in viewer.refused("episodes?dataset=1")
    monkeypatch.setattr(ViewedDataset, "episodes", fail)
    status, _, content = viewer.request("api/episodes")
    assert (status, json.loads(content)) == (500, {"error": "an error of RLHive; the terminal shows it"})
    assert "ZeroDivisionError" in caplog.text
