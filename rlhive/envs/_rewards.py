"""Recompute RoboHive's reward terms from stored observations, without stepping the simulator.

    stored observation [T + 1, n] ─► RoboHive's obs_dict ─► RoboHive's get_reward_dict ─► terms [T]
                                          ▲
                    derived from the stored keys, bit for bit: goal_err, pose_err, approach_err

RoboHive computes rewards from its observation dictionary, of which the observation vector contains a part. The
simulator is hidden during the computation: a reward that reads it depends on more than the stored observations, and
raises an error.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torchrl.envs import EnvBase

from rlhive import keys
from rlhive.envs._episode_state import RANDOMISED_FIELDS
from rlhive.envs._toy import TOLERANCE, ToyEnv
from rlhive.errors import RewardUnavailableError

DENSE = "dense"
SPARSE = "sparse"
SOLVED = "solved"

# From this number of terms on, NumPy adds in another order along a row than across rows (pairwise summation).
_PAIRWISE_SUM_LENGTH = 8


def reward_terms(
    env: EnvBase, columns: Mapping[str, np.ndarray], final: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return RoboHive's reward dictionary of every next state of an episode.

    With float64 observations, RoboHive's own dtype, the values equal those of stepping bit for bit; rounded
    observations give rounded terms. Some environments (Baoding, MyoDM) also use Python attributes that they draw at
    reset: compare ``terms[reward_name(env)]`` with the stored reward before you rely on the other terms.

    The computation takes about 40 µs per transition in the kitchens, whose ``solved`` RoboHive computes for one state
    at a time, and a twentieth of that elsewhere.

    Args:
        env: An environment that :func:`rlhive.envs.make_env` returned, in any state. Its state does not change.
        columns: Columns of one episode by name, ``[T, *shape]``. ``observation`` is required; further columns are used
            if they have the name of a RoboHive observation.
        final: Values of the observed columns after the last action.

    Returns:
        ``dense``, ``sparse``, ``solved``, ``done`` and the environment's own terms: each ``[T]``, float64 or bool, in
        memory of its own. Term t belongs to the state after action t, as ``("next", "reward")`` does.

    Raises:
        RewardUnavailableError: The reward needs values that the stored observations do not contain. The message names
            them.
    """
    if keys.OBSERVATION not in columns or keys.OBSERVATION not in final:
        msg = (
            f"The reward of {env.env_name} needs the column observation and its final value: "
            f"got columns {sorted(columns)}, final values {sorted(final)}."
        )
        raise RewardUnavailableError(msg)
    states = {
        name: np.concatenate([columns[name][1:], final[name][None]]).astype(np.float64, copy=False)
        for name in final
        if name in columns and np.issubdtype(columns[name].dtype, np.floating)
    }
    if isinstance(env, ToyEnv):
        return _toy_terms(states[keys.OBSERVATION])
    observed = _add_derived_observations(env.unwrapped, _split_observation(env, states))
    with _hide_simulator(env) as robohive:
        return _compute_terms(robohive, observed)


def reward_name(env: EnvBase) -> str:
    """Return the name of the term that is the environment's reward: "dense" or "sparse"."""
    return DENSE if isinstance(env, ToyEnv) else env.unwrapped.rwd_mode


def reward_weights(env: EnvBase) -> dict[str, float]:
    """Return term → weight in RoboHive's dense reward, in RoboHive's order."""
    if isinstance(env, ToyEnv):
        return {DENSE: 1.0}
    return {name: float(weight) for name, weight in env.unwrapped.rwd_keys_wt.items()}


def weighted_reward(terms: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> np.ndarray:
    """Return the weighted sum of reward terms, ``[T]`` float64.

    With RoboHive's own weights the result equals RoboHive's dense reward bit for bit.

    Raises:
        RewardUnavailableError: A weight names no term, or there are no weights.
    """
    unknown = [name for name in weights if name not in terms]
    if unknown or not weights:
        msg = f"No reward term {', '.join(unknown) or '(no weights)'}: expected some of {', '.join(sorted(terms))}."
        raise RewardUnavailableError(msg)
    # One row per state: along a row, NumPy adds in the same order as RoboHive's own sum.
    return np.stack([weight * terms[name] for name, weight in weights.items()], axis=-1).astype(np.float64).sum(axis=-1)


def _toy_terms(states: np.ndarray) -> dict[str, np.ndarray]:
    distance = np.abs(states[:, 0] - states[:, 1])
    solved = distance <= TOLERANCE
    done = np.abs(states[:, 0]) > 1.0
    return {DENSE: 1.0 - distance, SPARSE: solved.astype(np.float64), SOLVED: solved, "done": done}


def _split_observation(env: EnvBase, states: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Split the observation vector into RoboHive's observation dictionary: arrays ``[T, n]`` by name."""
    robohive = env.unwrapped
    vector = states[keys.OBSERVATION]
    sizes = {key: int(np.size(robohive.obs_dict[key])) for key in robohive.obs_keys}
    if vector.ndim != 2 or vector.shape[1] != sum(sizes.values()):
        msg = (
            f"{env.env_name}: expected observations of {sum(sizes.values())} numbers ({', '.join(sizes)}), "
            f"got shape {vector.shape[1:]}."
        )
        raise RewardUnavailableError(msg)
    stops = np.cumsum(list(sizes.values()))
    observed = dict(zip(sizes, np.split(vector, stops[:-1], axis=1), strict=True))
    extra = {
        name: array.reshape(len(array), -1)
        for name, array in states.items()
        if name in robohive.obs_dict and array[0].size == np.size(robohive.obs_dict[name])
    }
    return {**extra, **observed}


def _add_derived_observations(robohive: Any, observed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Add the observations that RoboHive's kitchens and appliances compute from stored ones, by the same operations."""
    if "goal_err" not in observed and {"obj_goal", "objs_jnt"} <= observed.keys():
        observed["goal_err"] = observed["obj_goal"] - observed["objs_jnt"]
    if "pose_err" not in observed and "robot_jnt" in observed and hasattr(robohive, "robot_meanpos"):
        observed["pose_err"] = robohive.robot_meanpos - observed["robot_jnt"]
    if "approach_err" not in observed and hasattr(robohive, "interact_sid"):
        site = robohive.sim.model.id2name(robohive.interact_sid, "site")
        if f"{site}_err" in observed:
            observed["approach_err"] = observed[f"{site}_err"]
        elif robohive.interact_sid == robohive.grasp_sid:
            observed["approach_err"] = np.zeros((len(next(iter(observed.values()))), 3))
    return observed


def _compute_terms(robohive: Any, observed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Compute the terms of all states in one call, and state by state those that RoboHive cannot compute at once."""
    count = len(next(iter(observed.values())))
    try:
        batch = _compute_rewards(robohive, observed, slice(None))
    except ValueError:  # RoboHive took the truth value of an array of several states
        batch = {}
    terms = {name: value.reshape(count) for name, value in batch.items() if np.shape(value) == (1, count)}
    if terms.keys() != batch.keys() or not batch:
        rows = [_compute_rewards(robohive, observed, slice(row, row + 1)) for row in range(count)]
        terms |= {name: np.array([np.squeeze(row[name]) for row in rows]) for name in rows[0] if name not in terms}
    weights = robohive.rwd_keys_wt
    if len(weights) >= _PAIRWISE_SUM_LENGTH and batch:
        terms[DENSE] = weighted_reward(terms, weights)
    return {name: np.array(value, dtype=bool if value.dtype == bool else np.float64) for name, value in terms.items()}


def _compute_rewards(robohive: Any, observed: Mapping[str, np.ndarray], rows: slice) -> dict[str, Any]:
    """Return RoboHive's reward dictionary of some rows of the observations."""
    observations = _StoredObservations({name: array[rows][None] for name, array in observed.items()})
    robohive.obs_dict = observations
    return dict(robohive.get_reward_dict(observations))


class _StoredObservations(dict[str, np.ndarray]):
    """Observation dictionary that raises RewardUnavailableError for an observation that was not stored."""

    def __missing__(self, key: str) -> Any:
        msg = (
            f"the observation {key!r}, which was not stored (stored: {', '.join(self)}). "
            f"Record it: RoboHiveEnv(…, obs_keys=[{key!r}])"
        )
        raise RewardUnavailableError(msg)


class _HiddenSimulator:
    """Placeholder for RoboHive's simulator: has the model's constants; the rest raises RewardUnavailableError."""

    def __init__(self, simulator: Any, name: str) -> None:
        self._simulator = simulator
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute == "model":
            return _HiddenSimulator(self._simulator.model, f"{self._name}.model")
        if self._name.endswith(".model") and attribute not in RANDOMISED_FIELDS:
            return getattr(self._simulator, attribute)
        msg = f"{self._name}.{attribute}, which the stored observations do not contain. Keep the recorded reward."
        raise RewardUnavailableError(msg)


@contextlib.contextmanager
def _hide_simulator(env: EnvBase) -> Iterator[Any]:
    """Hide the simulator from RoboHive's environment during the block, and restore every attribute afterwards."""
    robohive = env.unwrapped
    names = [name for name in ("sim", "sim_obsd", "robot", "_np_random") if name in vars(robohive)]
    original = {name: vars(robohive)[name] for name in (*names, "obs_dict")}
    try:
        for name in names:
            setattr(robohive, name, _HiddenSimulator(original[name], name))
        yield robohive
    except RewardUnavailableError as error:
        msg = f"The reward of {env.env_name} cannot be recomputed: it needs {error}"
        raise RewardUnavailableError(msg) from None
    finally:
        for name, value in original.items():
            setattr(robohive, name, value)
