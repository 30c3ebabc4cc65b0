"""``python -m rlhive.cli`` is the ``rlhive`` command."""

from rlhive.cli.app import main

main()
