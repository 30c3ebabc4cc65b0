"""Evaluation during a training: the policy on held-out seeds, and the best policy so far."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhive.errors import InvalidOptionError
from rlhive.policies import replace_file
from rlhive.rollouts import Evaluation, evaluate

EVALUATIONS_FILE = "evaluations.json"
_CRITERIA = ("return", "success_rate")


class HeldOutEvaluation:
    """Evaluate policies of a training on seeds that no recipe and no ``rlhive evaluate`` uses.

    Args:
        settings: Section ``evaluation`` of a configuration: ``episodes``, ``seed``, ``workers`` and ``best``.
        env: Task or environment id.

    Attributes:
        history: For each seed of the training, the evaluations so far, JSON-able.

    Raises:
        InvalidOptionError: Unknown criterion.
    """

    def __init__(self, settings: Mapping[str, Any], env: str, *, num_seeds: int) -> None:
        if settings["best"] not in _CRITERIA:
            msg = f"evaluation.best: expected one of {', '.join(_CRITERIA)}, got {settings['best']!r}"
            raise InvalidOptionError(msg)
        self._settings = settings
        self._env = env
        self.history: list[list[dict[str, Any]]] = [[] for _ in range(num_seeds)]

    def evaluate(self, seed_index: int, policy: Any, *, step: int) -> tuple[dict[str, float], bool]:
        """Evaluate a seed's policy.

        Returns:
            ``eval/return``, ``eval/success_rate`` and ``eval/score``, as far as the environment has them, and whether
            the policy is the best of its seed so far; of equal ones the first is.
        """
        result = evaluate(
            policy,
            self._env,
            num_episodes=self._settings["episodes"],
            seed=self._settings["seed"],
            num_workers=self._settings["workers"],
            progress=False,
        )
        history = self.history[seed_index]
        value = self._criterion(result)
        is_best = all(value > entry["criterion"] for entry in history)
        numbers = {**result.to_dict(), "successes": None if result.solved is None else list(result.solved)}
        history.append({**numbers, "step": step, "criterion": value, "is_best": is_best})
        metrics = {
            "eval/return": result.return_mean,
            "eval/success_rate": result.success_rate,
            "eval/score": result.score,
        }
        return {name: float(number) for name, number in metrics.items() if number is not None}, is_best

    def _criterion(self, result: Evaluation) -> float:
        if self._settings["best"] == "return":
            return result.return_mean
        if result.success_rate is None:
            msg = f"evaluation.best=success_rate: {result.env_name} has no success signal, expected return"
            raise InvalidOptionError(msg)
        return result.success_rate

    def write(self, seed_index: int, folder: Path) -> None:
        """Write a seed's evaluations, with the return of every episode, into the folder of its run."""
        replace_file(folder / EVALUATIONS_FILE, json.dumps(self.history[seed_index], indent=1).encode())

    def state_dict(self) -> dict[str, Any]:
        """Return the evaluations so far."""
        return {"history": json.dumps(self.history)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the state that :meth:`state_dict` returned."""
        self.history = json.loads(state["history"])
