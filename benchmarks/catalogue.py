"""How fast a folder of adapters becomes a list, beside what just looking at the same files costs.

The files are in the system's cache when they are read: it is the work that is measured, not the disk.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks import memory
from benchmarks.shelf import fill
from lib_adapters.catalogue import Catalogue


@dataclass(frozen=True)
class Row:
    what: str
    seconds: float
    processor: float  # seconds of all threads
    peak_bytes: int | None  # of the whole process, above what it had before
    header_reads: float  # seconds in those of plainly reading every header
    walks: float  # seconds in those of os.walk and stat


def run(files: int, modules: int, folder: Path | None = None) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="lycoris-benchmark-", dir=folder) as name:
        root, place = Path(name, "models"), Path(name, "place")
        print(f"making {files} files of {modules} layers", file=sys.stderr, flush=True)
        fill(root, files, modules)
        looked = _measured("os.walk and stat", lambda: _walk(root))
        read = _measured("every header with json", lambda: _headers(root))
        opened = [Catalogue(lambda: [root], place) for _ in range(2)]
        cold = _measured("first index", lambda: _index(opened[0], files))
        opened[0].close()
        warm = _measured("index, nothing changed", lambda: _index(opened[1], files))
        listed = _measured("all cards as JSON", lambda: _listed(opened[1], files))
        opened[1].close()
    return [
        Row(what, wall, processor, peak, wall / read[1], wall / looked[1])
        for what, wall, processor, peak in (looked, read, cold, warm, listed)
    ]


def _measured(what: str, operation: Callable[[], object]) -> tuple[str, float, float, int | None]:
    print(what, file=sys.stderr, flush=True)
    seconds: list[float] = []

    def timed() -> None:
        wall, processor = time.perf_counter(), time.process_time()
        operation()
        seconds.extend((time.perf_counter() - wall, time.process_time() - processor))

    used = memory.of(timed, torch.device("cpu"))
    return what, seconds[0], seconds[1], used.peak


def _index(catalogue: Catalogue, files: int) -> None:
    catalogue.start()
    catalogue.wait()
    if len(catalogue.changes(0).cards) != files:
        raise RuntimeError(f"{len(catalogue.changes(0).cards)} of {files} files have a card")


def _listed(catalogue: Catalogue, files: int) -> None:
    text = ",".join(catalogue.changes(0).cards)
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
    lines = ["| what | s | processor s | × header reads | × walk | peak MB |", "| --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        peak = "" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:.0f}"
        cells = [f"{value:.3g}" for value in (row.seconds, row.processor, row.header_reads, row.walks)]
        lines.append(f"| {' | '.join([row.what, *cells, peak])} |")
    return "\n".join(lines)


def save(rows: list[Row], files: int, modules: int, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    found = {"files": files, "modules": modules, "python": platform.python_version(), "rows": list(map(asdict, rows))}
    (out / f"catalogue-{files}x{modules}.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
