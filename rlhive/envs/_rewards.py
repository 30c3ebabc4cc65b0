"""RoboHive's reward of a stored state, term by term, without stepping the simulator.

    stored observation [T + 1, n] ─► RoboHive's obs_dict ─► its own get_reward_dict ─► terms [T]
                                          ▲
                    what follows from the stored keys alone, bit for bit (goal_err, pose_err, approach_err)

RoboHive computes rewards from its observation dictionary, of which the observation vector holds a part. While it
computes, the simulator is hidden from it: a reward that looks there depends on more than was stored, and is refused.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torchrl.envs import EnvBase

from rlhive import keys
from rlhive.envs._robohive import RANDOMISED_FIELDS
from rlhive.envs._toy import TOLERANCE, ToyEnv
from rlhive.errors import RewardUnavailable

DENSE, SPARSE, SOLVED = "dense", "sparse", "solved"

# From so many numbers on NumPy adds in another order along a row than across rows.
_PAIRWISE = 8


def reward_terms(
    env: EnvBase, columns: Mapping[str, np.ndarray], final: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return the reward dictionary of every next state of an episode, as RoboHive computes it.

    With observations in float64, as RoboHive gives them, the values are those of stepping, bit for bit; rounded
    observations give rounded terms. Some environments (Baoding, MyoDM) also decide by Python attributes that they
    draw at reset: compare ``terms[reward_name(env)]`` with the stored reward before relying on the others.

    Cost: about 40 µs a transition in the kitchens, whose ``solved`` RoboHive computes one state at a time; a
    twentieth of that elsewhere.

    Args:
        env: What :func:`rlhive.envs.make_env` returned, in any state; it is left as it was.
        columns: Of one episode, ``[T, *shape]`` by column name; ``observation`` is needed, and further columns that
            have the name of a RoboHive observation are used.
        final: The values after the last action, of the observed columns.

    Returns:
        ``dense``, ``sparse``, ``solved``, ``done`` and the environment's own terms; each ``[T]``, float64 or bool, in
        memory of their own. Term t belongs to the state after action t, as ``("next", "reward")`` does.

    Raises:
        RewardUnavailable: The reward needs what the stored observations do not hold; the message names it.
    """
    if keys.OBSERVATION not in columns or keys.OBSERVATION not in final:
        msg = f"The reward of {env.env_name} needs the column observation with its final value: got {sorted(columns)}."
        raise RewardUnavailable(msg)
    states = {
        name: np.concatenate([columns[name][1:], final[name][None]]).astype(np.float64, copy=False)
        for name in final
        if name in columns and np.issubdtype(columns[name].dtype, np.floating)
    }
    if isinstance(env, ToyEnv):
        return _toy_terms(states[keys.OBSERVATION])
    observed = _derived(env.unwrapped, _split(env, states))
    with _blindfolded(env) as robohive:
        return _terms(robohive, observed)


def reward_name(env: EnvBase) -> str:
    """Return the name of the term that the environment gives as its reward: "dense" or "sparse"."""
    return DENSE if isinstance(env, ToyEnv) else env.unwrapped.rwd_mode


def reward_weights(env: EnvBase) -> dict[str, float]:
    """Return the weights with which RoboHive adds its terms to the dense reward, by name, in its order."""
    return {DENSE: 1.0} if isinstance(env, ToyEnv) else {k: float(w) for k, w in env.unwrapped.rwd_keys_wt.items()}


def weighted(terms: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> np.ndarray:
    """Return the dense reward that other weights give, ``[T]`` float64.

    With RoboHive's own weights it is RoboHive's own dense reward, bit for bit.

    Raises:
        RewardUnavailable: There is no such term.
    """
    unknown = [name for name in weights if name not in terms]
    if unknown or not weights:
        msg = f"No reward term {', '.join(unknown) or '(no weights)'}: expected some of {', '.join(sorted(terms))}."
        raise RewardUnavailable(msg)
    # One row per state: along it, NumPy adds in the order in which RoboHive's own sum does.
    return np.stack([weight * terms[name] for name, weight in weights.items()], axis=-1).astype(np.float64).sum(axis=-1)


def _toy_terms(states: np.ndarray) -> dict[str, np.ndarray]:
    distance = np.abs(states[:, 0] - states[:, 1])
    solved, done = distance <= TOLERANCE, np.abs(states[:, 0]) > 1.0
    return {DENSE: 1.0 - distance, SPARSE: solved.astype(np.float64), SOLVED: solved, "done": done}


def _split(env: EnvBase, states: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Cut the observation vector into RoboHive's observation dictionary, ``[T, n]`` each."""
    robohive, vector = env.unwrapped, states[keys.OBSERVATION]
    sizes = {key: int(np.size(robohive.obs_dict[key])) for key in robohive.obs_keys}
    if vector.ndim != 2 or vector.shape[1] != sum(sizes.values()):
        msg = (
            f"{env.env_name}: expected observations of {sum(sizes.values())} numbers ({', '.join(sizes)}), "
            f"got shape {vector.shape[1:]}. Take the environment that recorded them."
        )
        raise RewardUnavailable(msg)
    stops = np.cumsum(list(sizes.values()))
    observed = dict(zip(sizes, np.split(vector, stops[:-1], axis=1), strict=True))
    extra = {
        name: array.reshape(len(array), -1)
        for name, array in states.items()
        if name in robohive.obs_dict and array[0].size == np.size(robohive.obs_dict[name])
    }
    return {**extra, **observed}


def _derived(robohive: Any, observed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Add what RoboHive's kitchens and appliances compute from stored keys, with the same operations."""
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


def _terms(robohive: Any, observed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Compute all states in one call, and one by one those terms that RoboHive cannot compute at once."""
    count = len(next(iter(observed.values())))
    try:
        together = _rewards_of(robohive, observed, slice(None))
    except ValueError:  # RoboHive asked an array of several states whether it is true
        together = {}
    done = {name: value.reshape(count) for name, value in together.items() if np.shape(value) == (1, count)}
    if done.keys() != together.keys() or not together:
        rows = [_rewards_of(robohive, observed, slice(row, row + 1)) for row in range(count)]
        done |= {name: np.array([np.squeeze(row[name]) for row in rows]) for name in rows[0] if name not in done}
    weights = robohive.rwd_keys_wt
    if len(weights) >= _PAIRWISE and together:
        done[DENSE] = weighted(done, weights)
    return {name: np.array(value, dtype=bool if value.dtype == bool else np.float64) for name, value in done.items()}


def _rewards_of(robohive: Any, observed: Mapping[str, np.ndarray], rows: slice) -> dict[str, Any]:
    stored = _Stored({name: array[rows][None] for name, array in observed.items()})
    robohive.obs_dict = stored
    return dict(robohive.get_reward_dict(stored))


class _Stored(dict):
    """An observation dictionary that says what it lacks."""

    def __missing__(self, key: str) -> Any:
        msg = (
            f"the observation {key!r}, which was not stored (stored: {', '.join(self)}). "
            f"Record it: RoboHiveEnv(…, obs_keys=[{key!r}])"
        )
        raise RewardUnavailable(msg)


class _Hidden:
    """Stands where RoboHive keeps its simulator: constants of the model may be read, nothing else."""

    def __init__(self, hidden: Any, name: str):
        self._hidden, self._name = hidden, name

    def __getattr__(self, attribute: str) -> Any:
        if attribute == "model":
            return _Hidden(self._hidden.model, f"{self._name}.model")
        if self._name.endswith(".model") and attribute not in RANDOMISED_FIELDS:
            return getattr(self._hidden, attribute)
        msg = f"{self._name}.{attribute}, which no observation holds. Keep the reward that was recorded."
        raise RewardUnavailable(msg)


@contextlib.contextmanager
def _blindfolded(env: EnvBase) -> Iterator[Any]:
    """Hide the simulator from RoboHive's environment; everything is put back."""
    robohive = env.unwrapped
    names = [name for name in ("sim", "sim_obsd", "robot", "_np_random") if name in vars(robohive)]
    kept = {name: vars(robohive)[name] for name in (*names, "obs_dict")}
    try:
        for name in names:
            setattr(robohive, name, _Hidden(kept[name], name))
        yield robohive
    except RewardUnavailable as error:
        msg = f"The reward of {env.env_name} cannot be recomputed: it needs {error}"
        raise RewardUnavailable(msg) from None
    finally:
        for name, value in kept.items():
            setattr(robohive, name, value)
