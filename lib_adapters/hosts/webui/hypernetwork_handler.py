"""The handler of `<hypernet:NAME:strength>` tags, in place of the web UI's own.

The host calls this with nothing at every load, and once per batch and pass; each call makes so what it names.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from lib_adapters.conditioning.hypernetwork_file import Hypernetwork, open_hypernetwork
from lib_adapters.conditioning.hypernetwork_patcher import HypernetworkPatcher, HypernetworkRequest
from lib_adapters.errors import AdapterError
from lib_adapters.hosts.webui import processing, settings, webui_modules
from lib_adapters.hosts.webui.image_job import BATCH_DIFFERS, SD_UNET_ACTIVE_HYPERNETWORK
from lib_adapters.hosts.webui.messages import MessageLog
from lib_adapters.hosts.webui.model_components import components_of, family_of
from lib_adapters.hosts.webui.name_resolver import NameResolver
from lib_adapters.library import FileInfo
from lib_adapters.library.file_names import escape_name
from lib_adapters.prompt.tag_options import constant_strength
from lib_adapters.prompt.tags import Tag, parse, quote_name
from lib_adapters.session import AdapterReport

KIND = "hypernet"


class HypernetworkHandler:
    """Which hypernetworks are on which UNet; weakly, for the host drops models without telling."""

    def __init__(self) -> None:
        self.resolver: NameResolver[Hypernetwork] = NameResolver(
            lambda: {KIND: [settings.hypernetwork_folder()]},
            lambda _: FileInfo("", ""),
            open_hypernetwork,
            "hypernetwork",
        )
        self.reports: list[AdapterReport] = []
        self.used_files: list[Path] = []  # the files of the last call that did something
        self.message_log = MessageLog("Hypernet problems")
        self._patchers: weakref.WeakKeyDictionary[nn.Module, HypernetworkPatcher] = weakref.WeakKeyDictionary()

    def activate(self, p: Any, params: Sequence[Any]) -> None:
        parsed = processing.parse_params(KIND, params)
        second = bool(getattr(p, "is_hr_pass", False))
        added = _default(p, parsed.tags)
        problems = list(parsed.problems)
        steerings, notes = self._resolve([*parsed.tags, *added], second, problems)
        model = webui_modules.current_model()
        unet = None if model is None else components_of(model).unet
        self._restore_others(unet)
        _clear_hosts_own()
        self.reports = [] if model is None or unet is None else self._apply(model, unet, steerings)
        pairs = zip(steerings, self.reports, strict=False)  # no reports where there is no model
        self.used_files = [steering.hypernetwork.path for steering, report in pairs if not report.error]
        if steerings and getattr(webui_modules.import_optional("sd_unet"), "current_unet", None) is not None:
            problems.append(SD_UNET_ACTIVE_HYPERNETWORK)
        problems += [one.summary() for one in self.reports if one.error]
        problems += _misplaced(p)
        self.message_log.start(p, problems, [*(one.summary() for one in self.reports if not one.error), *notes])

    def restore(self) -> None:
        self._restore_others(None)
        self.reports, self.used_files = [], []
        self.message_log.clear()

    def _resolve(
        self, tags: Sequence[Tag], second: bool, problems: list[str]
    ) -> tuple[list[HypernetworkRequest], list[str]]:
        steerings: list[HypernetworkRequest] = []
        notes: list[str] = []
        for tag in (tag for tag in tags if not tag.disabled):
            try:
                found = self.resolver.resolve(KIND, tag.name)
                strength, note = constant_strength(tag.for_pass(second), "a hypernetwork")
                steerings.append(HypernetworkRequest(found.value, strength))
                notes += [f"{tag.text}: {note}."] if note else []
            except AdapterError as error:
                problems.append(f"{tag.text}: {error}")
                continue
            notes += [found.notice] if found.notice else []
        return steerings, notes

    def _apply(
        self, model: nn.Module, unet: nn.Module, steerings: Sequence[HypernetworkRequest]
    ) -> list[AdapterReport]:
        if not steerings and unet not in self._patchers:
            return []
        if unet not in self._patchers:
            self._patchers[unet] = HypernetworkPatcher(unet, family_of(model) or "unknown")
        return self._patchers[unet].activate(steerings)

    def _restore_others(self, unet: nn.Module | None) -> None:
        for other, active in list(self._patchers.items()):
            if other is not unet:
                active.deactivate()
                del self._patchers[other]


def _default(p: Any, tags: Sequence[Tag]) -> list[Tag]:
    """The one that the host's own setting adds to every prompt, written into the prompts as the host does."""
    name = str(webui_modules.opt("sd_hypernetwork", settings.NONE_CHOICE))
    prompts = getattr(p, "all_prompts", None)
    if prompts is None or name in ("", settings.NONE_CHOICE) or any(tag.name == name for tag in tags):
        return []
    weight = webui_modules.opt("extra_networks_default_multiplier", 1.0)
    added = parse(f"<{KIND}:{quote_name(escape_name(name))}:{weight}>", (KIND,)).tags
    if not getattr(p, "is_hr_pass", False):
        for tag in added:
            p.all_prompts = [prompt if tag.text in prompt else prompt + tag.text for prompt in p.all_prompts]
    return list(added)


def _misplaced(p: Any) -> list[str]:
    problems = [BATCH_DIFFERS.replace("adapters", "hypernetworks")] if processing.prompts_differ(p, (KIND,)) else []
    problems += processing.unsupported_editing(p, KIND, "a hypernetwork")
    negative = processing.negative_tag_texts(p, (KIND,))
    return problems + [f"{text} stands in the negative prompt, where tags are plain words." for text in negative]


def _clear_hosts_own() -> None:
    """What the host loaded while the tag was still its own would be applied a second time."""
    loaded = getattr(webui_modules.import_module("shared"), "loaded_hypernetworks", None)
    if loaded:
        loaded.clear()
