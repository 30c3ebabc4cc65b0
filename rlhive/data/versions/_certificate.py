"""What a replay of a version's episodes found, kept beside the dataset: ``<store>/.certificates/<fingerprint>.json``.

A version's folder never changes, so a certificate cannot lie in it; and it speaks of the content, which the
fingerprint names, whatever the version's number. Safe to delete: ``rlhive replay`` makes it again.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rlhive.data import _store

FORMAT_VERSION = 1
BIT_EXACT, TOLERATED, DIVERGES, IMPOSSIBLE = "bit-exact", "within tolerance", "diverges", "not replayable"

#: From best to worst.
VERDICTS = (BIT_EXACT, TOLERATED, DIVERGES, IMPOSSIBLE)
_MAX_BYTES = 2**20


@dataclass(frozen=True)
class EpisodeReplay:
    """How one episode compares with its replay.

    Attributes:
        episode: Its id.
        verdict: One of VERDICTS.
        step: First transition that differs by more than the tolerance; -1 where none does.
        observation_error: Largest absolute difference of any observed number.
        reward_error: Largest absolute difference of a reward.
        reason: Why it diverges or cannot be replayed, in words.
    """

    episode: int
    verdict: str
    step: int = -1
    observation_error: float = 0.0
    reward_error: float = 0.0
    reason: str = ""

    def __str__(self) -> str:
        where = f" at step {self.step}" if self.verdict == DIVERGES else ""
        return f"episode {self.episode} {self.verdict}{where}{': ' if self.reason else ''}{self.reason}"


@dataclass(frozen=True)
class Certificate:
    """What a replay found.

    Attributes:
        name: Of the dataset.
        version: Of the version that was replayed.
        fingerprint: Of its content.
        env_name: Environment that was built.
        num_episodes: Episodes that were replayed.
        of_episodes: Episodes that the version has.
        verdicts: Number of episodes of each verdict.
        observation_error: Largest absolute difference of any observed number over all of them.
        reward_error: Largest absolute difference of a reward.
        tolerance: Difference that counts as none.
        differences: Where this environment is not the recorded one: versions, model.
        notable: The first few episodes that are not bit-exact, in words.
        environment: Versions, model hash and all that the environment says of itself here.
        host: Machine and platform.
        created: When, UTC, ISO 8601.
    """

    name: str
    version: str
    fingerprint: str
    env_name: str
    num_episodes: int
    of_episodes: int
    verdicts: Mapping[str, int]
    observation_error: float
    reward_error: float
    tolerance: float
    differences: tuple[str, ...] = ()
    notable: tuple[str, ...] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    host: Mapping[str, Any] = field(default_factory=dict)
    created: str = ""

    @property
    def verdict(self) -> str:
        """The worst verdict of any episode; "not replayable" where there was none."""
        return next((verdict for verdict in reversed(VERDICTS) if self.verdicts.get(verdict)), IMPOSSIBLE)

    @property
    def ok(self) -> bool:
        """Whether every episode replayed within the tolerance."""
        return self.verdict in (BIT_EXACT, TOLERATED)

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {verdict}" for verdict, count in self.verdicts.items() if count) or "none"
        return (
            f"{self.num_episodes} of {self.of_episodes} episodes replayed in {self.env_name}: {counts}; largest error "
            f"{self.observation_error:.3g} in observations, {self.reward_error:.3g} in rewards"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the certificate as JSON-able values."""
        return {"format_version": FORMAT_VERSION, "verdict": self.verdict, **asdict(self)}

    def save(self, *, store: Path | None = None) -> Path:
        """Write the certificate beside the dataset, unless a replay of more episodes with the same verdict is there.

        Returns:
            Where it lies.
        """
        path = _store.certificate_path(self.fingerprint, store=store)
        there = read_certificate(self.fingerprint, store=store)
        if there is None or there.verdict != self.verdict or there.num_episodes <= self.num_episodes:
            with _store.translate_disk_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                _store.write_atomically(path, json.dumps(self.to_json(), indent=1).encode())
        return path


def read_certificate(fingerprint: str, *, store: Path | None = None) -> Certificate | None:
    """Return the certificate of a content, or None where there is none that can be read."""
    path = _store.certificate_path(fingerprint, store=store)
    try:
        if path.stat().st_size > _MAX_BYTES:
            return None
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format_version") != FORMAT_VERSION or content["fingerprint"] != fingerprint:
            return None
        content.pop("verdict")
        lists = {name: tuple(content.pop(name)) for name in ("differences", "notable")}
        return Certificate(**content, **lists)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
