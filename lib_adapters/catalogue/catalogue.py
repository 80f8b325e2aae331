"""The adapters of some folders as cards. Everybody asks here; a name or an id becomes a path nowhere else."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lib_adapters.catalogue import details, hashes, previews, sidecars
from lib_adapters.catalogue.cards import describe
from lib_adapters.catalogue.folders import look
from lib_adapters.catalogue.indexer import Indexer
from lib_adapters.catalogue.layouts import Layouts
from lib_adapters.catalogue.opening import open_store
from lib_adapters.catalogue.records import About, Changes, Progress
from lib_adapters.catalogue.store import Store
from lib_adapters.errors import AdapterError

logger = logging.getLogger(__name__)


class Catalogue:
    """`place` is the folder for the index and the small pictures; it is made when something is to be kept there.

    A card that is gone raises AdapterError. What each method gives stands at the function that it calls."""

    def __init__(self, folders: Callable[[], Sequence[Path]], place: Path) -> None:
        self.progress = Progress()
        self._folders = folders
        self._place = place
        self._lock = threading.Lock()  # around the five below
        self._running = False
        self._again = False  # asked for while one round was on its way: it may have passed what was asked for
        self._opened: Store | None = None
        self._thread: threading.Thread | None = None
        self._edited: set[str] = set()  # files whose cards were written while an indexing runs
        self._cancel = threading.Event()
        self._drawing = threading.BoundedSemaphore(2)  # pictures are large while they are decoded

    def start(self) -> None:
        """Looks through the folders in the background; once more at the end if that is going on already."""
        with self._lock:
            self._again = self._running
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
            self._again = False
            self._cancel.set()

    def wait(self, seconds: float | None = None) -> bool:
        """Is the indexing over (after that long at most)?"""
        if self._thread is not None:
            self._thread.join(seconds)
        return not self.progress.running

    def close(self) -> None:
        self.cancel()
        self.wait()
        with self._lock:
            if self._opened is not None:
                self._opened.close()
                self._opened = None

    def _run(self) -> None:
        while True:
            what = self._round()
            with self._lock:
                once_more, self._again = self._again, False
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
            Indexer(self._store, self._tell, self._cancel.is_set).run(self._folders(), self._edited.__contains__)
        except Exception as error:
            logger.exception("LyCORIS: the list of adapters is not complete")
            return f"Stopped: {error}"
        return ""

    def _tell(self, progress: Progress) -> None:
        self.progress = progress

    @property
    def _store(self) -> Store:
        with self._lock:
            if self._opened is None:
                self._opened = open_store(self._place)
            return self._opened

    @property
    def version(self) -> int:
        return self._store.version()

    def changes(self, since: int) -> Changes:
        return self._store.changes(since)

    def path_of(self, card: int) -> Path:
        return _there(self._store.path(card) if card.bit_length() < 64 else None)  # an address may have any number

    def details(self, card: int) -> dict[str, Any]:
        path = self.path_of(card)
        text = self._store.text(card)
        return details.details(path, json.loads(text or "{}"), self._known_hashes(card, path))

    def strengths(self, card: int) -> list[dict[str, Any]]:
        from lib_adapters.catalogue.strengths import rows  # reads tensors; nothing else here does

        return rows(self.path_of(card))

    def save(self, card: int, changes: Mapping[str, Any]) -> None:
        self._edit(card, lambda path: sidecars.save(path, changes))

    def star(self, card: int, on: bool) -> None:
        self.path_of(card)
        with self._store.change() as change:
            change.star(card, on)

    def used(self, path: Path) -> None:
        """Never raises: no picture is worth less because this was not written down."""
        try:
            with self._store.change() as change:
                change.used(str(path.absolute()), int(time.time()))
        except AdapterError as error:
            logger.warning("LyCORIS: that %s was used is forgotten: %s", path.name, error)

    def preview(self, card: int) -> Path | None:
        return previews.beside_file(self.path_of(card))

    def set_preview(self, card: int, image: bytes) -> None:
        content = previews.checked(image)
        self._edit(card, lambda path: previews.save(path, content))

    def thumbnail(self, card: int) -> bytes | None:
        path = self.path_of(card)
        with self._drawing:
            return previews.thumbnail(path, self._place / "thumbs")

    def about(self, path: Path) -> About | None:
        try:
            status = path.stat()
        except OSError:
            return None
        return self._store.about(str(path.absolute()), status.st_size, status.st_mtime_ns)

    def hash_of(self, card: int) -> dict[str, str]:
        path = self.path_of(card)
        if not (found := self._known_hashes(card, path)):
            status, found = hashes.of(path)
            with self._store.change() as change:
                change.set_hashes(card, status.st_size, status.st_mtime_ns, found)
        return found

    def _known_hashes(self, card: int, path: Path) -> dict[str, str]:
        try:
            status = path.stat()
        except OSError:
            return {}
        return self._store.hashes(card, status.st_size, status.st_mtime_ns)

    def _edit(self, card: int, write: Callable[[Path], None]) -> None:
        """Beside one file, and its card. In a change of the index: two writers would lose what one of them wrote."""
        self.path_of(card)
        with self._store.change() as change:
            found, head = change.place(card)
            write(path := _there(found))
            self._edited.add(str(path))
            try:
                file = look(path)
            except OSError as error:
                raise AdapterError(f"{path.name} went away while it was edited; refresh the list.") from error
            change.put(file, head, describe(file, Layouts()))


def _there(path: str | None) -> Path:
    if path is None:
        raise AdapterError("There is no such card any more; refresh the list.")
    if not os.path.lexists(path):
        raise AdapterError(f"{Path(path).name} is not there any more; refresh the list.")
    return Path(path)
