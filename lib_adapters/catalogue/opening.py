"""How the index is opened: made where there is none, made anew where it is damaged or of an older version."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import zlib
from pathlib import Path

from lib_adapters.catalogue.pool import WAIT, Pool
from lib_adapters.catalogue.store import TABLES, Store, fresh_number

logger = logging.getLogger(__name__)

SCHEMA = 1
READERS = 4  # at once; more wait
NAME = "catalogue.sqlite"
DECIDING = ("algorithms", "catalogue", "conditioning", "files")  # the code that a card depends on

Mark = tuple[bytes, int, int]  # path, star, used


def open_store(place: Path) -> Store:
    """In memory where nothing can be written; then everything is read again after a restart."""
    file = place / NAME
    try:
        place.mkdir(parents=True, exist_ok=True)
        if file.exists() and not _is_ours(file):
            _rebuild(file)
        return _opened(str(file), READERS, [])
    except (OSError, sqlite3.Error) as error:
        logger.warning("LyCORIS: the index %s cannot be kept (%s); it is made anew at each start.", file, error)
        return _opened(":memory:", 1, [])


def _is_ours(file: Path) -> bool:
    """Whole, and of this version. sqlite3.OperationalError where it cannot be opened at all."""
    try:
        with contextlib.closing(sqlite3.connect(file, timeout=WAIT)) as connection:
            schema = connection.execute("PRAGMA user_version").fetchone()[0]
            return bool(schema == SCHEMA and connection.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok")
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:
        return False


def _rebuild(file: Path) -> None:
    marks = _marks(file)
    logger.warning("LyCORIS: the index %s is damaged or of another version; it is made anew.", file)
    for suffix in ("", "-wal", "-shm"):
        file.with_name(file.name + suffix).unlink(missing_ok=True)
    _opened(str(file), 1, marks).close()


def _marks(file: Path) -> list[Mark]:
    """What users marked is the only thing in the index that files cannot give back."""
    try:
        with contextlib.closing(sqlite3.connect(file)) as connection:
            return connection.execute("SELECT path, star, used FROM cards WHERE star OR used").fetchall()
    except sqlite3.DatabaseError:
        return []


def _opened(address: str, readers: int, marks: list[Mark]) -> Store:
    pool = Pool(address, readers)
    with pool.connection() as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        if connection.execute("PRAGMA user_version").fetchone()[0] != SCHEMA:
            _make(connection, marks)
        if connection.execute("PRAGMA application_id").fetchone()[0] != (now := edition()):
            connection.execute("UPDATE cards SET beside = '?'")  # every file differs from that, so it is read again
            connection.execute(f"PRAGMA application_id = {now}")
    return Store(pool)


def edition() -> int:
    """Of the code that makes cards: after an update, a file that could not be used may be one that can."""
    package = Path(__file__).parent.parent
    files = sorted(path for folder in DECIDING for path in (package / folder).glob("*.py"))
    about = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return zlib.crc32(repr(about).encode()) >> 1  # SQLite keeps it as a signed number


def _make(connection: sqlite3.Connection, marks: list[Mark]) -> None:
    connection.executescript(f"BEGIN; {TABLES} PRAGMA user_version = {SCHEMA}; COMMIT;")
    first = fresh_number()
    connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('cards', ?)", (first,))
    connection.executemany(
        "INSERT INTO cards (path, star, used, version, size, mtime_ns, beside, head, card, alias, hash, gone)"
        " VALUES (?, ?, ?, ?, -1, -1, '', '', '', '', '', 1)",
        ((path, star, used, first) for path, star, used in marks),
    )
