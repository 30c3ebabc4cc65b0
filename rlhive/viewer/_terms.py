"""The terms of an episode's reward, which RoboHive computes from the stored observations."""

from typing import TYPE_CHECKING, Any

from rlhive.envs import SOLVED, reward_terms
from rlhive.errors import EnvNotFoundError
from rlhive.rollouts import build_recorded_env, tasks_by_run
from rlhive.viewer._series import align_outcomes

if TYPE_CHECKING:
    from rlhive.data import EpisodeRecord
    from rlhive.data.versions import Manifest

#: Entries of RoboHive's reward dictionary that are no terms of a reward.
_FLAGS = (SOLVED, "done")


def compute_terms(manifest: "Manifest", record: "EpisodeRecord", stride: int) -> dict[str, list[Any]]:
    """Return every term by name, a bool as 0 or 1, as :func:`rlhive.viewer._series.align_outcomes` aligns it.

    Raises:
        EnvNotFoundError: The manifest does not say in which environment the episode was recorded.
        RewardUnavailableError: The observations do not determine the reward.
        ReplayRefusedError, RoboHiveMissingError: The environment cannot be built here.
    """
    tasks = tasks_by_run(manifest)
    if record.run not in tasks:
        msg = f"Episode {record.episode} of {manifest.name}: its run is not in the manifest, expected {list(tasks)}"
        raise EnvNotFoundError(msg)
    env = build_recorded_env(tasks[record.run])
    try:
        terms = reward_terms(env, record.columns, record.final)
    finally:
        env.close()
    return {name: align_outcomes(values, stride) for name, values in terms.items() if name not in _FLAGS}
