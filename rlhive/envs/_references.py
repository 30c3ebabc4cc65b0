"""Reference returns of the catalogue's tasks: what a random and an expert policy reach, measured on unseen seeds.

The numbers are data, in ``references.json``; ``python benchmarks/reference_returns.py`` measures them again. A return
is put on their scale as D4RL does it (Fu et al., 2020): 0 is the random policy, 100 the expert.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any


@dataclass(frozen=True)
class Measured:
    """What one policy reached.

    Attributes:
        return_mean: Mean undiscounted return.
        return_interval: Its 95 % Student-t interval, where measured.
        num_episodes: Number of episodes, 0 where nobody said.
        success_rate: Part of them that was solved, where measured.
        success_interval: Its 95 % Wilson interval, where measured.
    """

    return_mean: float
    return_interval: tuple[float, float] | None = None
    num_episodes: int = 0
    success_rate: float | None = None
    success_interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Reference:
    """The ends of a task's scale.

    Attributes:
        random: What uniform actions reach.
        expert: What the expert reaches; None where there is none, and then no scale either.
        expert_hash: Hash of the expert's parameters that was measured; empty where it has none.
    """

    random: Measured
    expert: Measured | None = None
    expert_hash: str = ""

    def score(self, value: float) -> float | None:
        """Return the normalised score of a return: 0 as random, 100 as the expert; None without an expert.

        Example:
            >>> Reference(random=Measured(-100.0), expert=Measured(-50.0)).score(-60.0)
            80.0
        """
        if self.expert is None or self.expert.return_mean == self.random.return_mean:
            return None
        return 100.0 * (value - self.random.return_mean) / (self.expert.return_mean - self.random.return_mean)


def reference_of(name: str) -> Reference | None:
    """Return what was measured for a task of the catalogue, None where nobody measured."""
    row = _read("references.json")["tasks"].get(name)
    if row is None:
        return None
    expert = _measured(row["expert"]) if row.get("expert") else None
    return Reference(_measured(row["random"]), expert, row.get("expert_hash", ""))


def has_expert(env_name: str) -> bool:
    """Whether a scripted expert ships for a RoboHive environment."""
    return env_name in _read("experts.json")["tasks"]


def expert_hash(env_name: str) -> str:
    """Return the hash of what decides the expert's actions, as hex; empty where none ships.

    Its provenance and its weaker levels do not change it.
    """
    row = _read("experts.json")["tasks"].get(env_name)
    if row is None:
        return ""
    decides = {name: value for name, value in row.items() if name not in ("provenance", "medium")}
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]


def stale(tasks: Iterable[tuple[str, str]]) -> list[str]:
    """Return the names of the tasks that were not measured with the expert that ships now.

    Args:
        tasks: Name and environment id of each.
    """
    rows = _read("references.json")["tasks"]
    return [name for name, env in tasks if name not in rows or rows[name]["expert_hash"] != expert_hash(env)]


@cache
def _read(name: str) -> Mapping[str, Any]:
    return json.loads(resources.files("rlhive.envs").joinpath(name).read_text(encoding="utf-8"))


def _measured(row: Mapping[str, Any]) -> Measured:
    return Measured(
        return_mean=row["return_mean"],
        return_interval=tuple(row["return_interval"]),
        num_episodes=row["num_episodes"],
        success_rate=row["success_rate"],
        success_interval=tuple(row["success_interval"]),
    )
