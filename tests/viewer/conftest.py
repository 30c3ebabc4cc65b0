"""A viewer of the toy dataset, and requests to its server."""

import http.client
import json
from urllib.parse import urlsplit

import pytest

from rlhive.viewer import ViewedDataset, ViewerServer


class Client:
    """Requests to a viewer's server; its paths are relative to the page."""

    def __init__(self, url):
        self.url = url
        self.address = urlsplit(url)

    def request(self, path, *, method="GET", body=None, absolute=False, **headers):
        """Return status, headers and body."""
        connection = http.client.HTTPConnection(self.address.hostname, self.address.port, timeout=30)
        target = path if absolute else f"{self.address.path}{path}"
        connection.request(method, target, body, headers)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return response.status, response.headers, content

    def ask(self, path):
        """Return the JSON of an answer."""
        status, _, content = self.request(f"api/{path}")
        answer = json.loads(content)
        assert status == 200, content
        assert "error" not in answer, answer
        return answer

    def refused(self, path):
        """Return the sentence with which a question is refused."""
        status, _, content = self.request(f"api/{path}")
        assert status == 200, (status, content)
        return json.loads(content)["error"]

    def send(self, value, **headers):
        """Return status and JSON of a POST of flags."""
        headers = {"Content-Type": "application/json"} | headers
        status, _, content = self.request("api/flags", method="POST", body=json.dumps(value), **headers)
        return status, json.loads(content)


@pytest.fixture
def version(filled):
    """The folder of toy_point 1.0.0."""
    return filled / "robohive" / "toy_point" / "1.0.0"


@pytest.fixture
def viewer(version):
    """A client of a viewer of toy_point."""
    with ViewerServer([ViewedDataset(version)]) as server:
        yield Client(server.url)
