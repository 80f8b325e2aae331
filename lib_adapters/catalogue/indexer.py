"""Folders -> index: one walk, what differs is read, the rest is left alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lib_adapters.catalogue.cards import Described, describe, head
from lib_adapters.catalogue.folders import File, walk
from lib_adapters.catalogue.layouts import Layouts
from lib_adapters.catalogue.names import plain_name, shortest_names
from lib_adapters.catalogue.records import Progress
from lib_adapters.catalogue.store import Row, Store

BATCH = 0.5  # seconds of reading between two commits


@dataclass
class Plan:
    """What differs between the folders and the index."""

    read: list[tuple[File, str]] = field(default_factory=list)  # with their heads
    heads: list[tuple[int, str]] = field(default_factory=list)
    moved: list[tuple[int, File, str]] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)


class Indexer:
    """One round over the folders; what it writes is found by `Store.changes`."""

    def __init__(self, store: Store, tell: Callable[[Progress], None], cancelled: Callable[[], bool]) -> None:
        self._store = store
        self._update_report = tell
        self._cancelled = cancelled

    def run(self, folders: Sequence[Path], edited: Callable[[str], bool]) -> None:
        """`edited`: files whose card was written by somebody else meanwhile, and later than it was read here."""
        self._update_report(Progress(running=True, what="Looking for files"))
        files = walk(folders, self._cancelled)
        if self._cancelled():
            return  # what was not reached is not gone
        plan = _plan(files, [folder.name for folder in folders], self._store.rows())
        if plan.heads or plan.moved or plan.gone:
            self._rearrange(plan)
        self._read(plan.read, edited)

    def _rearrange(self, plan: Plan) -> None:
        with self._store.change() as change:
            for card in plan.gone:
                change.remove(card)
            for card, file, text in plan.moved:
                change.move(card, file.path, text)
            for card, text in plan.heads:
                change.set_head(card, text)

    def _read(self, files: Sequence[tuple[File, str]], edited: Callable[[str], bool]) -> None:
        batch: list[tuple[File, str, Described]] = []
        since, layouts = time.monotonic(), Layouts()
        for number, (file, text) in enumerate(files):
            if self._cancelled():
                break
            self._update_report(Progress(True, number, len(files), file.below))
            batch.append((file, text, describe(file, layouts)))  # a change since the walk is found by the next one
            if time.monotonic() - since > BATCH:
                self._write(batch, edited)
                batch, since = [], time.monotonic()
        else:
            self._update_report(Progress(True, len(files), len(files)))
        self._write(batch, edited)

    def _write(self, batch: Sequence[tuple[File, str, Described]], edited: Callable[[str], bool]) -> None:
        if batch:
            with self._store.change() as change:
                for file, text, described in batch:
                    if not edited(file.path):
                        change.put(file, text, described)


def _plan(files: Sequence[File], folders: Sequence[str], rows: dict[str, Row]) -> Plan:
    plan = Plan()
    new: list[tuple[File, str]] = []
    parts = [(folders[file.root], *file.below.split("/")) for file in files]
    for file, tag, ends in zip(files, shortest_names(parts), parts, strict=True):
        text, row = head(file, plain_name(tag, ends), tag), rows.pop(file.path, None)
        if row is None:
            new.append((file, text))
        elif (row.size, row.mtime_ns, row.beside) != (file.size, file.mtime_ns, file.beside):
            plan.read.append((file, text))
        elif row.head != text or row.gone:
            plan.heads.append((row.id, text))
    left = [row for row in rows.values() if not row.gone]
    _find_renamed(new, left, plan)
    return plan


def _find_renamed(new: Sequence[tuple[File, str]], left: Sequence[Row], plan: Plan) -> None:
    """A file of the same size and time to the nanosecond as one that went is that one: it keeps its id and marks."""
    by_stamp: dict[tuple[int, int], list[int]] = {}
    for row in left:
        by_stamp.setdefault((row.size, row.mtime_ns), []).append(row.id)
    moved: set[int] = set()
    for file, text in new:
        same = by_stamp.pop((file.size, file.mtime_ns), [])
        if len(same) == 1:
            moved.add(same[0])
            plan.moved.append((same[0], file, text))
        plan.read.append((file, text))
    plan.gone += [row.id for row in left if row.id not in moved]
