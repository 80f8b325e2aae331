"""The keys of PEFT's `rank_pattern` and `alpha_pattern`: regular expressions, matched without backtracking.

They come from untrusted files, and a backtracking matcher can take exponential time. Here each part of an expression
maps the set of its start positions to the set of its end positions, and a step budget bounds the work of a table.
Source: PEFT `get_pattern_key`, which is re.match(rf"(.*\\.)?({key})$", name) for one key after the other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

from lib_adapters.errors import AdapterError, shorten

MAX_PATTERN = 2000  # characters
MAX_NAME = 1000
MAX_DEPTH = 20  # groups inside groups
MAX_COUNT = 1000  # of a repetition
MAX_STEPS = 4_000_000  # for one table, about two seconds; twenty typical patterns on a whole UNet need a quarter of it

CharacterTest = Callable[[str], bool]  # of one character
_LITERAL_NAME = re.compile(r"(\^?)((?:[\w\-]|\\?\.)+)\$?")  # a name, in which a dot may match any character
_CLASSES: dict[str, CharacterTest] = {
    "d": str.isdecimal,
    "w": lambda char: char.isalnum() or char == "_",
    "s": str.isspace,
}


class UnsupportedPattern(AdapterError):
    """A pattern with unsupported syntax, or one that exceeds the step budget."""


class PatternTable:
    """The values of one table by layer name; the first key that matches is used, as in PEFT."""

    def __init__(self, table: Mapping[str, Any]) -> None:
        self._values = list(table.values())
        self._budget = _StepBudget(MAX_STEPS)
        self._literal, self._anchored = _NameIndex(), _NameIndex()
        self._matchers: list[tuple[int, str, _Matcher | None]] = []
        for index, key in enumerate(table):
            if plain := _LITERAL_NAME.fullmatch(key):
                (self._anchored if plain[1] else self._literal).add(plain[2], index)
            else:
                self._matchers.append((index, key, _compiled(key)))

    def lookup(self, name: str) -> Any:
        """Return the value for the layer `name` (dotted path); None if no key matches. Raise UnsupportedPattern."""
        if not self._values:
            return None
        name = name[:MAX_NAME]
        found = min(self._plain_hits(name), default=len(self._values))
        starts = sum(1 << n for n in (0, *(dot + 1 for dot in _dots(name))))
        for index, key, part in self._matchers:
            if index > found:
                break
            hit = part is not None and part(_Subject(name, self._budget), starts) >> len(name)
            if part is None or self._budget.left < 0:
                raise UnsupportedPattern(f"the pattern {shorten(key)!r} in its config is not supported or too complex")
            if hit:
                found = index
                break
        return self._values[found] if found < len(self._values) else None

    def _plain_hits(self, name: str) -> Iterator[int]:
        yield from self._anchored.indexes(name)
        for tail in (name, *(name[dot + 1 :] for dot in _dots(name))):
            yield from self._literal.indexes(tail)


class _NameIndex:
    """An index of names in which a dot matches any character, unless it is escaped."""

    def __init__(self) -> None:
        self._known: dict[int, dict[tuple[int, ...], dict[str, int]]] = {}  # length -> its dots -> name -> index

    def add(self, pattern: str, index: int) -> None:
        name = pattern.replace("\\.", "\0")
        known = self._known.setdefault(len(name), {}).setdefault(_dots(name), {})
        known.setdefault(name.replace("\0", "."), index)

    def indexes(self, name: str) -> Iterator[int]:
        """Return the indexes of the patterns that match this name."""
        for dots, known in self._known.get(len(name), {}).items():
            chars = list(name)
            for dot in dots:
                chars[dot] = "."
            if (index := known.get("".join(chars))) is not None:
                yield index


def _dots(text: str) -> tuple[int, ...]:
    return tuple(n for n, char in enumerate(text) if char == ".")


@dataclass
class _StepBudget:
    left: int


@dataclass(frozen=True)
class _Subject:
    """The text to match. Sets of positions are integers: bit n is set if position n is in the set."""

    text: str
    budget: _StepBudget

    def positions(self, bits: int) -> Iterator[int]:
        """Return the positions in the set; stop once the budget is spent, in which case the caller raises."""
        self.budget.left -= 1 + bin(bits).count("1")
        while bits and self.budget.left >= 0:
            low = bits & -bits
            yield low.bit_length() - 1
            bits ^= low


_Matcher = Callable[[_Subject, int], int]  # start positions -> end positions


def _compiled(pattern: str) -> _Matcher | None:
    """Return the compiled pattern; None if it is invalid or uses unsupported syntax."""
    if len(pattern) > MAX_PATTERN:
        return None
    try:
        return _Parser(pattern).parse()
    except (UnsupportedPattern, IndexError):
        return None


class _Parser:
    """Recursive descent: alternatives of sequences of repeated atoms."""

    def __init__(self, pattern: str) -> None:
        self._left = pattern
        self._depth = 0

    def parse(self) -> _Matcher:
        part = self._choice()
        if self._left:
            raise UnsupportedPattern("an unmatched closing bracket")
        return part

    def _take(self, *words: str) -> str:
        """Consume and return the first of the words with which the rest begins; "" if there is none."""
        found = next((word for word in words if self._left.startswith(word)), "")
        self._left = self._left[len(found) :]
        return found

    def _char(self) -> str:
        char, self._left = self._left[0], self._left[1:]  # IndexError if the pattern ends too early
        return char

    def _choice(self) -> _Matcher:
        options = [self._sequence()]
        while self._take("|"):
            options.append(self._sequence())
        return lambda text, starts: reduce(lambda found, option: found | option(text, starts), options, 0)

    def _sequence(self) -> _Matcher:
        parts: list[_Matcher] = []
        while self._left and self._left[0] not in "|)":
            parts.append(_anything if self._take(".*?", ".*") else self._repeated(self._atom()))
        return lambda text, starts: reduce(lambda at, part: part(text, at) if at else 0, parts, starts)

    def _repeated(self, part: _Matcher) -> _Matcher:
        while bounds := self._bounds():
            part = _repeat(part, *bounds)
            if not self._take("?") and self._left[:1] == "+":
                raise UnsupportedPattern("a possessive repetition")
        return part

    def _bounds(self) -> tuple[int, int | None] | None:
        """Consume and return the minimum and maximum count of a repetition; None if there is none."""
        if sign := self._take("*", "+", "?"):
            return int(sign == "+"), 1 if sign == "?" else None
        counts = re.match(r"\{(\d{0,4})(,?)(\d{0,4})\}", self._left)
        if counts is None or not (counts[1] or counts[3]):
            return None
        self._left = self._left[counts.end() :]
        least, most = int(counts[1] or 0), int(counts[3]) if counts[3] else None
        if least > MAX_COUNT or (most or 0) > MAX_COUNT:
            raise UnsupportedPattern("too many repetitions")
        return least, most if counts[2] else least

    def _atom(self) -> _Matcher:
        char = self._char()
        if char == "(":
            return self._group()
        if char == "[":
            return _one(self._set())
        if char == "\\":
            return self._escape()
        if char in "^$":
            return (lambda _, starts: starts & 1) if char == "^" else _at_end
        if char == ".":
            return _one(lambda other: other != "\n")
        if char in "*+?":
            raise UnsupportedPattern("nothing to repeat")
        return _one(char.__eq__)

    def _group(self) -> _Matcher:
        self._depth += 1
        kind = self._take("?:", "?=", "?!")
        if self._left[:1] == "?" or self._depth > MAX_DEPTH:
            raise UnsupportedPattern("an unsupported kind of group")
        part = self._choice()
        if not self._take(")"):
            raise UnsupportedPattern("an open bracket")
        self._depth -= 1
        return _looked_ahead(part, wanted=kind == "?=") if kind in ("?=", "?!") else part

    def _escape(self) -> _Matcher:
        char = self._char()
        if char in "bBAZ":
            raise UnsupportedPattern("an unsupported anchor")
        return _one(_escaped(char))

    def _set(self) -> CharacterTest:
        """Parse a character set [...]: single characters, ranges and classes."""
        tests: list[CharacterTest] = []
        negated = bool(self._take("^"))
        while not tests or not self._take("]"):
            char = self._char()
            if char == "\\":
                tests.append(_escaped(self._char()))
            elif self._left[:1] == "-" and self._left[1:2] not in ("", "]", "\\"):
                self._char()
                tests.append(_between(char, self._char()))
            else:
                tests.append(char.__eq__)
        return lambda char: any(test(char) for test in tests) != negated


def _escaped(char: str) -> CharacterTest:
    if char.lower() in _CLASSES:
        test = _CLASSES[char.lower()]
        return test if char.islower() else lambda other: not test(other)
    if char.isalnum():
        raise UnsupportedPattern("an unsupported escape")
    return char.__eq__


def _between(first: str, last: str) -> CharacterTest:
    return lambda char: first <= char <= last


def _one(test: CharacterTest) -> _Matcher:
    """Return the part that matches one character."""

    def part(text: _Subject, starts: int) -> int:
        ends = (1 << n + 1 for n in text.positions(starts) if n < len(text.text) and test(text.text[n]))
        return reduce(int.__or__, ends, 0)

    return part


def _anything(text: _Subject, starts: int) -> int:
    """Match `.*` in one step: every position from the first start on, because names have no line breaks."""
    text.budget.left -= 1
    return (1 << len(text.text) + 1) - (starts & -starts) if starts else 0


def _at_end(text: _Subject, starts: int) -> int:
    return starts & (1 << len(text.text))


def _looked_ahead(part: _Matcher, wanted: bool) -> _Matcher:
    def ahead(text: _Subject, starts: int) -> int:
        kept = (1 << n for n in text.positions(starts) if bool(part(text, 1 << n)) == wanted)
        return reduce(int.__or__, kept, 0)

    return ahead


def _repeat(part: _Matcher, least: int, most: int | None) -> _Matcher:
    def repeated(text: _Subject, starts: int) -> int:
        for _ in range(least):
            before, starts = starts, part(text, starts)
            if starts in (0, before):
                break
        found, fresh, count = starts, starts, least
        while fresh and (most is None or count < most):
            fresh = part(text, fresh) & ~found
            found, count = found | fresh, count + 1
        return found

    return repeated
