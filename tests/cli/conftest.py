"""Fixtures that run the command in this process, or in a process with the Hub's unmodified client."""

import pytest
from typer.testing import CliRunner

TYPE = """
import os
os.environ["RLHIVE_DATASETS_PATH"], os.environ["COLUMNS"] = store, "200"
from typer.testing import CliRunner
from rlhive.cli import app
ran = CliRunner().invoke(app, words)
answer = [ran.exit_code, ran.stdout, ran.stderr]
"""


def invoke(*words):
    """Run ``rlhive …`` in this process."""
    from rlhive.cli import app

    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def rlhive(online, store):
    """Run ``rlhive …`` and return status, output and errors."""

    def run(*words, at=store):
        return online.run(TYPE, store=str(at), words=[str(word) for word in words])

    return run
