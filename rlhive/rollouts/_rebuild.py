"""The environment that a dataset comes from, rebuilt from what its manifest says.

A manifest comes from anyone, so it may name an environment and a few harmless arguments; a file to load, a robot to
connect or weights to fetch it may not name.
"""

from collections.abc import Mapping
from typing import Any

from torchrl.envs import EnvBase

from rlhive.data.versions import Manifest
from rlhive.envs import Task, catalogue, make_env
from rlhive.errors import EnvNotFound, ReplayRefused, RLHiveError

#: Arguments that a manifest may give to an environment. Never: config_path, a file that RoboHive evaluates; model_path,
#: one that it loads; is_hardware, which drives a robot; visual_keys, which may fetch weights.
HARMLESS = {
    "cameras",
    "depth",
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
        ReplayRefused: The environment was given an argument that a manifest may not give, or is none of RoboHive's and
            not in the catalogue here.
    """
    task, env = _mapping(run.get("task")), _mapping(run.get("env"))
    env_name = task.get("env_name") or env.get("env_name") or manifest.env_name
    kwargs = dict(_mapping(task.get("env_kwargs")) or _mapping(env.get("env_kwargs")))
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
    if backend not in ("robohive", "toy"):
        return _registered(manifest, env_name)
    horizon = task.get("horizon") or env.get("horizon") or 1
    return Task(manifest.task or manifest.name, env_name, horizon, "", env_kwargs=kwargs, backend=backend)


def _registered(manifest: Manifest, env_name: str) -> Task:
    """Return the catalogue's own task: an id of gymnasium can name a module to import, which no manifest may."""
    task = catalogue().get(manifest.task)
    if task is None or task.env_name != env_name:
        msg = (
            f"{manifest.name} {manifest.version} comes from {env_name}, which is not RoboHive's: expected its task "
            f"{manifest.task!r} in the catalogue here. Install the package that has it, or register_task it."
        )
        raise ReplayRefused(msg)
    return task


def build(task: Task) -> EnvBase:
    """Build the environment of a task that a manifest named.

    Raises:
        ReplayRefused: The environment does not take what the manifest says.
        RLHiveError: As :func:`rlhive.envs.make_env`.
    """
    try:
        return make_env(task)
    except RLHiveError:
        raise
    except Exception as error:  # whatever a simulator says to arguments of the wrong kind
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        msg = f"{task.env_name} cannot be built with {dict(task.env_kwargs)}, as the manifest says: {said}"
        raise ReplayRefused(msg) from error


def tasks_of(manifest: Manifest) -> dict[str, Task]:
    """Return the task of every run of a version, by the run's id.

    Raises:
        EnvNotFound: The version names no run, or a run no environment.
        ReplayRefused: As :func:`task_of`.
    """
    tasks = {str(run.get("run", "")): task_of(run, manifest) for run in manifest.runs}
    if not tasks:
        msg = f"{manifest.name} {manifest.version}: expected a run with its environment in the manifest, got no run."
        raise EnvNotFound(msg)
    return tasks


def differences(run: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Say where an environment is not the one that was recorded.

    Args:
        run: An entry of the manifest's ``runs``.
        here: ``provenance()`` of the environment that was built.
    """
    told = _mapping(run.get("env"))
    said = []
    if told.get("model_hash") not in (None, here.get("model_hash")):
        said.append("the compiled model is another one")
    versions = _mapping(told.get("versions"))
    for name, version in here.get("versions", {}).items():
        if versions.get(name) not in (None, version):
            said.append(f"{name} {version} instead of {versions[name]}")
    return said


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
