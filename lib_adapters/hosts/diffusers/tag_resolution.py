"""Resolution of a prompt's tags into requests and messages. A tag that fails does not affect the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from lib_adapters.conditioning.hypernetwork_patcher import HypernetworkRequest
from lib_adapters.errors import AdapterError
from lib_adapters.files.adapter import Adapter
from lib_adapters.hosts.diffusers.aesthetic_encoder import AestheticRequest
from lib_adapters.hosts.diffusers.folder_resolver import FolderResolver
from lib_adapters.patching.request import Request, ResolvedTag, limit_to_editing, resolve_tag
from lib_adapters.prompt import aesthetic_tag
from lib_adapters.prompt.block_weights import Presets
from lib_adapters.prompt.prompt_editing import Timeline
from lib_adapters.prompt.schedule import SamplingStep, uses_noise
from lib_adapters.prompt.tag_editor import pin_sampled
from lib_adapters.prompt.tag_options import constant_strength
from lib_adapters.prompt.tags import ParsedPrompt, Tag, parse

Found = TypeVar("Found")
RowSet = frozenset[int]


@dataclass
class TagRequests:
    """`texts`: tags that had a part of chance in them, and how they are written so that it is the same again."""

    requests: list[Request] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    sampled_texts: dict[str, str] = field(default_factory=dict)

    def pin_random(self, prompt: str) -> str:
        for text, written in self.sampled_texts.items():
            prompt = prompt.replace(text, written)
        return prompt


@dataclass(frozen=True)
class TagContext:
    """The image for which tags are resolved; `steps` is None if there are no sampling steps (merging).

    The same `seed` gives the same random block weights. `rows`: the batch rows; None for all.
    """

    seed: str = ""
    steps: int | None = None
    rows: RowSet | None = None

    def resolve(self, adapter: Adapter, tag: Tag, presets: Presets) -> ResolvedTag:
        """Return the request for the tag. Raise BadTag, which names the token."""
        found = resolve_tag(adapter, tag, presets, seed=self.seed)
        found = replace(found, request=replace(found.request, rows=self.rows))
        return found if self.steps is None else limit_to_editing(found, tag, Timeline(self.steps))


def adapter_requests(
    tags: Sequence[Tag], resolver: FolderResolver, presets: Presets, context: TagContext = TagContext()
) -> TagRequests:
    """Return the requests for these tags; tags that cannot be found or read are reported in `problems`."""
    wanted = TagRequests()
    for tag in (tag for tag in tags if not tag.disabled):
        try:
            found = resolver.adapter(tag.name)
            resolved = context.resolve(found.adapter, tag, presets)
        except AdapterError as error:
            wanted.problems.append(f"{tag.text}: {error}")
            continue
        wanted.requests.append(resolved.request)
        idle = [f"{resolved.steps}."] if resolved.steps and _idle(resolved.request) else []
        notes = [*resolved.notes, *idle, *([found.notice] if found.notice else [])]
        wanted.problems += [f"{tag.text}: {note}" for note in notes]
        if resolved.sampled_blocks:
            wanted.sampled_texts[tag.text] = pin_sampled(tag, resolved.sampled_blocks)
    return wanted


def _idle(request: Request) -> bool:
    return request.window is None and request.unet == request.te == 0


def word_editing_messages(parsed: ParsedPrompt) -> list[str]:
    """Return messages about words in prompt editing, because a pipeline encodes them once, including the brackets."""
    return [
        f"{text}: prompt editing of words is not supported here; only the tags in these brackets are switched."
        for text in parsed.messages
    ]


def plain_word_tags(negative: str, kinds: Sequence[str]) -> TagRequests:
    """Nothing is wanted; each tag of these kinds, and each aesthetic one, is told of."""
    texts = [tag.text for tag in parse(negative, kinds).tags] + [tag.text for tag in aesthetic_tag.parse(negative).tags]
    where = "stands in the negative prompt, where such tags are plain words."
    return TagRequests(problems=[f"{text} {where}" for text in texts])


def unsupported_schedules(requests: Sequence[Request], step: SamplingStep) -> list[str]:
    """Schedules over noise with a scheduler that tells none."""
    if step.sigma is not None or not step.model_calls:
        return []
    names = [request.adapter.name for request in requests if uses_noise(request.unet, request.window)]
    return [f"{name}: this scheduler tells no noise, so what follows it stays as at the start." for name in names]


def hypernetwork_requests(tags: Sequence[Tag], resolver: FolderResolver) -> tuple[list[HypernetworkRequest], list[str]]:
    """For `<hypernet:NAME:strength>`, in the order of the prompt."""

    def steering(tag: Tag) -> tuple[HypernetworkRequest, list[str]]:
        found, notice = resolver.hypernetwork(tag.name)
        strength, note = constant_strength(tag.options, "a hypernetwork")
        return HypernetworkRequest(found, strength), [text for text in (notice, note) if text]

    return _each([tag for tag in tags if not tag.disabled], steering)


def aesthetic_requests(
    tags: Sequence[aesthetic_tag.AestheticTag], resolver: FolderResolver
) -> tuple[list[AestheticRequest], list[str]]:
    """The same for `<aesthetic:NAME:weight...>`."""

    def wish(tag: aesthetic_tag.AestheticTag) -> tuple[AestheticRequest, list[str]]:
        found, notice = resolver.aesthetic(tag.name)
        return AestheticRequest(found, tag.options), [notice] if notice else []

    return _each(tags, wish)


AnyTag = TypeVar("AnyTag", Tag, aesthetic_tag.AestheticTag)


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
