"""The notebooks run from top to bottom, and print what they show."""

import contextlib
import io
import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "docs/notebooks"

pytestmark = pytest.mark.slow


def test_there_are_two_notebooks():
    assert sorted(path.name for path in FOLDER.glob("*.ipynb")) == ["look_and_curate.ipynb", "train_and_compare.ipynb"]


@pytest.mark.parametrize("name", ["look_and_curate", "train_and_compare"])
def test_every_cell_of_a_notebook_runs(name, tmp_path, monkeypatch):
    """Printed text is compared where it does not come from a training, whose last bits depend on the processor."""
    pytest.importorskip("matplotlib").use("Agg")
    pytest.importorskip("hydra")
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((FOLDER / f"{name}.ipynb").read_text("utf-8"))
    scope, compared = {}, 0

    assert (notebook["nbformat"], notebook["metadata"]["language_info"]["name"]) == (4, "python")
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile("".join(cell["source"]), name, "exec"), scope)
        shown = "".join(line for output in cell["outputs"] for line in output.get("text", []))
        assert bool(shown) == bool(printed.getvalue())
        if name == "look_and_curate":
            assert printed.getvalue() == shown
            compared += bool(shown)
    assert compared == (3 if name == "look_and_curate" else 0)
