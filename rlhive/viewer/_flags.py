"""Episodes that somebody flagged on the page, kept as a condition that ``where`` takes.

The text lies in ``<store>/.flags/<fingerprint>.txt``, beside the dataset, whose folder never changes. It selects the
episodes without a flag: ``episode not in [3, 17]``.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from rlhive.data import store_dir, write_atomically
from rlhive.errors import StoreNotWritableError

_MAX_BYTES = 2**20
_CONDITION = re.compile(r"episode not in \[(\d{1,19}(?:, \d{1,19})*)\]")


def format_condition(flagged: Iterable[int]) -> str:
    """Return the condition that the episodes without a flag meet; empty without flags."""
    episodes = sorted(set(flagged))
    return f"episode not in [{', '.join(map(str, episodes))}]" if episodes else ""


class FlagFile:
    """The flags of a version.

    Args:
        fingerprint: Fingerprint of the version.
        store: Folder of all datasets; the default one by default.
    """

    def __init__(self, fingerprint: str, *, store: Path | None = None) -> None:
        self.path = (store or store_dir()) / ".flags" / f"{fingerprint}.txt"

    def read(self) -> set[int]:
        """Return the flagged episodes; none where the file is missing or holds something else."""
        try:
            if self.path.stat().st_size > _MAX_BYTES:
                return set()
            match = _CONDITION.fullmatch(self.path.read_text(encoding="utf-8").strip())
        except (OSError, ValueError):
            return set()
        return {int(episode) for episode in match[1].split(",")} if match else set()

    def write(self, flagged: Iterable[int]) -> str:
        """Replace the flags and return the condition; without flags the file is removed.

        Raises:
            StoreNotWritableError: The store cannot be written.
        """
        condition = format_condition(flagged)
        try:
            if condition:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(self.path, f"{condition}\n".encode())
            else:
                self.path.unlink(missing_ok=True)
        except OSError as error:
            msg = f"The flags cannot be written to {self.path}: {error.strerror}. Make the folder writable."
            raise StoreNotWritableError(msg) from error
        return condition
