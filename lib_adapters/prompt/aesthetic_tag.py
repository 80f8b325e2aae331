"""`<aesthetic:NAME[:weight][:steps=5][:lr=0.0001][:slerp][:text=...][:negative][:angle=0.1]>` in a prompt.

NAME as in the other tags; text, too, may stand in double quotes and then hold `:` and `>`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lib_adapters.errors import BadTag
from lib_adapters.prompt.schedule import NUMBER
from lib_adapters.prompt.tag_lexer import MAX_ITEMS, QUOTED_NAME
from lib_adapters.prompt.tags import truncate

KIND = "aesthetic"
MAX_STEPS = 1000
_ITEM = re.compile(rf"(?:[^:>=\"]*=[ \t]*)?{QUOTED_NAME}|[^:>]*")
_TAG = re.compile(rf"<{KIND}:((?:{_ITEM.pattern})(?::(?:{_ITEM.pattern}))*)>")
_WORDS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


@dataclass(frozen=True)
class AestheticOptions:
    """How far, and how, a text is led: `steps` of Adam at the rate `lr`. The defaults are the web UI extension's."""

    weight: float = 0.9  # of the changed text in the mixture; 0 is the tag's absence
    steps: int = 5
    lr: float = 1e-4
    slerp: bool = False  # mix along the arc between the two, each token by itself, instead of along the line
    text: str = ""  # the embedding is first turned towards this text's feature ...
    negative: bool = False  # ... or away from it
    angle: float = 0.1  # the share of the way


@dataclass(frozen=True)
class AestheticTag:
    """One aesthetic embedding as the prompt asks for it."""

    name: str
    options: AestheticOptions
    text: str  # as written


@dataclass(frozen=True)
class ParsedAesthetics:
    """A prompt without these tags, the tags in their order, and what could not be read, one sentence each."""

    text: str
    tags: tuple[AestheticTag, ...]
    problems: tuple[str, ...]


def parse(prompt: str) -> ParsedAesthetics:
    """Never raises: a tag that cannot be read is taken out of the text, reported and skipped."""
    tags: list[AestheticTag] = []
    problems: list[str] = []
    end = prompt.rfind(">") + 1  # no tag is closed behind it
    for match in _TAG.finditer(prompt, 0, end):
        try:
            tags.append(_tag(match, problems))
        except BadTag as error:
            problems.append(f"{truncate(match[0])}: {truncate(str(error))}, so this tag is left out.")
    text = _TAG.sub("", prompt[:end]) + prompt[end:]
    apart = _TAG.sub(" ", prompt[:end]) + prompt[end:]  # what tags kept apart is not the start of one
    unclosed = re.finditer(rf"<{KIND}:", apart)
    problems += [f"{rest[0]} ... is never closed with '>', so it stays text." for rest in unclosed]
    return ParsedAesthetics(text, tuple(tags), tuple(problems))


def _tag(match: re.Match[str], problems: list[str]) -> AestheticTag:
    name, *items = _split(match[1])
    if not name.strip():
        raise BadTag("it names no aesthetic embedding")
    if len(items) > MAX_ITEMS:
        raise BadTag(f"it has {len(items)} values")
    return AestheticTag(_unquoted(name), _options(items, truncate(match[0]), problems), match[0])


def _split(inside: str) -> list[str]:
    """At the colons that are in no quotes."""
    items, at, rest = [], 0, inside + ">"
    while at <= len(inside):
        found = _ITEM.match(rest, at)
        assert found is not None
        items.append(found[0])
        at = found.end() + 1
    return items


def _unquoted(text: str) -> str:
    """Without its quotes, where it has them on both sides."""
    bare = text.strip()
    return bare[1:-1].replace('""', '"') if len(bare) > 1 and bare[0] == bare[-1] == '"' else text


def _options(items: Sequence[str], tag: str, problems: list[str]) -> AestheticOptions:
    readers: dict[str, Callable[[str], Any]] = {
        "weight": _number, "steps": _steps, "lr": _rate, "slerp": _switch, "text": _unquoted, "negative": _switch,
        "angle": _number,
    }  # fmt: skip
    options, weighed = AestheticOptions(), False
    for item in items:
        key, equals, value = (part.strip() for part in item.partition("="))
        if equals and key not in readers:
            problems.append(
                f"{tag}: the key {truncate(key)!r} is unknown (known: {', '.join(readers)}) and was ignored."
            )
        elif equals or key in ("slerp", "negative"):
            options = replace(options, **{key: readers[key](value)})
        elif weighed:
            problems.append(f"{tag}: {truncate(key)!r} is one value too many and was ignored.")
        else:
            options, weighed = replace(options, weight=_number(key)), True
    return options


def _number(token: str) -> float:
    value = float(token) if NUMBER.fullmatch(token) else math.nan
    if not -100 <= value <= 100:
        raise BadTag(f"{token!r} is not a number from -100 to 100")
    return value


def _rate(token: str) -> float:
    value = float(token) if NUMBER.fullmatch(token) else math.nan
    if not 0 < value <= 1:
        raise BadTag(f"{token!r} is not a learning rate above 0 and up to 1")
    return value


def _steps(token: str) -> int:
    if not re.fullmatch(r"\+?[0-9]{1,6}", token) or int(token) > MAX_STEPS:
        raise BadTag(f"{token!r} is not a whole number from 0 to {MAX_STEPS}")
    return int(token)


def _switch(token: str) -> bool:
    if token and token.lower() not in _WORDS:
        raise BadTag(f"{token!r} is neither yes nor no")
    return _WORDS[token.lower()] if token else True
