"""Splits a tag into its colon-separated items and assigns positional ones to keys."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lib_adapters.prompt.block_layouts import parse_block
from lib_adapters.prompt.schedule import NUMBER, looks_like_curve
from lib_adapters.prompt.tag_options import TIMESTEP

OFF_TOKEN = "off"
MAX_ITEMS = 64
QUOTED_NAME = r'"(?:[^"]|"")*"[ \t]*(?=[:>])'
_POSITIONAL = ("te", "unet", "dyn")
_FIELDS = {"lbw": 2, "w": 2, "lbwe": 3, "hrlbw": 2, "hrlbwe": 3}  # how many parts one rule of it has


def tokenize(inside: str) -> tuple[str, list[tuple[str, str]]]:
    """The name, and each item behind it with the key that it is for; "" where it is for none."""
    name, items = _split(inside)
    found: list[tuple[str, str]] = []
    positional: dict[str, str] = {}
    for item in _rejoined(items):
        key, equals, _ = (part.strip() for part in item.partition("="))
        if equals:
            found.append(("lbw" if key == "w" else key, item))
        elif item.strip() == OFF_TOKEN:
            found.append((OFF_TOKEN, item))
        else:
            found.append((_place(positional, item.strip()), item))
    return name, found


def _split(inside: str) -> tuple[str, list[str]]:
    """The name, and what follows it between colons."""
    quotes = re.match(QUOTED_NAME, inside + ">")
    if quotes:
        return quotes[0].rstrip()[1:-1].replace('""', '"'), inside[quotes.end() :].split(":")[1:]
    name, *items = inside.split(":")
    return name, items


def _rejoined(items: Sequence[str]) -> list[str]:
    """Rules have colons of their own: `lbw=IN05-OUT03:0.5,MID:0` is one value again."""
    found: list[list[str]] = []
    for item in items:
        if found and "=" not in item and item.strip() != OFF_TOKEN and _is_open(found[-1]):
            found[-1].append(item)
        else:
            found.append([item])
    return [":".join(parts) for parts in found]


def _is_open(parts: Sequence[str]) -> bool:
    """Does the last rule of this value still want something behind a colon?"""
    key, equals, first = parts[0].partition("=")
    fields = _FIELDS.get(key.strip(), 0) if equals else 0
    if not fields:
        return False
    end = parts[-fields:] if len(parts) > fields else [first, *parts[1:]]  # no rule is longer
    rule = re.split("[,;]", ":".join(end))[-1].replace("*", ":").split(":")
    if len(rule) > 1:
        return len(rule) < fields
    words = rule[0].strip().removeprefix("NOT ").split()
    return parse_block(words[0].partition("-")[0]) is not None if words else fields == 3


def _place(positional: dict[str, str], token: str) -> str:
    """The key that a bare item is for: numbers and curves in their order; behind the first, a word or a list of
    numbers is a block preset, and a number behind that its `x`."""
    if "lbw" in positional:
        free = "x" if "x" not in positional and NUMBER.fullmatch(token) else ""
    elif positional and _is_preset(token):
        free = "lbw"
    else:
        free = next((key for key in _POSITIONAL if key not in positional), "")
    if free:
        positional[free] = token
    return free


def _is_preset(token: str) -> bool:
    return bool(token) and token != TIMESTEP and not looks_like_curve(token) and (token[0].isalpha() or "," in token)
