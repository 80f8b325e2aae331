"""How fast a folder of adapters becomes a list, beside what just looking at the same files costs.

The files are in the system's cache when they are read: it is the work that is measured, not the disk.
The page is measured in Chromium over the real routes; its rows are left out where that is not installed.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import torch

from benchmarks import memory
from benchmarks.synthetic_library import fill
from lib_adapters.library import AdapterLibrary
from lib_adapters.library.records import WINDOW_CHARACTERS

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True)
class Row:
    what: str
    seconds: float
    processor: float | None  # seconds of all threads; None for the page, which is another process
    peak_bytes: int | None  # of the whole process, above what it had before
    header_reads: float  # seconds in those of plainly reading every header
    walks: float  # seconds in those of os.walk and stat
    counted: str = ""  # what grows with the number of files, or does not


Measured = tuple[str, float, "float | None", "int | None", str]


def run(files: int, modules: int, folder: Path | None = None) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="lycoris-benchmark-", dir=folder) as name:
        root, place = Path(name, "models"), Path(name, "place")
        print(f"making {files} files of {modules} layers", file=sys.stderr, flush=True)
        fill(root, files, modules)
        looked = _measured("os.walk and stat", lambda: _walk(root))
        read = _measured("every header with json", lambda: _headers(root))
        opened = [AdapterLibrary(lambda: [root], place) for _ in range(2)]
        cold = _measured("first index", lambda: _index(opened[0], files))
        opened[0].close()
        warm = _measured("index, nothing changed", lambda: _index(opened[1], files))
        changed = _touch(root, min(files, 100))
        again = _measured(f"index, {changed} files changed", lambda: _index(opened[1], files))
        listed = _measured("all cards as JSON", lambda: _listed(opened[1], files))
        window = _measured("first window of cards", lambda: opened[1].changes_since(0, 0, WINDOW_CHARACTERS))
        card = json.loads(opened[1].changes_since(0, 0, 1).cards[0])["id"]
        details = _measured("one card's details", lambda: opened[1].details(card))
        drawn = _drawn(opened[1], root, files)
        opened[1].close()
    found = (looked, read, cold, warm, again, listed, window, details, *drawn)
    return [
        Row(what, wall, processor, peak, wall / read[1], wall / looked[1], counted)
        for what, wall, processor, peak, counted in found
    ]


def _measured(what: str, operation: Callable[[], object]) -> Measured:
    print(what, file=sys.stderr, flush=True)
    seconds: list[float] = []

    def timed() -> None:
        wall, processor = time.perf_counter(), time.process_time()
        operation()
        seconds.extend((time.perf_counter() - wall, time.process_time() - processor))

    used = memory.of(timed, torch.device("cpu"))
    return what, seconds[0], seconds[1], used.peak, ""


def _touch(root: Path, count: int) -> int:
    for path in islice(root.rglob("*.safetensors"), count):
        os.utime(path)
    return count


def _drawn(catalogue: AdapterLibrary, root: Path, files: int) -> list[Measured]:
    program = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if program is None or not all(map(find_spec, ("playwright", "fastapi", "uvicorn"))):
        print("the page is not measured: it needs Chromium, playwright, fastapi and uvicorn", file=sys.stderr)
        return []
    from benchmarks.library_page import measure

    print("the page", file=sys.stderr, flush=True)
    with ThreadPoolExecutor(1) as pool:  # playwright allows one event loop in a thread, and a caller may have one
        found = pool.submit(lambda: list(measure(catalogue, root, files, program))).result()
    return [(what, seconds, None, None, counted) for what, seconds, counted in found]


def _index(catalogue: AdapterLibrary, files: int) -> None:
    catalogue.start()
    catalogue.wait()
    if len(catalogue.changes_since(0).cards) != files:
        raise RuntimeError(f"{len(catalogue.changes_since(0).cards)} of {files} files have a card")


def _listed(catalogue: AdapterLibrary, files: int) -> None:
    text = ",".join(catalogue.changes_since(0).cards)
    if text.count('"file":') != files:
        raise RuntimeError("the list is not complete")


def _walk(root: Path) -> list[os.stat_result]:
    return [Path(folder, name).stat() for folder, _, names in os.walk(root) for name in names]


def _headers(root: Path) -> None:
    for folder, _, names in os.walk(root):
        for name in names:
            if name.endswith(".safetensors"):
                with Path(folder, name).open("rb") as file:
                    json.loads(file.read(int.from_bytes(file.read(8), "little")))


def table(rows: list[Row]) -> str:
    counted = any(row.counted for row in rows)
    titles = ["what", "s", "processor s", "× header reads", "× walk", "peak MB", *(["counted"] if counted else [])]
    lines = [f"| {' | '.join(titles)} |", f"|{' --- |' * len(titles)}"]
    for row in rows:
        peak = "" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:.0f}"
        values = (row.seconds, row.processor, row.header_reads, row.walks)
        cells = ["" if value is None else f"{value:.3g}" for value in values]
        lines.append(f"| {' | '.join([row.what, *cells, peak, *([row.counted] if counted else [])])} |")
    return "\n".join(lines)


def save(rows: list[Row], files: int, modules: int, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    found = {"files": files, "modules": modules, "python": platform.python_version(), "rows": list(map(asdict, rows))}
    (out / f"catalogue-{files}x{modules}.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
