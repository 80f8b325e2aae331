"""Tags of a prompt become what is wanted; what cannot be found or opened is said, and the other tags still work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from lib_adapters.conditioning.attention import Steering
from lib_adapters.errors import AdapterError
from lib_adapters.files.adapter import Adapter
from lib_adapters.hosts.pipeline.aesthetics import Wish
from lib_adapters.hosts.pipeline.shelf import Shelf
from lib_adapters.patching.request import Asked, Request, ask, limited
from lib_adapters.prompt import aesthetic
from lib_adapters.prompt.blocks import Presets
from lib_adapters.prompt.control import steady
from lib_adapters.prompt.edit import drawn
from lib_adapters.prompt.editing import Timeline
from lib_adapters.prompt.schedule import Moment, uses_noise
from lib_adapters.prompt.tags import Parsed, Tag, parse

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


@dataclass(frozen=True)
class Drawing:
    """The image for which tags are resolved; `steps` is None if there are no sampling steps (merging).

    The same `seed` gives the same random block weights. `scope`: the batch rows; None for all.
    """

    seed: str = ""
    steps: int | None = None
    scope: Scope | None = None

    def asked(self, adapter: Adapter, tag: Tag, presets: Presets) -> Asked:
        """Return the request for the tag. Raise BadTag, which names the token."""
        found = ask(adapter, tag, presets, seed=self.seed)
        found = replace(found, request=replace(found.request, scope=self.scope))
        return found if self.steps is None else limited(found, tag, Timeline(self.steps))


def requests_of(tags: Sequence[Tag], shelf: Shelf, presets: Presets, drawing: Drawing = Drawing()) -> Wanted:
    """Return the requests for these tags; tags that cannot be found or read are reported in `problems`."""
    wanted = Wanted()
    for tag in (tag for tag in tags if not tag.off):
        try:
            found = shelf.find(tag.name)
            asked = drawing.asked(found.adapter, tag, presets)
        except AdapterError as error:
            wanted.problems.append(f"{tag.text}: {error}")
            continue
        wanted.requests.append(asked.request)
        idle = [f"{asked.steps}."] if asked.steps and _idle(asked.request) else []
        notes = [*asked.notes, *idle, *([found.notice] if found.notice else [])]
        wanted.problems += [f"{tag.text}: {note}" for note in notes]
        if asked.drawn:
            wanted.texts[tag.text] = drawn(tag, asked.drawn)
    return wanted


def _idle(request: Request) -> bool:
    return request.window is None and request.unet == request.te == 0


def worded(parsed: Parsed) -> list[str]:
    """Return messages about words in prompt editing, because a pipeline encodes them once, including the brackets."""
    return [
        f"{text}: prompt editing of words is not supported here; only the tags in these brackets are switched."
        for text in parsed.worded
    ]


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
