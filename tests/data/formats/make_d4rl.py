"""Write files/d4rl.hdf5 with D4RL's writer, and the transitions that D4RL's reader returns for it.

    uv run --no-project --python 3.11 --with numpy==1.26.4 --with h5py==3.16.0 python make_d4rl.py D4RL-WHEEL

D4RL's package does not import without mujoco_py, so the two definitions are extracted from the wheel of d4rl 1.1
(pip download --no-deps d4rl==1.1): the class DatasetWriter, and the function qlearning_dataset.
"""

import ast
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np

FILES = Path(__file__).parent / "files"
#: Rows of each episode; the second and the last end the task, the others run into the time limit of 20.
LENGTHS = (20, 13, 20, 1, 20, 7)
TERMINAL = (False, True, False, True, False, True)
HORIZON = 20


def walk(episode: int) -> dict[str, np.ndarray]:
    """Return the truth of an episode, its last state included: a drifting point."""
    generator = np.random.default_rng(episode)
    length = LENGTHS[episode]
    actions = generator.uniform(-1, 1, (length, 2)).astype(np.float32)
    start = np.float32([100 * (episode + 1), -50 * episode, 0])
    steps = np.concatenate([0.1 * actions, np.full((length, 1), 0.05, np.float32)], axis=1)
    states = np.concatenate([start[None], start + np.cumsum(steps, axis=0, dtype=np.float32)])
    return {"states": states.astype(np.float32), "actions": actions, "rewards": states[1:, 0].astype(np.float32)}


def main() -> None:
    """Write both files."""
    with zipfile.ZipFile(sys.argv[1]) as wheel:
        writer: dict = {}
        exec(wheel.read("d4rl/utils/dataset_utils.py"), writer)
        tree = ast.parse(wheel.read("d4rl/__init__.py"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "qlearning_dataset"]
    reader: dict = {"np": np}
    exec(compile(ast.Module(functions, []), "d4rl", "exec"), reader)

    data = writer["DatasetWriter"](mujoco=True)
    for episode, terminal in enumerate(TERMINAL):
        truth = walk(episode)
        for row in range(LENGTHS[episode]):
            simulator = SimpleNamespace(qpos=truth["states"][row, :2], qvel=truth["states"][row, 2:])
            end = terminal and row == LENGTHS[episode] - 1
            data.append_data(
                truth["states"][row], truth["actions"][row], truth["rewards"][row], end, mujoco_env_data=simulator
            )
    FILES.mkdir(exist_ok=True)
    data.write_dataset(str(FILES / "d4rl.hdf5"))
    loaded = {name: np.array(values) for name, values in data.data.items()}
    ends = np.cumsum(LENGTHS) - 1
    loaded["timeouts"] = np.isin(np.arange(sum(LENGTHS)), ends) & ~loaded["terminals"].astype(bool)
    np.savez_compressed(FILES / "d4rl_qlearning.npz", **reader["qlearning_dataset"](None, loaded))


if __name__ == "__main__":
    main()
