"""Steps of RoboHive's models under another version of MuJoCo: ``python benchmarks/mujoco_versions.py OTHER_PYTHON``.

OTHER_PYTHON is the interpreter of an environment with another MuJoCo; nothing else is needed there. Environment ids may
follow. For each id, the model of RoboHive's MuJoCo is written as MJCF, and its numbers as arrays; the other MuJoCo
compiles the MJCF and takes the numbers over where name and shape agree: masses, gains, friction, and what a reset drew.
Both then run the same controls from the same state. The table has the number of arrays that were copied because they
differed, and of those that could not be copied; the CPU time per environment step; and the largest difference of a
joint's position after 1, 10 and 50 steps, and after 50 steps without contacts.
"""

import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import mujoco
import numpy as np

IDS = (
    *("FK1_Knob1OnRandom-v4", "FrankaReachRandom-v0", "pen-v1", "DKittyStandRandom-v0", "TrifingerReachRandom-v0"),
    *("myoElbowPose1D6MRandom-v0", "myoHandReachRandom-v0"),
)
STEPS = (1, 10, 50)


def model_arrays(model: mujoco.MjModel) -> dict[str, np.ndarray]:
    """Return the numbers of a model that a simulation reads, by name."""
    names = [name for name in dir(model) if not name.startswith(("_", "name", "text", "tuple", "vis", "mesh", "tex"))]
    arrays = {name: getattr(model, name) for name in names}
    return {name: value for name, value in arrays.items() if isinstance(value, np.ndarray) and value.dtype.kind == "f"}


def run(
    model: mujoco.MjModel, start: np.ndarray, controls: np.ndarray, substeps: int, contacts: bool = True
) -> tuple[np.ndarray, float]:
    """Return the joints' positions after each step, and the CPU time of a step in ms."""
    flag = int(mujoco.mjtDisableBit.mjDSBL_CONTACT)
    model.opt.disableflags = model.opt.disableflags & ~flag if contacts else model.opt.disableflags | flag
    data, positions = mujoco.MjData(model), []
    nq, nv = model.nq, model.nv
    data.qpos[:], data.qvel[:], data.act[:] = np.split(start, [nq, nq + nv])
    mujoco.mj_forward(model, data)
    began = time.process_time()
    for control in controls:
        data.ctrl[:] = control
        mujoco.mj_step(model, data, substeps)
        positions.append(data.qpos.copy())
    return np.array(positions), (time.process_time() - began) / len(controls) * 1e3


def write(env_name: str, folder: Path) -> None:
    """Write a model, a start state, controls, and what RoboHive's MuJoCo makes of them."""
    from rlhive import RoboHiveEnv

    env = RoboHiveEnv(env_name, seed=0)
    env.set_seed(1)
    env.reset()
    sim = env.unwrapped.sim
    model, data = sim.model.ptr, sim.data.ptr
    draw = np.random.default_rng(0)
    low, high = model.actuator_ctrlrange.T
    limited = model.actuator_ctrllimited.astype(bool)
    controls = draw.uniform(np.where(limited, low, -1), np.where(limited, high, 1), (STEPS[-1], model.nu))
    start = np.concatenate([data.qpos, data.qvel, data.act])
    positions, cpu = run(model, start, controls, env._substeps)
    untouched, _ = run(model, start, controls, env._substeps, contacts=False)
    (folder / "model.xml").write_text(portable(sim.model.get_xml(), Path(model_path(env.robohive_id)).parent))
    np.savez(
        folder / "run.npz",
        **{f"model.{name}": value for name, value in model_arrays(model).items()},
        **{
            "start": start,
            "controls": controls,
            "positions": positions,
            "untouched": untouched,
            "cpu": cpu,
            "substeps": env._substeps,
        },
    )


def model_path(robohive_id: str) -> str:
    """Return the path of the MJCF that RoboHive compiles."""
    import gymnasium

    return gymnasium.spec(robohive_id).kwargs["model_path"]


def portable(mjcf: str, folder: Path) -> str:
    """Return an MJCF with absolute folders of meshes and textures, in MuJoCo 4's words."""
    mjcf = re.sub(r' apirate="[^"]*"', "", mjcf).replace(" mpr_", " ccd_")
    for name in ("meshdir", "texturedir"):
        found = re.search(rf'{name}="([^"]*)"', mjcf)
        path = (folder / (found[1] if found else "")).resolve()
        entry = f'{name}="{path}/"'
        mjcf = mjcf.replace(found[0], entry) if found else mjcf.replace("<compiler ", f"<compiler {entry} ", 1)
    return mjcf


def compare(folder: Path) -> dict:
    """Return the row of a model in this MuJoCo, against what :func:`write` wrote."""
    stored = np.load(folder / "run.npz")
    model = mujoco.MjModel.from_xml_path(str(folder / "model.xml"))
    copied, missing = 0, []
    arrays = model_arrays(model)
    for name in (name for name in stored if name.startswith("model.")):
        array, other = arrays.get(name.removeprefix("model.")), stored[name]
        if array is None or array.shape[:1] != other.shape[:1]:
            missing += [name.removeprefix("model.")] if other.size else []
            continue
        # MuJoCo 4 has room for more numbers in a row of some arrays, such as those of an equality constraint.
        shared = tuple(map(slice, np.minimum(array.shape, other.shape)))
        if not np.array_equal(array[shared], other[shared]):
            copied += 1
            array[shared] = other[shared]
    positions, cpu = run(model, stored["start"], stored["controls"], int(stored["substeps"]))
    untouched, _ = run(model, stored["start"], stored["controls"], int(stored["substeps"]), contacts=False)
    errors = np.abs(positions - stored["positions"]).max(axis=1)
    return {
        "arrays": [copied, " ".join(missing) or "none"],
        "cpu": [float(stored["cpu"]), cpu],
        "errors": [float(errors[step - 1]) for step in STEPS],
        "untouched": float(np.abs(untouched - stored["untouched"]).max()),
    }


def main(arguments: list[str]) -> None:
    """Print a row per id, or with ``--compare FOLDER`` that of a model in this interpreter's MuJoCo."""
    if arguments[0] == "--compare":
        print(json.dumps({"mujoco": mujoco.__version__, **compare(Path(arguments[1]))}))
        return
    steps = ", ".join(map(str, STEPS))
    columns = ["environment", "arrays copied, not copied", f"ms/step {mujoco.__version__}, other"]
    print("| " + " | ".join([*columns, f"off after {steps} steps", "without contacts"]) + " |")
    print("|---|---|---|---|---|")
    for env_name in arguments[1:] or IDS:
        with tempfile.TemporaryDirectory() as folder:
            write(env_name, Path(folder))
            command = [arguments[0], __file__, "--compare", folder]
            ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if ran.returncode:
            print(f"| {env_name} | {ran.stderr.strip().splitlines()[-1][:200]} | | | |", flush=True)
            continue
        row = json.loads(ran.stdout.splitlines()[-1])
        (copied, missing), (here, there) = row["arrays"], row["cpu"]
        errors = ", ".join(f"{error:.1e}" for error in row["errors"])
        print(
            f"| {env_name} | {copied}, {missing} | {here:.2f}, {there:.2f} | {errors} | {row['untouched']:.1e} |",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
