"""The scores of a version: read from the store, or computed, with the distance to the goal where that is known."""

import logging
from pathlib import Path

import numpy as np
import pyarrow as pa

from rlhive.data import hub
from rlhive.data.scores import compute_scores, read_stored_scores, write_scores
from rlhive.data.versions import Manifest, read_episodes
from rlhive.errors import EnvNotFoundError, RLHiveError, StreamingOnlyError

logger = logging.getLogger(__name__)

#: Observed columns whose difference is the distance to the goal, as Gymnasium's goal environments name them.
_ACHIEVED, _DESIRED = "achieved_goal", "desired_goal"
_REAL = ("float16", "float32", "float64")


def load_scores(
    folder: Path, manifest: Manifest, *, store: Path | None = None, streaming: bool = False, force: bool = False
) -> pa.Table:
    """Return the scores of all episodes of a version; where the store has none, they are computed and kept.

    Shards that were not pulled are fetched for the computation. A store that cannot be written is a warning.

    Args:
        folder: The version's folder.
        manifest: The version's manifest.
        store: Folder of all datasets.
        streaming: Whether transitions stay on the Hub, so that scores can be read but not computed.
        force: Whether to compute them again.

    Raises:
        StreamingOnlyError: ``streaming`` is set, and the store has no scores of the version.
        SchemaMismatchError: The version has nothing that could be scored.
    """
    stored = None if force else read_stored_scores(manifest, store=store)
    if stored is not None:
        return stored
    if streaming:
        msg = (
            f"{manifest.name} {manifest.version}: scores need the transitions, but it was opened with streaming=True. "
            f"Compute them once: rlhive score {manifest.name}"
        )
        raise StreamingOnlyError(msg)
    hub.fetch_missing_files(folder, manifest, manifest.files)
    table = compute_scores(folder, manifest, goal_distances=measure_goal_distances(folder, manifest))
    try:
        write_scores(table, manifest, store=store)
    except RLHiveError as error:
        logger.warning("The scores are not kept: %s", error)
    return table


def measure_goal_distances(folder: Path, manifest: Manifest) -> np.ndarray | None:
    """Return how far from the goal each episode ends, float64 ``[num_episodes]``; None where that is not known.

    It is the distance between ``achieved_goal`` and ``desired_goal`` after the last action, where the version has
    both. Otherwise it is minus the sparse reward that RoboHive computes of the final observation: in its environments
    of reaching, pushing and posing that reward is minus a distance. It is not known if the reward is positive for any
    episode.
    """
    fields = [item for item in manifest.schema.observed if item.dtype in _REAL and not item.is_ragged]
    table = read_episodes(folder, manifest, ["run", *(f"final.{item.column}" for item in fields)])
    if not len(table):
        return None
    finals = {item.column: _read_final_column(table[f"final.{item.column}"], item.shape) for item in fields}
    for name in finals:
        if name.rpartition(".")[2] == _ACHIEVED:
            desired = finals.get(f"{name.removesuffix(_ACHIEVED)}{_DESIRED}")
            if desired is not None and desired.shape == finals[name].shape:
                return np.linalg.norm((finals[name] - desired).reshape(len(table), -1), axis=1)
    try:
        distances = -_recompute_sparse(table["run"].to_numpy(), finals, manifest)
    except (RLHiveError, ImportError) as error:
        logger.info("No distance to the goal for %s: %s", manifest.name, error)
        return None
    return None if (distances < 0).any() else distances


def _read_final_column(column: pa.ChunkedArray, shape: tuple[int, ...]) -> np.ndarray:
    """Return a column as an array ``[num_rows, *shape]``; it holds lists, or numbers for shapes of one element."""
    values = column.combine_chunks()
    numbers = values.flatten() if pa.types.is_nested(values.type) else values
    return numbers.to_numpy(zero_copy_only=False).reshape(-1, *shape)


def _recompute_sparse(runs: np.ndarray, finals: dict[str, np.ndarray], manifest: Manifest) -> np.ndarray:
    """Return RoboHive's sparse reward of the final state of each episode."""
    from rlhive.envs import SPARSE, reward_terms
    from rlhive.rollouts import build_recorded_env, tasks_by_run  # import torch, which reading scores does not need

    rewards = np.full(len(runs), np.nan)
    tasks = tasks_by_run(manifest)
    for run in np.unique(runs):
        rows = np.flatnonzero(runs == run)
        if run not in tasks:
            msg = f"run {run!r} is not in the manifest"
            raise EnvNotFoundError(msg)
        env = build_recorded_env(tasks[run])
        try:
            # A term belongs to the state after its row: the states are those of an episode that begins with the first.
            columns = {name: values[rows[[0, *range(len(rows) - 1)]]] for name, values in finals.items()}
            last = {name: values[rows[-1]] for name, values in finals.items()}
            rewards[rows] = reward_terms(env, columns, last)[SPARSE]
        finally:
            env.close()
    return rewards
