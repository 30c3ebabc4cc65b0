"""The command in a process with the Hub's unmodified client."""

import pytest

TYPE = """
import os
os.environ["RLHIVE_DATASETS_PATH"], os.environ["COLUMNS"] = store, "200"
from typer.testing import CliRunner
from rlhive.cli import app
ran = CliRunner().invoke(app, words)
answer = [ran.exit_code, ran.stdout, ran.stderr]
"""


@pytest.fixture
def rlhive(online, store):
    """Run ``rlhive …`` and return status, output and errors."""

    def run(*words, at=store):
        return online.run(TYPE, store=str(at), words=[str(word) for word in words])

    return run
