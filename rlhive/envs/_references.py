"""Reference returns of the catalogue's tasks: mean returns of a random and an expert policy on unseen seeds.

The numbers are stored in ``references.json``; ``python benchmarks/reference_returns.py`` measures them again. Scores
are normalised as in D4RL (Fu et al., 2020): 0 is the random policy, 100 the expert.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any


@dataclass(frozen=True)
class PolicyResult:
    """Measured returns and success rate of one policy.

    Attributes:
        return_mean: Mean undiscounted return.
        return_interval: 95 % Student-t interval of the mean; None if not measured.
        num_episodes: Number of episodes; 0 if unknown.
        success_rate: Fraction of the episodes that were solved; None if not measured.
        success_interval: 95 % Wilson interval of the success rate; None if not measured.
    """

    return_mean: float
    return_interval: tuple[float, float] | None = None
    num_episodes: int = 0
    success_rate: float | None = None
    success_interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Reference:
    """Reference results of a task, which define its normalised score.

    Attributes:
        random: Result of uniform actions.
        expert: Result of the expert. A task without an expert has None, and no normalised score.
        expert_hash: Hash of the measured expert's parameters; empty if the task has no scripted expert.
    """

    random: PolicyResult
    expert: PolicyResult | None = None
    expert_hash: str = ""

    def score(self, value: float) -> float | None:
        """Return the normalised score of a return: 0 for random, 100 for the expert; None without an expert.

        Example:
            >>> Reference(random=PolicyResult(-100.0), expert=PolicyResult(-50.0)).score(-60.0)
            80.0
        """
        if self.expert is None or self.expert.return_mean == self.random.return_mean:
            return None
        return 100.0 * (value - self.random.return_mean) / (self.expert.return_mean - self.random.return_mean)


def read_reference(name: str) -> Reference | None:
    """Return the reference results of a task of the catalogue, None if it was not measured."""
    row = _read_rows("references.json").get(name)
    if row is None:
        return None
    expert = _policy_result(row["expert"]) if row.get("expert") else None
    return Reference(_policy_result(row["random"]), expert, row.get("expert_hash", ""))


def has_expert(env_name: str) -> bool:
    """Whether RLHive has a scripted expert for a RoboHive environment."""
    return env_name in read_expert_rows()


def read_expert_rows() -> Mapping[str, Any]:
    """Return the scripted experts' parameters: environment id → row of experts.json."""
    return _read_rows("experts.json")


def expert_hash(env_name: str) -> str:
    """Return the hash of the parameters that determine the expert's actions, in hex; empty without an expert.

    The provenance and the parameters of weaker levels do not change the hash. That of an expert which chains others
    covers their parameters.
    """
    row = read_expert_rows().get(env_name)
    if row is None:
        return ""
    parameters = {name: value for name, value in row.items() if name not in ("provenance", "medium")}
    if skills := row["expert"].get("skills"):
        parameters["skills"] = {skill: expert_hash(skill) for skill in skills}
    return hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()[:16]


def find_stale_references(tasks: Iterable[tuple[str, str]]) -> list[str]:
    """Return the names of the tasks whose reference was not measured with the current expert.

    Args:
        tasks: Name and environment id of each task.
    """
    rows = _read_rows("references.json")
    return [name for name, env in tasks if name not in rows or rows[name]["expert_hash"] != expert_hash(env)]


@cache
def _read_rows(file_name: str) -> Mapping[str, Any]:
    content: dict[str, Any] = json.loads(resources.files("rlhive.envs").joinpath(file_name).read_text(encoding="utf-8"))
    return content["tasks"]


def _policy_result(row: Mapping[str, Any]) -> PolicyResult:
    return PolicyResult(
        return_mean=row["return_mean"],
        return_interval=tuple(row["return_interval"]),
        num_episodes=row["num_episodes"],
        success_rate=row["success_rate"],
        success_interval=tuple(row["success_interval"]),
    )
