"""The documentation site: `make docs` builds it into build/site, without network. Why Sphinx: decisions/039."""

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
from typer.cli import get_docs_for_click

import rlhive
from rlhive.cli import app

DOCS = Path(__file__).parent

project = "RLHive"
author = copyright = "the RLHive authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "RLHive"
html_static_path = ["_static"]
html_css_files = ["site.css"]
smartquotes_action = "qe"  # quotes and ellipses, and no dashes: --where is an option
exclude_patterns = ["conf.py"]
myst_heading_anchors = 3
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_use_rtype = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": False, "exclude-members": "count, index"}
python_display_short_literal_types = True
maximum_signature_line_length = 90
# Docstrings are written for people: what looks like an unfinished inline mark in them is none.
suppress_warnings = ["docutils", "ref.python", "myst.xref_missing"]

#: Page → package whose public names it describes.
PACKAGES = {
    "rlhive": "rlhive",
    "envs": "rlhive.envs",
    "sim_algos": "rlhive.sim_algos",
    "policies": "rlhive.policies",
    "errors": "rlhive.errors",
}


def setup(app: Any) -> None:
    """Make the pages of the reference before Sphinx looks for pages."""
    app.connect("config-inited", write_reference)
    app.connect("source-read", name_files_outside)


def write_reference(*_: Any) -> None:
    """Write a page for every package and one for the command line."""
    folder = DOCS / "reference"
    folder.mkdir(exist_ok=True)
    for page, package in PACKAGES.items():
        (folder / f"{page}.md").write_text(describe_package(package), encoding="utf-8")
    (folder / "cli.md").write_text(describe_commands(), encoding="utf-8")


def name_files_outside(_app: Any, _page: str, source: list[str]) -> None:
    """Name files outside the site in place of links to them."""
    source[0] = re.sub(
        r"\[([^\]]*)\]\((?:\.\./)+((?:examples|benchmarks|rlhive|tests|\w+\.md)[^)]*)\)", r"`\2`", source[0]
    )


def describe_package(name: str) -> str:
    """Return a page with the public names of a package, those of `rlhive` itself on its own page alone."""
    package = importlib.import_module(name)
    names = getattr(package, "__all__", None) or [
        key for key, value in vars(package).items() if getattr(value, "__module__", None) == name and key[0] != "_"
    ]
    elsewhere = {"__version__"} if name == "rlhive" else {getattr(rlhive, key) for key in rlhive.__all__}
    members = {key: getattr(package, key) for key in sorted(names, key=str.lower)}
    members = {key: value for key, value in members.items() if _is_first(key, value, members)}
    sections = [
        f"```{{eval-rst}}\n.. auto{_kind(value)}:: {name}.{key}\n{_options(value)}```"
        for key, value in members.items()
        if key not in elsewhere and not _is_in(value, elsewhere)
    ]
    return "\n\n".join([f"# {name}", *sections]) + "\n"


def _is_first(key: str, value: object, members: Mapping[str, Any]) -> bool:
    """Whether no earlier name of the page stands for the same object."""
    return next(other for other, it in members.items() if it is value) == key


def _is_in(value: object, values: set[Any]) -> bool:
    return callable(value) and value in values


def _options(value: object) -> str:
    """Leave out the fields of a named tuple, which its docstring describes."""
    fields = getattr(value, "_fields", ())
    return f"   :exclude-members: {', '.join(fields)}\n" if fields else ""


def _kind(value: object) -> str:
    if isinstance(value, type):
        return "exception" if issubclass(value, BaseException) else "class"
    return "function" if callable(value) else "data"


def describe_commands() -> str:
    """Return a page with every verb of the command line and its options."""
    command = typer.main.get_command(app)
    text: str = get_docs_for_click(obj=command, ctx=typer.Context(command, info_name="rlhive"), name="rlhive")
    for name, verb in command.commands.items():  # typer cuts the sentences of its list
        text = re.sub(
            rf"^\* `{name}`: .*$", f"* `{name}`: {verb.get_short_help_str(200)}", text, count=1, flags=re.MULTILINE
        )
    return text.replace("# `rlhive`", "# The command line", 1)
