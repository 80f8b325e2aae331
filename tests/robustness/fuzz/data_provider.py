"""Bytes read as decisions, so that what changes bytes also makes sound structures with something wrong in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from json import dumps
from typing import TypeVar

Item = TypeVar("Item")


class Choices:
    """The same bytes decide the same; behind their end every decision is the first one."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return max(0, len(self._data) - self._at)

    def raw(self, count: int) -> bytes:
        taken = self._data[self._at : self._at + count]
        self._at += count
        return taken

    def number(self, low: int, high: int) -> int:
        """From `low` to `high`, both included."""
        size = ((high - low).bit_length() + 7) // 8
        return low + int.from_bytes(self.raw(size), "little") % (high - low + 1)

    def chance(self, of: int = 2) -> bool:
        """True once in `of` times, and never behind the end."""
        return self.number(0, of - 1) == of - 1

    def one(self, options: Sequence[Item]) -> Item:
        return options[self.number(0, len(options) - 1)]

    def some(self, make: Callable[[], Item], most: int) -> list[Item]:
        return [make() for _ in range(self.number(0, most))]

    def text(self, most: int = 12) -> str:
        """Of any letters, halves of emojis among them."""
        return self.raw(self.number(0, most)).decode("utf-8", "surrogateescape")

    def json(self, words: Sequence[str], depth: int = 3) -> str:
        """A text of JSON that says anything, sometimes absurdly large or deep."""
        kind = self.number(0, 11 if depth else 8)
        if kind >= 10:
            pairs = [f"{dumps(self.one(words))}:{self.json(words, depth - 1)}" for _ in range(self.number(0, 4))]
            return f"{{{','.join(pairs)}}}"
        plain: Sequence[Callable[[], str]] = (
            lambda: dumps(self.one(words)),
            lambda: "null",
            lambda: self.one(["false", "true"]),
            lambda: str(self.number(-3, 300)),
            lambda: self.one(["0.5", "1e-9", "1e39", "NaN", "Infinity", "-0.0", "1" * 400, "9" * 5000, str(1 << 63)]),
            lambda: dumps(self.text()),
            lambda: dumps(self.one(words) + self.text(4)),
            lambda: dumps("x" * self.number(0, 3000)),
            lambda: nested(self.number(1, 2000)),
            lambda: f"[{','.join(self.some(lambda: self.json(words, depth - 1), 4))}]",
        )
        return plain[kind]()

    def table(self, words: Sequence[str], most: int = 5) -> str:
        """JSON's text of an object, mostly."""
        if self.chance(12):
            return self.json(words)
        return f"{{{','.join(f'{dumps(self.one(words))}:{self.json(words)}' for _ in range(self.number(0, most)))}}}"


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth
