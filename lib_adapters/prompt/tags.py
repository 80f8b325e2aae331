"""`<lyco:NAME[:te[:unet[:dyn]]][:key=value]...>` in a prompt, read as the web UI reads it.

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
from lib_adapters.prompt.control import PASS_KEYS, Control, Mode, Ranks, read_control, read_mode
from lib_adapters.prompt.editing import FOREIGN, NONE, Edits, Reading, read_editing
from lib_adapters.prompt.items import MOST_ITEMS, OFF, QUOTED, items_of
from lib_adapters.prompt.schedule import Strength

KINDS = ("lyco", "lora")
KEYS = (*PASS_KEYS, "w", "mode", "hr", *(f"hr{key}" for key in PASS_KEYS))
MOST_SHOWN = 500  # characters of a tag in a sentence about it
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
    control: Control = field(default_factory=Control)
    text: str = ""  # as written
    span: tuple[int, int] = (0, 0)  # where in the prompt
    second: Control | None = None  # of the second (hires) pass, where it differs
    mode: Mode = "auto"
    off: bool = False
    edits: Edits = NONE  # prompt editing around it

    @property
    def te(self) -> float:
        """In the text encoders, in the first pass."""
        return self.control.te

    @property
    def unet(self) -> Strength:
        """In the UNet, in the first pass."""
        return self.control.unet

    @property
    def dyn(self) -> Ranks | None:
        """The first ranks only, in the first pass; None for all."""
        return self.control.dyn

    def of_pass(self, second: bool) -> Control:
        """What it asks for in the first pass, or in the second (hires) one."""
        return self.second if second and self.second is not None else self.control

    @property
    def meaning(self) -> tuple[object, ...]:
        """Equal where two tags ask for the same, however they are written."""
        return self.kind, self.name, self.control, self.second, self.mode, self.off, self.edits


@dataclass(frozen=True)
class Parsed:
    """A prompt without its tags, the tags in order, and a message for each one that could not be read.

    Brackets that contained only tags are removed too.
    """

    text: str
    tags: tuple[Tag, ...]
    problems: tuple[str, ...]
    worded: tuple[str, ...] = ()  # prompt editing that contains both tags and words, without the tags


def parse(prompt: str, names: Sequence[str] = KINDS) -> Parsed:
    """Never raises: a tag that cannot be read is taken out of the text, reported and skipped."""
    opening = "|".join(re.escape(name) for name in names)
    pattern = re.compile(rf"<({opening}):({QUOTED}[^>]*|[^>]*)>")
    problems: list[str] = []
    end = prompt.rfind(">") + 1  # no tag is closed behind it
    matches = list(pattern.finditer(prompt, 0, end))
    found = [_read(match, problems) for match in matches]
    text = pattern.sub("", prompt[:end]) + prompt[end:]
    apart = pattern.sub(" ", prompt[:end]) + prompt[end:]  # what tags kept apart is not the start of one
    unclosed = re.finditer(rf"<(?:{opening}):", apart)
    problems += [f"{rest[0]} ... is never closed with '>', so it stays text." for rest in unclosed]
    if not found:
        return Parsed(text, (), tuple(problems))
    return _placed(prompt, matches, found, problems)


def _read(match: re.Match[str], problems: list[str]) -> Tag | None:
    try:
        return _tag(match, problems)
    except BadTag as error:
        problems.append(f"{shown(match[0])}: {shown(str(error))}, so this tag is left out.")
        return None


def without_tags(prompt: str, filler: str = "") -> str:
    """Return the prompt without tags of any kind; each of their characters is replaced by `filler`."""
    end = prompt.rfind(">") + 1
    return _ANY.sub(lambda found: filler * len(found[0]), prompt[:end]) + prompt[end:]


def _placed(prompt: str, matches: Sequence[re.Match[str]], found: Sequence[Tag | None], problems: list[str]) -> Parsed:
    """Return the parsed prompt, with the edits of the brackets around each tag."""
    text, reading = _reading(prompt, matches)
    tags = [replace(tag, edits=edits) for tag, edits in zip(found, reading.edits, strict=True) if tag is not None]
    lost = [tag for number, tag in enumerate(found) if tag is not None and number in reading.lost]
    problems += [f"{shown(tag.text)}: {NO_EDITING}" for tag in lost]
    commands = _COMMAND.findall(text) if any(reading.edits) else []
    problems += [f"{command} ... {NO_COMMAND}" for command in dict.fromkeys(commands)]
    worded = tuple(shown(text[start:end]) for start, end in reading.worded)
    kept: list[str] = []
    last = 0
    for start, end in sorted(reading.blanks):
        kept.append(text[last:start])
        last = end
    return Parsed("".join(kept) + text[last:], tuple(tags), tuple(problems), worded)


def _reading(prompt: str, matches: Sequence[re.Match[str]]) -> tuple[str, Reading]:
    """Return the prompt without these tags, and the prompt editing around their places."""
    starts = [0, *(match.end() for match in matches)]
    ends = [*(match.start() for match in matches), len(prompt)]
    words = [prompt[start:end] for start, end in zip(starts, ends, strict=True)]
    places = list(accumulate(len(one) for one in words[:-1]))
    return "".join(words), read_editing("".join(without_tags(one, FOREIGN) for one in words), places)


def unfollowed(prompt: str, kind: str, what: str) -> list[str]:
    """Return a message for each tag of this kind inside prompt editing, because `what` does not support it."""
    matches = list(re.finditer(rf"<{re.escape(kind)}:[^>]*>", prompt[: prompt.rfind(">") + 1]))
    reading = _reading(prompt, matches)[1]
    inside = [match[0] for match, edits in zip(matches, reading.edits, strict=True) if edits]
    why = f"{what} has one strength in all steps, so prompt editing does not limit it"
    return [f"{shown(text)}: {why}." for text in inside]


def quoted(name: str) -> str:
    """`name` as a tag must spell it, so that `parse` reads the same name back."""
    plain = name and not name.startswith('"') and not set(name) & {":", ">"}
    return name if plain else '"' + name.replace('"', '""') + '"'


def opening(tag: Tag) -> str:
    """Return the start of the tag's text, up to the end of its name."""
    start = len(tag.kind) + 2
    quotes = re.compile(QUOTED).match(tag.text, start)
    return tag.text[: quotes.end()] if quotes else tag.text[:start] + re.split("[:>]", tag.text[start:], maxsplit=1)[0]


def shown(text: str) -> str:
    """As much of it as a sentence has room for."""
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]} ..."


def _tag(match: re.Match[str], problems: list[str]) -> Tag:
    name, items = items_of(match[2])
    if not name.strip():
        raise BadTag("it names no adapter")
    if len(items) > MOST_ITEMS:
        raise BadTag(f"it has {len(items)} values")
    values = _arguments(items, shown(match[0]), problems)
    control = read_control(values)
    return Tag(
        match[1],
        name,
        control,
        match[0],
        match.span(),
        _second(values, control),
        read_mode(values.get("mode", "auto")),
        OFF in values,
    )


def _second(values: dict[str, str], first: Control) -> Control | None:
    """`hr=` sets both parts of the second pass; what no such key names is as in the first."""
    own = {key.removeprefix("hr"): value for key, value in values.items() if key.startswith("hr") and key != "hr"}
    if "hr" in values:
        own = {"te": values["hr"], "unet": values["hr"]} | own
    return read_control(own, first) if own else None


def _arguments(items: Sequence[tuple[str, str]], tag: str, problems: list[str]) -> dict[str, str]:
    """A named one wins over a positional one."""
    values: dict[str, str] = {}
    for key, item in sorted(items, key=lambda one: "=" in one[1]):
        if key == "":
            problems.append(f"{tag}: {shown(item.strip())!r} is one value too many and was ignored.")
        elif key not in KEYS and item.strip() != OFF:
            problems.append(f"{tag}: the key {shown(key)!r} is unknown (known: {', '.join(KEYS)}) and was ignored.")
        else:
            values[key] = item.partition("=")[2].strip() if "=" in item else item.strip()
    return values
