"""What one call of the host is worked out to: the adapters that are wanted, and what the user must know about them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lib_adapters.errors import AdapterError
from lib_adapters.files.adapter import Adapter
from lib_adapters.hosts.webui import host, infotext, settings, sides, wanted
from lib_adapters.hosts.webui.names import Names
from lib_adapters.hosts.webui.sides import Sides
from lib_adapters.patching.request import Request, ask, limited
from lib_adapters.prompt.blocks import Presets
from lib_adapters.prompt.edit import drawn
from lib_adapters.prompt.editing import Timeline
from lib_adapters.prompt.schedule import Moment
from lib_adapters.prompt.tags import Tag, parse
from lib_adapters.session import Report

BATCH = (
    "The pictures of one batch name different adapters, but the web UI reads only the first prompt's tags: "
    "all of them got those. Raise the batch count instead of the batch size."
)
BYPASSED = "An SD Unet option is active: it runs instead of the model's own UNet, so only the text encoder is changed."
BYPASSED_WHOLLY = "An SD Unet option is active: it runs instead of the model's own UNet, so hypernetworks do nothing."
NOBODY = "None stands for no adapter, so this tag changes nothing."
UNPLACED = (
    "Another extension changed the prompt after its tags were read, so prompt editing around tags is not recognised "
    "and does not limit them."
)
Scope = frozenset[int] | None
_EDITING = re.compile(r"\[[^][]*[:|][^][]*\]")


@dataclass
class Round:
    """One working out, of a prompt's tags and of what the settings add to them."""

    requests: list[Request] = field(default_factory=list)
    tags: list[Tag] = field(default_factory=list)  # those that `requests` came from, in the same order
    defaults: list[Tag] = field(default_factory=list)  # what the settings add to what the prompt names
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    second: bool = False  # the second pass
    sides: Sides | None = None  # where not all rows of the batch ask for the same
    negatives: list[str] | None = None  # the negative prompts without tags, where these count
    drawn: dict[str, str] = field(default_factory=dict)  # tags with a part of chance -> written without it
    moment: Moment = field(default_factory=lambda: Moment(0, 1))
    timeline: Timeline = field(default_factory=lambda: Timeline(1))
    texts: dict[str, str] = field(default_factory=dict)  # the web UI's prompts -> without brackets emptied of tags

    @property
    def rows(self) -> range | None:
        return None if self.sides is None else range(len(self.sides.rows))

    @property
    def speaks(self) -> bool:
        """Must texts be encoded with adapters of their own?"""
        return any(one.scope is not None and one.te for one in self.requests)

    def write_texts(self, p: Any) -> None:
        """What the host is to encode: no tags on the negative side; where it matters, whose a text is."""
        positive, negative = ("hr_prompts", "hr_negative_prompts") if self.second else ("prompts", "negative_prompts")
        if self.sides is not None and self.speaks:
            for name, marked in zip((positive, negative), self.sides.marked(), strict=True):
                setattr(p, name, marked)
            return
        if self.negatives is not None:
            setattr(p, negative, self.negatives)
        if self.texts:
            setattr(p, positive, [self.texts.get(text, text) for text in getattr(p, positive, None) or ()])


@dataclass(frozen=True)
class Rounds:
    """Works them out."""

    names: Names[Adapter]
    presets: Callable[[], Presets]

    def of(self, p: Any, kinds: Sequence[str], data: Mapping[str, Sequence[Any]]) -> Round:
        second = data is getattr(p, "hr_extra_network_data", None)
        now = Round(moment=Moment(0, _steps(p, second)), second=second, timeline=_timeline(p, second))
        tags = self._tags(p, kinds, data, now)
        bypassed = bool(tags) and getattr(host.optional("sd_unet"), "current_unet", None) is not None
        now.notes += [BYPASSED] if bypassed else []
        for tag, scope in tags:
            self._find(tag, scope, now, (bypassed, _seed(p)))
        return now

    def _tags(
        self, p: Any, kinds: Sequence[str], data: Mapping[str, Sequence[Any]], now: Round
    ) -> list[tuple[Tag, Scope]]:
        """Those of the prompts as they were written, with the rows that ask for them; else those of the host's data."""
        read = {kind: wanted.written(kind, data.get(kind, ())) for kind in kinds}
        tags = [tag for kind in kinds for tag in read[kind].tags]
        found = None
        if getattr(p, "all_prompts", None) is not None:
            prompts = wanted.texts_of(p, now.second)[0]
            written = [tag for text in prompts for tag in parse(text, kinds).tags]
            now.defaults = infotext.defaults(p, kinds, wanted.names_of([*tags, *written]))
            found = sides.read(p, kinds, now.second, tags, now.defaults)
            now.texts = sides.tidied(p, kinds, now.second) if found else {}
            now.problems += [UNPLACED] if found is None and tags and _has_editing(p, now.second) else []
        now.problems += found.problems if found else [one for kind in kinds for one in read[kind].problems]
        now.negatives = found.negatives() if found and settings.negative_tags() else None
        now.sides = found if found and found.differ else None
        return found.scopes() if found else [(tag, None) for tag in (*tags, *now.defaults)]

    def _find(self, tag: Tag, scope: Scope, now: Round, how: tuple[bool, str]) -> None:
        bypassed, seed = how
        if tag.off:
            return
        if tag.name == settings.NOTHING and not self.names.has(tag.kind, tag.name):
            now.notes.append(f"{tag.text}: {NOBODY}")
            return
        try:
            found = self.names.find(tag.kind, tag.name)
            asked = ask(found.opened, tag, self.presets(), second=now.second, seed=seed)
            asked = limited(asked, tag, now.timeline)
            now.drawn |= self._drawn(found.opened, tag, seed)
        except AdapterError as error:
            now.problems.append(f"{tag.text}: {error}")
            return
        request = replace(asked.request, scope=scope)
        now.requests.append(replace(request, unet=0.0, window=None) if bypassed else request)
        now.tags.append(tag)
        now.notes += [f"{tag.text}: {note}." for note in (*asked.notes, asked.steps) if note]
        now.notes += [found.notice] if found.notice else []
        if scope is not None and now.sides is not None:
            now.notes.append(f"{tag.text} acts on {now.sides.named(scope)} alone.")

    def _drawn(self, adapter: Adapter, tag: Tag, seed: str) -> dict[str, str]:
        """The tag's text -> what chance has drawn for it, of both passes at once: the picture's text is one."""
        text = tag.text
        for second in (False, True):
            weights = ask(adapter, tag, self.presets(), second=second, seed=seed).drawn
            if weights and (not second or tag.of_pass(second).wish != tag.control.wish):
                text = drawn(parse(text, (tag.kind,)).tags[0], weights, "hrlbw" if second else "lbw")
        return {} if text == tag.text else {tag.text: text}


def _steps(p: Any, second: bool) -> int:
    steps = getattr(p, "hr_second_pass_steps", 0) if second else 0
    return int(steps or getattr(p, "steps", 1) or 1)


def _timeline(p: Any, second: bool) -> Timeline:
    """Return the steps as the web UI counts them in prompt editing."""
    return Timeline(_steps(p, second), _steps(p, False) if second else None, settings.old_timelines())


def _has_editing(p: Any, second: bool) -> bool:
    """True if the text that the web UI encodes looks like prompt editing."""
    prompts = getattr(p, "hr_prompts" if second else "prompts", None) or ()
    return any(_EDITING.search(text) for text in prompts)


def _seed(p: Any) -> str:
    """Of the first picture of the batch."""
    seeds = getattr(p, "seeds", None) or [getattr(p, "seed", "")]
    return str(seeds[0])


def state(now: Round, report: Report) -> str:
    """Files by content, default adapters, and what failed: the rest is in the tags."""
    failed = [f"without {one.name}" for one in report.adapters if one.error]
    return " ".join(sorted(str(request.key) for request in now.requests) + failed)
