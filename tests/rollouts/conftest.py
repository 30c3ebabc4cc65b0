"""A version of six toy episodes, collected once."""

from dataclasses import replace

import pytest

from rlhive.envs._tasks import Recipe, get_task
from rlhive.rollouts._collect import collect

FEW = replace(get_task("toy_point"), recipe=Recipe("1.0.0", {"expert": 3, "random": 3}, "mit"))


@pytest.fixture(scope="session")
def version(tmp_path_factory):
    """Folder of the version."""
    return collect(FEW, store=tmp_path_factory.mktemp("version"), progress=False, num_workers=1)
