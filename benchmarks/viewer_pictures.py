"""Take the documentation's pictures of the viewer.

    python -m benchmarks.viewer_pictures

opens ``kitchen_knob1`` in a headless Chromium and writes docs/viewer.jpg, the episodes that stand out and one of them,
and docs/viewer-compare.jpg, two episodes side by side in the dark theme. It needs RoboHive, whose states are rendered,
playwright and Chromium.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page, expect, sync_playwright

from rlhive import RoboHiveDataset
from rlhive.data._store import STORE_VARIABLE
from rlhive.viewer import ViewedDataset, ViewerServer

DOCS = Path(__file__).parents[1] / "docs"
SIZE = {"width": 1440, "height": 860}
#: Rendering the first picture builds the environment.
PATIENCE_MS = 120_000


def open_row(page: Page, row: Locator) -> None:
    """Click the left end of a row, which is wider than the list, and wait for its episode."""
    row.click(position={"x": 60, "y": 10})
    page.get_by_role("heading", name=f"Episode {row.get_attribute('data-episode')}").wait_for()


def show_outlier(page: Page) -> None:
    """Filter the list by a score, and open an episode with the terms of its reward."""
    page.locator("#filter").fill("outlier != ''")
    expect(page.locator("#count")).to_contain_text(" of ")
    open_row(page, page.locator(".row", has_text="path_length").first)
    page.get_by_role("button", name="terms").click()
    page.locator(".legend", has_text="next.reward").wait_for(timeout=PATIENCE_MS)
    page.locator("#scrub").fill("640")
    page.locator(".list").evaluate("list => { list.style.width = '600px'; }")


def compare_episodes(page: Page) -> None:
    """Put a solved and a failed episode side by side near their ends, and flag the failed one."""
    open_row(page, page.locator(".row[data-episode='3']"))
    page.keyboard.press("c")
    open_row(page, page.locator(".row[data-episode='7']"))
    page.keyboard.press("f")
    page.locator("#scrub").fill("900")


def wait_for_pictures(page: Page) -> None:
    """Wait until every slot shows its own episode at the moment of the clock."""
    page.wait_for_function(
        """() => [...document.querySelectorAll(".slot")].every((slot) => {
            const picture = slot.querySelector(".cameras canvas:not(.stale)");
            return picture && slot.querySelector("h2").textContent === `Episode ${picture.dataset.episode}`;
        })""",
        timeout=PATIENCE_MS,
    )
    page.evaluate("document.activeElement.blur()")
    page.wait_for_timeout(500)  # until the browser has drawn what it has


def take_picture(browser: Any, url: str, path: Path, theme: str, prepare: Callable[[Page], None]) -> None:
    """Open the page, bring it into a state, and write what it shows."""
    context = browser.new_context(viewport=SIZE, color_scheme=theme, bypass_csp=True)  # for wait_for_function
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector("html[data-ready=true]", timeout=PATIENCE_MS)
    prepare(page)
    wait_for_pictures(page)
    page.screenshot(path=path, type="jpeg", quality=85)
    context.close()


def main() -> None:
    """Take both pictures."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    folder = RoboHiveDataset("kitchen_knob1").path
    with tempfile.TemporaryDirectory() as store:
        os.environ[STORE_VARIABLE] = store  # for the scores and flags, which are not those of the user
        dataset = ViewedDataset(folder)
        dataset.scores()
        with ViewerServer([dataset]) as server, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            take_picture(browser, server.url, DOCS / "viewer.jpg", "light", show_outlier)
            take_picture(browser, server.url, DOCS / "viewer-compare.jpg", "dark", compare_episodes)
            browser.close()


if __name__ == "__main__":
    main()
