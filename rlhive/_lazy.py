"""Public names of a package, listed once and imported when they are first used.

A package lists its API as imports in an ``if TYPE_CHECKING:`` block of its ``__init__``, where editors and type
checkers read them. At run time that block is the table from a name to the module that defines it, so that importing a
package imports none of its modules (PEP 562)::

    if TYPE_CHECKING:
        from rlhive.data._schema import Field as Field, Schema as Schema
    else:
        __getattr__, __dir__, __all__ = attach(__name__, __file__)
"""

import ast
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def attach(package: str, init_path: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return ``__getattr__``, ``__dir__`` and ``__all__`` of a package.

    Args:
        package: Its ``__name__``.
        init_path: Its ``__file__``.
    """
    module_of = _listed_names(Path(init_path).read_text(encoding="utf-8"))

    def get(name: str) -> Any:
        if name not in module_of:
            msg = f"module {package!r} has no attribute {name!r}"
            raise AttributeError(msg, name=name, obj=sys.modules[package])
        return getattr(importlib.import_module(module_of[name]), name)

    return get, lambda: sorted({*vars(sys.modules[package]), *module_of}), sorted(module_of)


def _listed_names(source: str) -> dict[str, str]:
    """Return the module of every name that is imported in the ``if TYPE_CHECKING:`` block of a source text."""
    blocks = [node for node in ast.parse(source).body if isinstance(node, ast.If)]
    imports = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}
