"""A process that is ended at any moment, and what the next one finds. Run as a program, because it forks.

    python -m tests.support.crash_child FOLDER     tells as JSON what was tried and what was wrong afterwards

Moments are counted in the child: before each file that is opened, renamed, removed or synchronised, before and after
each statement to the database, and every few steps inside of one. The n-th one ends it, for every n.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

from lib_adapters.library import AdapterLibrary, indexer
from lib_adapters.library.open_database import DATABASE_NAME
from lib_adapters.library.preset_file import PresetFile
from lib_adapters.prompt.block_weights import Presets
from tests.support.crash_checks import findings
from tests.support.sample_library import adapter, cards, picture, scan, sidecar

STEPS = 40  # of SQLite's machine, between two moments inside a statement
EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.chmod", "os.scandir", "sqlite3.connect")
OLD = {"activation text": "old", "notes": "theirs", "modelId": 7}
Ack = Callable[..., None]
COLOURS = {"first": (30, 20), "second": (20, 30)}  # pictures, told apart by their size


class Countdown:
    """Ends this process at the n-th moment; 0: only counts."""

    def __init__(self, last: int) -> None:
        self.last, self.count = last, 0

    def __call__(self, *_: object) -> int:
        self.count += 1
        if self.count == self.last:
            os.kill(os.getpid(), signal.SIGKILL)
        return 0

    def watch(self, folder: str) -> None:
        def hook(event: str, arguments: tuple) -> None:
            if event in EVENTS and str(arguments[0]).startswith(folder):
                self()

        sys.addaudithook(hook)
        _around(os, "fsync", self)
        sqlite3.connect = _counted(sqlite3.connect, self)


def _around(place: object, name: str, point: Countdown) -> None:
    honest = getattr(place, name)

    def call(*given: object) -> object:
        point()
        found = honest(*given)
        point()
        return found

    setattr(place, name, call)


def _counted(connect: Callable, point: Countdown) -> Callable:
    class Connection(sqlite3.Connection):
        def execute(self, *given):
            point()
            found = super().execute(*given)
            point()
            return found

        def executemany(self, *given):
            point()
            return super().executemany(*given)

    def connected(*given, **options):
        made = connect(*given, factory=Connection, **options)
        made.set_progress_handler(point, STEPS)
        return made

    return connected


def opened(work: Path) -> AdapterLibrary:
    indexer.BATCH_SECONDS = 0.0  # a transaction for each file
    return AdapterLibrary(lambda: [work / "root"], work / "place")


def prepare(work: Path) -> None:
    """Files, an index of them, one star."""
    root = work / "root"
    for name in ("a", "b", "style/ink", "goes", "moves"):
        adapter(root / f"{name}.safetensors")
    sidecar(root / "a.safetensors", OLD)
    (root / "b.png").write_bytes(picture(size=(10, 10)))
    catalogue = opened(work)
    catalogue.set_star(scan(catalogue)["ink"]["id"], True)
    catalogue.close()
    PresetFile(work / "presets.txt").save(Presets({"mine": "IN05"}, {}))


def index_first(work: Path, ack: Ack) -> None:
    (work / "unstarred").touch()
    shutil.rmtree(work / "place")
    scan(opened(work))
    ack("scanned")


def index_again(work: Path, ack: Ack) -> None:
    root = work / "root"
    (root / "moves.safetensors").rename(root / "style/moved.safetensors")
    (root / "goes.safetensors").unlink()
    adapter(root / "a.safetensors", "loha")
    adapter(root / "new/ink.safetensors")
    scan(opened(work))
    ack("scanned")


def edit(work: Path, ack: Ack) -> None:
    catalogue = opened(work)
    ids = {name: card["id"] for name, card in cards(catalogue).items()}
    for text in ("one", "two"):
        for name in ("a", "b"):
            catalogue.save(ids[name], {"activation text": text})
            ack("saved", name, text)
    for name, size in COLOURS.items():
        catalogue.set_preview(ids["b"], picture(size=size))
        ack("picture", "b", name)
        catalogue.thumbnail(ids["b"])
    catalogue.set_star(ids["a"], True)
    ack("star", "a")
    catalogue.hash_of(ids["a"])
    catalogue.record_use(work / "root/b.safetensors")
    ack("used", "b")


def make_anew(work: Path, ack: Ack) -> None:
    """An index that an older version made."""
    with sqlite3.Connection(work / "place" / DATABASE_NAME) as connection:  # before the moments that count
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    ack("old")
    scan(opened(work))
    ack("scanned")


def presets(work: Path, ack: Ack) -> None:
    file = PresetFile(work / "presets.txt")
    for text in ("IN06", "IN07"):
        file.save(Presets({"mine": text}, {}))
        ack("preset", text)


SCENARIOS = {one.__name__: one for one in (index_first, index_again, edit, make_anew, presets)}


def wrong(work: Path, acks: list[list[str]]) -> list[str]:
    """What somebody finds who starts again."""
    try:
        return findings(work, acks)
    except Exception as error:  # noqa: BLE001 - half a file, or whatever else must not be there
        return [repr(error)]


def attempt(work: Path, scenario: str, last: int) -> tuple[int, list[list[str]]]:
    """(moments that were counted, or -1 where it was ended; what was acknowledged)"""
    log, told = str(work / "acks"), os.pipe()
    child = os.fork()
    if child == 0:
        point = Countdown(last)
        with open(log, "ab", buffering=0) as file:  # noqa: PTH123 - before the counting begins
            point.watch(str(work))
            SCENARIOS[scenario](work, lambda *what: file.write(json.dumps(what).encode() + b"\n"))
            os.write(told[1], str(point.count).encode())
            os._exit(0)
    os.close(told[1])
    _, status = os.waitpid(child, 0)
    count = os.read(told[0], 20)
    os.close(told[0])
    acks = [json.loads(line) for line in Path(log).read_text().splitlines()]
    return int(count) if count else -1 if os.WIFSIGNALED(status) else -2, acks


def tried(template: Path, work: Path, scenario: str) -> dict[str, object]:
    """Every moment of it."""
    found: list[str] = []

    def once(last: int) -> int:
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(template, work)
        count, acks = attempt(work, scenario, last)
        ended = [] if count > -2 else ["it raised"]
        found.extend(f"{scenario} {last}: {text}" for text in ended + wrong(work, acks))
        return count

    total = once(0)
    ended = sum(once(last) == -1 for last in range(1, total + 1))
    return {"scenario": scenario, "moments": total, "ended": ended, "wrong": found}


def main(folder: Path) -> None:
    logging.disable(logging.WARNING)
    prepare(folder / "work")
    shutil.copytree(folder / "work", folder / "template")
    print(json.dumps([tried(folder / "template", folder / "work", name) for name in sys.argv[2:] or SCENARIOS]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
