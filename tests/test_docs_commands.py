"""The commands that the documentation prints exist: verbs with their options, make targets, modules and scripts."""

import importlib.util
import re
import shlex

import pytest
import typer

from benchmarks.peers.environments import ROOT
from rlhive.cli import app

PAGES = [ROOT / "README.md", ROOT / "benchmarks/README.md", *sorted(ROOT.glob("docs/**/*.md"))]
COMMANDS = typer.main.get_command(app).commands
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))

#: Verbs that also take the options of Hydra, or of a kind of files.
OPEN_VERBS = {"train", "import", "export-to"}


def list_commands():
    """Yield page and words of every command in a block of bash."""
    for page in PAGES:
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):  # variables of the environment
                    words = words[1:]
                if words:
                    yield page.relative_to(ROOT).as_posix(), words


def find_problem(words):
    """Return what is wrong with a command of this project; None for other programs."""
    program, *arguments = words
    if program == "make":
        targets = [word for word in arguments if not word.startswith("-") and "=" not in word]
        return next((f"no target {target}" for target in targets if target not in TARGETS), None)
    if program == "rlhive":
        return _find_wrong_option(arguments)
    if program.startswith("python") and arguments[:1] == ["-m"] and arguments[1].startswith("benchmarks"):
        return None if importlib.util.find_spec(arguments[1]) else f"no module {arguments[1]}"
    if program.startswith("python") and arguments and "/" in arguments[0]:
        return None if (ROOT / arguments[0]).exists() else f"no file {arguments[0]}"
    return None


def _find_wrong_option(arguments):
    verb, *rest = arguments
    if verb.startswith("-"):
        return None
    if verb not in COMMANDS:
        return f"no verb {verb}"
    options = {name for parameter in COMMANDS[verb].params for name in (*parameter.opts, *parameter.secondary_opts)}
    used = [word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)] if verb not in OPEN_VERBS else []
    return next((f"no option {word}" for word in used if word not in {*options, "--help"}), None)


@pytest.mark.parametrize("page", sorted({page for page, _ in list_commands()}))
def test_every_command_of_a_page_exists(page):
    problems = [(shlex.join(words), find_problem(words)) for name, words in list_commands() if name == page]
    assert not [(command, problem) for command, problem in problems if problem]


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("rlhive shaw kitchen_knob1", "no verb shaw"),
        ("rlhive show kitchen_knob1 --verison 1.0.0", "no option --verison"),
        ("make quickstrat", "no target quickstrat"),
        ("python -m benchmarks.no_such", "no module benchmarks.no_such"),
        ("python benchmarks/no_such.py", "no file benchmarks/no_such.py"),
        ("rlhive show kitchen_knob1 --version 1.0.0", None),
        ("make results TASKS=reach", None),
    ],
)
def test_a_wrong_command_is_found(command, problem):
    assert find_problem(shlex.split(command)) == problem
