"""The catalogue's index on the disk, whatever its bytes are: it is used, or made anew, and then it is sound."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path

from lib_adapters.library.cards import CardRecord
from lib_adapters.library.database import Database
from lib_adapters.library.open_database import DATABASE_NAME, open_database
from lib_adapters.library.walk import ScannedFile
from tests.robustness.fuzz.work_folder import folder
from tests.support.input_bounds import Bound

BOUND = Bound(calls=100_000)
TOKENS = [
    b"SQLite format 3\x00", b"CREATE TABLE cards", b"CREATE INDEX by_version", b"sqlite_sequence", b"path BLOB",
    b"\xff\xff\xff\xff", b"CREATE VIEW cards AS SELECT 1", b"CREATE TRIGGER", b"\x00\x00\x00\x01", b"x.safetensors",
    b"version",
]  # fmt: skip
FILE = ScannedFile("/x/y.safetensors", "y.safetensors", 0, 1, 2, 3, "")


def target(data: bytes) -> None:
    place = folder("index")
    place.mkdir(exist_ok=True)
    for old in place.iterdir():
        old.unlink()
    (place / DATABASE_NAME).write_bytes(data)
    store = open_database(place)
    try:
        use(store)
    finally:
        store.close()


def use(store: Database) -> None:
    """Every question has its answer; a card that was put is there."""
    with store.transaction() as change:
        change.upsert(FILE, '"name":"y"', CardRecord('"size":1'))
    card = max(row.id for path, row in store.rows().items() if path == FILE.path)
    assert store.path(card) == FILE.path
    assert store.text(card)
    assert store.changes(0).cards
    with store.transaction() as change:
        change.set_star(card, on=True)
        change.record_use(FILE.path, 7)
        change.set_hashes(card, FILE.size, FILE.mtime_ns, {"sha256": "ab"})
    assert store.hashes(card, FILE.size, FILE.mtime_ns) == {"sha256": "ab"}
    assert store.file_info(FILE.path, FILE.size, FILE.mtime_ns) is not None


@cache
def seeds() -> list[bytes]:
    logging.disable(logging.CRITICAL)
    place = folder("index")
    place.mkdir(exist_ok=True)
    store = open_database(place)
    use(store)
    store.close()
    return [compact(place / DATABASE_NAME), b""]


def compact(path: Path) -> bytes:
    import sqlite3

    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.execute("PRAGMA page_size = 512")
    connection.execute("VACUUM")
    connection.close()
    return path.read_bytes()
