"""Resolves the tags of one `ExtraNetwork.activate` call into requests and messages."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lib_adapters.errors import AdapterError
from lib_adapters.files.adapter import Adapter
from lib_adapters.hosts.webui import infotext, processing, settings, webui_modules
from lib_adapters.hosts.webui import prompt_rows as sides
from lib_adapters.hosts.webui.name_resolver import NameResolver
from lib_adapters.hosts.webui.prompt_rows import PromptRows
from lib_adapters.patching.request import Request, limit_to_editing, resolve_tag
from lib_adapters.prompt.block_weights import Presets
from lib_adapters.prompt.prompt_editing import Timeline
from lib_adapters.prompt.schedule import SamplingStep
from lib_adapters.prompt.tag_editor import pin_sampled
from lib_adapters.prompt.tags import Tag, parse
from lib_adapters.session import Report

BATCH_DIFFERS = (
    "The pictures of one batch name different adapters, but the web UI reads only the first prompt's tags: "
    "all of them got those. Raise the batch count instead of the batch size."
)
SD_UNET_ACTIVE = (
    "An SD Unet option is active: it runs instead of the model's own UNet, so only the text encoder is changed."
)
SD_UNET_ACTIVE_HYPERNETWORK = (
    "An SD Unet option is active: it runs instead of the model's own UNet, so hypernetworks do nothing."
)
NONE_TAG = "None stands for no adapter, so this tag changes nothing."
PROMPT_CHANGED = (
    "Another extension changed the prompt after its tags were read, so prompt editing around tags is not recognised "
    "and does not limit them."
)
RowFilter = frozenset[int] | None
_EDITING = re.compile(r"\[[^][]*[:|][^][]*\]")


@dataclass
class ImageJob:
    """One working out, of a prompt's tags and of what the settings add to them."""

    requests: list[Request] = field(default_factory=list)
    tags: list[Tag] = field(default_factory=list)  # those that `requests` came from, in the same order
    default_tags: list[Tag] = field(default_factory=list)  # what the settings add to what the prompt names
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    hires: bool = False  # the second pass
    prompt_rows: PromptRows | None = None  # where not all rows of the batch ask for the same
    negative_prompts: list[str] | None = None  # the negative prompts without tags, where these count
    sampled_texts: dict[str, str] = field(default_factory=dict)  # tags with a part of chance -> written without it
    first_step: SamplingStep = field(default_factory=lambda: SamplingStep(0, 1))
    timeline: Timeline = field(default_factory=lambda: Timeline(1))
    cleaned_prompts: dict[str, str] = field(
        default_factory=dict
    )  # the web UI's prompts -> without brackets emptied of tags

    @property
    def rows(self) -> range | None:
        return None if self.prompt_rows is None else range(len(self.prompt_rows.rows))

    @property
    def needs_row_encoding(self) -> bool:
        """Must texts be encoded with adapters of their own?"""
        return any(one.rows is not None and one.te for one in self.requests)

    def write_prompts(self, p: Any) -> None:
        """What the host is to encode: no tags on the negative side; where it matters, whose a text is."""
        positive, negative = ("hr_prompts", "hr_negative_prompts") if self.hires else ("prompts", "negative_prompts")
        if self.prompt_rows is not None and self.needs_row_encoding:
            for name, marked in zip((positive, negative), self.prompt_rows.encode_row_marks(), strict=True):
                setattr(p, name, marked)
            return
        if self.negative_prompts is not None:
            setattr(p, negative, self.negative_prompts)
        if self.cleaned_prompts:
            setattr(p, positive, [self.cleaned_prompts.get(text, text) for text in getattr(p, positive, None) or ()])


@dataclass(frozen=True)
class ImageJobBuilder:
    """Works them out."""

    resolver: NameResolver[Adapter]
    presets: Callable[[], Presets]

    def build(self, p: Any, kinds: Sequence[str], data: Mapping[str, Sequence[Any]]) -> ImageJob:
        second = data is getattr(p, "hr_extra_network_data", None)
        now = ImageJob(first_step=SamplingStep(0, _steps(p, second)), hires=second, timeline=_timeline(p, second))
        tags = self._tags_with_rows(p, kinds, data, now)
        bypassed = bool(tags) and getattr(webui_modules.import_optional("sd_unet"), "current_unet", None) is not None
        now.notes += [SD_UNET_ACTIVE] if bypassed else []
        for tag, scope in tags:
            self._add_request(tag, scope, now, (bypassed, _seed(p)))
        return now

    def _tags_with_rows(
        self, p: Any, kinds: Sequence[str], data: Mapping[str, Sequence[Any]], now: ImageJob
    ) -> list[tuple[Tag, RowFilter]]:
        """Those of the prompts as they were written, with the rows that ask for them; else those of the host's data."""
        read = {kind: processing.parse_params(kind, data.get(kind, ())) for kind in kinds}
        tags = [tag for kind in kinds for tag in read[kind].tags]
        found = None
        if getattr(p, "all_prompts", None) is not None:
            prompts = processing.batch_prompts_and_negatives(p, now.hires)[0]
            written = [tag for text in prompts for tag in parse(text, kinds).tags]
            now.default_tags = infotext.default_tags(p, kinds, processing.tag_names([*tags, *written]))
            found = sides.build_rows(p, kinds, now.hires, tags, now.default_tags)
            now.cleaned_prompts = sides.without_empty_editing(p, kinds, now.hires) if found else {}
            now.problems += [PROMPT_CHANGED] if found is None and tags and _has_editing(p, now.hires) else []
        now.problems += found.problems if found else [one for kind in kinds for one in read[kind].problems]
        now.negative_prompts = found.negative_texts() if found and settings.negative_tags_enabled() else None
        now.prompt_rows = found if found and found.differ else None
        return found.row_sets() if found else [(tag, None) for tag in (*tags, *now.default_tags)]

    def _add_request(self, tag: Tag, scope: RowFilter, now: ImageJob, how: tuple[bool, str]) -> None:
        bypassed, seed = how
        if tag.disabled:
            return
        if tag.name == settings.NONE_CHOICE and not self.resolver.has(tag.kind, tag.name):
            now.notes.append(f"{tag.text}: {NONE_TAG}")
            return
        try:
            found = self.resolver.resolve(tag.kind, tag.name)
            resolved = resolve_tag(found.value, tag, self.presets(), hires=now.hires, seed=seed)
            resolved = limit_to_editing(resolved, tag, now.timeline)
            now.sampled_texts |= self._sampled_texts(found.value, tag, seed)
        except AdapterError as error:
            now.problems.append(f"{tag.text}: {error}")
            return
        request = replace(resolved.request, rows=scope)
        now.requests.append(replace(request, unet=0.0, window=None) if bypassed else request)
        now.tags.append(tag)
        now.notes += [f"{tag.text}: {note}." for note in (*resolved.notes, resolved.steps) if note]
        now.notes += [found.notice] if found.notice else []
        if scope is not None and now.prompt_rows is not None:
            now.notes.append(f"{tag.text} acts on {now.prompt_rows.describe_rows(scope)} alone.")

    def _sampled_texts(self, adapter: Adapter, tag: Tag, seed: str) -> dict[str, str]:
        """The tag's text -> what chance has drawn for it, of both passes at once: the picture's text is one."""
        text = tag.text
        for second in (False, True):
            weights = resolve_tag(adapter, tag, self.presets(), hires=second, seed=seed).sampled_blocks
            if weights and (not second or tag.for_pass(second).spec != tag.options.spec):
                text = pin_sampled(parse(text, (tag.kind,)).tags[0], weights, "hrlbw" if second else "lbw")
        return {} if text == tag.text else {tag.text: text}


def _steps(p: Any, second: bool) -> int:
    steps = getattr(p, "hr_second_pass_steps", 0) if second else 0
    return int(steps or getattr(p, "steps", 1) or 1)


def _timeline(p: Any, second: bool) -> Timeline:
    """Return the steps as the web UI counts them in prompt editing."""
    return Timeline(_steps(p, second), _steps(p, False) if second else None, settings.uses_old_scheduling())


def _has_editing(p: Any, second: bool) -> bool:
    """True if the text that the web UI encodes looks like prompt editing."""
    prompts = getattr(p, "hr_prompts" if second else "prompts", None) or ()
    return any(_EDITING.search(text) for text in prompts)


def _seed(p: Any) -> str:
    """Of the first picture of the batch."""
    seeds = getattr(p, "seeds", None) or [getattr(p, "seed", "")]
    return str(seeds[0])


def cache_key(image_job: ImageJob, report: Report) -> str:
    """Files by content, default adapters, and what failed: the rest is in the tags."""
    failed = [f"without {one.name}" for one in report.adapters if one.error]
    return " ".join(sorted(str(request.key) for request in image_job.requests) + failed)
