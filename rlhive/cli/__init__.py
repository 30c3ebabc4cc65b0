"""The ``rlhive`` command: one verb per step of the flow. Thin: every verb calls a public function of a room."""

from rlhive.cli.app import app, main

__all__ = ["app", "main"]
