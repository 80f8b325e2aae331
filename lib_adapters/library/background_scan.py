"""Scans in a background thread: one at a time, and one more if it was requested meanwhile."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from lib_adapters.library.records import Progress

logger = logging.getLogger(__name__)


class BackgroundScan:
    """Runs `work(self)` in a thread of its own; safe to use from several threads. `progress` is read at any time."""

    def __init__(self, work: Callable[[BackgroundScan], None]) -> None:
        self.progress = Progress()
        self._work = work
        self._lock = threading.Lock()  # around the five below
        self._running = False
        self._run_again = False  # asked for while one round was on its way: it may have passed what was asked for
        self._thread: threading.Thread | None = None
        self._edited: set[str] = set()  # files whose cards were written while a round runs
        self._cancel = threading.Event()

    def start(self) -> None:
        """Begins a round; where one is on its way already, another follows it."""
        with self._lock:
            self._run_again = self._running
            if self._running:
                return
            self._running = True
            self._cancel.clear()
            self._edited = set()
            self.progress = Progress(running=True)
            self._thread = threading.Thread(target=self._run, name="lycoris-catalogue", daemon=True)
            self._thread.start()

    def cancel(self) -> None:
        """What runs, and what was asked for before; not what is asked for afterwards."""
        with self._lock:
            self._run_again = False
            self._cancel.set()

    def wait(self, seconds: float | None = None) -> bool:
        """Is it over (after that long at most)?"""
        if self._thread is not None:
            self._thread.join(seconds)
        return not self.progress.running

    def mark_edited(self, path: str) -> None:
        """Somebody else wrote this file's card: later than a round that is on its way has read the file."""
        self._edited.add(path)

    def was_edited(self, path: str) -> bool:
        """Since the round began."""
        return path in self._edited

    def is_cancelled(self) -> bool:
        """Is this round to end early?"""
        return self._cancel.is_set()

    def report(self, progress: Progress) -> None:
        """How far the work is."""
        self.progress = progress

    def _run(self) -> None:
        while True:
            what = self._round()
            with self._lock:
                once_more, self._run_again = self._run_again, False
                if not once_more:
                    self._running = False
                    last = self.progress
                    self.progress = Progress(False, last.done, last.total, what, self._cancel.is_set())
                    return
                self._cancel.clear()
                self._edited = set()

    def _round(self) -> str:
        """Why it did not come to its end; "" if it did."""
        try:
            self._work(self)
        except Exception as error:
            logger.exception("LyCORIS: the list of adapters is not complete")
            return f"Stopped: {error}"
        return ""
