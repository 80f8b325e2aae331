"""`<lyco:NAME[:te[:unet[:dyn]]][:key=value]...>` in a prompt, read as the web UI reads it.

One number sets both parts, and so does `te=` alone; a named argument wins over a positional one. NAME is the first
item whatever it looks like (an `=` in it names nothing); in double quotes it may hold `:` and `>`, and `""` stands for
one quote.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from lib_adapters.errors import BadTag

KINDS = ("lyco", "lora")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_RANK = re.compile(r"\+?[0-9]{1,9}")
_QUOTED = r'"(?:[^"]|"")*"[ \t]*(?=[:>])'
_POSITIONAL = ("te", "unet", "dyn")


@dataclass(frozen=True)
class Tag:
    """One adapter as the prompt asks for it."""

    kind: str
    name: str
    te: float
    unet: float
    dyn: int | None
    text: str  # as written
    span: tuple[int, int]  # where in the prompt


@dataclass(frozen=True)
class Parsed:
    """A prompt without its tags, the tags in their order, and what could not be read, one sentence each."""

    text: str
    tags: tuple[Tag, ...]
    problems: tuple[str, ...]


def parse(prompt: str, names: Sequence[str] = KINDS) -> Parsed:
    """Never raises: a tag that cannot be read is taken out of the text, reported and skipped."""
    opening = "|".join(re.escape(name) for name in names)
    pattern = re.compile(rf"<({opening}):({_QUOTED}[^>]*|[^>]*)>")
    tags: list[Tag] = []
    problems: list[str] = []
    for match in pattern.finditer(prompt):
        try:
            tags.append(_tag(match, problems))
        except BadTag as error:
            problems.append(f"{match[0]}: {error}, so this tag is left out.")
    text = pattern.sub("", prompt)
    unclosed = re.finditer(rf"<(?:{opening}):", text)
    problems += [f"{rest[0]} ... is never closed with '>', so it stays text." for rest in unclosed]
    return Parsed(text, tuple(tags), tuple(problems))


def quoted(name: str) -> str:
    """`name` as a tag must spell it, so that `parse` reads the same name back."""
    plain = name and not name.startswith('"') and not set(name) & {":", ">"}
    return name if plain else '"' + name.replace('"', '""') + '"'


def _tag(match: re.Match[str], problems: list[str]) -> Tag:
    name, items = _split(match[2])
    if not name.strip():
        raise BadTag("it names no adapter")
    values = _arguments(items, match[0], problems)
    te = _number(values.get("te", "1"))
    unet = _number(values["unet"]) if "unet" in values else te
    dyn = _rank(values["dyn"]) if "dyn" in values else None
    return Tag(match[1], name, te, unet, dyn, match[0], match.span())


def _split(inside: str) -> tuple[str, list[str]]:
    """The name, and what follows it between colons."""
    quotes = re.match(_QUOTED, inside + ">")
    if quotes:
        return quotes[0].rstrip()[1:-1].replace('""', '"'), inside[quotes.end() :].split(":")[1:]
    name, *items = inside.split(":")
    return name, items


def _arguments(items: Sequence[str], tag: str, problems: list[str]) -> dict[str, str]:
    positional: dict[str, str] = {}
    named: dict[str, str] = {}
    for item in items:
        key, equals, value = (part.strip() for part in item.partition("="))
        if equals and key not in _POSITIONAL:
            problems.append(f"{tag}: the key {key!r} is unknown (known: {', '.join(_POSITIONAL)}) and was ignored.")
        elif equals:
            named[key] = value
        elif len(positional) < len(_POSITIONAL):
            positional[_POSITIONAL[len(positional)]] = item.strip()
        else:
            problems.append(f"{tag}: {item.strip()!r} is one value too many and was ignored.")
    return positional | named


def _number(token: str) -> float:
    value = float(token) if _NUMBER.fullmatch(token) else math.nan
    if not math.isfinite(value):
        raise BadTag(f"{token!r} is not a finite number")
    return value


def _rank(token: str) -> int:
    if not _RANK.fullmatch(token) or not int(token):
        raise BadTag(f"{token!r} is not a whole number above 0")
    return int(token)
