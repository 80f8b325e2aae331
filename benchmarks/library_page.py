"""The tab's page over a catalogue, in Chromium: what its user waits for, in seconds, and what is sent and drawn."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.responses import FileResponse, HTMLResponse
from playwright.sync_api import sync_playwright

from lib_adapters.hosts.tab.backend import TabBackend
from lib_adapters.hosts.tab.routes import add_routes
from lib_adapters.hosts.tab.shell import shell
from lib_adapters.library import AdapterLibrary
from lib_adapters.library.preset_file import PRESET_FILE_NAME, PresetFile

ROOT = Path(__file__).resolve().parents[1]
LONGEST = 600_000  # ms to wait for a page of very many cards
Found = tuple[str, float, str]  # operation, seconds, counts
# Seconds from an action to the end of the frame that shows it.
SHOWN = """async (action) => { const start = performance.now(); eval(action);
    await new Promise((shown) => requestAnimationFrame(() => setTimeout(shown, 0)));
    return (performance.now() - start) / 1000; }"""
SCROLLED = """async () => { const grid = document.querySelector(".lycoris-grid");
    let [slowest, nodes, before] = [0, 0, performance.now()];
    for (let at = 0; at <= 300; at += 1) {
        grid.scrollTop = (grid.scrollHeight * at) / 300;
        await new Promise(requestAnimationFrame);
        const now = performance.now();
        [slowest, before] = [Math.max(slowest, now - before), now];
        nodes = Math.max(nodes, document.querySelectorAll("*").length);
    }
    return [slowest / 1000, nodes]; }"""
KEY = """(() => { const box = document.querySelector(".lycoris-search-input");
    box.value = "%s"; box.dispatchEvent(new Event("input", { bubbles: true })); })()"""
SORT = """(() => { const box = document.querySelector(".lycoris-sort select");
    box.value = "%s"; box.dispatchEvent(new Event("change")); })()"""
CLICK = """document.querySelector("%s").click()"""


def measure(catalogue: AdapterLibrary, root: Path, files: int, program: str) -> Iterator[Found]:
    """Yield each operation; `program` is Chromium."""
    with _served(catalogue, root) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(LONGEST)
        yield from _loaded(page, address, files)
        yield from _used(page)
        browser.close()


def _loaded(page: Any, address: str, files: int) -> Iterator[Found]:
    sizes: list[int] = []
    page.on("response", lambda answer: sizes.append(_size(answer)) if "/cards?" in answer.url else None)
    start = time.perf_counter()
    page.goto(address)
    page.locator(".lycoris-cell").first.wait_for()
    yield "page: first cards drawn", time.perf_counter() - start, f"{sizes[0] / 1e6:.3g} MB in the first answer"
    page.locator(".lycoris-total").get_by_text(f"{files:,} adapters", exact=True).wait_for()
    counted = f"{len(sizes)} answers, {sum(sizes) / 1e6:.3g} MB"
    yield "page: all cards known", time.perf_counter() - start, counted


def _size(answer: Any) -> int:
    return int(answer.header_value("content-length") or 0)


def _used(page: Any) -> Iterator[Found]:
    keys = [page.evaluate(SHOWN, KEY % "quartz"[:end]) for end in range(1, 7)]
    yield "page: first key of a search", keys[0], page.locator(".lycoris-total").text_content() or ""
    yield "page: slowest of the next keys", max(keys[1:]), ""
    page.evaluate(SHOWN, KEY % "")
    yield "page: another order", page.evaluate(SHOWN, SORT % "size"), ""
    page.evaluate(SHOWN, CLICK % "[data-part=filters]")
    yield "page: a filter", page.evaluate(SHOWN, CLICK % "[data-chip=LoHa]"), ""
    page.evaluate(SHOWN, CLICK % "[data-chip=LoHa]")
    slowest, nodes = page.evaluate(SCROLLED)
    yield "page: slowest frame of a scroll to the end", slowest, f"{nodes} nodes at most"


@contextmanager
def _served(catalogue: AdapterLibrary, root: Path) -> Iterator[str]:
    tab = TabBackend(
        library=catalogue,
        dependencies=(),
        model=lambda: ("sd1", "Stable Diffusion 1.x"),
        folders=lambda: [(root.name, root)],
        rescan=lambda: None,
        key="key",
        presets=PresetFile(root / PRESET_FILE_NAME),
        report=dict,
    )
    app = FastAPI()
    add_routes(app, tab)
    app.get("/", response_class=HTMLResponse)(lambda: _page(tab))
    app.get("/style.css", response_class=FileResponse)(lambda: ROOT / "style.css")
    app.get("/js/{name}", response_class=FileResponse)(_script)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()


def _script(name: str) -> Path:
    return ROOT / "javascript" / Path(name).name


def _page(tab: TabBackend) -> str:
    scripts = "".join(f'<script src="/js/{path.name}"></script>' for path in sorted(ROOT.glob("javascript/*.js")))
    body = shell(tab, prompts=["#prompt textarea"], negatives=[], gallery="#gallery", name="txt2img")
    return (
        f'<!doctype html><meta charset="utf-8"><link rel="stylesheet" href="/style.css">{scripts}'
        f'<div id="prompt"><textarea></textarea></div><div id="gallery"></div>{body}'
    )
