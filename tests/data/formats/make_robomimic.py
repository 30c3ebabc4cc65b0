"""Write files/robomimic/*.hdf5 with robomimic's own script, from states and actions of a small environment.

    python make_robomimic.py ROBOMIMIC-SDIST

robomimic's package does not import without robosuite and egl_probe, so these are extracted from the sdist of robomimic
0.3.0 (pip download --no-deps robomimic==0.3.0): scripts/dataset_states_to_obs.py, which writes the files,
utils/tensor_utils.py, and
create_hdf5_filter_key of utils/file_utils.py, which writes the masks. The environment below takes the place of
robosuite. Needs numpy, h5py and torch.
"""

import ast
import contextlib
import io
import json
import sys
import tarfile
import types
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np

FILES = Path(__file__).parent / "files" / "robomimic"
#: Actions of each demonstration, by its number; the second is not solved.
LENGTHS = {0: 6, 1: 5, 2: 4, 10: 7}
SOLVED_FROM = {0: 6, 1: None, 2: 3, 10: 7}
MASKS = {"train": (0, 2), "valid": (1,), "20_percent": (0,), "better": (0, 1, 10)}
ENV_ARGS = {"env_name": "Lift", "type": 1, "env_kwargs": {"control_freq": 20}}
#: Name → what the script is told.
VARIANTS = {
    "demo": {"done_mode": 0, "exclude_next_obs": False, "camera_names": ["agentview"]},
    "no_next_obs": {"done_mode": 2, "exclude_next_obs": True, "camera_names": []},
}


def walk(number: int) -> dict[str, np.ndarray]:
    """Return the truth of a demonstration: states [T+1, 3] with the final one, actions [T, 2], rewards [T]."""
    generator = np.random.default_rng(number)
    length = LENGTHS[number]
    actions = generator.uniform(-1, 1, (length, 2))
    moves = np.concatenate([np.full((length, 1), 0.05), actions], axis=1)
    start = np.array([[0.0, 10.0 * number, -number]])
    states = np.concatenate([start, moves]).cumsum(axis=0)
    first = SOLVED_FROM[number]
    rewards = np.array([float(first is not None and step >= first) for step in range(1, length + 1)])
    return {"states": states, "actions": actions, "rewards": rewards}


def observe(state: np.ndarray, *, with_camera: bool = False) -> dict[str, np.ndarray]:
    """Return what the environment observes of a state."""
    picture = (state[1] * 7 + np.arange(4 * 4 * 3)).reshape(4, 4, 3).astype(np.int64).astype(np.uint8)
    camera = {"agentview_image": picture} if with_camera else {}
    return {"robot0_eef_pos": state[1:] * 2, "object": np.array([state[0] - state[1]]), **camera}


def describe_model(number: int) -> str:
    """Return the model of a demonstration."""
    return f'<mujoco model="lift"><worldbody><body name="cube_{number}"/></worldbody></mujoco>'


class Environment:
    """A point that actions move."""

    def __init__(self, camera_names: list[str]):
        self._with_camera = bool(camera_names)

    def reset(self) -> None:
        """Do nothing: reset_to follows."""

    def reset_to(self, state: dict) -> dict:
        """Go to a state."""
        self._go(np.asarray(state["states"]))
        return observe(self._state, with_camera=self._with_camera)

    def step(self, action: np.ndarray) -> tuple:
        """Play the last action."""
        self._go(self._state + np.concatenate([[0.05], action]))
        return observe(self._state, with_camera=self._with_camera), 0.0, False, {}

    def _go(self, state: np.ndarray) -> None:
        self._state = state
        self._solved = any(
            SOLVED_FROM[number] is not None and np.allclose(walk(number)["states"][step], state)
            for number, length in LENGTHS.items()
            for step in range(SOLVED_FROM[number] or length, length + 1)
        )

    def get_reward(self) -> float:
        """Return 1 where the task is solved."""
        return float(self._solved)

    def is_success(self) -> dict:
        """Return whether the task is solved."""
        return {"task": self._solved}

    def serialize(self) -> dict:
        """Return what env_args holds."""
        return ENV_ARGS


def load_robomimic(sdist: Path) -> tuple[types.ModuleType, object]:
    """Return robomimic's script, with the environment in place of robosuite, and its function that writes a mask."""
    with tarfile.open(sdist) as archive:
        root = archive.getnames()[0].split("/")[0]

        def read(path: str) -> str:
            return archive.extractfile(f"{root}/robomimic/{path}").read().decode()

        sources = {name: read(name) for name in ("scripts/dataset_states_to_obs.py", "utils/tensor_utils.py")}
        tree = ast.parse(read("utils/file_utils.py"))
    names = ("create_hdf5_filter_key",)
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in names]
    file_utils = types.ModuleType("robomimic.utils.file_utils")
    file_utils.__dict__.update(h5py=h5py, np=np, get_env_metadata_from_dataset=lambda dataset_path: ENV_ARGS)
    exec(compile(ast.Module(functions, []), "file_utils", "exec"), file_utils.__dict__)
    tensor_utils = types.ModuleType("robomimic.utils.tensor_utils")
    exec(sources["utils/tensor_utils.py"], tensor_utils.__dict__)
    env_utils = types.ModuleType("robomimic.utils.env_utils")
    env_utils.create_env_for_data_processing = lambda camera_names, **options: Environment(camera_names)
    env_utils.is_robosuite_env = lambda env_meta: True
    env_base = types.ModuleType("robomimic.envs.env_base")
    env_base.EnvBase = Environment
    for module in (file_utils, tensor_utils, env_utils, env_base):
        parts = module.__name__.split(".")
        for end in range(1, len(parts)):
            sys.modules.setdefault(".".join(parts[:end]), types.ModuleType(".".join(parts[:end])))
        sys.modules[module.__name__] = module
        setattr(sys.modules[".".join(parts[:-1])], parts[-1], module)
    script = types.ModuleType("dataset_states_to_obs")
    exec(sources["scripts/dataset_states_to_obs.py"], script.__dict__)
    return script, file_utils.create_hdf5_filter_key


def main() -> None:
    """Write the file of states that robomimic converts, and what its script makes of it."""
    script, create_filter_key = load_robomimic(Path(sys.argv[1]))
    FILES.mkdir(parents=True, exist_ok=True)
    raw = FILES / "raw.hdf5"
    with h5py.File(raw, "w") as h5:
        for number in LENGTHS:
            truth = walk(number)
            group = h5.create_group(f"data/demo_{number}")
            group["states"], group["actions"] = truth["states"][:-1], truth["actions"]
            group.attrs["model_file"] = describe_model(number)
            group.attrs["num_samples"] = LENGTHS[number]
        h5["data"].attrs["env_args"] = json.dumps(ENV_ARGS)
    for name, demos in MASKS.items():
        create_filter_key(str(raw), [f"demo_{number}" for number in demos], name)
    for name, options in VARIANTS.items():
        common = {"n": None, "camera_height": 4, "camera_width": 4, "shaped": False, "compress": True}
        common |= {"copy_rewards": False, "copy_dones": False, "dataset": str(raw), "output_name": f"{name}.hdf5"}
        with contextlib.redirect_stdout(io.StringIO()):
            script.dataset_states_to_obs(SimpleNamespace(**common, **options))


if __name__ == "__main__":
    main()
