"""A browser for the whole run, a page for each test. Without a browser the tests say so and are skipped."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.support.browser_page import View
    from tests.support.browser_site import Site

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NAMES = ("chromium", "chromium-browser", "google-chrome")
WAIT_MS = 60_000  # a busy machine is no reason to fail


@pytest.fixture(scope="session")
def chrome() -> Iterator[Any]:
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("browser: no Chromium is installed (Debian and Ubuntu: apt install chromium)")
    for needed in ("playwright.sync_api", "fastapi", "uvicorn"):
        pytest.importorskip(needed, reason=f"browser: {needed} is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def hundred(chrome: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Files that no test changes."""
    from tests.support import browser_library
    from tests.support.browser_site import site

    folder = tmp_path_factory.mktemp("hundred") / "LyCORIS"
    folder.mkdir()
    browser_library.hundred(folder)
    served = site(folder, folder.parent / "place")
    yield served
    served.stop()


@pytest.fixture
def own(chrome: Any, tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Serves a folder of this test's own, called with a function that fills it."""
    from tests.support.browser_site import site

    started: list[Site] = []

    def serve(fill: Callable[[Path], object], **options: Any) -> Site:
        folder = tmp_path / "LyCORIS"
        folder.mkdir(exist_ok=True)
        fill(folder)
        started.append(site(folder, tmp_path / "place", **options))
        return started[-1]

    yield serve
    for served in started:
        served.stop()


@pytest.fixture
def visit(chrome: Any) -> Iterator[Callable[..., View]]:
    """Opens a site; an error in the page's scripts, or a request to another site, fails the test that saw it."""
    from tests.support.browser_page import View

    errors: list[str] = []
    contexts: list[Any] = []

    def open_page(
        site: Site, *, width: int = 1280, height: int = 900, query: str = "", script: str = "", before: Any = None,
        **options: Any,
    ) -> View:  # fmt: skip
        """`script` runs before the page's own; `before` stands between it and the routes."""
        context = chrome.new_context(viewport={"width": width, "height": height}, **options)
        context.set_default_timeout(WAIT_MS)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda asked: errors.extend(_elsewhere(asked.url, site.address)))
        if script:
            page.add_init_script(script)
        if before is not None:
            page.route("**/lycoris/api/**", before)
        page.goto(site.address + query)
        return View(page)

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []


def _elsewhere(url: str, site: str) -> list[str]:
    return [] if url.startswith((site, "data:", "blob:", "about:")) else [f"the page asked for {url[:200]}"]
