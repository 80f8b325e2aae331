"""The index on disk (SQLite): one row for each file, one transaction and one version for each change."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from lib_adapters.errors import AdapterError
from lib_adapters.library.cards import CardRecord
from lib_adapters.library.records import Changes, FileInfo
from lib_adapters.library.walk import ScannedFile

# A row outlives its file: what its user marked is there again when the file is, and `gone` tells pages what went.
TABLES = """
CREATE TABLE cards (
    id INTEGER PRIMARY KEY AUTOINCREMENT, path BLOB NOT NULL UNIQUE, version INTEGER NOT NULL,
    size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, beside TEXT NOT NULL, head TEXT NOT NULL, card TEXT NOT NULL,
    alias TEXT NOT NULL, hash TEXT NOT NULL,
    star INTEGER NOT NULL DEFAULT 0, used INTEGER NOT NULL DEFAULT 0, gone INTEGER NOT NULL DEFAULT 0, hashes TEXT
);
CREATE INDEX by_version ON cards (version);
"""
_PUT = """
INSERT INTO cards (path, version, size, mtime_ns, beside, head, card, alias, hash) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (path) DO UPDATE SET
    hashes = CASE WHEN size = excluded.size AND mtime_ns = excluded.mtime_ns THEN hashes END,
    version = excluded.version, size = excluded.size, mtime_ns = excluded.mtime_ns, beside = excluded.beside,
    head = excluded.head, card = excluded.card, alias = excluded.alias, hash = excluded.hash, gone = 0
"""
_LISTED = """
SELECT gone, version, id, star, used, head, card FROM cards
WHERE (version, id) > (?, ?) AND NOT (gone AND ?) ORDER BY version, id
"""
MAX_INTEGER = (1 << 63) - 1  # number that SQLite knows
_GONE = 16  # characters of a removed card's number in an answer, at most


class Row(NamedTuple):
    """What the index knew of a file when it was last looked at."""

    id: int
    size: int
    mtime_ns: int
    beside: str
    head: str
    gone: int


class Database:
    """Safe to use from several threads. Every question raises AdapterError where the index cannot be used."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        self._writer = threading.Lock()

    def close(self) -> None:
        """Closes the connections that nobody uses now."""
        self._pool.close()

    def rows(self) -> dict[str, Row]:
        """By path, also those that are gone."""
        found = self._all("SELECT path, id, size, mtime_ns, beside, head, gone FROM cards")
        return {os.fsdecode(row[0]): Row._make(row[1:]) for row in found}

    def version(self) -> int:
        """The last change's; 0 where there was none."""
        return int(self._all("SELECT coalesce(max(version), 0) FROM cards")[0][0])

    def changes(self, since: int, after: int = 0, most: int | None = None) -> Changes:
        """Return what changed since a version; everything if `since` is later than any: it was of another index.

        `after`: the last card of version `since` that is known already; 0 for all of them. The answer ends once its
        cards have `most` characters, and then names the card to go on after.
        """
        with self._read_connection() as connection:
            connection.execute("BEGIN")  # one state for both questions
            try:
                newest = int(connection.execute("SELECT coalesce(max(version), 0) FROM cards").fetchone()[0])
                if not (0 <= since <= newest and 0 <= after <= MAX_INTEGER):
                    since = after = 0
                rows = connection.execute(_LISTED, (since, after or MAX_INTEGER, not since))
                return _window(rows, newest, most)
            finally:
                connection.execute("COMMIT")

    def text(self, card: int) -> str | None:
        """A card as JSON; None where it is gone."""
        found = self._all("SELECT id, star, used, head, card FROM cards WHERE id = ? AND NOT gone", card)
        return _text(*found[0]) if found else None

    def path(self, card: int) -> str | None:
        """None where it is gone; any number may be asked for."""
        if not 0 <= card <= MAX_INTEGER:
            return None
        found = self._all("SELECT path FROM cards WHERE id = ? AND NOT gone", card)
        return os.fsdecode(found[0][0]) if found else None

    def file_info(self, path: str, size: int, mtime_ns: int) -> FileInfo | None:
        """None where the index does not know this file, of this size in bytes and this time."""
        known = "SELECT alias, hash FROM cards WHERE path = ? AND size = ? AND mtime_ns = ? AND NOT gone"
        found = self._all(known, os.fsencode(path), size, mtime_ns)
        return FileInfo(*found[0]) if found else None

    def hashes(self, card: int, size: int, mtime_ns: int) -> dict[str, str]:
        """{} where they are not known for this size in bytes and this time."""
        found = self._all("SELECT hashes FROM cards WHERE id = ? AND size = ? AND mtime_ns = ?", card, size, mtime_ns)
        return dict(json.loads(found[0][0])) if found and found[0][0] else {}

    def _all(self, question: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._read_connection() as connection:
            return connection.execute(question, values).fetchall()

    @contextmanager
    def _read_connection(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._pool.connection() as connection:
                yield connection
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise AdapterError(f"The index of adapters cannot be used: {error}. Is the disk full?") from error

    @contextmanager
    def transaction(self) -> Iterator[WriteTransaction]:
        """Everything in it happens at once, or not at all."""
        with self._writer, self._read_connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield WriteTransaction(connection)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # after some errors (a full disk) SQLite has taken it back itself
                    connection.execute("ROLLBACK")
                raise


class WriteTransaction:
    """One version of the index. An index that is made anew goes on with later ones, so that pages notice."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        question = "SELECT coalesce(max(version), ?) FROM cards"
        self._version = int(connection.execute(question, (random_version(),)).fetchone()[0]) + 1

    def path_and_head(self, card: int) -> tuple[str | None, str]:
        """A card's path and head as they are now; None where it is gone."""
        question = "SELECT path, head FROM cards WHERE id = ? AND NOT gone"
        found = self._connection.execute(question, (card,)).fetchone()
        return (os.fsdecode(found[0]), found[1]) if found else (None, "")

    def upsert(self, file: ScannedFile, head: str, described: CardRecord) -> None:
        """A card, new or in the place of the old one."""
        stamps = (file.size, file.mtime_ns, file.companions)
        values = (os.fsencode(file.path), self._version, *stamps, head, described.card, described.alias, described.hash)
        self._connection.execute(_PUT, values)

    def set_head(self, card: int, head: str) -> None:
        """Also brings a file back that was gone."""
        self._set("head = ?, gone = 0", card, head)

    def move(self, card: int, path: str, head: str) -> None:
        """The same file under another path."""
        self._set("path = ?, head = ?, gone = 0", card, os.fsencode(path), head)

    def remove(self, card: int) -> None:
        """Its marks stay, for when the file comes back."""
        self._set("gone = 1", card)

    def set_star(self, card: int, on: bool) -> None:
        """The user's own mark, on or off."""
        self._set("star = ?", card, int(on))

    def record_use(self, path: str, seconds: int) -> None:
        """`seconds` since 1970."""
        self._connection.execute(
            "UPDATE cards SET used = ?, version = ? WHERE path = ?", (seconds, self._version, os.fsencode(path))
        )

    def set_hashes(self, card: int, size: int, mtime_ns: int, hashes: dict[str, str]) -> None:
        """No new version: no card shows them."""
        self._connection.execute(
            "UPDATE cards SET hashes = ? WHERE id = ? AND size = ? AND mtime_ns = ?",
            (json.dumps(hashes), card, size, mtime_ns),
        )

    def _set(self, what: str, card: int, *values: Any) -> None:
        self._connection.execute(f"UPDATE cards SET {what}, version = ? WHERE id = ?", (*values, self._version, card))


def random_version() -> int:
    """Later than any version or id of an index made before: neither grows by a thousand in a second for long."""
    return int((time.time() - 1_700_000_000) * 1000)


def _window(rows: Iterable[tuple[Any, ...]], newest: int, most: int | None) -> Changes:
    """Take rows until their texts have `most` characters."""
    cards: list[str] = []
    removed: list[int] = []
    size = 0
    for gone, version, card, *rest in rows:
        if gone:
            removed.append(card)
            size += _GONE
        else:
            cards.append(_text(card, *rest))
            size += len(cards[-1])
        if most is not None and size >= most:
            return Changes(version, cards, removed, card)
    return Changes(newest, cards, removed)


def _text(card: int, star: int, used: int, head: str, rest: str) -> str:
    marks = (',"star":true' if star else "") + (f',"used":{used}' if used else "")
    return f'{{"id":{card},{head}{marks},{rest}}}'


# Connections to one SQLite database, lent to one thread at a time: as many as are read from at once.


POOL_TIMEOUT = 5.0  # seconds for another process to finish writing


class ConnectionPool:
    """A database in memory lives as long as its only connection."""

    def __init__(self, address: str, size: int) -> None:
        self._address = address
        self._free = threading.BoundedSemaphore(size)
        self._lock = threading.Lock()
        self._idle: list[sqlite3.Connection] = []

    @contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """Nobody else's inside; waits for a free one. sqlite3.Error where there can be none."""
        with self._free:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            connection = connection or self._connect()
            try:
                yield connection
            finally:
                with self._lock:
                    self._idle.append(connection)

    def close(self) -> None:
        """Closes those that nobody uses now."""
        with self._lock:
            while self._idle:
                self._idle.pop().close()

    def _connect(self) -> sqlite3.Connection:
        made = sqlite3.connect(self._address, timeout=POOL_TIMEOUT, isolation_level=None, check_same_thread=False)
        made.execute("PRAGMA cache_size = -2000")
        made.execute("PRAGMA synchronous = NORMAL")
        return made
