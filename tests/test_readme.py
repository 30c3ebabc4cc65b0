"""Commands, links and code in the README and in docs/ work."""

import re
from pathlib import Path
from unittest import mock

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += sorted((ROOT / "docs/benchmark").glob("*.md"))
#: Pages whose blocks train; tests/benchmarks and tests/test_tutorial.py run them.
TRAINING_PAGES = ("extending.md", "tutorial.md")


def python_blocks():
    for page in PAGES:
        if page.name in TRAINING_PAGES:
            continue
        for number, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)):
            yield pytest.param(code, id=f"{page.name}-{number}")


def test_the_readme_is_short():
    assert len(README.split()) <= 1_250


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_into_the_repository_leads_somewhere(page):
    links = [link for link in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")) if "://" not in link]

    assert len(links) >= (12 if page.name == "README.md" else 0)
    assert [link for link in links if not (page.parent / link.partition("#")[0]).exists()] == []


def test_every_command_exists():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"(?:^|`)make ([a-z]+)", README, re.MULTILINE))
    from rlhive.cli import app

    verbs = {command.name or command.callback.__name__ for command in app.registered_commands}
    used = set(re.findall(r"`rlhive (\w+)", README))

    assert {"quickstart", "test", "help", "latest"} <= targets
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
    assert {"setup", "collect", "show", "train", "evaluate"} <= verbs & used


@pytest.mark.parametrize("code", list(python_blocks()))
def test_every_python_block_runs(code, tmp_path, monkeypatch):
    """On the toy where a block would collect a kitchen: 300 episodes are the quickstart's job."""
    from rlhive.envs import _tasks

    monkeypatch.chdir(tmp_path)  # for the files that a block writes
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
