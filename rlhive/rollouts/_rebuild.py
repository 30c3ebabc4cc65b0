"""Rebuilding the environment of a dataset from the provenance in its manifest.

Manifests are untrusted input. A manifest may name an environment and the arguments in :data:`ALLOWED_ENV_KWARGS`. It
may not name files to load, robots to connect to, or weights to download.
"""

from collections.abc import Mapping
from typing import Any

from torchrl.envs import EnvBase

from rlhive.data.versions import Manifest
from rlhive.envs import Task, catalogue, make_env
from rlhive.errors import EnvNotFoundError, ReplayRefusedError, RLHiveError

#: Arguments that a manifest may pass to an environment. Never allowed are config_path, a file that RoboHive evaluates;
#: model_path, a file that it loads; is_hardware, which drives a robot; and visual_keys, which may download weights.
ALLOWED_ENV_KWARGS = {
    "cameras",
    "depth",
    "frame_skip",
    "from_pixels",
    "image_size",
    "interact_site",
    "keep_fatigue",
    "max_episode_steps",
    "obj_goal",
    "obj_init",
    "obs_keys",
    "obs_range",
    "render_quality",
    "reward_mode",
    "segmentation",
    "weighted_reward_keys",
}


def task_from_run(run: Mapping[str, Any], manifest: Manifest) -> Task:
    """Return the task whose environment a run recorded, from its provenance.

    Args:
        run: Entry of the manifest's ``runs``.
        manifest: The version's manifest; its ``env_name`` is used if the run names no environment.

    Raises:
        EnvNotFoundError: Neither the run nor the manifest names an environment.
        ReplayRefusedError: The environment has an argument that a manifest may not pass, or is neither RoboHive's nor a
            task of the local catalogue.
    """
    task, env = _mapping_or_empty(run.get("task")), _mapping_or_empty(run.get("env"))
    env_name = task.get("env_name") or env.get("env_name") or manifest.env_name
    env_kwargs = dict(_mapping_or_empty(task.get("env_kwargs")) or _mapping_or_empty(env.get("env_kwargs")))
    if not env_name or not isinstance(env_name, str):
        msg = f"{manifest.name} {manifest.version}: expected an environment in its provenance, got none."
        raise EnvNotFoundError(msg)
    refused = sorted(env_kwargs.keys() - ALLOWED_ENV_KWARGS)
    if refused:
        msg = (
            f"The manifest of {manifest.name} {manifest.version} builds {env_name} with {', '.join(refused)}: expected "
            f"only arguments from {', '.join(sorted(ALLOWED_ENV_KWARGS))}. If you trust the dataset, build the "
            "environment yourself."
        )
        raise ReplayRefusedError(msg)
    backend = task.get("backend") or env.get("backend") or "robohive"
    if backend not in ("robohive", "toy"):
        return _find_catalogue_task(manifest, env_name)
    horizon = task.get("horizon") or env.get("horizon") or 1
    return Task(manifest.task or manifest.name, env_name, horizon, "", env_kwargs=env_kwargs, backend=backend)


def _find_catalogue_task(manifest: Manifest, env_name: str) -> Task:
    """Return the local catalogue's task; a Gymnasium id can name a module to import, which no manifest may do."""
    task = catalogue().get(manifest.task)
    if task is None or task.env_name != env_name:
        msg = (
            f"{manifest.name} {manifest.version} comes from {env_name}, which is not a RoboHive environment: expected "
            f"its task {manifest.task!r} in the local catalogue. Install the package that defines the task, or call "
            "register_task()."
        )
        raise ReplayRefusedError(msg)
    return task


def build_recorded_env(task: Task) -> EnvBase:
    """Build the environment of a task that :func:`task_from_run` returned.

    Raises:
        ReplayRefusedError: The environment rejects the arguments in the manifest.
        RLHiveError: As :func:`rlhive.make_env`.
    """
    try:
        return make_env(task)
    except RLHiveError:
        raise
    except Exception as error:  # simulators raise anything for arguments of the wrong type
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        msg = f"{task.env_name} cannot be built with the manifest's arguments {dict(task.env_kwargs)}: {reason}"
        raise ReplayRefusedError(msg) from error


def tasks_by_run(manifest: Manifest) -> dict[str, Task]:
    """Return the task of every run of a version, by the run's id.

    Raises:
        EnvNotFoundError: The manifest has no run, or a run names no environment.
        ReplayRefusedError: As :func:`task_from_run`.
    """
    tasks = {str(run.get("run", "")): task_from_run(run, manifest) for run in manifest.runs}
    if not tasks:
        msg = f"{manifest.name} {manifest.version}: expected a run with its environment in the manifest, got no run."
        raise EnvNotFoundError(msg)
    return tasks


def is_other_model(run: Mapping[str, Any], provenance: Mapping[str, Any]) -> bool:
    """Return whether an environment compiled another model than the one that was recorded.

    Args:
        run: Entry of the manifest's ``runs``.
        provenance: ``provenance()`` of the environment that was built here.
    """
    return _mapping_or_empty(run.get("env")).get("model_hash") not in (None, provenance.get("model_hash"))


def environment_differences(run: Mapping[str, Any], provenance: Mapping[str, Any]) -> list[str]:
    """Describe where an environment differs from the one that was recorded: its compiled model, its versions.

    Args:
        run: Entry of the manifest's ``runs``.
        provenance: ``provenance()`` of the environment that was built here.
    """
    differences = ["the compiled model differs"] if is_other_model(run, provenance) else []
    recorded_versions = _mapping_or_empty(_mapping_or_empty(run.get("env")).get("versions"))
    for name, version in provenance.get("versions", {}).items():
        if recorded_versions.get(name) not in (None, version):
            differences.append(f"{name} {version} instead of {recorded_versions[name]}")
    return differences


def _mapping_or_empty(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
