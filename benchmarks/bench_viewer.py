"""Time until the viewer shows many episodes, sorts and filters them and opens one; size of the exported file.

    python -m benchmarks.bench_viewer --episodes 300 10000

The episodes are those of ``bench_score``, 50 steps of 75 observations and 9 actions. Wall time in a headless Chromium,
the best of three; it needs playwright and Chromium.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, expect, sync_playwright

from benchmarks.bench_score import SCHEMA, make_episodes
from rlhive.data.versions import export
from rlhive.viewer import ViewedDataset, ViewerServer, export_page

ROUNDS = 3
PATIENCE_MS = 120_000


def main() -> None:
    """Print a row of a Markdown table for each number of episodes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--episodes", type=int, nargs="+", default=[300, 10_000])
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    print("| episodes | list | sort | filter | open an episode | exported file | its list |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for count in parser.parse_args().episodes:
            with tempfile.TemporaryDirectory() as folder:
                version = export(make_episodes(count), "bench/view", schema=SCHEMA, license="mit", store=Path(folder))
                rounds = [measure_page(browser, version, count) for _ in range(ROUNDS)]
                times = [min(values) for values in zip(*rounds, strict=True)]
                file = export_page([ViewedDataset(version)], Path(folder, "a.html"), pictures=0, progress=False)
                opened = min(measure_file(browser, file.path, count) for _ in range(ROUNDS))
            cells = [*(f"{value:.2f} s" for value in times), f"{file.num_bytes / 1e6:.1f} MB", f"{opened:.2f} s"]
            print(f"| {count:,} | {' | '.join(cells)} |", flush=True)
        browser.close()


def measure_page(browser: Any, version: Path, count: int) -> list[float]:
    """Return the seconds until a new server's page shows the list, sorts it, filters it and draws an episode."""
    page = browser.new_page()
    times = []

    def measure(action: Callable[[], object], wait: Callable[[], object]) -> None:
        started = time.perf_counter()
        action()
        wait()
        times.append(time.perf_counter() - started)

    with ViewerServer([ViewedDataset(version)]) as server:
        measure(lambda: page.goto(server.url), lambda: wait_for_list(page, count))
        page.wait_for_selector("html[data-ready=true]", timeout=PATIENCE_MS)
        head = page.locator("[data-column=episode]")
        measure(head.locator("button").click, lambda: expect(head).to_have_attribute("aria-sort", "descending"))
        shown = f"{count // 2:,} of {count:,} episodes"
        found = page.locator("#count")
        measure(
            lambda: page.locator("#filter").fill(f"episode >= {count // 2}"), lambda: expect(found).to_have_text(shown)
        )
        row = page.locator(f".row[data-episode='{count - 3}']")
        title = page.get_by_role("heading", name=f"Episode {count - 3}")
        measure(lambda: row.click(position={"x": 60, "y": 10}), lambda: wait_for_charts(page, title))
    page.close()
    return times


def measure_file(browser: Any, path: Path, count: int) -> float:
    """Return the seconds until an exported file shows its list."""
    page = browser.new_page()
    started = time.perf_counter()
    page.goto(path.as_uri())
    wait_for_list(page, count)
    seconds = time.perf_counter() - started
    page.close()
    return seconds


def wait_for_list(page: Page, count: int) -> None:
    """Wait until the rows are drawn and all episodes counted."""
    page.wait_for_selector(".row", timeout=PATIENCE_MS)
    expect(page.locator("#count")).to_have_text(f"{count:,} episodes")


def wait_for_charts(page: Page, title: Any) -> None:
    """Wait until an episode is named and its columns are drawn."""
    title.wait_for()
    page.wait_for_selector(".chart canvas")


if __name__ == "__main__":
    main()
