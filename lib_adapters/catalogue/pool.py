"""Connections to one SQLite database, lent to one thread at a time: as many as are read from at once."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager

WAIT = 5.0  # seconds for another process to finish writing


class Pool:
    """A database in memory lives as long as its only connection."""

    def __init__(self, address: str, most: int) -> None:
        self._address = address
        self._free = threading.BoundedSemaphore(most)
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
        made = sqlite3.connect(self._address, timeout=WAIT, isolation_level=None, check_same_thread=False)
        made.execute("PRAGMA cache_size = -2000")
        made.execute("PRAGMA synchronous = NORMAL")
        return made
