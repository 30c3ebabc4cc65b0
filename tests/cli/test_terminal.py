"""Shared functions of the verbs: the folder of a version, found without opening it, and names for shell completion."""

import io
import json
import os
import subprocess
import sys

import pytest
from rich.table import Table

from rlhive.cli import _terminal
from rlhive.cli._terminal import complete_names, find_folder
from rlhive.errors import DatasetNotFoundError


def test_a_name_a_version_and_a_path_give_the_folder(filled, tmp_path):
    folder = filled / "robohive/toy_point/1.0.0"

    assert find_folder("toy_point", None) == folder
    assert find_folder("robohive/toy_point", "1.0.0") == folder
    assert find_folder(str(folder), None) == folder
    assert find_folder(str(tmp_path / "missing"), None) == tmp_path / "missing"
    with pytest.raises(DatasetNotFoundError, match=r"has no version 2\.0\.0: expected one of 1\.0\.0"):
        find_folder("toy_point", "2.0.0")


def test_a_damaged_version_is_found(filled):
    folder = filled / "robohive/toy_point/1.0.0"
    (folder / "rlhive.json").write_text("[]")

    assert find_folder("toy_point", None) == folder


def test_a_local_version_and_completion_import_neither_torch_nor_the_client_of_the_hub(filled):
    script = """
import sys
from rlhive.cli._terminal import complete_names, find_folder
print(find_folder("toy_point", None).name, *complete_names("toy"), {"torch", "huggingface_hub"} & {*sys.modules})
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert ran.stdout.split() == ["1.0.0", "toy_point", "set()"]


def test_completion_offers_stored_datasets_and_recipes(filled):
    (filled / "org/other/1.0.0").mkdir(parents=True)
    (filled / "org/other/1.0.0/rlhive.json").touch()

    assert list(complete_names("org")) == ["org/other"]
    assert list(complete_names("toy")) == ["toy_point"]
    assert "kitchen_knob1" in list(complete_names(""))


def show(*printed, width=200, **options):
    """Return what the console writes."""
    console = type(_terminal.out)(file=io.StringIO(), width=width, force_terminal=False)
    console.print(*printed, **options)
    return console.file.getvalue()


@pytest.mark.parametrize(
    "text",
    ["data[/x]", "data [old]", "[bold red]hi[/]", "[link=http://evil]x[/link]", "[red", ":bomb:", "a\\[b]", "№ Ünal"],
)
def test_text_is_printed_as_it_is(text):
    table = Table("column [/] " + "-" * 40, title=f"title {text}")
    table.add_row(text)

    assert show(text) == f"{text}\n"
    assert text in show(_terminal.labelled("error:", "bold red", text))
    shown = show(table)
    assert text in shown.splitlines()[-2]
    assert f"title {text}" in shown


@pytest.mark.parametrize("text", ["\x1b[2J", "\x1b]8;;http://evil\x07x", "\x9b31m", "\u202e", "\ud800", "\x7f"])
def test_control_characters_are_printed_escaped(text):
    escaped = text.encode("unicode_escape").decode().replace("x\x1b", "")
    table = Table("", title=text)
    table.add_row(text)

    for printed in (text, table, _terminal.labelled("warning:", "yellow", text)):
        shown = show(printed)
        assert text[0] not in shown
        assert escaped.split("x1b")[-1][:6] in shown
    console = type(_terminal.out)(file=io.StringIO(), width=200)
    console.print_json(json.dumps({"a": text, "b": "Ünal"}))
    assert console.file.getvalue().isascii()
    assert json.loads(console.file.getvalue()) == {"a": text, "b": "Ünal"}


#: What no verb that looks may import, since each takes a tenth of a second to many seconds.
SLOW = {"torch", "torchrl", "robohive", "mujoco", "pandas", "scipy", "datasets", "pyarrow.compute", "pyarrow.dataset"}
ARROW = {"numpy", "pyarrow"}
SMALL = {"filelock", "tqdm"}


@pytest.mark.parametrize(
    ("words", "unwanted"),
    [
        ("--help", {*ARROW, *SMALL, "huggingface_hub", "importlib.metadata"}),
        ("envs", {*ARROW, *SMALL, "huggingface_hub"}),
        ("list", {*ARROW, *SMALL, "huggingface_hub"}),
        ("show toy_point", {*SMALL, "huggingface_hub"}),
        ("show toy_point --json", {*SMALL, "huggingface_hub"}),
        ("versions toy_point", {*ARROW, "huggingface_hub.hf_api"}),
    ],
)
def test_the_verbs_that_look_import_little(filled, words, unwanted):
    script = """
import sys
from rlhive.cli import main
unwanted, sys.argv = sys.argv[1].split(), ["rlhive", *sys.argv[2:]]
try:
    main()
except SystemExit as end:
    assert not end.code
print(sorted({*unwanted} & {*sys.modules}), file=sys.stderr)
"""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "RLHIVE_DATASETS_PATH": str(filled)}
    command = [sys.executable, "-c", script, " ".join(SLOW | unwanted), *words.split()]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert ran.stderr.splitlines()[-1] == "[]"
