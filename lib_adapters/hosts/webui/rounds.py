"""What one call of the host is worked out to: the adapters that are wanted, and what the user must know about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lib_adapters.errors import AdapterError
from lib_adapters.files.adapter import Adapter
from lib_adapters.hosts.webui import host, infotext, settings, sides, wanted
from lib_adapters.hosts.webui.names import Names
from lib_adapters.hosts.webui.sides import Sides
from lib_adapters.patching.request import Request, ask
from lib_adapters.prompt.blocks import Presets
from lib_adapters.prompt.edit import drawn
from lib_adapters.prompt.schedule import Moment
from lib_adapters.prompt.tags import Tag
from lib_adapters.session import Report

BATCH = (
    "The pictures of one batch name different adapters, but the web UI reads only the first prompt's tags: "
    "all of them got those. Raise the batch count instead of the batch size."
)
BYPASSED = "An SD Unet option is active: it runs instead of the model's own UNet, so only the text encoder is changed."
BYPASSED_WHOLLY = "An SD Unet option is active: it runs instead of the model's own UNet, so hypernetworks do nothing."
NOBODY = "None stands for no adapter, so this tag changes nothing."
Scope = frozenset[int] | None


@dataclass
class Round:
    """One working out, of a prompt's tags and of what the settings add to them."""

    requests: list[Request] = field(default_factory=list)
    tags: list[Tag] = field(default_factory=list)  # those that `requests` came from, in the same order
    defaults: list[Tag] = field(default_factory=list)  # what the settings add to what the prompt names
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    sides: Sides | None = None  # where not all rows of the batch ask for the same
    drawn: dict[str, str] = field(default_factory=dict)  # tags with a part of chance -> written without it
    moment: Moment = field(default_factory=lambda: Moment(0, 1))

    @property
    def rows(self) -> range | None:
        return None if self.sides is None else range(len(self.sides.rows))

    @property
    def speaks(self) -> bool:
        """Must texts be encoded with adapters of their own?"""
        return any(one.scope is not None and one.te for one in self.requests)


@dataclass(frozen=True)
class Rounds:
    """Works them out."""

    names: Names[Adapter]
    presets: Callable[[], Presets]

    def of(self, p: Any, kinds: Sequence[str], data: Mapping[str, Sequence[Any]], second: bool) -> Round:
        """`second`: in the second pass."""
        now = Round(moment=Moment(0, _steps(p, second)))
        tags = self._tags(p, kinds, data, second, now)
        named = wanted.names_of([tag for tag, _ in tags])
        now.defaults = infotext.defaults(p, kinds, named)
        tags += [(tag, None) for tag in now.defaults]
        bypassed = bool(tags) and getattr(host.optional("sd_unet"), "current_unet", None) is not None
        now.notes += [BYPASSED] if bypassed else []
        for tag, scope in tags:
            self._find(tag, scope, now, (second, bypassed, _seed(p)))
        return now

    def _tags(
        self, p: Any, kinds: Sequence[str], data: Mapping[str, Sequence[Any]], second: bool, now: Round
    ) -> list[tuple[Tag, Scope]]:
        """Those of the host's data; of the prompts as they were written where rows ask for different things."""
        if getattr(p, "all_prompts", None) is not None:
            choices = {"parts": settings.parts_apart(), "negative": settings.negative_tags()}
            now.sides = sides.read(p, kinds, second, **choices)
        if now.sides is not None:
            now.problems += now.sides.problems
            return now.sides.scopes()
        tags: list[tuple[Tag, Scope]] = []
        for kind in kinds:
            parsed = wanted.written(kind, data.get(kind, ()))
            tags += [(tag, None) for tag in parsed.tags]
            now.problems += parsed.problems
        return tags

    def _find(self, tag: Tag, scope: Scope, now: Round, how: tuple[bool, bool, str]) -> None:
        second, bypassed, seed = how
        if tag.off:
            return
        if tag.name == settings.NOTHING and not self.names.has(tag.kind, tag.name):
            now.notes.append(f"{tag.text}: {NOBODY}")
            return
        try:
            found = self.names.find(tag.kind, tag.name)
            asked = ask(found.opened, tag, self.presets(), second=second, seed=seed)
        except AdapterError as error:
            now.problems.append(f"{tag.text}: {error}")
            return
        request = replace(asked.request, scope=scope)
        now.requests.append(replace(request, unet=0.0, window=None) if bypassed else request)
        now.tags.append(tag)
        now.notes += [f"{tag.text}: {note}." for note in asked.notes]
        now.notes += [found.notice] if found.notice else []
        if scope is not None and now.sides is not None:
            now.notes.append(f"{tag.text} acts on {now.sides.named(scope)} alone.")
        if asked.drawn:
            now.drawn[tag.text] = drawn(tag, asked.drawn, second)


def _steps(p: Any, second: bool) -> int:
    steps = getattr(p, "hr_second_pass_steps", 0) if second else 0
    return int(steps or getattr(p, "steps", 1) or 1)


def _seed(p: Any) -> str:
    """Of the first picture of the batch."""
    seeds = getattr(p, "seeds", None) or [getattr(p, "seed", "")]
    return str(seeds[0])


def state(now: Round, report: Report) -> str:
    """Files by content, default adapters, and what failed: the rest is in the tags."""
    failed = [f"without {one.name}" for one in report.adapters if one.error]
    return " ".join(sorted(str(request.key) for request in now.requests) + failed)
