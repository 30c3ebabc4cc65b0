"""The documentation site: built without a warning, with every public name and every verb."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import rlhive
from rlhive.cli import app

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    pytest.importorskip("sphinx")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-d", str(folder / "trees")]
    ran = subprocess.run([*command, str(ROOT / "docs"), str(folder / "html")], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return folder / "html"


def test_the_reference_names_everything_that_is_public(site) -> None:
    text = (site / "reference" / "rlhive.html").read_text("utf-8")
    for name in rlhive.__all__:
        if name != "__version__":
            documented = re.search(rf'<span class="descname"><span class="pre">{name}</span>', text)
            assert documented or re.search(rf'class="sig-name descname"><span class="pre">{name}</span>', text), name
    commands = re.sub("<[^>]+>", "", (site / "reference" / "cli.html").read_text("utf-8"))
    for command in app.registered_commands:
        assert f"rlhive {command.name}" in commands
    assert (
        "score: Score the episodes by quality, for --where." in commands
    )  # a whole sentence, and an option's two dashes


def test_nothing_is_fetched_from_elsewhere(site) -> None:
    for page in site.rglob("*.html"):
        parser = _Resources()
        parser.feed(page.read_text("utf-8"))
        foreign = [url for url in parser.urls if url.startswith(("http:", "https:", "//"))]
        assert not foreign, (page, foreign)


class _Resources(HTMLParser):
    """The addresses of the scripts, styles and pictures of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in ("script", "img"):
            self.urls.append(values.get("src") or "")
        if tag == "link" and values.get("rel") in ("stylesheet", "icon", "preload"):
            self.urls.append(values.get("href") or "")
