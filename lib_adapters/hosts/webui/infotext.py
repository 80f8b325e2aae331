"""What a picture's text says of its adapters, and what pasting such a text brings back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lib_adapters.catalogue.names import carried
from lib_adapters.hosts.webui import host, settings, sides, wanted
from lib_adapters.hosts.webui.hashes import Hashes
from lib_adapters.hosts.webui.names import Names
from lib_adapters.prompt.editing import AND
from lib_adapters.prompt.tags import Tag, opening, parse, quoted

KEYS = {"lyco": "Lyco hashes", "lora": "Lora hashes"}
OLD_TIMELINES = "Old prompt editing timelines"  # the web UI's name for its option
_REMOVED = str.maketrans("", "", ":,")  # as the built-in writes names


def write(p: Any, hashed: Iterable[tuple[Tag, str]]) -> None:
    """`name: hash, ...` for each kind; the second pass adds to what the first one used."""
    parameters = getattr(p, "extra_generation_params", None)
    if parameters is None or not host.option("lora_add_hashes_to_infotext", True):
        return
    found = [(tag.kind, tag.name.translate(_REMOVED), short) for tag, short in hashed if short]
    kinds = KEYS if settings.handles_lora() else {"lyco": KEYS["lyco"]}
    for kind, key in kinds.items():
        before = _read(parameters.get(key, "")) if getattr(p, "is_hr_pass", False) else {}
        pairs = before | {name: short for one, name, short in found if one == kind}
        if pairs:
            parameters[key] = ", ".join(f"{name}: {short}" for name, short in pairs.items())
        else:
            parameters.pop(key, None)


def write_choices(p: Any, kinds: Sequence[str]) -> None:
    """The settings without which the same text would give another picture; the host takes them back on pasting."""
    parameters = getattr(p, "extra_generation_params", None)
    if parameters is None or getattr(p, "is_hr_pass", False):
        return
    prompts, negatives = wanted.texts_of(p, False)
    joined = any(AND.search(prompt) and parse(prompt, kinds).tags for prompt in prompts)
    against = any(parse(text, kinds).text != text for text in negatives)  # even a tag that cannot be read is no words
    for key in (settings.PARTS, settings.NEGATIVE):
        parameters.pop(key, None)
    edited = any(tag.edits for text in _texts(p) for tag in parse(text, kinds).tags)
    if edited and settings.old_timelines():
        parameters[OLD_TIMELINES] = True  # the web UI writes it only if words depend on it
    if joined and not settings.parts_apart():
        parameters[settings.PARTS] = False
    if against and settings.negative_tags():
        parameters[settings.NEGATIVE] = True


def _texts(p: Any) -> list[str]:
    """Return all prompts of the batch whose tags are applied."""
    return [text for second in (False, True) for side in wanted.texts_of(p, second) for text in side]


def defaults(p: Any, kinds: Sequence[str], named: Mapping[str, set[str]]) -> list[Tag]:
    """The adapters of the settings that the prompt does not name itself; none for a call without a picture."""
    if getattr(p, "all_prompts", None) is None:
        return []
    weight = host.option("extra_networks_default_multiplier", 1.0)
    chosen = [(kind, name) for kind, name in settings.default_adapters() if kind in kinds]
    texts = [
        f"<{kind}:{quoted(carried(name))}:{weight}>"
        for kind, name in chosen
        if not any(name in names for names in named.values())
    ]
    return list(parse("".join(texts), kinds).tags)


def add_to_prompts(p: Any, tags: Iterable[Tag], drawn: Mapping[str, str]) -> None:
    """So that a picture's text has the default adapters, as the built-in does, and what chance chose for its batch."""
    for tag in () if getattr(p, "is_hr_pass", False) else tags:
        p.all_prompts = [sides.with_tag(prompt, tag, tuple(KEYS)) for prompt in p.all_prompts]
    some = wanted.batch_of(p)
    for name in ("all_prompts", "all_hr_prompts", "all_negative_prompts", "all_hr_negative_prompts"):
        prompts = getattr(p, name, None)
        if drawn and prompts:
            pinned = [_pinned(prompt, drawn) for prompt in prompts[some]]
            setattr(p, name, [*prompts[: some.start], *pinned, *prompts[some.stop :]])


def _pinned(prompt: str, drawn: Mapping[str, str]) -> str:
    for text, written in drawn.items():
        prompt = prompt.replace(text, written)
    return prompt


def pasted(parameters: dict[str, Any], names: Names[Any], hashes: Hashes) -> None:
    """Replace the name of a missing file by that of the only readable file with its hash.

    If several files have the name, the hash selects one of them.
    """
    fields = ("Prompt", "Hires prompt")
    for field in (*fields, "Negative prompt", "Hires negative prompt") if settings.negative_tags() else fields:
        if field in parameters:
            parameters[field] = _found(str(parameters[field]), parameters, names, hashes)


def _found(prompt: str, parameters: Mapping[str, Any], names: Names[Any], hashes: Hashes) -> str:
    for tag in reversed(parse(prompt, tuple(KEYS) if settings.handles_lora() else ("lyco",)).tags):
        short = _read(str(parameters.get(KEYS[tag.kind], ""))).get(tag.name.translate(_REMOVED).strip(), "")
        there = [path for path in names.called(tag.kind, tag.name) if names.is_sound(path)]
        path = hashes.among(short, there) if there[1:] else None if there else hashes.find(short)
        if path is not None:
            start, end = tag.span
            prompt = prompt[:start] + _renamed(tag, names.shortest(path)) + prompt[end:]
    return prompt


def _renamed(tag: Tag, name: str) -> str:
    """The tag as written, but for its name."""
    return f"<{tag.kind}:{quoted(name)}{tag.text[len(opening(tag)) :]}"


def _read(text: str) -> dict[str, str]:
    pairs = (pair.rpartition(":") for pair in text.split(","))
    return {name.strip(): value.strip() for name, _, value in pairs if name.strip()}
