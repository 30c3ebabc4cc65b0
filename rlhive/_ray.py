"""Connecting to a Ray cluster, which is optional: nothing here imports Ray before it is asked for."""

import os
import re
import socket
from typing import Any

from rlhive._extras import require_extra
from rlhive.errors import ClusterUnreachableError, InvalidOptionError

#: Seconds after which an address counts as one where no cluster answers.
TIMEOUT_S = 10.0
#: What a gRPC connection begins with in both directions: HTTP/2's preface, and a frame of settings.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_FRAME_HEADER_BYTES, _FRAME_TYPE, _SETTINGS = 9, 3, 4
_ADDRESS = re.compile(r"(?:ray://)?(?P<host>[^\s:/]+|\[[0-9a-fA-F:]+\]):(?P<port>[0-9]{1,5})/?")


def require_ray() -> Any:
    """Return the module ``ray``.

    Raises:
        MissingExtraError: It is not installed.
    """
    with require_extra("Ray is not installed: pip install 'rlhive[ray]'"):
        import ray
    return ray


def connect_ray(address: str | None = None) -> bool:
    """Connect this process to a Ray cluster, unless it is connected to one.

    Args:
        address: ``"host:6379"`` or ``"ray://host:10001"`` of a running cluster, or ``"auto"`` for the one of this
            machine, or ``"local"`` for a new one. By default ``$RAY_ADDRESS``, then the cluster that was last started
            on this machine and still runs; without any Ray starts here, on all cores.

    Returns:
        Whether this call connected, so that the caller should call ``ray.shutdown()`` at the end.

    Raises:
        MissingExtraError: Ray is not installed.
        InvalidOptionError: The address has another form.
        ClusterUnreachableError: No cluster answers at the address.
    """
    ray = require_ray()
    if ray.is_initialized():
        return False
    address = address or os.environ.get("RAY_ADDRESS") or None
    if address not in (None, "auto", "local"):
        _require_answer(str(address))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster that is started here reports to nobody
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        msg = f"Ray at {address or 'this machine'}: expected a cluster of Ray {ray.__version__}, got: {error}"
        raise ClusterUnreachableError(msg) from error
    return True


def _require_answer(address: str) -> None:
    """Raise unless a gRPC server answers at an address. Where none does, ``ray.init`` ends the process after minutes.

    Raises:
        InvalidOptionError: The address has another form.
        ClusterUnreachableError: Nothing answers, or something else than a gRPC server.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None or not 0 < int(match["port"]) < 2**16:
        msg = f"address {address!r}: expected HOST:PORT or ray://HOST:PORT of a Ray cluster, or auto"
        raise InvalidOptionError(msg)
    try:
        with socket.create_connection((match["host"].strip("[]"), int(match["port"])), TIMEOUT_S) as connection:
            if os.environ.get("RAY_USE_TLS", "0") != "0":  # an encrypted connection begins otherwise
                return
            connection.sendall(_PREFACE)
            reply = connection.recv(_FRAME_HEADER_BYTES)
    except OSError as error:
        msg = f"No Ray cluster answers at {address}: {error}. `ray start --head` on a machine starts one."
        raise ClusterUnreachableError(msg) from error
    if len(reply) <= _FRAME_TYPE or reply[_FRAME_TYPE] != _SETTINGS:
        msg = f"No Ray cluster answers at {address}: expected its gRPC server, got {reply!r}."
        raise ClusterUnreachableError(msg)
