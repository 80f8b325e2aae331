"""Maps tags to batch rows: AND sub-prompts, negative prompts and per-image prompts.

The host reads only the first prompt's tags and gives them to all; here each prompt is read as it was written. Rows come
in the host's order: each picture's parts, picture after picture, then each picture's negative side.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lib_adapters.hosts.webui import processing, settings
from lib_adapters.prompt.prompt_editing import AND
from lib_adapters.prompt.tags import Tag, parse, without_tags

MAX_NAMED_ROWS = 3
_NO_WORDS = re.compile(r"\s*(:\s*[-+]?(\d+\.?|\d*\.\d+)\s*)?")  # at most a weight: there the host drops all spaces
_SAYS_NOTHING = "[::0]"  # prompt editing from nothing to nothing


@dataclass(frozen=True)
class PromptRow:
    """One row; its number among all rows is its name."""

    text: str  # without tags
    tags: tuple[Tag, ...]
    label: str  # in words
    image_index: int
    negative: bool = False
    is_whole_prompt: bool = True  # the picture's only part: its tags are for its negative side too


@dataclass(frozen=True)
class PromptRows:
    rows: tuple[PromptRow, ...]
    problems: tuple[str, ...]

    @property
    def differ(self) -> bool:
        return any(scope is not None for _, scope in self.row_sets())

    def negative_texts(self) -> list[str]:
        return [side.text for side in self.rows if side.negative]

    def row_sets(self) -> list[tuple[Tag, frozenset[int] | None]]:
        """Yield each item that a row requests, as often as a row requests it, and its rows; None for all rows."""
        requested: dict[object, tuple[Tag, set[int]]] = {}
        for number, side in enumerate(self.rows):
            often: Counter[object] = Counter()
            for tag in side.tags:
                often[tag.identity] += 1
                rows = requested.setdefault((tag.identity, often[tag.identity]), (tag, set()))[1]
                rows |= {number, *(self._negative_rows(side.image_index) if side.is_whole_prompt else ())}
        everyone = set(range(len(self.rows)))
        return [(tag, None if rows == everyone else frozenset(rows)) for tag, rows in requested.values()]

    def _negative_rows(self, image: int) -> list[int]:
        return [n for n, side in enumerate(self.rows) if side.negative and side.image_index == image]

    def describe_rows(self, rows: frozenset[int]) -> str:
        """In words; the negative side of a picture that is named itself goes without saying."""
        whole = {self.rows[n].image_index for n in rows if self.rows[n].is_whole_prompt and not self.rows[n].negative}
        said = [n for n in sorted(rows) if not (self.rows[n].negative and self.rows[n].image_index in whole)]
        names = [self.rows[n].label for n in said]
        return ", ".join(names[:MAX_NAMED_ROWS]) + (
            f" and {len(names) - MAX_NAMED_ROWS} more" if names[MAX_NAMED_ROWS:] else ""
        )

    def encode_row_marks(self) -> tuple[list[str], list[str]]:
        """The texts of prompts and negative prompts in which each part tells its row by the spaces before it.

        CLIP's tokenizers do not see them, and the host encodes equal texts only once.
        """
        texts = [_marked(number, side) for number, side in enumerate(self.rows)]
        count = 1 + max(side.image_index for side in self.rows)
        mine = [
            [texts[n] for n, s in enumerate(self.rows) if s.image_index == i and not s.negative] for i in range(count)
        ]
        return [" AND".join(parts) for parts in mine], [
            text for text, side in zip(texts, self.rows, strict=True) if side.negative
        ]


def _marked(number: int, side: PromptRow) -> str:
    text = side.text.strip()
    if not side.negative and _NO_WORDS.fullmatch(text):
        text = f"{_SAYS_NOTHING} {text}".strip()
    return " " * (number + 1) + text


def decode_row_mark(texts: Iterable[object]) -> int | None:
    """The row that marked texts were made for; None where that is not one."""
    rows = {len(text) - len(text.lstrip(" ")) - 1 for text in texts if isinstance(text, str)}
    return min(rows) if len(rows) == 1 else None


def build_rows(
    p: Any, kinds: Sequence[str], hires: bool, tags: Sequence[Tag], defaults: Sequence[Tag]
) -> PromptRows | None:
    """`tags`: what the host has read of the first prompt; `defaults`: what every prompt is to get besides.

    None where another extension has given the host other prompts than those that are kept.
    """
    prompts, negatives = processing.batch_prompts_and_negatives(p, hires)
    if not prompts or _named(tags) - _named(parse(prompts[0], kinds).tags):
        return None
    problems: list[str] = []
    rows: list[PromptRow] = []
    for image, prompt in enumerate(prompts):
        rows += _positive(prompt, kinds, (image, len(prompts)), tuple(defaults), problems)
    for image in range(len(prompts)):
        text = negatives[image] if image < len(negatives) else ""
        parsed = parse(text, kinds)
        problems += parsed.problems if settings.negative_tags_enabled() else ()
        found = (parsed.text, parsed.tags) if settings.negative_tags_enabled() else (text, ())
        rows.append(PromptRow(*found, _name("the negative side", image, len(prompts)), image, True, False))
    return PromptRows(tuple(rows), tuple(dict.fromkeys(problems)))


def _named(tags: Iterable[Tag]) -> Counter[tuple[str, str]]:
    return Counter((tag.kind, tag.name) for tag in tags)


def _positive(
    prompt: str, kinds: Sequence[str], place: tuple[int, int], defaults: tuple[Tag, ...], problems: list[str]
) -> list[PromptRow]:
    whole = parse(prompt, kinds)
    problems += whole.problems
    pieces = [parse(piece, kinds) for piece in split_subprompts(prompt, kinds)]
    image, count = place
    if len(pieces) == 1 or not (whole.tags or defaults):
        tags = whole.tags + defaults
        texts = AND.split(without_tags(whole.text))  # the web UI removes other kinds of tags too
        return [PromptRow(text, tags, _name("", image, count), image) for text in texts]
    return [
        PromptRow(
            without_tags(piece.text), piece.tags + defaults, _name(f"part {n}", image, count), image, False, False
        )
        for n, piece in enumerate(pieces, 1)
    ]


def without_empty_editing(p: Any, kinds: Sequence[str], hires: bool) -> dict[str, str]:
    """Return {the web UI's prompt without tags: the same without brackets that contained only tags}.

    Otherwise the web UI would encode the whole prompt again for each step in such brackets.
    """
    found = {}
    for prompt in processing.batch_prompts_and_negatives(p, hires)[0]:
        parsed = parse(prompt, kinds)
        if any(tag.edits for tag in parsed.tags):
            found[without_tags(prompt)] = without_tags(parsed.text)
    return found


def split_subprompts(prompt: str, kinds: Sequence[str]) -> list[str]:
    """The pieces whose tags act on them alone: the whole prompt, where there are no such."""
    pieces = AND.split(prompt)
    tags = [tag.text for piece in pieces for tag in parse(piece, kinds).tags]
    cut = tags != [tag.text for tag in parse(prompt, kinds).tags]  # a tag has an AND inside
    return pieces if settings.subprompts_are_separate() and not cut else [prompt]


def with_tag(prompt: str, tag: Tag, kinds: Sequence[str]) -> str:
    """In each of those pieces that has it not."""
    pieces = split_subprompts(prompt, kinds)
    if len(pieces) == 1:
        return prompt if tag.text in prompt else prompt + tag.text
    return "AND".join(
        piece if tag.text in piece else piece.rstrip() + tag.text + piece[len(piece.rstrip()) :] for piece in pieces
    )


def _name(what: str, image: int, count: int) -> str:
    return " of ".join(part for part in (what, f"picture {image + 1}" if count > 1 or not what else "") if part)
