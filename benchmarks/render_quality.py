"""CPU time and appearance of each render quality.

    python benchmarks/render_quality.py

measures the CPU time of one kitchen picture, its difference from RoboHive's own picture, and the time to build an
environment with pixels; prints the numbers, writes them to benchmarks/results/render_quality.json, and draws
docs/render_quality.png.
"""

import json
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rlhive.envs._rendering import QUALITIES
from rlhive.envs._robohive import RoboHiveEnv

ROOT = Path(__file__).parents[1]
KITCHEN = "FK1_Knob1OnRandom-v4"
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


def main() -> None:
    """Measure the qualities, print and write the numbers, and draw the pictures."""
    RoboHiveEnv(KITCHEN).close()  # RoboHive's import is not counted
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
