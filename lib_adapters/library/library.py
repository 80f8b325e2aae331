"""The library of adapters: cards, details, edits and previews of the files in some folders."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lib_adapters.errors import AdapterError
from lib_adapters.library import details, hashes, previews, sidecar_json
from lib_adapters.library.background_scan import BackgroundScan
from lib_adapters.library.cards import build_card
from lib_adapters.library.database import Database
from lib_adapters.library.header_cache import HeaderCache
from lib_adapters.library.indexer import Indexer
from lib_adapters.library.open_database import open_database
from lib_adapters.library.records import Changes, FileInfo, Progress
from lib_adapters.library.walk import scan_file

logger = logging.getLogger(__name__)


class AdapterLibrary:
    """`place` is the folder for the index and the small pictures; it is made when something is to be kept there.

    Safe to use from several threads. A card that is gone, and an index that cannot be used, raise AdapterError.
    """

    def __init__(self, folders: Callable[[], Sequence[Path]], place: Path) -> None:
        self._folders = folders
        self._place = place
        self._background_scan = BackgroundScan(self._scan)
        self._lock = threading.Lock()
        self._opened: Database | None = None
        self._thumbnail_lock = threading.BoundedSemaphore(2)  # pictures are large while they are decoded

    def start(self) -> None:
        """Looks through the folders in the background; once more at the end if that is going on already."""
        self._background_scan.start()

    def cancel(self) -> None:
        """Looking through the folders, now and what was asked for before; what is found already stays."""
        self._background_scan.cancel()

    def wait(self, seconds: float | None = None) -> bool:
        """Is the looking through over (after that long at most)?"""
        return self._background_scan.wait(seconds)

    @property
    def progress(self) -> Progress:
        """Of the looking through."""
        return self._background_scan.progress

    def close(self) -> None:
        """Ends the looking through and lets go of the index; whoever asks again opens it again."""
        self.cancel()
        self.wait()
        with self._lock:
            if self._opened is not None:
                self._opened.close()
                self._opened = None

    def _scan(self, rounds: BackgroundScan) -> None:
        Indexer(self._store, rounds.report, rounds.is_cancelled).run(self._folders(), rounds.was_edited)

    @property
    def _store(self) -> Database:
        with self._lock:
            if self._opened is None:
                self._opened = open_database(self._place)
            return self._opened

    @property
    def version(self) -> int:
        """Of the last change; 0 where there was none."""
        return self._store.version()

    def changes_since(self, since: int, after: int = 0, max_bytes: int | None = None) -> Changes:
        """Return what became of the cards since that version; everything since 0.

        At most about `most` characters; the rest follows for the answer's `version` and `after`.
        """
        return self._store.changes(since, after, max_bytes)

    def path_of(self, card: int) -> Path:
        """Of a card's file, which is there."""
        return _there(self._store.path(card) if card.bit_length() < 64 else None)  # an address may have any number

    def details(self, card: int) -> dict[str, Any]:
        """Everything that the page shows of one card: its file is read for it, its tensors are not."""
        path = self.path_of(card)
        text = self._store.text(card)
        return details.details(path, json.loads(text or "{}"), self._known_hashes(card, path))

    def strengths(self, card: int) -> list[dict[str, Any]]:
        """How strongly each block is changed, as rows of the chart. Reads the file's tensors."""
        from lib_adapters.library.block_strength import strength_rows  # reads tensors; nothing else here does

        return strength_rows(self.path_of(card))

    def save(self, card: int, changes: Mapping[str, Any]) -> None:
        """Writes these keys into the file's sidecar, the web UI's own .json, and leaves its others as they are."""
        self._edit(card, lambda path: sidecar_json.save_sidecar(path, changes))

    def set_star(self, card: int, on: bool) -> None:
        """The user's own mark; it is kept in the index alone."""
        self.path_of(card)
        with self._store.transaction() as transaction:
            transaction.set_star(card, on)

    def record_use(self, path: Path) -> None:
        """Never raises: no picture is worth less because this was not written down."""
        try:
            with self._store.transaction() as transaction:
                transaction.record_use(str(path.absolute()), int(time.time()))
        except AdapterError as error:
            logger.warning("LyCORIS: that %s was used is forgotten: %s", path.name, error)

    def preview(self, card: int) -> Path | None:
        """The picture or film beside the file; None where there is none."""
        return previews.companion_image(self.path_of(card))

    def set_preview(self, card: int, image: bytes) -> None:
        """Puts a picture beside the file, in place of the one that was there. AdapterError for what is no picture."""
        content = previews.check_image(image)
        self._edit(card, lambda path: previews.save(path, content))

    def thumbnail(self, card: int) -> bytes | None:
        """WebP of the preview, small, made once; None where there is no picture."""
        path = self.path_of(card)
        with self._thumbnail_lock:
            return previews.thumbnail(path, self._place / "thumbs")

    def file_info(self, path: Path) -> FileInfo | None:
        """What the index knows of a file as it is on disk now; None where it knows nothing."""
        try:
            status = path.stat()
        except OSError:
            return None
        return self._store.file_info(str(path.absolute()), status.st_size, status.st_mtime_ns)

    def hash_of(self, card: int) -> dict[str, str]:
        """The checksums that sites know a file by. The whole file is read for them, once."""
        path = self.path_of(card)
        if not (found := self._known_hashes(card, path)):
            status, found = hashes.file_hashes(path)
            with self._store.transaction() as transaction:
                transaction.set_hashes(card, status.st_size, status.st_mtime_ns, found)
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
        with self._store.transaction() as transaction:
            found, head = transaction.path_and_head(card)
            write(path := _there(found))
            self._background_scan.mark_edited(str(path))
            try:
                file = scan_file(path)
            except OSError as error:
                raise AdapterError(f"{path.name} went away while it was edited; refresh the list.") from error
            transaction.upsert(file, head, build_card(file, HeaderCache()))


def _there(path: str | None) -> Path:
    if path is None:
        raise AdapterError("There is no such card any more; refresh the list.")
    if not os.path.lexists(path):
        raise AdapterError(f"{Path(path).name} is not there any more; refresh the list.")
    return Path(path)
