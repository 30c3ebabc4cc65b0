"""The tutorial's blocks run in one session, and print what the page shows."""

import contextlib
import io
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs/tutorial.md"
#: A block, and what the page says that it prints.
BLOCKS = re.compile(r"```python\n(?P<code>.*?)```(?:\n\n```text\n(?P<printed>.*?)```)?", re.DOTALL)
#: Less than the page trains and evaluates: the numbers that depend on it are not compared.
SHORTER = (("train.num_steps=2000", "train.num_steps=100"), ("num_episodes=20", "num_episodes=4"))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_every_block_prints_what_the_page_shows(store, tmp_path, monkeypatch, opengl):
    pytest.importorskip("robohive")
    monkeypatch.chdir(tmp_path)
    scope, compared = {}, 0
    for block in BLOCKS.finditer(PAGE.read_text("utf-8")):
        code = block["code"]
        for long, short in SHORTER:
            code = code.replace(long, short)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, PAGE.name, "exec"), scope)
        if block["printed"] and code == block["code"]:
            assert printed.getvalue() == block["printed"]
            compared += 1

    assert compared == 5
    assert {path.name for path in tmp_path.iterdir()} >= {"returns.png", "episode.gif", "bc", "iql"}
