"""`<lyco:NAME[:te[:unet[:dyn]]][:key=value]...>` in a prompt, read as the web UI reads it.

One number or curve sets both parts, and so does `te=` alone; a named argument wins over a positional one. NAME is the
first item whatever it looks like (an `=` in it names nothing); in double quotes it may hold `:` and `>`, and `""`
stands for one quote. A word where a number belongs is a preset of block weights, with `x` behind it, as
lora-block-weight has it; the word `off` keeps a tag and all its numbers without effect. Keys with `hr` before them are
for the second pass.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from lib_adapters.errors import BadTag
from lib_adapters.prompt.control import PASS_KEYS, Control, Mode, Ranks, read_control, read_mode
from lib_adapters.prompt.items import MOST_ITEMS, OFF, QUOTED, items_of
from lib_adapters.prompt.schedule import Strength

KINDS = ("lyco", "lora")
KEYS = (*PASS_KEYS, "w", "mode", "hr", *(f"hr{key}" for key in PASS_KEYS))
MOST_SHOWN = 500  # characters of a tag in a sentence about it


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
        return self.kind, self.name, self.control, self.second, self.mode, self.off


@dataclass(frozen=True)
class Parsed:
    """A prompt without its tags, the tags in their order, and what could not be read, one sentence each."""

    text: str
    tags: tuple[Tag, ...]
    problems: tuple[str, ...]


def parse(prompt: str, names: Sequence[str] = KINDS) -> Parsed:
    """Never raises: a tag that cannot be read is taken out of the text, reported and skipped."""
    opening = "|".join(re.escape(name) for name in names)
    pattern = re.compile(rf"<({opening}):({QUOTED}[^>]*|[^>]*)>")
    tags: list[Tag] = []
    problems: list[str] = []
    end = prompt.rfind(">") + 1  # no tag is closed behind it
    for match in pattern.finditer(prompt, 0, end):
        try:
            tags.append(_tag(match, problems))
        except BadTag as error:
            problems.append(f"{shown(match[0])}: {shown(str(error))}, so this tag is left out.")
    text = pattern.sub("", prompt[:end]) + prompt[end:]
    apart = pattern.sub(" ", prompt[:end]) + prompt[end:]  # what tags kept apart is not the start of one
    unclosed = re.finditer(rf"<(?:{opening}):", apart)
    problems += [f"{rest[0]} ... is never closed with '>', so it stays text." for rest in unclosed]
    return Parsed(text, tuple(tags), tuple(problems))


def quoted(name: str) -> str:
    """`name` as a tag must spell it, so that `parse` reads the same name back."""
    plain = name and not name.startswith('"') and not set(name) & {":", ">"}
    return name if plain else '"' + name.replace('"', '""') + '"'


def opening(tag: Tag) -> str:
    """Return the tag's text up to the end of its name."""
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
