"""``python -m rlhive.cli`` is the ``rlhive`` command."""

from rlhive.cli._app import main

main()
