"""CPU time and appearance of each render quality.

    python benchmarks/render_quality.py

measures the CPU time of one kitchen picture, its difference from RoboHive's own picture, and the time to build an
environment with pixels; prints the numbers, writes them to benchmarks/results/render_quality.json, and draws
docs/render_quality.png.

    python -m benchmarks.render_quality --states

compares ``rlhive render`` in one process, which steps the actions again and compares what comes out, with a loop that
sets the same states and draws the same pictures. The two take turns, and the pictures have to be equal.
"""

import argparse
import json
import math
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rlhive import RoboHiveDataset
from rlhive.data.recording import Recorder
from rlhive.data.versions import read_records
from rlhive.envs._rendering import QUALITIES
from rlhive.envs._robohive import RoboHiveEnv
from rlhive.rollouts._replay import step_recorded_actions
from rlhive.rollouts._rerender import _render_episode

ROOT = Path(__file__).parents[1]
KITCHEN = "FK1_Knob1OnRandom-v4"
CAMERAS = ("left_cam", "right_cam", "top_cam")
NUM_STATES, TURNS = 40, 4
SIDE = 128
LABELS = {
    "robohive": "robohive (default)",
    "shadows": "shadows",
    "fast": "fast",
}


def measure(quality: str, size: int) -> tuple[dict[str, float], np.ndarray]:
    """Return the costs of a quality at an image size, and the picture."""
    started = time.process_time()
    env = RoboHiveEnv(KITCHEN, from_pixels=True, cameras=["left_cam"], image_size=(size, size), render_quality=quality)
    build_s = time.process_time() - started
    picture = env.reset(seed=0)["pixels"][0].numpy()
    repeats = 20 if quality == "fast" else 5
    started, wall_started = time.process_time(), time.perf_counter()
    for _ in range(repeats):
        env._renderer.draw()
    costs = {
        "size": size,
        "build_cpu_s": round(build_s, 2),
        "frame_cpu_ms": round((time.process_time() - started) / repeats * 1e3, 1),
        "frame_wall_ms": round((time.perf_counter() - wall_started) / repeats * 1e3, 1),
        "gl": env.provenance()["rendering"]["gl"],
    }
    env.close()
    return costs, picture


def draw(path: Path) -> None:
    """Draw one picture per quality in a row, each below the quality's name."""
    height, width, gap, head = 240, 320, 8, 26
    sheet = Image.new("RGB", (3 * width + 2 * gap, height + head), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for column, quality in enumerate(QUALITIES):
        env = RoboHiveEnv(
            KITCHEN, from_pixels=True, cameras=["left_cam"], image_size=(height, width), render_quality=quality
        )
        picture = Image.fromarray(env.reset(seed=0)["pixels"][0].numpy())
        env.close()
        sheet.paste(picture, (column * (width + gap), head))
        pen.text((column * (width + gap) + 2, 3), LABELS[quality], fill="black", font=font)
    sheet.save(path, optimize=True)


def record_states(store: Path) -> RoboHiveDataset:
    """Record an episode of random actions in the kitchen, without pictures."""
    env = RoboHiveEnv(KITCHEN, seed=0)
    with Recorder("bench/states", env=env, policy="random", store=store) as recorder:
        recorder.extend(env.rollout(NUM_STATES - 1))
        recorder.end_episode()
    path = recorder.commit(license="mit")
    env.close()
    return RoboHiveDataset(path, store=store)


def measure_states(dataset: RoboHiveDataset, *, segmentation: bool) -> dict[str, float]:
    """Return CPU seconds per state of rendering an episode, and of a loop that sets its states and draws them."""
    import mujoco

    record = next(read_records(dataset.path, dataset.manifest, ["train"]))
    options = {"cameras": CAMERAS, "image_size": (SIDE, SIDE), "render_quality": "fast", "segmentation": segmentation}
    env = RoboHiveEnv(KITCHEN, from_pixels=True, **options)
    model, data = env._env.sim.model.ptr, env._env.sim.data.ptr
    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    states = np.empty((NUM_STATES, mujoco.mj_stateSize(model, kind)))
    for row, _ in zip(states, step_recorded_actions(env, record), strict=True):
        mujoco.mj_getState(model, data, row, kind)
    seconds: dict[str, float] = {"render": math.inf, "loop": math.inf}
    for _ in range(TURNS):
        started = time.process_time()
        rendered = _render_episode(env, record)
        seconds["render"] = min(seconds["render"], time.process_time() - started)
        drawn, started = [], time.process_time()
        for row in states:
            mujoco.mj_setState(model, data, row, kind)
            mujoco.mj_forward(model, data)
            drawn.append(env._renderer.draw())
        seconds["loop"] = min(seconds["loop"], time.process_time() - started)
    env.close()
    for name, pictures in rendered.items():
        if not np.array_equal(pictures, np.stack([picture[name].numpy() for picture in drawn])):
            msg = f"{name}: the pictures of the loop differ from those of rlhive render"
            raise AssertionError(msg)
    return {name: value / NUM_STATES for name, value in seconds.items()}


def print_states() -> None:
    """Print a table of the two ways to render the states of an episode."""
    print(f"states of {KITCHEN}, {len(CAMERAS)} cameras of {SIDE} x {SIDE} pixels; CPU time per state")
    print("| | loop of set state and draw | rlhive render | share of the loop's speed |\n| --- | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as store:
        dataset = record_states(Path(store))
        for name, segmentation in (("pictures", False), ("… and segmentation", True)):
            seconds = measure_states(dataset, segmentation=segmentation)
            cells = [*(f"{seconds[part] * 1e3:.0f} ms" for part in ("loop", "render"))]
            print(f"| {name} | {' | '.join(cells)} | {seconds['loop'] / seconds['render']:.0%} |", flush=True)


def main() -> None:
    """Measure the qualities, print and write the numbers, and draw the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--states", action="store_true", help="measure the rendering of recorded states instead")
    RoboHiveEnv(KITCHEN).close()  # RoboHive's import is not counted
    if parser.parse_args().states:
        print_states()
        return
    rows = []
    for size in (84, 224):
        reference = None
        for quality in QUALITIES:
            costs, picture = measure(quality, size)
            reference = picture.astype(float) if reference is None else reference
            rows.append(
                {"quality": quality, **costs, "mean_difference": round(float(np.abs(picture - reference).mean()), 1)}
            )
            print(rows[-1])
    results = ROOT / "benchmarks" / "results"
    results.mkdir(exist_ok=True)
    (results / "render_quality.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    draw(ROOT / "docs" / "render_quality.png")


if __name__ == "__main__":
    main()
