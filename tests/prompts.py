"""What the tests of the prompt's grammar share."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from typing import TypeVar

from lib_adapters.errors import BadTag
from lib_adapters.prompt.tags import Tag, parse

Read = TypeVar("Read")
_LITERAL = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")


def only(prompt: str) -> Tag:
    """The one tag of a prompt without problems."""
    parsed = parse(prompt)
    assert parsed.problems == ()
    (tag,) = parsed.tags
    return tag


def quotes_part_of(sentence: str, text: str) -> bool:
    """Is the first thing in quotes a piece of this text? `*` does for `:`."""
    quoted = _LITERAL.search(sentence)
    return quoted is not None and ast.literal_eval(quoted[0]).replace("*", ":") in text.replace("*", ":")


def read_or_named(read: Callable[[], Read], text: str) -> Read | None:
    """A refusal names what it cannot read."""
    try:
        return read()
    except BadTag as error:
        if not quotes_part_of(str(error), text):
            raise AssertionError(f"{error} names nothing in {text!r}") from error
        return None
