"""The verb: what it prints, and how it ends."""

import re

import pytest

from rlhive.viewer import ViewerServer
from tests.cli.conftest import invoke


@pytest.fixture
def opened(monkeypatch):
    """Addresses that were opened in a browser; serving ends at once, as by Ctrl-C."""

    def interrupt(self):
        raise KeyboardInterrupt

    addresses = []
    monkeypatch.setattr("webbrowser.open", addresses.append)
    monkeypatch.setattr(ViewerServer, "serve_forever", interrupt)
    monkeypatch.setattr(ViewerServer, "close", lambda self: self._server.server_close())
    return addresses


def test_the_address_and_the_way_over_ssh_are_printed(version, opened):
    ran = invoke("view", version)
    address, port = re.search(r"toy_point 1\.0\.0: (http://127\.0\.0\.1:(\d+)/[\w-]{22}/)", ran.stdout).groups()

    assert ran.exit_code == 0, ran.stderr
    assert opened == [address]
    assert f"ssh -L {port}:127.0.0.1:{port} " in ran.stdout
    assert ran.stdout.endswith("The viewer has ended.\n")


def test_no_browser_is_opened_where_none_is_wanted(version, opened):
    ran = invoke("view", version, version, "--no-browser", "--split", "expert")

    assert ran.stdout.startswith("robohive/toy_point 1.0.0 beside robohive/toy_point 1.0.0: http://127.0.0.1:")
    assert opened == []


def test_what_cannot_be_shown_is_a_sentence(version, opened):
    assert "Nearest: toy_point" in invoke("view", "toy_pont").stderr
    assert "has no split" in invoke("view", version, "--split", "none").stderr
    assert "there is no column retrun" in invoke("view", version, "--where", "retrun > 1").stderr
