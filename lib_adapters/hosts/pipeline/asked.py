"""Tags of a prompt become what is wanted; what cannot be found or opened is said, and the other tags still work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from lib_adapters.conditioning.attention import Steering
from lib_adapters.errors import AdapterError
from lib_adapters.hosts.pipeline.aesthetics import Wish
from lib_adapters.hosts.pipeline.shelf import Shelf
from lib_adapters.patching.request import Request, ask
from lib_adapters.prompt import aesthetic
from lib_adapters.prompt.blocks import Presets
from lib_adapters.prompt.control import steady
from lib_adapters.prompt.edit import drawn
from lib_adapters.prompt.schedule import Moment, uses_noise
from lib_adapters.prompt.tags import Tag, parse

Found = TypeVar("Found")
Scope = frozenset[int]


@dataclass
class Wanted:
    """`texts`: tags that had a part of chance in them, and how they are written so that it is the same again."""

    requests: list[Request] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)

    def pinned(self, prompt: str) -> str:
        for text, written in self.texts.items():
            prompt = prompt.replace(text, written)
        return prompt


def requests_of(
    tags: Sequence[Tag], shelf: Shelf, presets: Presets, seed: str = "", scope: Scope | None = None
) -> Wanted:
    """`seed`: of the picture; the same one gives the same random block weights."""
    wanted = Wanted()
    for tag in (tag for tag in tags if not tag.off):
        try:
            found = shelf.find(tag.name)
            asked = ask(found.adapter, tag, presets, seed=seed)
        except AdapterError as error:
            wanted.problems.append(f"{tag.text}: {error}")
            continue
        wanted.requests.append(replace(asked.request, scope=scope))
        notes = [*asked.notes, *([found.notice] if found.notice else [])]
        wanted.problems += [f"{tag.text}: {note}" for note in notes]
        if asked.drawn:
            wanted.texts[tag.text] = drawn(tag, asked.drawn)
    return wanted


def words_only(negative: str, kinds: Sequence[str]) -> Wanted:
    """Nothing is wanted; each tag of these kinds, and each aesthetic one, is told of."""
    texts = [tag.text for tag in parse(negative, kinds).tags] + [tag.text for tag in aesthetic.parse(negative).tags]
    where = "stands in the negative prompt, where such tags are plain words."
    return Wanted(problems=[f"{text} {where}" for text in texts])


def blind(requests: Sequence[Request], moment: Moment) -> list[str]:
    """Schedules over noise with a scheduler that tells none."""
    if moment.sigma is not None or not moment.runs:
        return []
    names = [request.adapter.name for request in requests if uses_noise(request.unet, request.window)]
    return [f"{name}: this scheduler tells no noise, so what follows it stays as at the start." for name in names]


def steerings_of(tags: Sequence[Tag], shelf: Shelf) -> tuple[list[Steering], list[str]]:
    """For `<hypernet:NAME:strength>`, in the order of the prompt."""

    def steering(tag: Tag) -> tuple[Steering, list[str]]:
        found, notice = shelf.hypernetwork(tag.name)
        strength, note = steady(tag.control, "a hypernetwork")
        return Steering(found, strength), [text for text in (notice, note) if text]

    return _each([tag for tag in tags if not tag.off], steering)


def wishes_of(tags: Sequence[aesthetic.AestheticTag], shelf: Shelf) -> tuple[list[Wish], list[str]]:
    """The same for `<aesthetic:NAME:weight...>`."""

    def wish(tag: aesthetic.AestheticTag) -> tuple[Wish, list[str]]:
        found, notice = shelf.aesthetic(tag.name)
        return Wish(found, tag.options), [notice] if notice else []

    return _each(tags, wish)


AnyTag = TypeVar("AnyTag", Tag, aesthetic.AestheticTag)


def _each(
    tags: Sequence[AnyTag], open_one: Callable[[AnyTag], tuple[Found, list[str]]]
) -> tuple[list[Found], list[str]]:
    results: list[Found] = []
    problems: list[str] = []
    for tag in tags:
        try:
            result, notes = open_one(tag)
        except AdapterError as error:
            problems.append(f"{tag.text}: {error}")
            continue
        results.append(result)
        problems += [f"{tag.text}: {note}" for note in notes]
    return results, problems
