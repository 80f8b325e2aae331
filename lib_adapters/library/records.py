"""Records that the library returns."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How far the indexing is; `total` is 0 while the folders are being walked."""

    running: bool = False
    done: int = 0
    total: int = 0
    message: str = ""  # the file that is being read, or why the scan stopped
    cancelled: bool = False


WINDOW_CHARACTERS = (
    2_000_000  # characters of cards in one answer: a page reads and draws them while it waits for the next
)


@dataclass(frozen=True)
class Changes:
    """What became of the cards since some version; `cards` are JSON texts, ready to be joined.

    `after`: 0 if that is all; else the card of `version` after which the rest follows.
    """

    version: int
    cards: list[str]
    removed: list[int]
    after: int = 0


@dataclass(frozen=True)
class FileInfo:
    """What a trainer wrote into the file about what it is called."""

    alias: str
    hash: str
