"""Parses `<lyco:NAME[:te[:unet[:dyn]]][:key=value]...>` in a prompt as the web UI does.

One number or curve sets both parts, and so does `te=` alone; a named argument wins over a positional one. NAME is the
first item whatever it looks like (an `=` in it names nothing); in double quotes it may hold `:` and `>`, and `""`
stands for one quote. A word where a number belongs is a preset of block weights, with `x` behind it, as
lora-block-weight has it; the word `off` keeps a tag and all its numbers without effect. Keys with `hr` before them are
for the second pass. Prompt editing and alternation around a tag become its `edits`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

from lib_adapters.errors import BadTag
from lib_adapters.prompt.prompt_editing import NO_EDITS, OTHER_TAG_FILLER, Edits, PromptEdits, find_edits
from lib_adapters.prompt.schedule import Strength
from lib_adapters.prompt.tag_lexer import MAX_ITEMS, OFF_TOKEN, QUOTED_NAME, tokenize
from lib_adapters.prompt.tag_options import PASS_KEYS, Mode, Ranks, TagOptions, parse_mode, parse_options

TAG_KINDS = ("lyco", "lora")
TAG_KEYS = (*PASS_KEYS, "w", "mode", "hr", *(f"hr{key}" for key in PASS_KEYS))
MAX_QUOTED = 500  # characters of a tag in a sentence about it
NO_EDITING = (
    "the web UI does not read the brackets around it as prompt editing ([before:after:step], [a|b]), so they do not "
    "limit it."
)
NO_COMMAND = (
    "is a composable-lora command and is read as plain text here; use a schedule such as 0@10,1@20 in the tag instead."
)
_COMMAND = re.compile(r"(?:#|\\u0023)(?:increment|decrease|cmd)\b")
_ANY = re.compile(r"<\w+:[^>]+>")  # the web UI removes these from a prompt, even if no extension handles them


@dataclass(frozen=True)
class Tag:
    """One adapter as the prompt asks for it."""

    kind: str
    name: str
    options: TagOptions = field(default_factory=TagOptions)
    text: str = ""  # as written
    span: tuple[int, int] = (0, 0)  # where in the prompt
    hires: TagOptions | None = None  # of the second (hires) pass, where it differs
    mode: Mode = "auto"
    disabled: bool = False
    edits: Edits = NO_EDITS  # prompt editing around it

    @property
    def te(self) -> float:
        """In the text encoders, in the first pass."""
        return self.options.te

    @property
    def unet(self) -> Strength:
        """In the UNet, in the first pass."""
        return self.options.unet

    @property
    def dyn(self) -> Ranks | None:
        """The first ranks only, in the first pass; None for all."""
        return self.options.dyn

    def for_pass(self, hires: bool) -> TagOptions:
        """What it asks for in the first pass, or in the second (hires) one."""
        return self.hires if hires and self.hires is not None else self.options

    @property
    def identity(self) -> tuple[object, ...]:
        """Equal where two tags ask for the same, however they are written."""
        return self.kind, self.name, self.options, self.hires, self.mode, self.disabled, self.edits


@dataclass(frozen=True)
class ParsedPrompt:
    """A prompt without its tags, the tags in order, and a message for each one that could not be read.

    Brackets that contained only tags are removed too.
    """

    text: str
    tags: tuple[Tag, ...]
    problems: tuple[str, ...]
    messages: tuple[str, ...] = ()  # prompt editing that contains both tags and words, without the tags


def parse(prompt: str, names: Sequence[str] = TAG_KINDS) -> ParsedPrompt:
    """Never raises: a tag that cannot be read is taken out of the text, reported and skipped."""
    opening = "|".join(re.escape(name) for name in names)
    pattern = re.compile(rf"<({opening}):({QUOTED_NAME}[^>]*|[^>]*)>")
    problems: list[str] = []
    end = prompt.rfind(">") + 1  # no tag is closed behind it
    matches = list(pattern.finditer(prompt, 0, end))
    found = [_read(match, problems) for match in matches]
    text = pattern.sub("", prompt[:end]) + prompt[end:]
    apart = pattern.sub(" ", prompt[:end]) + prompt[end:]  # what tags kept apart is not the start of one
    unclosed = re.finditer(rf"<(?:{opening}):", apart)
    problems += [f"{rest[0]} ... is never closed with '>', so it stays text." for rest in unclosed]
    if not found:
        return ParsedPrompt(text, (), tuple(problems))
    return _placed(prompt, matches, found, problems)


def _read(match: re.Match[str], problems: list[str]) -> Tag | None:
    try:
        return _tag(match, problems)
    except BadTag as error:
        problems.append(f"{truncate(match[0])}: {truncate(str(error))}, so this tag is left out.")
        return None


def without_tags(prompt: str, filler: str = "") -> str:
    """Return the prompt without tags of any kind; each of their characters is replaced by `filler`."""
    end = prompt.rfind(">") + 1
    return _ANY.sub(lambda found: filler * len(found[0]), prompt[:end]) + prompt[end:]


def _placed(
    prompt: str, matches: Sequence[re.Match[str]], found: Sequence[Tag | None], problems: list[str]
) -> ParsedPrompt:
    """Return the parsed prompt, with the edits of the brackets around each tag."""
    text, reading = _reading(prompt, matches)
    tags = [replace(tag, edits=edits) for tag, edits in zip(found, reading.edits, strict=True) if tag is not None]
    lost = [tag for number, tag in enumerate(found) if tag is not None and number in reading.unreachable]
    problems += [f"{truncate(tag.text)}: {NO_EDITING}" for tag in lost]
    commands = _COMMAND.findall(text) if any(reading.edits) else []
    problems += [f"{command} ... {NO_COMMAND}" for command in dict.fromkeys(commands)]
    worded = tuple(truncate(text[start:end]) for start, end in reading.messages)
    kept: list[str] = []
    last = 0
    for start, end in sorted(reading.blanks):
        kept.append(text[last:start])
        last = end
    return ParsedPrompt("".join(kept) + text[last:], tuple(tags), tuple(problems), worded)


def _reading(prompt: str, matches: Sequence[re.Match[str]]) -> tuple[str, PromptEdits]:
    """Return the prompt without these tags, and the prompt editing around their places."""
    starts = [0, *(match.end() for match in matches)]
    ends = [*(match.start() for match in matches), len(prompt)]
    words = [prompt[start:end] for start, end in zip(starts, ends, strict=True)]
    places = list(accumulate(len(one) for one in words[:-1]))
    return "".join(words), find_edits("".join(without_tags(one, OTHER_TAG_FILLER) for one in words), places)


def unapplied_tag_messages(prompt: str, kind: str, what: str) -> list[str]:
    """Return a message for each tag of this kind inside prompt editing, because `what` does not support it."""
    matches = list(re.finditer(rf"<{re.escape(kind)}:[^>]*>", prompt[: prompt.rfind(">") + 1]))
    reading = _reading(prompt, matches)[1]
    inside = [match[0] for match, edits in zip(matches, reading.edits, strict=True) if edits]
    why = f"{what} has one strength in all steps, so prompt editing does not limit it"
    return [f"{truncate(text)}: {why}." for text in inside]


def quote_name(name: str) -> str:
    """`name` as a tag must spell it, so that `parse` reads the same name back."""
    plain = name and not name.startswith('"') and not set(name) & {":", ">"}
    return name if plain else '"' + name.replace('"', '""') + '"'


def opening_text(tag: Tag) -> str:
    """Return the start of the tag's text, up to the end of its name."""
    start = len(tag.kind) + 2
    quotes = re.compile(QUOTED_NAME).match(tag.text, start)
    return tag.text[: quotes.end()] if quotes else tag.text[:start] + re.split("[:>]", tag.text[start:], maxsplit=1)[0]


def truncate(text: str) -> str:
    """As much of it as a sentence has room for."""
    return text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]} ..."


def _tag(match: re.Match[str], problems: list[str]) -> Tag:
    name, items = tokenize(match[2])
    if not name.strip():
        raise BadTag("it names no adapter")
    if len(items) > MAX_ITEMS:
        raise BadTag(f"it has {len(items)} values")
    values = _arguments(items, truncate(match[0]), problems)
    control = parse_options(values)
    return Tag(
        match[1],
        name,
        control,
        match[0],
        match.span(),
        _second(values, control),
        parse_mode(values.get("mode", "auto")),
        OFF_TOKEN in values,
    )


def _second(values: dict[str, str], first: TagOptions) -> TagOptions | None:
    """`hr=` sets both parts of the second pass; what no such key names is as in the first."""
    own = {key.removeprefix("hr"): value for key, value in values.items() if key.startswith("hr") and key != "hr"}
    if "hr" in values:
        own = {"te": values["hr"], "unet": values["hr"]} | own
    return parse_options(own, first) if own else None


def _arguments(items: Sequence[tuple[str, str]], tag: str, problems: list[str]) -> dict[str, str]:
    """A named one wins over a positional one."""
    values: dict[str, str] = {}
    for key, item in sorted(items, key=lambda one: "=" in one[1]):
        if key == "":
            problems.append(f"{tag}: {truncate(item.strip())!r} is one value too many and was ignored.")
        elif key not in TAG_KEYS and item.strip() != OFF_TOKEN:
            problems.append(
                f"{tag}: the key {truncate(key)!r} is unknown (known: {', '.join(TAG_KEYS)}) and was ignored."
            )
        else:
            values[key] = item.partition("=")[2].strip() if "=" in item else item.strip()
    return values
