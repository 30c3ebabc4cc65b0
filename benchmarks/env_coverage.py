"""Coverage of RoboHive's environments: run TorchRL's check_env_specs on every state id and every visual id.

    python benchmarks/env_coverage.py

prints one row per family of environments and writes benchmarks/results/env_coverage.json. It takes about five minutes
on two cores with the assets from the package index. Ids with a vision encoder are skipped, since they download weights.
"""

import json
import logging
import multiprocessing
import re
import sys
import time
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

RESULTS = Path(__file__).parent / "results" / "env_coverage.json"
ENCODERS = re.compile(r"_v(r3m|rrl|vc1)")
SMALL = {"image_size": (16, 16), "render_quality": "fast"}

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
    "Myo and motor fingers": r"",
}


def check_env(env_name: str) -> tuple[str, str, float]:
    """Return the id, the outcome ("yes", "assets" for missing assets, or the error) and the time in seconds."""
    warnings.simplefilter("ignore")
    from torchrl.envs import check_env_specs

    from rlhive.envs._robohive import RoboHiveEnv
    from rlhive.errors import RoboHiveMissingError

    logging.getLogger("torchrl").setLevel(logging.ERROR)  # torchrl logs every success
    started, pixels = time.perf_counter(), env_name.startswith("visual_") or "_v2d" in env_name
    try:
        env = RoboHiveEnv(env_name, seed=0, **(SMALL if pixels else {}))
        check_env_specs(env)
        env.close()
        outcome = "yes"
    except RoboHiveMissingError:
        outcome = "assets"
    except Exception as error:  # the table reports any error
        outcome = f"{type(error).__name__}: {error}".splitlines()[0]
    return env_name, outcome, time.perf_counter() - started


def registered_ids() -> list[str]:
    """Return RoboHive's ids without those that need an encoder, and the ``visual_*`` ids."""
    import gymnasium

    from rlhive.envs._robohive import RoboHiveEnv
    from rlhive.envs._visual import VISUAL

    RoboHiveEnv("FrankaReachRandom-v0").close()
    robohive_ids = [name for name, spec in gymnasium.registry.items() if "model_path" in spec.kwargs]
    return [name for name in robohive_ids if not ENCODERS.search(name)] + list(VISUAL)


def family(env_name: str) -> str:
    """Return the family of an id."""
    return next(name for name, pattern in FAMILIES.items() if re.match(pattern, env_name))


def table(outcomes: dict[str, str]) -> list[dict[str, object]]:
    """Return one row per family: number of ids, and how many pass, lack their assets, or fail."""
    rows = []
    for name in FAMILIES:
        counts = Counter(
            outcome if outcome in ("yes", "assets") else "failed"
            for env_name, outcome in outcomes.items()
            if family(env_name) == name
        )
        row = {"family": name, "ids": counts.total(), "pass": counts["yes"], "no_assets": counts["assets"]}
        rows.append({**row, "failed": counts["failed"]})
    return rows


def main() -> None:
    """Check every id and write the table."""
    warnings.simplefilter("ignore")
    from rlhive.envs._assets import verify_assets
    from rlhive.envs._install import package_folder

    names, outcomes, seconds = registered_ids(), {}, {}
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        for name, outcome, took in tqdm(pool.map(check_env, names), total=len(names), unit="id"):
            outcomes[name], seconds[name] = outcome, round(took, 2)
    rows = table(outcomes)
    record = {"assets": asdict(verify_assets(package_folder() / "simhive")), "families": rows}
    RESULTS.parent.mkdir(exist_ok=True)
    ids = {name: {"outcome": outcomes[name], "seconds": seconds[name]} for name in names}
    RESULTS.write_text(json.dumps({**record, "ids": ids}, indent=1) + "\n", encoding="utf-8")
    print(f"{'family':50}{'ids':>5}{'pass':>6}{'no assets':>11}{'failed':>8}")
    for row in rows:
        print(f"{row['family']:50}{row['ids']:5}{row['pass']:6}{row['no_assets']:11}{row['failed']:8}")
    for name, outcome in outcomes.items():
        if outcome not in ("yes", "assets"):
            print(f"{name}: {outcome}")
    sys.exit(any(row["failed"] for row in rows))


if __name__ == "__main__":
    main()
