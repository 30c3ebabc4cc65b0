"""The pin that ties a local version to a commit on the Hub; reading one does not import the Hub's client."""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from rlhive.data import _store

PIN_NAME = ".hub.json"
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubPin:
    """Repository and commit from which the files of a local version come.

    Attributes:
        repo_id: ``namespace/name`` on the Hub.
        commit: The 40 hexadecimal digits of the commit.
    """

    repo_id: str
    commit: str

    @classmethod
    def read(cls, folder: Path) -> "HubPin | None":
        """Return the pin in a version's folder; None if the version was not pulled from the Hub."""
        try:
            row = json.loads((Path(folder) / PIN_NAME).read_text(encoding="utf-8"))
            pin = cls(str(row["repo_id"]), str(row["commit"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return pin if COMMIT.fullmatch(pin.commit) else None

    @property
    def url(self) -> str:
        """Address of the commit's page."""
        from huggingface_hub import constants

        return f"{constants.ENDPOINT}/datasets/{self.repo_id}/tree/{self.commit}"

    def __str__(self) -> str:
        return f"{self.repo_id}@{self.commit[:12]}"

    def write(self, folder: Path) -> None:
        """Write the pin into a version's folder."""
        _store.write_atomically(Path(folder) / PIN_NAME, json.dumps(asdict(self)).encode())
