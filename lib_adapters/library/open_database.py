"""Opening of the index; a damaged or outdated one is rebuilt with the user's stars and dates of use."""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path

from lib_adapters.library.database import POOL_TIMEOUT, TABLES, ConnectionPool, Database, random_version

logger = logging.getLogger(__name__)

SCHEMA = 1
MAX_READERS = 4  # at once; more wait
LOCK_TIMEOUT = 30.0  # seconds for other processes to look their index through
DATABASE_NAME = "catalogue.sqlite"
LOCK_NAME = f"{DATABASE_NAME}-lock"
LOG_SUFFIXES = ("-wal", "-shm")  # SQLite's own, beside a database
CODE_FOLDERS = ("algorithms", "conditioning", "files", "library", "ops", ".")  # the code that a card depends on

_PARTS = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name"
UserData = tuple[bytes, int, int]  # path, star, used


def open_database(place: Path) -> Database:
    """In memory where nothing can be written; then everything is read again after a restart."""
    file = place / DATABASE_NAME
    try:
        place.mkdir(parents=True, exist_ok=True)
        with _exclusive_lock(place / LOCK_NAME):
            if file.exists() and not _is_current(file):
                _rebuild(file)
            return _opened(str(file), MAX_READERS, [])
    except (OSError, sqlite3.Error) as error:
        logger.warning("LyCORIS: the index %s cannot be kept (%s); it is made anew at each start.", file, error)
        return _opened(":memory:", 1, [])


@contextlib.contextmanager
def _exclusive_lock(file: Path) -> Iterator[None]:
    """One opens at a time: SQLite lets none wait for a change of journal, and what another fills is no damage.

    The lock is of an empty database: it works on every system and is gone when its process is.
    """
    with contextlib.closing(sqlite3.connect(file, timeout=LOCK_TIMEOUT, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield


def _is_current(file: Path) -> bool:
    """Whole, and of this version or still empty. sqlite3.OperationalError where it cannot be opened at all."""
    try:
        with contextlib.closing(sqlite3.connect(file, timeout=POOL_TIMEOUT)) as connection:
            schema = connection.execute("PRAGMA user_version").fetchone()[0]
            if schema != SCHEMA:  # a process may have been ended before it filled it
                return connection.execute("SELECT 1 FROM sqlite_master").fetchone() is None
            return _is_sound(connection) and _are_cards(connection)
    except sqlite3.OperationalError:
        raise
    except (sqlite3.DatabaseError, UnicodeDecodeError):  # the sentence about damage may be damaged itself
        return False


def _is_sound(connection: sqlite3.Connection) -> bool:
    """Its tables are ours, they and their indexes agree, and every text in them is one."""
    connection.text_factory = bytes.decode
    with contextlib.closing(sqlite3.connect(":memory:")) as fresh:
        fresh.executescript(TABLES)
        ours = fresh.execute(_PARTS).fetchall()
    if connection.execute(_PARTS).fetchall() != ours:
        return False
    rows = connection.execute("SELECT * FROM cards")
    return connection.execute("PRAGMA integrity_check(1)").fetchone()[0] == "ok" and all(rows)


def _are_cards(connection: sqlite3.Connection) -> bool:
    """SQLite does not look into texts, and one that is damaged would make a page refuse the whole list."""
    connection.text_factory = bytes
    try:
        for head, card in connection.execute("SELECT head, card FROM cards WHERE head != ''"):
            json.loads(b"{%b,%b}" % (head, card))
    except ValueError:
        return False
    return True


def _rebuild(file: Path) -> None:
    """The old one is there until the new one has its marks: nobody knows when this process is ended."""
    marks = _read_user_data(file)
    logger.warning("LyCORIS: the index %s is damaged or of another version; it is made anew.", file)
    new = file.with_name(f"{file.name}-new")
    _remove(new, "", *LOG_SUFFIXES)
    _opened(str(new), 1, marks).close()
    _remove(file, *LOG_SUFFIXES)  # of the old one; the new one's are gone since it was closed
    new.replace(file)


def _remove(file: Path, *suffixes: str) -> None:
    for suffix in suffixes:
        file.with_name(file.name + suffix).unlink(missing_ok=True)


def _read_user_data(file: Path) -> list[UserData]:
    """What users marked is the only thing in the index that files cannot give back."""
    try:
        with contextlib.closing(sqlite3.connect(file)) as connection:
            return connection.execute("SELECT path, star, used FROM cards WHERE star OR used").fetchall()
    except (sqlite3.DatabaseError, UnicodeDecodeError):
        return []


def _opened(address: str, readers: int, marks: list[UserData]) -> Database:
    pool = ConnectionPool(address, readers)
    try:
        _prepare(pool, marks)
    except BaseException:
        pool.close()
        raise
    return Database(pool)


def _prepare(pool: ConnectionPool, marks: list[UserData]) -> None:
    with pool.connection() as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN IMMEDIATE")  # fails where nothing can be written
        if connection.execute("PRAGMA user_version").fetchone()[0] != SCHEMA:
            _make(connection, marks)
        if connection.execute("PRAGMA application_id").fetchone()[0] != (now := code_version()):
            connection.execute("UPDATE cards SET beside = '?'")  # every file differs from that, so it is read again
            connection.execute(f"PRAGMA application_id = {now}")
        connection.execute("COMMIT")


def code_version() -> int:
    """Of the code that makes cards: after an update, a file that could not be used may be one that can."""
    package = Path(__file__).parent.parent
    files = sorted(
        path for folder in CODE_FOLDERS for path in (package / folder).glob("*.py" if folder == "." else "**/*.py")
    )
    about = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return zlib.crc32(repr(about).encode()) >> 1  # SQLite keeps it as a signed number


def _make(connection: sqlite3.Connection, marks: list[UserData]) -> None:
    for statement in (*TABLES.split(";"), f"PRAGMA user_version = {SCHEMA}"):
        connection.execute(statement)  # a script would commit first
    first = random_version()
    connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('cards', ?)", (first,))
    connection.executemany(
        "INSERT INTO cards (path, star, used, version, size, mtime_ns, beside, head, card, alias, hash, gone)"
        " VALUES (?, ?, ?, ?, -1, -1, '', '', '', '', '', 1)",
        ((path, star, used, first) for path, star, used in marks),
    )
