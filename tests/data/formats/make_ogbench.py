"""Write files/ogbench/*.npz as OGBench's data_gen_scripts do, and what OGBench's own loader returns for them.

    python make_ogbench.py OGBENCH-WHEEL

The scripts, which are not in the wheel, end with ``np.savez_compressed(path, **dataset)`` of the arrays below. The
loader is extracted from the wheel of ogbench 1.2.2 (pip download --no-deps ogbench==1.2.2), since its package imports
its environments: the function load_dataset of utils.py.
"""

import ast
import sys
import zipfile
from pathlib import Path

import numpy as np

FILES = Path(__file__).parent / "files" / "ogbench"
#: Transitions of each trajectory; the last one is in the validation file.
LENGTHS = (6, 4, 1, 5, 3)
NUM_VALIDATION = 1


def walk(number: int) -> dict[str, np.ndarray]:
    """Return the truth of a trajectory, its last state included: [T+1, …] of states, positions and actions."""
    generator = np.random.default_rng(number)
    num_rows = LENGTHS[number] + 1
    actions = generator.uniform(-1, 1, (num_rows, 2)).astype(np.float32)
    positions = (100 * number + np.cumsum(actions, axis=0)).astype(np.float32)
    velocities = generator.normal(size=(num_rows, 2)).astype(np.float32)
    return {
        "observations": np.concatenate([positions, velocities], axis=1),
        "actions": actions,
        "terminals": np.arange(num_rows) == num_rows - 1,
        "qpos": positions,
        "qvel": velocities,
        "button_states": generator.integers(0, 2, (num_rows, 2)),
    }


def main() -> None:
    """Write all files."""
    FILES.mkdir(parents=True, exist_ok=True)
    numbers = range(len(LENGTHS))
    split = len(LENGTHS) - NUM_VALIDATION
    for name, part in (("point-play-v0", numbers[:split]), ("point-play-v0-val", numbers[split:])):
        walks = [walk(number) for number in part]
        dataset = {key: np.concatenate([item[key] for item in walks]) for key in walks[0]}
        np.savez_compressed(FILES / f"{name}.npz", **dataset)
    with zipfile.ZipFile(sys.argv[1]) as wheel:
        tree = ast.parse(wheel.read("ogbench/utils.py"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "load_dataset"]
    utils: dict = {"np": np}
    exec(compile(ast.Module(functions, []), "utils", "exec"), utils)
    for is_compact, name in ((False, "loaded"), (True, "compact")):
        loaded = utils["load_dataset"](FILES / "point-play-v0.npz", compact_dataset=is_compact, add_info=True)
        (FILES / "loaded").mkdir(exist_ok=True)
        np.savez_compressed(FILES / "loaded" / f"{name}.npz", **loaded)


if __name__ == "__main__":
    main()
