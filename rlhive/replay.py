"""Is a dataset what its environment did? Rewards computed anew, episodes stepped again.

    manifest ─► environment ─► start state of each episode ─► stored actions ─► observations and rewards, compared

The environment is rebuilt from what the manifest says of it. A manifest comes from anyone, so it may name an
environment and a few harmless arguments; a file to load, a robot to connect or weights to fetch it may not.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torchrl.envs import EnvBase

from rlhive import keys
from rlhive.data import check as data_check
from rlhive.data.episodes import REWARD, EpisodeRecord
from rlhive.data.findings import Report
from rlhive.data.manifest import Manifest
from rlhive.envs.make import make_env
from rlhive.envs.rewards import SOLVED, reward_name, reward_terms
from rlhive.envs.tasks import Task
from rlhive.errors import EnvNotFound, ReplayRefused, RewardUnavailable, RLHiveError

#: Arguments that a manifest may give to an environment. Never: config_path, a file that RoboHive evaluates; model_path,
#: one that it loads; is_hardware, which drives a robot; visual_keys, which may fetch weights.
HARMLESS = {
    "cameras",
    "depth",
    "dtype",
    "frame_skip",
    "from_pixels",
    "image_size",
    "max_episode_steps",
    "obs_keys",
    "obs_range",
    "render_quality",
    "reward_mode",
    "weighted_reward_keys",
}


def task_of(run: Mapping[str, Any], manifest: Manifest) -> Task:
    """Return the task whose environment a run recorded, from its provenance.

    Args:
        run: An entry of the manifest's ``runs``.
        manifest: Of the version; its ``env_name`` is taken where the run names none.

    Raises:
        EnvNotFound: Nothing names an environment.
        ReplayRefused: The environment was given an argument that a manifest may not give.
    """
    task = run.get("task") if isinstance(run.get("task"), Mapping) else {}
    env = run.get("env") if isinstance(run.get("env"), Mapping) else {}
    env_name = task.get("env_name") or env.get("env_name") or manifest.env_name
    kwargs = dict(task.get("env_kwargs") or env.get("env_kwargs") or {})
    if not env_name or not isinstance(env_name, str):
        msg = f"{manifest.name} {manifest.version}: expected an environment in its provenance, got none."
        raise EnvNotFound(msg)
    refused = sorted(kwargs.keys() - HARMLESS)
    if refused:
        msg = (
            f"{manifest.name} {manifest.version} wants to build {env_name} with {', '.join(refused)}: expected "
            f"arguments out of {', '.join(sorted(HARMLESS))}. Build the environment yourself, if you trust the dataset."
        )
        raise ReplayRefused(msg)
    backend = task.get("backend") or env.get("backend") or "robohive"
    horizon = task.get("horizon") or env.get("horizon") or 1
    return Task(manifest.task or manifest.name, env_name, horizon, "", env_kwargs=kwargs, backend=backend)


def check(folder: Path, *, threads: int | None = None) -> Report:
    """Check a version as :func:`rlhive.data.check.check` does, and its rewards with its own environment.

    Where that environment is not installed, is another model than the recorded one, or has a reward that the stored
    observations do not decide, the checks ``reward`` and ``success`` are skipped, and the report says why.

    Args:
        folder: Of the version.
        threads: Number of threads; by default one per core.
    """
    try:
        judge, no_judge = judge_of(Manifest.read(folder))
    except RLHiveError as error:
        judge, no_judge = None, str(error)
    return data_check.check(folder, judge=judge, no_judge=no_judge, threads=threads)


def judge_of(manifest: Manifest) -> tuple[Callable[[EpisodeRecord], Mapping[str, str]] | None, str]:
    """Return what computes the rewards of a version's episodes anew, for :func:`rlhive.data.check.check`.

    Returns:
        The judge, or None and the reason why there is none.
    """
    try:
        envs = {str(run.get("run", "")): _built(run, manifest) for run in manifest.runs}
    except RLHiveError as error:
        return None, str(error)
    if not envs:
        return None, "the version names no run and so no environment"
    for run in manifest.runs:
        told, env = run.get("env", {}).get("model_hash"), envs[str(run.get("run", ""))]
        if told not in (None, env.provenance().get("model_hash")):
            return None, f"{env.env_name} is another model here than the one that was recorded"
    return functools.partial(_judge, envs), ""


def _judge(envs: Mapping[str, EnvBase], record: EpisodeRecord) -> dict[str, str]:
    """Compare an episode's rewards and successes with those that its environment computes from the observations."""
    env = envs.get(record.run) or next(iter(envs.values()))
    if REWARD not in record.columns:
        return {"unavailable": "the version has no rewards"}
    try:
        terms = reward_terms(env, record.columns, record.final)
    except RewardUnavailable as error:
        return {"unavailable": str(error)}
    said = {}
    stored = record.columns[REWARD].reshape(record.length)
    exact = record.columns[keys.OBSERVATION].dtype == np.float64
    computed = terms[reward_name(env)].astype(stored.dtype)
    wrong = stored != computed if exact else ~np.isclose(stored, computed, rtol=1e-4, atol=1e-4)
    if wrong.any():
        row = int(wrong.argmax())
        said["reward"] = f"row {row}: expected {computed[row]!r}, as {env.env_name} computes it, got {stored[row]!r}"
    if exact and keys.SUCCESS in record.columns:
        following = np.concatenate([record.columns[keys.SUCCESS][1:], record.final[keys.SUCCESS][None]])
        differs = following.reshape(record.length) != terms[SOLVED]
        if differs.any():
            row = int(differs.argmax())
            said["success"] = f"row {row}: expected {terms[SOLVED][row]}, as {env.env_name} has it, got the opposite"
    return said


def _built(run: Mapping[str, Any], manifest: Manifest) -> EnvBase:
    return make_env(task_of(run, manifest))
