"""Replay certificates: the result of replaying a version's episodes in the simulator.

A certificate lies beside the dataset, in ``<store>/.certificates/<fingerprint>.json``, because a version's folder never
changes. It belongs to the content, which the fingerprint identifies, and not to a version number. It is safe to delete:
``rlhive replay`` computes it again.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rlhive.data import _store

FORMAT_VERSION = 1

BIT_EXACT = "bit-exact"
TOLERATED = "within tolerance"
DIVERGES = "diverges"
IMPOSSIBLE = "not replayable"

#: Verdicts from best to worst.
VERDICTS = (BIT_EXACT, TOLERATED, DIVERGES, IMPOSSIBLE)
_MAX_BYTES = 2**20


@dataclass(frozen=True)
class EpisodeReplay:
    """Result of replaying one episode.

    Attributes:
        episode: The episode's id.
        verdict: One of :data:`VERDICTS`.
        step: First transition that differs by more than the tolerance; -1 if none does.
        observation_error: Largest absolute difference of an observed number.
        reward_error: Largest absolute difference of a reward.
        reason: Why the episode diverges or cannot be replayed.
    """

    episode: int
    verdict: str
    step: int = -1
    observation_error: float = 0.0
    reward_error: float = 0.0
    reason: str = ""

    def __str__(self) -> str:
        text = f"episode {self.episode} {self.verdict}"
        if self.verdict == DIVERGES:
            text += f" at step {self.step}"
        return f"{text}: {self.reason}" if self.reason else text


@dataclass(frozen=True)
class Certificate:
    """Result of replaying the episodes of a version.

    Attributes:
        name: Dataset name, ``namespace/name``.
        version: Version that was replayed.
        fingerprint: Fingerprint of the version.
        env_name: Environment in which the episodes were replayed.
        num_episodes: Number of episodes that were replayed.
        of_episodes: Number of episodes in the version.
        verdicts: Number of episodes of each verdict.
        observation_error: Largest absolute difference of an observed number in any episode.
        reward_error: Largest absolute difference of a reward in any episode.
        tolerance: Largest absolute difference that counts as equal.
        differences: How the environment differs from the recorded one: library versions, model hash.
        notable: Descriptions of the first few episodes that are not bit-exact.
        environment: Provenance of the environment: library versions, model hash and others.
        host: Machine and platform.
        created: Time of the replay, UTC, ISO 8601.
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
        """The worst verdict of any episode; "not replayable" if no episode was replayed."""
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
        """Write the certificate, unless the store has one of more episodes with the same verdict.

        Returns:
            The certificate's path.
        """
        path = _store.certificate_path(self.fingerprint, store=store)
        stored = read_certificate(self.fingerprint, store=store)
        if stored is None or stored.verdict != self.verdict or stored.num_episodes <= self.num_episodes:
            with _store.translate_disk_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                _store.write_atomically(path, json.dumps(self.to_json(), indent=1).encode())
        return path


def read_certificate(fingerprint: str, *, store: Path | None = None) -> Certificate | None:
    """Return the certificate of a fingerprint; None if there is none or it is unreadable."""
    path = _store.certificate_path(fingerprint, store=store)
    try:
        if path.stat().st_size > _MAX_BYTES:
            return None
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format_version") != FORMAT_VERSION or content["fingerprint"] != fingerprint:
            return None
        content.pop("verdict")  # computed from the verdicts
        for name in ("differences", "notable"):
            content[name] = tuple(content[name])
        return Certificate(**content)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
