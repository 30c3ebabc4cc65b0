"""Import RoboHive without its banners, and build an environment by its id; OpenGL is not needed."""

import contextlib
import difflib
import functools
import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from rlhive.envs._assets import find_damaged_source
from rlhive.envs._generators import seeded_numpy
from rlhive.envs._install import package_folder, require_robohive
from rlhive.envs._numpy_names import provide_numpy_names
from rlhive.envs._robot import vectorize_robot
from rlhive.envs._visual import VISUAL
from rlhive.errors import AssetsCorruptError, EnvClosedError, EnvNotFoundError, InvalidOptionError, RoboHiveMissingError

#: Suites that write their model beside the original, load it and delete it.
_MODEL_WRITING_SUITES = ("robohive.envs.fm", "robohive.envs.myo.myodm", "robohive.envs.tcdm")


#: Beginnings of the messages of MuJoCo's compiler.
_MODEL_ERRORS = ("Error", "XML", "mj")


class RoboHiveWarning(UserWarning):
    """A warning or an error that RoboHive printed."""


def registered_specs() -> Mapping[str, Any]:
    """Return environment id → gymnasium's spec for RoboHive's environments; the first call imports RoboHive (3 s).

    Raises:
        RoboHiveMissingError: RoboHive is not installed.
    """
    require_robohive()
    _import_robohive()
    import gymnasium

    return {name: spec for name, spec in gymnasium.registry.items() if "model_path" in spec.kwargs}


def build_robohive(env_name: str, kwargs: Mapping[str, Any]) -> tuple[Any, int]:
    """Build a RoboHive environment.

    Args:
        env_name: Environment id that RoboHive registers.
        kwargs: Arguments for RoboHive; ``max_episode_steps`` replaces the registered horizon.

    Returns:
        RoboHive's environment without gymnasium's wrappers, and the horizon in steps.

    Raises:
        RoboHiveMissingError: RoboHive or the assets of this environment are not installed.
        EnvNotFoundError: RoboHive has no such environment. The message lists similar ids and marks those without
            assets.
        AssetsCorruptError: The model cannot be compiled, and installed assets were changed.
        InvalidOptionError: ``frame_skip`` or ``max_episode_steps`` is not a positive integer.
    """
    kwargs = dict(kwargs)
    for name in ("frame_skip", "max_episode_steps"):
        if kwargs.get(name) is not None and (not isinstance(kwargs[name], int) or kwargs[name] < 1):
            msg = f"{env_name}: {name} is {kwargs[name]!r}, expected an integer number of steps, 1 or more."
            raise InvalidOptionError(msg)
    require_robohive()
    _import_robohive()
    import gymnasium

    if env_name not in gymnasium.registry:
        similar = difflib.get_close_matches(env_name, [*gymnasium.registry, *VISUAL], n=3, cutoff=0.5)
        candidates = ", ".join(name + _missing_assets_hint(name) for name in similar) or "none"
        msg = f"RoboHive has no environment {env_name!r}: expected a registered id, nearest {candidates}."
        raise EnvNotFoundError(msg)
    spec = gymnasium.spec(env_name)
    horizon = kwargs.pop("max_episode_steps", None) or spec.max_episode_steps
    if "model_path" not in spec.kwargs or horizon is None:
        msg = f"{env_name!r} is not a RoboHive environment with a horizon: expected an id of RoboHive's suites."
        raise EnvNotFoundError(msg)
    # The seed is fixed: the numbers that an environment draws while it is built belong to its definition.
    kwargs.setdefault("seed", 0)
    env: Any
    try:
        with _build_lock(str(spec.entry_point)), _capture_output(), seeded_numpy(np.array([0])):
            env = gymnasium.make(env_name, disable_env_checker=True, **kwargs).unwrapped
    except ValueError as error:
        if not str(error).startswith(_MODEL_ERRORS):
            raise
        raise _model_error(env_name, error) from error
    # The kitchens look up ten sites by name in every step, which takes 2 % of it.
    env.sim.model.site_name2id = functools.cache(env.sim.model.site_name2id)
    vectorize_robot(env.robot)
    return env, int(horizon)


def _model_error(env_name: str, error: ValueError) -> AssetsCorruptError | RoboHiveMissingError:
    """Return the error of a model that MuJoCo could not compile: its assets are damaged, or not installed."""
    simhive = package_folder() / "simhive"
    reason = " ".join(str(error).replace(f"{simhive.parent}/", "").split())
    source = find_damaged_source(simhive)
    if source is not None:
        msg = (
            f"The simulation assets of {env_name} in {simhive} are damaged: expected the files that were installed, "
            f"got {reason}. Type: rlhive setup --assets {source}"
        )
        return AssetsCorruptError(msg)
    return RoboHiveMissingError(
        f"{env_name} lacks simulation assets that fit: {reason}. Type: rlhive setup --assets git"
    )


def _missing_assets_hint(env_name: str) -> str:
    """Return a hint if the environment's model, or a file that it includes, is not installed; otherwise ""."""
    import gymnasium

    robohive_id = VISUAL[env_name].robohive_id if env_name in VISUAL else env_name
    spec = gymnasium.registry.get(robohive_id)
    if spec is None or "model_path" not in spec.kwargs:
        return ""
    model = Path(spec.kwargs["model_path"]).resolve()
    pending = [model]
    visited = set()
    while pending:
        file = pending.pop()
        if not file.is_file():
            return " (needs rlhive setup --assets git)"
        if file not in visited:
            visited.add(file)
            # MuJoCo resolves includes relative to the main file.
            included = re.findall(r'<include\s+file="([^"]+)"', file.read_text(encoding="utf-8", errors="replace"))
            pending += [(model.parent / name).resolve() for name in included]
    return ""


class ClosedSimulator:
    """Placeholder for the simulator of a closed environment; every attribute access raises EnvClosedError."""

    def __init__(self, env_name: str) -> None:
        self.__dict__["env_name"] = env_name

    def __getattr__(self, name: str) -> Any:
        msg = f"{self.env_name} is closed: expected an open environment to read {name!r} from."
        raise EnvClosedError(msg)


def free_simulator(env: Any) -> None:
    """Empty a RoboHive environment, which frees its simulator's memory at once: 70 MB for a kitchen.

    RoboHive's and dm_control's objects form reference cycles, which the garbage collector would free much later.

    Args:
        env: An environment that :func:`build_robohive` returned. It cannot be used afterwards.
    """
    env.sim.close()
    sims = {id(sim): sim for sim in (env.sim, env.sim_obsd)}.values()
    parts = [part for sim in sims for part in (sim.sim, sim.model, sim.data, sim.renderer, sim)]
    for part in (*parts, env.robot, env):
        vars(part).clear()
        # Their __del__ methods read these attributes.
        vars(part).update({"is_hardware": False, "robot_config": None, "_window": None})


def _build_lock(entry_point: str) -> contextlib.AbstractContextManager[Any]:
    """Return a lock for the suites that write their model beside the original, load it and delete it.

    Without the lock, processes that build at the same time, such as ParallelEnv's workers, delete each other's model.
    """
    if not entry_point.startswith(_MODEL_WRITING_SUITES):
        return contextlib.nullcontext()
    return FileLock(package_folder() / ".rlhive-build.lock")


def _require_whole_arrays() -> None:
    """Check that MuJoCo's arrays are whole.

    Beside NumPy 2, MuJoCo 3.1.3 gives many arrays of fixed size (flags of a scene, a camera's ``lookat``) a stride of 0
    bytes: each element reads and writes the first one. Nothing fails; pictures and whatever is set differ.

    Raises:
        RoboHiveMissingError: They are not.
    """
    import mujoco

    if not all(mujoco.MjvOption().flags.strides):
        msg = (
            f"MuJoCo {mujoco.__version__} takes the first element of small arrays for all of them beside NumPy "
            f"{np.__version__}: expected NumPy 1.26. Type: pip install 'rlhive[robohive]'"
        )
        raise RoboHiveMissingError(msg)


def _import_robohive() -> None:
    """Import RoboHive without its banners and without warnings about a missing display.

    Raises:
        RoboHiveMissingError: The installed MuJoCo does not work with the installed NumPy.
    """
    import glfw

    with warnings.catch_warnings(), _capture_output():
        # dm_control tries the window system at import; states need none.
        warnings.simplefilter("ignore", glfw.GLFWError)
        import dm_control.mujoco  # noqa: F401

        _require_whole_arrays()
        import robohive  # noqa: F401
        from robohive.envs.multi_task import multi_task_base_v1
        from robohive.utils import prompt_utils
    # The kitchens and the Franka appliances: the only modules whose environments use a name that NumPy 2 lacks.
    provide_numpy_names(multi_task_base_v1)
    if not isinstance(prompt_utils.cprint, _PrintOrWarn):
        prompt_utils.cprint = _PrintOrWarn(prompt_utils.cprint)


class _PrintOrWarn:
    """Replacement for the function with which RoboHive prints: its warnings and errors become Python warnings.

    Args:
        original: RoboHive's own function, which prints everything else.
    """

    def __init__(self, original: Callable[..., None]) -> None:
        self._original = original

    def __call__(self, text: str, color: str | None = None, on_color: str | None = None, **kwargs: Any) -> None:
        """Print a text, or raise it as a warning if it has the background of RoboHive's warnings or errors."""
        if on_color in ("on_yellow", "on_red"):
            warnings.warn(text.strip(), RoboHiveWarning, stacklevel=3)
        else:
            self._original(text, color=color, on_color=on_color, **kwargs)


@contextlib.contextmanager
def _capture_output() -> Iterator[None]:
    """Drop what the block prints, except for warnings and errors, which become Python warnings at its end."""
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output):
            yield
    finally:
        for line in output.getvalue().splitlines():
            if re.search(r"warn|error", line, re.IGNORECASE):
                warnings.warn(re.sub(r"\s+|\x1b\[\d*m", " ", line).strip(), RoboHiveWarning, stacklevel=3)
