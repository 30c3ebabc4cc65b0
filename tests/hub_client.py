"""Client processes of a Hub. huggingface_hub reads its environment at import, so each environment needs a process.

One process imports the slow packages and forks a client per environment, so that imports are paid for once.
"""

import contextlib
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Client as connect, Connection, Listener
from pathlib import Path
from typing import Any

TOKEN = "hf_secretSecretSecret0123456789"


def read_files(folder):
    """Return the bytes of every file of a version by its path, without the pin."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != ".hub.json")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


class ClientError(Exception):
    """Error in a client's process.

    Attributes:
        kind: Name of the error's class.
        message: Its message.
        traceback: The complete traceback.
    """

    def __init__(self, kind: str, message: str, traceback: str):
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        self.message = message
        self.traceback = traceback


class HubClient:
    """A process with its own environment variables that runs Python statements.

    Attributes:
        pid: Id of the process.
        log: File with the output of the process.
    """

    def __init__(self, pipe: Connection, log: Path):
        self._pipe = pipe
        self.log = log
        self.pid: int = pipe.recv()

    def run(self, source: str, **scope: Any) -> Any:
        """Run statements and return the value of ``answer`` after them.

        Args:
            source: The statements.
            **scope: Values of global names.

        Raises:
            ClientError: The statements raised an error.
            EOFError: The process died.
        """
        self._pipe.send((source, scope))
        answer, error = self._pipe.recv()
        if error is not None:
            raise ClientError(*error)
        return answer

    def kill(self) -> None:
        """Kill the process, as a power failure would."""
        os.kill(self.pid, signal.SIGKILL)


class Clients:
    """Context manager of the process that forks clients.

    Args:
        folder: Folder of sockets, logs and the Hub client's cache.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._count = 0
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen([sys.executable, "-m", __name__], **pipes)
        assert self._process.stdout.readline() == "ready\n"

    def start(self, endpoint: str, **environment: str) -> HubClient:
        """Fork a client of a Hub.

        Args:
            endpoint: Address of the Hub.
            **environment: Environment variables beside the defaults: a token, no xet, the cache of this folder. An
                empty value unsets a variable.
        """
        self._count += 1
        address, log = self._folder / f"{self._count}.socket", self._folder / f"{self._count}.log"
        variables = {
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(self._folder / "hf-home"),
            "HF_TOKEN": TOKEN,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
        with Listener(str(address)) as listener:
            self._process.stdin.write(f"{[str(address), str(log), variables | environment]!r}\n")
            self._process.stdin.flush()
            return HubClient(listener.accept(), log)

    def __enter__(self) -> "Clients":
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def _serve(address: str, log: str, environment: Mapping[str, str]) -> None:
    """Run statements from a connection until it is closed."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    for name, value in environment.items():
        os.environ[name] = value
        if not value:
            del os.environ[name]
    from rlhive import RoboHiveDataset  # noqa: F401
    from rlhive.data.hub import _client

    _client.BACKOFF_S = (0.01, 0.02)
    with connect(address) as pipe, contextlib.suppress(EOFError, ConnectionError):
        pipe.send(os.getpid())
        while True:
            source, scope = pipe.recv()
            try:
                exec(source, scope)
                pipe.send((scope.get("answer"), None))
            except BaseException as error:
                pipe.send((None, (type(error).__name__, str(error), traceback.format_exc())))


def _requests() -> Iterator[list]:
    for line in sys.stdin:
        yield eval(line)  # a line that Clients.start wrote


if __name__ == "__main__":
    from rlhive import collect  # noqa: F401  # torch, torchrl, tensordict and pyarrow
    from rlhive.data.replay import make_replay_buffer  # noqa: F401

    assert not {"huggingface_hub", "datasets"} & sys.modules.keys()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    os.write(1, b"ready\n")
    for address, log, environment in _requests():
        if not os.fork():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _serve(address, log, environment)
            os._exit(0)
