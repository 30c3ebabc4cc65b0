"""Client side of a peer process: start it and send requests over a pipe."""

import contextlib
import json
import os
import select
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.peers.environments import PEERS, ROOT, TRAINERS


class PeerFailedError(RuntimeError):
    """A peer raised an error, died, or did not answer in time; the message says which."""


class NotOfferedError(RuntimeError):
    """A peer does not support the request; the message gives the reason."""


class PeerProcess:
    """A peer's adapter in a process with its own interpreter; a context manager.

    Args:
        peer: Name of the adapter module.
        source: Folder of the episodes.
        folder: Parent of the peer's folder and of ``PEER.log``, which holds the output of its libraries.
        timeout_s: Time limit of a request; a slower process is killed.
        threads: Number of threads of BLAS, OpenMP and torch; None leaves each library's default.

    Raises:
        NotOfferedError: The peer's environment is not installed.
    """

    def __init__(self, peer: str, source: Path, folder: Path, *, timeout_s: float = 600, threads: int | None = 1):
        self.peer, self._timeout_s = peer, timeout_s
        limits = {} if threads is None else dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
        environment = (PEERS | TRAINERS)[peer]
        if not environment.installed:
            msg = f"{peer} is not installed: python -m benchmarks.peers.environments {peer}"
            raise NotOfferedError(msg)
        Path(folder).mkdir(parents=True, exist_ok=True)
        self._log = (Path(folder) / f"{peer}.log").open("ab")
        command = [str(environment.python), "-m", "benchmarks.peers.worker", peer, str(source), str(folder / peer)]
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1"} | limits,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )

    def ask(self, do: str, **arguments: Any) -> Any:
        """Send one request and wait for its answer.

        Raises:
            NotOfferedError: The peer does not support the request.
            PeerFailedError: The peer raised an error, died or took too long.
        """
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            msg = f"{self.peer} is no longer running; see {self._log.name}"
            raise PeerFailedError(msg) from error
        if not select.select([self._process.stdout], [], [], self._timeout_s)[0]:
            self._process.kill()
            msg = f"{self.peer} took more than {self._timeout_s:g} s to {do}"
            raise PeerFailedError(msg)
        line = self._process.stdout.readline()
        if not line:
            msg = f"{self.peer} died with status {self._process.wait()} during {do} {arguments}; see {self._log.name}"
            raise PeerFailedError(msg)
        reply = json.loads(line)
        if "unavailable" in reply:
            raise NotOfferedError(reply["unavailable"])
        if "error" in reply:
            self._log.write(reply["traceback"].encode())
            self._log.flush()
            msg = f"{self.peer} {do} {arguments}: {reply['error'][:600]}"
            raise PeerFailedError(msg)
        return reply["ok"]

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()

    def __enter__(self) -> "PeerProcess":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
