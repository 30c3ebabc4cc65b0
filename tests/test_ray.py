"""Connecting to a Ray cluster: what is missing or does not answer is a sentence."""

import socket
import sys
import threading
import time

import pytest

from rlhive._ray import connect_ray, require_ray
from rlhive.errors import ClusterUnreachableError, InvalidOptionError, MissingExtraError
from rlhive.rollouts import collect
from tests.cli.conftest import invoke


def test_without_ray_it_is_refused_with_what_to_type(monkeypatch, store):
    monkeypatch.setitem(sys.modules, "ray", None)

    with pytest.raises(MissingExtraError, match=r"pip install 'rlhive\[ray\]'"):
        require_ray()
    with pytest.raises(MissingExtraError, match=r"pip install 'rlhive\[ray\]'"):
        collect("toy_point", backend="ray")
    ran = invoke("collect", "toy_point", "--backend", "ray")
    assert ran.exit_code == 1
    assert ran.stderr == "error: Ray is not installed: pip install 'rlhive[ray]'\n"
    assert not store.exists()


@pytest.fixture
def answering():
    """Start servers on the loopback interface that answer with some bytes; None is silence."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def start(reply):
            def serve():
                connection, _ = server.accept()
                if reply is not None:
                    connection.sendall(reply)
                held.append(connection)

            threading.Thread(target=serve, daemon=True).start()
            return f"127.0.0.1:{server.getsockname()[1]}"

        held = []
        yield start
        for connection in held:
            connection.close()


@pytest.mark.parametrize("reply", [None, b"", b"-ERR unknown command 'PRI'\r\n", b"SSH-2.0-OpenSSH_9.6\r\n"])
def test_a_server_that_is_no_ray_cluster_is_named_before_the_time_is_up(reply, answering, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setattr("rlhive._ray.TIMEOUT_S", 0.5)
    address = answering(reply)

    started = time.monotonic()
    with pytest.raises(ClusterUnreachableError, match=f"No Ray cluster answers at {address}: "):
        connect_ray(address)
    assert time.monotonic() - started < 5


def test_an_address_where_nobody_listens_is_a_sentence(store):
    pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"

    for text in (address, f"ray://{address}"):
        ran = invoke("collect", "toy_point", "--backend", "ray", "--address", text)
        assert ran.exit_code == 1
        assert ran.stderr.startswith(f"error: No Ray cluster answers at {text}: ")
        assert "ray start --head" in ran.stderr
    assert not store.exists()


def test_the_address_of_the_environment_is_the_default(monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "nowhere")

    with pytest.raises(InvalidOptionError, match="'nowhere': expected HOST:PORT"):
        connect_ray()


@pytest.mark.parametrize("address", ["host", "host:", "host:0", "host:65536", "http://host:1", ":6379", "a b:1"])
def test_addresses_of_another_form_are_refused(address):
    pytest.importorskip("ray")
    with pytest.raises(InvalidOptionError, match="expected HOST:PORT or ray://HOST:PORT"):
        connect_ray(address)


def test_backends_that_do_not_exist_or_take_no_address_are_refused(store):
    with pytest.raises(InvalidOptionError, match="backend='spark': expected one of processes, ray"):
        collect("toy_point", backend="spark")
    with pytest.raises(InvalidOptionError, match="address='host:1': expected none with backend='processes'"):
        collect("toy_point", address="host:1")
    assert not store.exists()
