"""Coverage of RoboHive's environments: every state id, every id with pixels, and every ``visual_*`` id.

    python -m benchmarks.env_coverage [--workers 2] [--ids myoHandReachRandom-v0 door-v1 …]

prints one row per family. Without ``--ids`` it takes about half an hour on one core with all assets, writes
benchmarks/results/env_coverage.json and puts the table into docs/robohive.md. For each id:

    runs      it builds, passes TorchRL's check_env_specs, and takes 50 random steps with finite values
    pictures  every camera of the model gives a picture that is not of one colour, in a start state and after a step
    closes    closing frees simulation and OpenGL context at once, with the garbage collector off

An outcome is "yes", or what failed, or "no camera", or "assets" where the simulation assets are not installed. Ids with
a vision encoder are left out, since they download weights.
"""

import argparse
import gc
import json
import logging
import multiprocessing
import re
import sys
import time
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDictBase
from tqdm import tqdm

from rlhive import keys
from rlhive.errors import RoboHiveMissingError

RESULTS = Path(__file__).parent / "results" / "env_coverage.json"
DOCS = Path(__file__).parent.parent / "docs" / "robohive.md"
ENCODERS = re.compile(r"_v(r3m|rrl|vc1)")
SMALL = {"image_size": (16, 16), "render_quality": "fast"}
NUM_STEPS = 50

#: Parts of the checks, which are also columns of the table.
CHECKS = ("runs", "pictures", "closes")

#: Family → pattern of its ids; an id belongs to the first family whose pattern matches.
FAMILIES = {
    "visual_*, first versions": r"visual_(kitchen|franka)_",
    "visual_*, AgentHive": r"visual_",
    "Kitchen with pixels (FK1_*_v2d)": r"FK1_.*_v2d",
    "others with pixels (*_v2d)": r".*_v2d",
    "Kitchen (FK1_*)": r"FK1_",
    "Franka appliances (franka_*)": r"franka_",
    "Franka reach, push, pick (Franka*)": r"Franka",
    "Franka with Robotiq or D'Manus hand (rpFranka*)": r"rpFranka",
    "Fetch": r"Fetch",
    "Trifinger": r"Trifinger",
    "Baoding": r"baoding",
    "Adroit (door, hammer, pen, relocate)": r"(door|hammer|pen|relocate)-",
    "D'Kitty": r"DKitty",
    "Motor fingers": r"motor",
    "MyoDM (MyoHand*)": r"Myo(Hand|Leg)",
    "MyoChallenge": r"myoChallenge",
    "Myo with fatigue (myoFati*)": r"myoFati",
    "Myo legs": r"myo(Sarc|Reaf)?Leg",
    "Myo hands, fingers, elbows": r"myo",
}


@dataclass(frozen=True)
class Coverage:
    """Outcome of the checks of one id: "yes", what failed, "no camera", or "assets".

    Attributes:
        env_name: Environment id.
        runs: Whether it builds, passes check_env_specs and steps.
        pictures: Whether its cameras give pictures.
        closes: Whether closing frees its memory.
        seconds: Time of all checks in seconds.
        resident_mb: Memory of the process afterwards in MB.
    """

    env_name: str
    runs: str = "yes"
    pictures: str = "yes"
    closes: str = "yes"
    seconds: float = 0.0
    resident_mb: int = 0

    @property
    def failures(self) -> dict[str, str]:
        """Check → what failed."""
        outcomes = {check: getattr(self, check) for check in CHECKS}
        return {check: outcome for check, outcome in outcomes.items() if outcome not in ("yes", "assets", "no camera")}


def cover_env(env_name: str) -> Coverage:
    """Run all checks of one id."""
    warnings.simplefilter("ignore")
    from rlhive.envs import RoboHiveEnv

    logging.getLogger("torchrl").setLevel(logging.ERROR)  # torchrl logs every success
    started = time.perf_counter()
    coverage = Coverage(env_name)
    try:
        env = RoboHiveEnv(env_name, seed=0, from_pixels=False)
    except RoboHiveMissingError:
        return Coverage(env_name, *("assets" for _ in CHECKS))
    has_camera = env.unwrapped.sim.model.ptr.ncam > 0
    coverage = replace(coverage, runs=outcome_of(check_runs, env))
    closes = outcome_of(check_closes, env)
    if has_camera:
        # The default pictures of an id that has some, which are those of all cameras for every other id.
        env = RoboHiveEnv(env_name, seed=0, from_pixels=True, **SMALL)
        coverage = replace(coverage, pictures=outcome_of(check_pictures, env))
        closes = closes if closes != "yes" else outcome_of(check_closes, env)
    else:
        coverage = replace(coverage, pictures="no camera")
    seconds = round(time.perf_counter() - started, 2)
    return replace(coverage, closes=closes, seconds=seconds, resident_mb=resident_mb())


def outcome_of(check: Callable[[Any], str], env: Any) -> str:
    """Return the outcome of a check; an error is one."""
    try:
        return check(env)
    except Exception as error:  # the table reports any error
        return f"{type(error).__name__}: {error}".splitlines()[0]


def check_runs(env: Any) -> str:
    """Check the specs, and take steps of random actions over as many episodes as they need, the same in every run."""
    from torchrl.envs import check_env_specs

    torch.manual_seed(0)
    env.set_seed(0)
    check_env_specs(env)
    steps = env.rollout(NUM_STEPS, break_when_any_done=False)
    if not (steps[keys.NEXT, keys.OBSERVATION].isfinite().all() and steps[keys.NEXT, keys.REWARD].isfinite().all()):
        return "a value of the steps is not finite"
    return "yes" if len(steps) == NUM_STEPS else f"expected {NUM_STEPS} steps, got {len(steps)}"


def check_pictures(env: Any) -> str:
    """Check the specs with pixels, and that no picture is of one colour."""
    from torchrl.envs import check_env_specs

    if env.env_name.startswith("visual_") or "_v2d" in env.env_name:
        check_env_specs(env)
    start = env.reset(seed=0)
    return find_blank(start, env) or find_blank(env.step(env.rand_action(start))[keys.NEXT], env) or "yes"


def find_blank(tensordict: TensorDictBase, env: Any) -> str:
    """Return which camera's picture is of one colour; empty where none is."""
    for name, picture in zip(env.provenance()["rendering"]["cameras"], tensordict[keys.PIXELS], strict=True):
        if (picture == picture[0, 0]).all():
            return f"the picture of camera {name!r} is of one colour"
    return ""


def check_closes(env: Any) -> str:
    """Close an environment, and check that its memory is freed without the garbage collector."""
    # dm_control keeps the model that was built last, in every process; the simulation is ours.
    simulation = weakref.ref(env.unwrapped.sim.data.ptr)
    offscreen = env._renderer._offscreen if env._renderer else None
    gc.disable()
    try:
        env.close()
        is_kept = simulation() is not None
    finally:
        gc.enable()
    if is_kept:
        return "closing keeps the simulation"
    return "closing keeps the OpenGL context" if offscreen is not None and offscreen.context is not None else "yes"


def resident_mb() -> int:
    """Return the memory of this process in MB; 0 where the system does not say."""
    status = Path("/proc/self/status")
    match = re.search(r"VmRSS:\s+(\d+)", status.read_text(encoding="ascii")) if status.exists() else None
    return int(match[1]) // 1024 if match else 0


def registered_ids() -> list[str]:
    """Return RoboHive's ids without those that need an encoder, and the ``visual_*`` ids."""
    from rlhive.envs._loading import registered_specs
    from rlhive.envs._visual import VISUAL

    return [name for name in registered_specs() if not ENCODERS.search(name)] + list(VISUAL)


def family(env_name: str) -> str:
    """Return the family of an id."""
    return next(name for name, pattern in FAMILIES.items() if re.match(pattern, env_name))


def format_table(coverages: Iterable[Coverage]) -> str:
    """Return a Markdown table: per family the ids that pass each check, of those to which it applies."""
    rows: dict[str, list[Coverage]] = {name: [] for name in FAMILIES}
    for coverage in coverages:
        rows[family(coverage.env_name)].append(coverage)
    lines = ["| family | ids | builds, specs, 50 steps | pictures | closes |", "|---|---|---|---|---|"]
    for name, of_family in rows.items():
        if of_family:
            cells = [_format_cell(Counter(getattr(each, check) for each in of_family)) for check in CHECKS]
            lines.append(f"| {name} | {len(of_family)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _format_cell(outcomes: Counter[str]) -> str:
    """Return how many ids pass, of those with assets and, for pictures, with a camera."""
    number = outcomes.total() - outcomes["assets"] - outcomes["no camera"]
    if number:
        return f"{outcomes['yes']} of {number}"
    return "no assets" if outcomes["assets"] else "no camera"


def write_docs(name: str, table: str) -> None:
    """Put a table between the markers of a benchmark in docs/robohive.md."""
    begin, end = (f"<!-- benchmarks.{name}: {word} -->" for word in ("begin", "end"))
    text = DOCS.read_text(encoding="utf-8")
    head, _, rest = text.partition(begin)
    _, _, tail = rest.partition(end)
    DOCS.write_text(f"{head}{begin}\n{table}\n{end}{tail}", encoding="utf-8")


def main() -> None:
    """Check the ids and print the table; write it where all were checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ids", nargs="+", default=[], help="environment ids; all by default")
    parser.add_argument("--workers", type=int, default=1, help="worker processes")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    from rlhive.envs._assets import verify_assets
    from rlhive.envs._install import package_folder

    names = options.ids or registered_ids()
    with ProcessPoolExecutor(options.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        coverages = list(tqdm(pool.map(cover_env, names), total=len(names), unit="id"))
    table = format_table(coverages)
    print(table)
    for coverage in coverages:
        if coverage.failures:
            print(json.dumps({coverage.env_name: coverage.failures}))
    if not options.ids:
        assets = verify_assets(package_folder() / "simhive")
        ids = [asdict(coverage) for coverage in coverages]
        content = {"assets": assets and asdict(assets), "table": table.splitlines(), "ids": ids}
        RESULTS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        write_docs("env_coverage", table)
    sys.exit(any(coverage.failures for coverage in coverages))


if __name__ == "__main__":
    main()
