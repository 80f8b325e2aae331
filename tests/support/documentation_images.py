"""Create the images of the documentation: a screenshot of the tab, and a sheet of bundled adapters.

    python -m tests.support.documentation_images

Needs Chromium. Everything in the images is in this repository: the bundled model and its adapters.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from tests.browser.conftest import ARGUMENTS, NAMES

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
ADAPTERS = ("gold_lora", "noir_ia3", "dots_locon_tucker")  # cards that are clicked, where they exist
TAB_SIZE = {"width": 1280, "height": 860}
SHEET_WIDTH = 900
SHEET_PART = 0.38  # of its height: the first rows


def screenshot_tab(out: Path) -> None:
    """Serve the stand-alone page, click some cards and take a picture of the tab."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "lib_adapters", "page", "--no-browser", "--port", "0", "--out", folder]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            address = re.findall(r"http://[0-9.:]+/", server.stdout.readline())[0]
            try:
                _screenshot(address, out)
            finally:
                server.send_signal(signal.SIGINT)


def _screenshot(address: str, out: Path) -> None:
    program = next(filter(None, map(shutil.which, NAMES)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        page = browser.new_page(viewport=TAB_SIZE)
        page.goto(address, wait_until="commit")
        page.locator(".lycoris-cell").first.wait_for()
        for name in ADAPTERS:
            card = page.locator(".lycoris-cell").filter(has_text=name)
            if card.count():
                card.first.locator(".lycoris-thumb").click()
        page.wait_for_function("[...document.querySelectorAll('.lycoris-grid img')].every(image => image.complete)")
        page.locator(".lycoris-tab").scroll_into_view_if_needed()
        page.locator(".lycoris-tab").screenshot(path=str(out))
        browser.close()


def draw_sheet(out: Path) -> None:
    """Generate each bundled adapter's image without and with it; keep the first rows of the sheet."""
    with tempfile.TemporaryDirectory() as folder:
        sheet = Path(folder) / "sheet.png"
        command = [sys.executable, "-m", "lib_adapters", "generate", "--compare", "--out", str(sheet)]
        subprocess.run(command, check=True)
        with Image.open(sheet) as image:
            rows = image.convert("RGB").crop((0, 0, image.width, round(image.height * SHEET_PART)))
            size = SHEET_WIDTH, round(rows.height * SHEET_WIDTH / rows.width)
            rows.resize(size, Image.Resampling.LANCZOS).save(out, optimize=True)


if __name__ == "__main__":
    IMAGES.mkdir(parents=True, exist_ok=True)
    screenshot_tab(IMAGES / "tab.png")
    draw_sheet(IMAGES / "with-without.png")
