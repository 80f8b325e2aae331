"""Which tags are for which rows of the UNet's batch: parts joined by AND, the negative side, each picture's own.

The host reads only the first prompt's tags and gives them to all; here each prompt is read as it was written. Rows come
in the host's order: each picture's parts, picture after picture, then each picture's negative side.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lib_adapters.hosts.webui import wanted
from lib_adapters.prompt.tags import Tag, parse

AND = re.compile(r"\bAND\b")  # as the host's prompt_parser parts a prompt
MOST_NAMED = 3


@dataclass(frozen=True)
class Side:
    """One row; its number among all rows is its name."""

    text: str  # without tags
    tags: tuple[Tag, ...]
    name: str  # in words
    picture: int
    negative: bool = False
    whole: bool = True  # the picture's only part: its tags are for its negative side too


@dataclass(frozen=True)
class Sides:
    rows: tuple[Side, ...]
    problems: tuple[str, ...]

    def scopes(self) -> list[tuple[Tag, frozenset[int] | None]]:
        """Each thing that is asked for, once, and the rows that ask for it; None for all of them."""
        asked: dict[object, tuple[Tag, set[int]]] = {}
        for number, side in enumerate(self.rows):
            for tag in side.tags:
                rows = asked.setdefault(tag.meaning, (tag, set()))[1]
                rows |= {number, *(self._negatives(side.picture) if side.whole else ())}
        everyone = set(range(len(self.rows)))
        return [(tag, None if rows == everyone else frozenset(rows)) for tag, rows in asked.values()]

    def _negatives(self, picture: int) -> list[int]:
        return [n for n, side in enumerate(self.rows) if side.negative and side.picture == picture]

    def named(self, scope: frozenset[int]) -> str:
        """In words; the negative side of a picture that is named itself goes without saying."""
        whole = {self.rows[n].picture for n in scope if self.rows[n].whole and not self.rows[n].negative}
        said = [n for n in sorted(scope) if not (self.rows[n].negative and self.rows[n].picture in whole)]
        names = [self.rows[n].name for n in said]
        return ", ".join(names[:MOST_NAMED]) + (f" and {len(names) - MOST_NAMED} more" if names[MOST_NAMED:] else "")

    def marked(self) -> tuple[list[str], list[str]]:
        """The texts of prompts and negative prompts in which each part tells its row by the spaces before it.

        CLIP's tokenizers do not see them, and the host encodes equal texts only once.
        """
        texts = [f"{' ' * (number + 1)}{side.text.strip()}" for number, side in enumerate(self.rows)]
        count = 1 + max(side.picture for side in self.rows)
        mine = [[texts[n] for n, s in enumerate(self.rows) if s.picture == i and not s.negative] for i in range(count)]
        return [" AND".join(parts) for parts in mine], [
            text for text, side in zip(texts, self.rows, strict=True) if side.negative
        ]


def row_of(text: str) -> int:
    """The row that a marked text was made for."""
    return len(text) - len(text.lstrip(" ")) - 1


def read(p: Any, kinds: Sequence[str], second: bool, *, parts: bool, negative: bool) -> Sides | None:
    """None where all rows ask for the same, and the host's own reading says everything.

    `parts`: tags between two ANDs are for that part alone; `negative`: tags in the negative prompt count.
    """
    prompts, negatives = wanted.texts_of(p, second)
    if not prompts:
        return None
    problems: list[str] = []
    rows: list[Side] = []
    for picture, prompt in enumerate(prompts):
        rows += _positive(prompt, kinds, (picture, len(prompts)), parts, problems)
    for picture in range(len(prompts)):
        text = negatives[picture] if picture < len(negatives) else ""
        parsed = parse(text, kinds)
        problems += parsed.problems if negative else ()
        found = (parsed.text, parsed.tags) if negative else (text, ())
        rows.append(Side(*found, _name("the negative side", picture, len(prompts)), picture, True, False))
    sides = Sides(tuple(rows), tuple(dict.fromkeys(problems)))
    return sides if any(scope is not None for _, scope in sides.scopes()) else None


def _positive(
    prompt: str, kinds: Sequence[str], place: tuple[int, int], parts: bool, problems: list[str]
) -> list[Side]:
    whole = parse(prompt, kinds)
    pieces = [parse(piece, kinds) for piece in AND.split(prompt)]
    problems += whole.problems
    tags = sum(len(piece.tags) for piece in pieces)
    apart = parts and len(pieces) > 1 and bool(tags) and tags == len(whole.tags)  # no tag has an AND inside
    picture, count = place
    texts = AND.split(whole.text)
    if not apart or len(texts) != len(pieces):
        return [Side(text, whole.tags, _name("", picture, count), picture) for text in texts]
    return [
        Side(piece.text, piece.tags, _name(f"part {n}", picture, count), picture, False, False)
        for n, piece in enumerate(pieces, 1)
    ]


def _name(what: str, picture: int, count: int) -> str:
    return " of ".join(part for part in (what, f"picture {picture + 1}" if count > 1 or not what else "") if part)
