"""What the README shows is what there is."""

import re
from pathlib import Path
from unittest import mock

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_link_into_the_repository_leads_somewhere():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]

    assert len(links) >= 12
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_command_is_there():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"(?:^|`)make ([a-z]+)", README, re.MULTILINE))
    from rlhive.cli import app

    verbs = {command.name or command.callback.__name__ for command in app.registered_commands}
    used = set(re.findall(r"`rlhive (\w+)", README))

    assert {"quickstart", "test", "help", "latest"} <= targets
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
    assert {"setup", "collect", "show", "train", "evaluate"} <= verbs & used


@pytest.mark.parametrize(
    "code", re.findall(r"```python\n(.*?)```", README, re.DOTALL), ids=lambda code: code.split()[1]
)
def test_every_python_block_runs(code):
    """On the toy where a block would collect a kitchen: 300 episodes are the quickstart's job."""
    from rlhive.envs import _tasks

    code = code.replace("kitchen_knob1", "toy_point").replace('{"random": 100}', '{"random": 2}')
    scope = {}

    with mock.patch.dict(_tasks.TASKS):
        exec(compile(code, "README.md", "exec"), scope)

    for name, value in scope.items():
        if name == "dataset":
            assert len(value) > 0
        if name == "buffer":
            assert value.sample()["action"].shape[0] == 256
        if name == "rollout":
            assert value.shape == (50,)
