"""`<hypernet:NAME:strength>` by our own hands: on the layers of the present model, and the host's own list left empty.

The host calls this with nothing at every load, and once per batch and pass; each call makes so what it names.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from lib_adapters.catalogue import About
from lib_adapters.catalogue.names import carried
from lib_adapters.conditioning.attention import Hypernetworks, Steering
from lib_adapters.conditioning.hypernetwork import Hypernetwork, open_hypernetwork
from lib_adapters.errors import AdapterError
from lib_adapters.hosts.webui import host, settings, wanted
from lib_adapters.hosts.webui.model import family_of, parts_of
from lib_adapters.hosts.webui.names import Names
from lib_adapters.hosts.webui.rounds import BATCH, BYPASSED_WHOLLY
from lib_adapters.hosts.webui.voice import Voice
from lib_adapters.prompt.control import steady
from lib_adapters.prompt.tags import Tag, parse, quoted
from lib_adapters.session import AdapterReport

KIND = "hypernet"


class Hypernets:
    """Which hypernetworks are on which UNet; weakly, for the host drops models without telling."""

    def __init__(self) -> None:
        self.names: Names[Hypernetwork] = Names(
            lambda: {KIND: [settings.hypernetwork_folder()]}, lambda _: About("", ""), open_hypernetwork, "hypernetwork"
        )
        self.reports: list[AdapterReport] = []
        self.used: list[Path] = []  # the files of the last call that did something
        self.voice = Voice("Hypernet problems")
        self._on: weakref.WeakKeyDictionary[nn.Module, Hypernetworks] = weakref.WeakKeyDictionary()

    def activate(self, p: Any, params: Sequence[Any]) -> None:
        parsed = wanted.written(KIND, params)
        second = bool(getattr(p, "is_hr_pass", False))
        added = _default(p, parsed.tags)
        problems = list(parsed.problems)
        steerings, notes = self._found([*parsed.tags, *added], second, problems)
        model = host.current_model()
        unet = None if model is None else parts_of(model).unet
        self._leave_others(unet)
        _clear_hosts_own()
        self.reports = [] if model is None or unet is None else self._steer(model, unet, steerings)
        pairs = zip(steerings, self.reports, strict=False)  # no reports where there is no model
        self.used = [steering.hypernetwork.path for steering, report in pairs if not report.error]
        if steerings and getattr(host.optional("sd_unet"), "current_unet", None) is not None:
            problems.append(BYPASSED_WHOLLY)
        problems += [one.line() for one in self.reports if one.error]
        problems += _misplaced(p)
        self.voice.say(p, problems, [*(one.line() for one in self.reports if not one.error), *notes])

    def restore(self) -> None:
        self._leave_others(None)
        self.reports, self.used = [], []
        self.voice.forget()

    def _found(
        self, tags: Sequence[Tag], second: bool, problems: list[str]
    ) -> tuple[list[Steering], list[str]]:
        steerings: list[Steering] = []
        notes: list[str] = []
        for tag in (tag for tag in tags if not tag.off):
            try:
                found = self.names.find(KIND, tag.name)
                strength, note = steady(tag.of_pass(second), "a hypernetwork")
                steerings.append(Steering(found.opened, strength))
                notes += [f"{tag.text}: {note}."] if note else []
            except AdapterError as error:
                problems.append(f"{tag.text}: {error}")
                continue
            notes += [found.notice] if found.notice else []
        return steerings, notes

    def _steer(self, model: nn.Module, unet: nn.Module, steerings: Sequence[Steering]) -> list[AdapterReport]:
        if not steerings and unet not in self._on:
            return []
        if unet not in self._on:
            self._on[unet] = Hypernetworks(unet, family_of(model) or "unknown")
        return self._on[unet].activate(steerings)

    def _leave_others(self, unet: nn.Module | None) -> None:
        for other, active in list(self._on.items()):
            if other is not unet:
                active.deactivate()
                del self._on[other]


def _default(p: Any, tags: Sequence[Tag]) -> list[Tag]:
    """The one that the host's own setting adds to every prompt, written into the prompts as the host does."""
    name = str(host.option("sd_hypernetwork", settings.NOTHING))
    prompts = getattr(p, "all_prompts", None)
    if prompts is None or name in ("", settings.NOTHING) or any(tag.name == name for tag in tags):
        return []
    weight = host.option("extra_networks_default_multiplier", 1.0)
    added = parse(f"<{KIND}:{quoted(carried(name))}:{weight}>", (KIND,)).tags
    if not getattr(p, "is_hr_pass", False):
        for tag in added:
            p.all_prompts = [prompt if tag.text in prompt else prompt + tag.text for prompt in p.all_prompts]
    return list(added)


def _misplaced(p: Any) -> list[str]:
    problems = [BATCH.replace("adapters", "hypernetworks")] if wanted.differing(p, (KIND,)) else []
    problems += wanted.unfollowed(p, KIND, "a hypernetwork")
    negative = wanted.in_negative(p, (KIND,))
    return problems + [f"{text} stands in the negative prompt, where tags are plain words." for text in negative]


def _clear_hosts_own() -> None:
    """What the host loaded while the tag was still its own would be applied a second time."""
    loaded = getattr(host.module("shared"), "loaded_hypernetworks", None)
    if loaded:
        loaded.clear()
