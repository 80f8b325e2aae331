"""Update of the index: one walk over the folders; only files that changed are read."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lib_adapters.library.cards import CardRecord, build_card, json_head
from lib_adapters.library.database import Database, Row
from lib_adapters.library.file_names import plain_name, shortest_names
from lib_adapters.library.header_cache import HeaderCache
from lib_adapters.library.records import Progress
from lib_adapters.library.walk import ScannedFile, walk

BATCH_SECONDS = 0.5  # seconds of reading between two commits


@dataclass
class ScanPlan:
    """What differs between the folders and the index."""

    read: list[tuple[ScannedFile, str]] = field(default_factory=list)  # with their heads
    renamed: list[tuple[int, str]] = field(default_factory=list)
    moved: list[tuple[int, ScannedFile, str]] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)


class Indexer:
    """One round over the folders; what it writes is found by `Store.changes`."""

    def __init__(self, store: Database, report: Callable[[Progress], None], cancelled: Callable[[], bool]) -> None:
        self._store = store
        self._report = report
        self._cancelled = cancelled

    def run(self, folders: Sequence[Path], edited: Callable[[str], bool]) -> None:
        """`edited`: files whose card was written by somebody else meanwhile, and later than it was read here."""
        self._report(Progress(running=True, message="Looking for files"))
        files = walk(folders, self._cancelled)
        if self._cancelled():
            return  # what was not reached is not gone
        plan = _plan(files, [folder.name for folder in folders], self._store.rows())
        if plan.renamed or plan.moved or plan.gone:
            self._rearrange(plan)
        self._read(plan.read, edited)

    def _rearrange(self, plan: ScanPlan) -> None:
        with self._store.transaction() as transaction:
            for card in plan.gone:
                transaction.remove(card)
            for card, file, text in plan.moved:
                transaction.move(card, file.path, text)
            for card, text in plan.renamed:
                transaction.set_head(card, text)

    def _read(self, files: Sequence[tuple[ScannedFile, str]], edited: Callable[[str], bool]) -> None:
        batch: list[tuple[ScannedFile, str, CardRecord]] = []
        since, layouts = time.monotonic(), HeaderCache()
        for number, (file, text) in enumerate(files):
            if self._cancelled():
                break
            self._report(Progress(True, number, len(files), file.subfolder))
            batch.append((file, text, build_card(file, layouts)))  # a change since the walk is found by the next one
            if time.monotonic() - since > BATCH_SECONDS:
                self._write(batch, edited)
                batch, since = [], time.monotonic()
        else:
            self._report(Progress(True, len(files), len(files)))
        self._write(batch, edited)

    def _write(self, batch: Sequence[tuple[ScannedFile, str, CardRecord]], edited: Callable[[str], bool]) -> None:
        if batch:
            with self._store.transaction() as transaction:
                for file, text, described in batch:
                    if not edited(file.path):
                        transaction.upsert(file, text, described)


def _plan(files: Sequence[ScannedFile], folders: Sequence[str], rows: dict[str, Row]) -> ScanPlan:
    plan = ScanPlan()
    new: list[tuple[ScannedFile, str]] = []
    parts = [(folders[file.root], *file.subfolder.split("/")) for file in files]
    for file, tag, ends in zip(files, shortest_names(parts), parts, strict=True):
        text, row = json_head(file, plain_name(tag, ends), tag), rows.pop(file.path, None)
        if row is None:
            new.append((file, text))
        elif (row.size, row.mtime_ns, row.beside) != (file.size, file.mtime_ns, file.companions):
            plan.read.append((file, text))
        elif row.head != text or row.gone:
            plan.renamed.append((row.id, text))
    left = [row for row in rows.values() if not row.gone]
    _find_renamed(new, left, plan)
    return plan


def _find_renamed(new: Sequence[tuple[ScannedFile, str]], left: Sequence[Row], plan: ScanPlan) -> None:
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
