"""The ``rlhive`` command: one verb per step of the flow, each a thin call of a public function."""

from typing import TYPE_CHECKING

from rlhive._lazy import attach

if TYPE_CHECKING:
    from rlhive.cli._app import app as app, main as main
else:
    __getattr__, __dir__, __all__ = attach(__name__, __file__)
