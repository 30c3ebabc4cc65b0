"""A collection by the command line that Ctrl-C ends after its first job, and that is resumed."""

import os
import re
import subprocess
import sys

from rlhive.data.versions import Manifest
from rlhive.rollouts import collect

CTRL_C = """
import os, signal, sys
import rlhive.cli
from rlhive.rollouts import _collect

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
add = _collect._Tally.add

def add_and_be_interrupted(self, results):
    add(self, results)
    if self._steps:
        os.kill(os.getpid(), signal.SIGINT)

_collect._Tally.add = add_and_be_interrupted
sys.argv = ["rlhive", "collect", "toy_point", *sys.argv[1:]]
rlhive.cli.main()
"""


def check_that_ctrl_c_can_be_resumed(store, caplog, *options):
    """Interrupt ``rlhive collect toy_point`` with some options, and resume it with worker processes."""
    environment = os.environ | {"RLHIVE_DATASETS_PATH": str(store)}
    command = [sys.executable, "-c", CTRL_C, *options]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)

    assert ran.returncode == 130, ran.stderr
    assert "Run the same command again to resume" in ran.stderr
    assert not list(store.glob("robohive/*/*/*"))
    assert Manifest.read(collect("toy_point", store=store, progress=False)).num_episodes == 24
    [num_recorded] = re.findall(r"resuming after (\d+) of 24 recorded episodes", caplog.text)
    assert int(num_recorded) >= 5  # the job whose result the parent had received
