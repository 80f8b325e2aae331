"""What the tests of the prompt's grammar share."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from lib_adapters.errors import BadTag
from lib_adapters.prompt.aesthetic_tag import ParsedAesthetics as AestheticParsed
from lib_adapters.prompt.block_presets import BUILT_IN
from lib_adapters.prompt.block_weights import BlockWeightSpec, resolve_block_weights
from lib_adapters.prompt.prompt_editing import NO_EDITS, Timeline, window_of
from lib_adapters.prompt.schedule import SamplingStep, count_changes, format_strength, parse_strength, strength_at
from lib_adapters.prompt.tags import NO_COMMAND, ParsedPrompt, Tag, parse

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


WITHOUT_TOKEN = ("it names no ", "so it stays text", " values, so this", "does not read the brackets", NO_COMMAND)


def check_prompt(prompt: str) -> None:
    """Whatever stands in it: tags are read or named, and what is read can be used."""
    parsed = parse(prompt)
    check_problems(prompt, parsed)
    for tag in parsed.tags:
        assert prompt[slice(*tag.span)] == tag.text
        assert [again.identity for again in parse(tag.text).tags] == [replace(tag, edits=NO_EDITS).identity]
        for control in (tag.for_pass(False), tag.for_pass(True)):
            for step in range(3):
                assert isinstance(strength_at(control.unet, control.window, SamplingStep(step, 3, 5.0 - step)), float)
            assert 0 <= count_changes(control.unet, control.window, 3) <= 2
            assert parse_strength(format_strength(control.unet)) == control.unet
            check_resolved(control.spec)
        for timeline in (Timeline(3), Timeline(2, 3), Timeline(2, 3, True)):
            window = window_of(tag.edits, timeline)
            assert window is None or isinstance(window.contains(SamplingStep(1, 3)), bool)


def check_problems(prompt: str, parsed: ParsedPrompt | AestheticParsed) -> None:
    """Each sentence begins with what was written, or the beginning of it, and then names the piece that is wrong."""
    for problem in parsed.problems:
        start = problem.partition(">: ")[0]
        assert start.partition(" ...")[0][:500] in prompt
        assert problem.endswith(".")
        assert len(problem) < 7000  # what is shown of a tag, as Python escapes it
        if len(problem) < 500 and not any(words in problem for words in WITHOUT_TOKEN):
            assert quotes_part_of(problem.rpartition(">: ")[2], prompt)
    assert len(parsed.problems) <= 64 * (prompt.count("<") + 1)


def check_resolved(wish: BlockWeightSpec) -> None:
    found = read_or_named(lambda: resolve_block_weights(wish, BUILT_IN, "7"), f"{wish.blocks} {wish.elements}")
    if found is not None:
        assert resolve_block_weights(wish, BUILT_IN, "7") == found
        assert isinstance(found.weights.factor_for("IN05", ["attn"]), float)
        hash(found)
