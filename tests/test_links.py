"""Links between the pages lead to a file, and to a heading of it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks/README.md",
]
LINK = re.compile(r"\]\(([^)\s]+)\)|\{download\}`[^`]*<([^>]+)>`")
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def find_links(page):
    text = FENCED.sub("", page.read_text("utf-8"))
    links = [link or download for link, download in LINK.findall(text)]
    return [link for link in links if not re.match(r"[a-z]+:", link)]


def find_anchors(page):
    """Return the anchors of a page's headings, as GitHub and MyST make them."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text("utf-8")), re.MULTILINE)
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_page_leads_to_it(page):
    broken = []
    for link in find_links(page):
        name, _, anchor = link.partition("#")
        target = page if not name else (page.parent / name)
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in find_anchors(target)):
            broken.append(link)

    assert broken == []


def test_a_broken_link_is_seen(tmp_path):
    (tmp_path / "a.md").write_text("# One `two` (three)\n[x](b.md) [y](#one-two-three) {download}`z <c.ipynb>`\n")

    assert find_links(tmp_path / "a.md") == ["b.md", "#one-two-three", "c.ipynb"]
    assert find_anchors(tmp_path / "a.md") == {"one-two-three"}
