"""No class or module-level function of rlhive/ has the name of another one, unless both mean the same."""

import ast
import collections
from pathlib import Path

import rlhive

ROOT = Path(rlhive.__file__).parent

#: Names that may stand twice, and why.
ALLOWED = {
    **dict.fromkeys(
        (
            "check",
            "collect",
            "delete",
            "diff",
            "embed",
            "evaluate",
            "export_to",
            "merge",
            "pull",
            "push",
            "release",
            "replay",
            "scrub",
            "setup",
            "train",
            "versions",
        ),
        "the verb of the command line has the name of the function that it calls",
    ),
    "main": "the entry point of a command",
}


def definitions():
    """Return the modules that define each name."""
    modules = collections.defaultdict(list)
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                modules[node.name].append(str(path.relative_to(ROOT)))
    return modules


def test_no_name_is_defined_twice():
    repeated = {name: modules for name, modules in definitions().items() if len(modules) > 1}

    assert {name: modules for name, modules in repeated.items() if name not in ALLOWED} == {}
    assert sorted(ALLOWED.keys() - repeated.keys()) == [], "names that need no exception any more"


def test_a_verb_shares_its_name_with_one_function_only():
    for name, modules in definitions().items():
        if ALLOWED.get(name, "").startswith("the verb"):
            assert len(modules) == 2, (name, modules)
            assert sum(module.startswith("cli/") for module in modules) == 1, (name, modules)
