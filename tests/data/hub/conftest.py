"""Fixtures of the tests of the Hub."""

import pytest


@pytest.fixture
def versions(two_versions):
    """The folders of two versions of org/knob, by version."""
    return two_versions


@pytest.fixture(scope="module")
def server(hub_server):
    """The Hub, with what earlier tests left."""
    return hub_server


@pytest.fixture(scope="module")
def offline(clients, server):
    """A client with HF_HUB_OFFLINE."""
    return clients.start(server.url, HF_HUB_OFFLINE="1")


@pytest.fixture(scope="module")
def disconnected(clients):
    """A client of a Hub whose port is closed."""
    return clients.start("http://127.0.0.1:1")
