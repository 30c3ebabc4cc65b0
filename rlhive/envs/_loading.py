"""RoboHive itself: imported quietly, and an environment built by its id. Needs no OpenGL."""

import contextlib
import difflib
import functools
import io
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from rlhive.envs._install import package_folder, require_robohive
from rlhive.envs._robot import vectorise
from rlhive.envs._visual import VISUAL
from rlhive.errors import EnvClosed, EnvNotFound, InvalidSetting, RoboHiveMissing

_WRITES_ITS_MODEL = ("robohive.envs.fm", "robohive.envs.myo.myodm", "robohive.envs.tcdm")


class RoboHiveWarning(UserWarning):
    """What RoboHive printed as a warning or an error."""


def registered() -> Mapping[str, Any]:
    """Return gymnasium's spec of each environment id that RoboHive registers; the first call imports RoboHive (3 s).

    Raises:
        RoboHiveMissing: RoboHive is not installed.
    """
    require_robohive()
    _import_robohive()
    import gymnasium

    return {name: spec for name, spec in gymnasium.registry.items() if "model_path" in spec.kwargs}


def build(env_name: str, kwargs: dict[str, Any]) -> tuple[Any, int]:
    """Return RoboHive's environment without gymnasium's wrappers, and its horizon in steps.

    Args:
        env_name: Id that RoboHive registered.
        kwargs: Passed to RoboHive; ``max_episode_steps`` replaces the registered horizon.

    Raises:
        RoboHiveMissing: RoboHive or the assets of this environment are not installed.
        EnvNotFound: RoboHive has no such environment; the message names the nearest, and which lack their assets.
        InvalidSetting: A number of steps that is none.
    """
    kwargs = dict(kwargs)
    for name in ("frame_skip", "max_episode_steps"):
        if kwargs.get(name) is not None and (not isinstance(kwargs[name], int) or kwargs[name] < 1):
            msg = f"{env_name}: {name} is {kwargs[name]!r}, expected a whole number of steps, 1 or more."
            raise InvalidSetting(msg)
    require_robohive()
    _import_robohive()
    import gymnasium

    if env_name not in gymnasium.registry:
        near = difflib.get_close_matches(env_name, [*gymnasium.registry, *VISUAL], n=3, cutoff=0.5)
        said = ", ".join(name + _needs_git(name) for name in near) or "none"
        msg = f"RoboHive has no environment {env_name!r}: expected a registered id, nearest {said}."
        raise EnvNotFound(msg)
    spec = gymnasium.spec(env_name)
    horizon = kwargs.pop("max_episode_steps", None) or spec.max_episode_steps
    if "model_path" not in spec.kwargs or horizon is None:
        msg = f"{env_name!r} is not a RoboHive environment with a horizon: expected an id out of RoboHive's suites."
        raise EnvNotFound(msg)
    # What an environment draws while it is built belongs to its definition, so that seed is fixed.
    kwargs.setdefault("seed", 0)
    try:
        with _alone(str(spec.entry_point)), _silenced():
            env = gymnasium.make(env_name, disable_env_checker=True, **kwargs).unwrapped
    except ValueError as error:
        if "resource not found" not in str(error) and "XML" not in str(error):
            raise
        msg = f"{env_name} lacks simulation assets that fit: {error}. Type: rlhive setup --assets git"
        raise RoboHiveMissing(msg) from error
    # The kitchens look up ten sites by name in every step: 2 % of it.
    env.sim.model.site_name2id = functools.cache(env.sim.model.site_name2id)
    vectorise(env.robot)
    return env, int(horizon)


def _needs_git(env_name: str) -> str:
    """Say so where the model of an environment, or a file that it includes, is not among the installed assets."""
    import gymnasium

    robohive_id = VISUAL[env_name].robohive_id if env_name in VISUAL else env_name
    spec = gymnasium.registry.get(robohive_id)
    if spec is None or "model_path" not in spec.kwargs:
        return ""
    model = Path(spec.kwargs["model_path"]).resolve()
    files, seen = [model], set()
    while files:
        file = files.pop()
        if not file.is_file():
            return " (needs rlhive setup --assets git)"
        if file not in seen:
            seen.add(file)
            # MuJoCo takes includes from where the main file is.
            included = re.findall(r'<include\s+file="([^"]+)"', file.read_text(encoding="utf-8", errors="replace"))
            files += [(model.parent / name).resolve() for name in included]
    return ""


class Closed:
    """Stands where a simulator was; every use is an error that says so."""

    def __init__(self, env_name: str) -> None:
        self.__dict__["env_name"] = env_name

    def __getattr__(self, name: str) -> Any:
        msg = f"{self.env_name} is closed: expected an open environment to ask for {name!r}. Build a new one."
        raise EnvClosed(msg)


def release(env: Any) -> None:
    """Empty a RoboHive environment, so that its simulator's memory is free at once: 70 MB for a kitchen.

    RoboHive's and dm_control's objects refer to each other in rings, which the garbage collector finds some day.

    Args:
        env: What :func:`build` returned; of no use afterwards.
    """
    env.sim.close()
    sims = {id(sim): sim for sim in (env.sim, env.sim_obsd)}.values()
    parts = [part for sim in sims for part in (sim.sim, sim.model, sim.data, sim.renderer, sim)]
    for part in (*parts, env.robot, env):
        kept = {"is_hardware": False, "robot_config": None, "_window": None}  # asked for when they are collected
        vars(part).clear()
        vars(part).update(kept)


def _alone(entry_point: str) -> contextlib.AbstractContextManager:
    """Return a lock for the suites that write their model beside the original, load it and delete it.

    Two processes that build at once, as ParallelEnv's do, would delete each other's.
    """
    if not entry_point.startswith(_WRITES_ITS_MODEL):
        return contextlib.nullcontext()
    return FileLock(package_folder() / ".rlhive-build.lock")


def _import_robohive() -> None:
    """Import RoboHive without its banners and without a complaint about a missing display."""
    import glfw

    with warnings.catch_warnings(), _silenced():
        # dm_control tries the window system when it is imported; states need none.
        warnings.simplefilter("ignore", glfw.GLFWError)
        import dm_control.mujoco  # noqa: F401
        import robohive  # noqa: F401
        from robohive.utils import prompt_utils
    if prompt_utils.cprint is not _prompted:
        _prompted.original = prompt_utils.cprint
        prompt_utils.cprint = _prompted


def _prompted(text: str, color: str | None = None, on_color: str | None = None, **kwargs: Any) -> None:
    """Stand in for the function with which RoboHive prints; its warnings and errors have these colours."""
    if on_color in ("on_yellow", "on_red"):
        warnings.warn(text.strip(), RoboHiveWarning, stacklevel=3)
    else:
        _prompted.original(text, color=color, on_color=on_color, **kwargs)


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Drop what is printed, except for warnings and errors, which are raised as warnings afterwards."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            yield
    finally:
        for line in printed.getvalue().splitlines():
            if re.search(r"warn|error", line, re.IGNORECASE):
                warnings.warn(re.sub(r"\s+|\x1b\[\d*m", " ", line).strip(), RoboHiveWarning, stacklevel=3)
