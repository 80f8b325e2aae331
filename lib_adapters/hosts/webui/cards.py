"""The catalogue over the host's folders, and what the tab's routes need to know of this host."""

from __future__ import annotations

import secrets
import time
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path

from torch import nn

from lib_adapters.catalogue import Catalogue
from lib_adapters.catalogue.presets import PresetFile
from lib_adapters.files.families import FAMILY_NAMES
from lib_adapters.hosts.tab.guard import guards
from lib_adapters.hosts.tab.tab import Tab
from lib_adapters.hosts.webui import host, settings
from lib_adapters.hosts.webui.model import family_of

ONE_PICTURE = 5.0  # seconds: the host calls several times for one


class Cards:
    """`rescan`: what else must look at the folders again on Refresh."""

    def __init__(self, rescan: Callable[[], None]) -> None:
        self.catalogue = Catalogue(lambda: [path for _, path in settings.shown()], settings.cache_folder())
        self.presets = PresetFile(settings.preset_file(), settings.foreign_presets)
        key = secrets.token_urlsafe(24)
        self.tab = Tab(
            catalogue=self.catalogue,
            guards=guards(key, host.passwords()),
            model=self.model,
            folders=settings.shown,
            rescan=rescan,
            key=key,
            presets=self.presets,
            report=dict,  # the routes are given the real one, which knows more than cards
        )
        self._families: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()
        self._used: tuple[frozenset[Path], float] = (frozenset(), 0.0)

    def model(self) -> tuple[str, str]:
        """The loaded model's family and its name; nothing while none is loaded, or one is just being built."""
        model = host.current_model()
        if model is None:
            return "", ""
        if model not in self._families:
            try:
                self._families[model] = family_of(model)
            except RuntimeError:  # its modules are being exchanged at this moment
                return "", ""
        family = self._families[model]
        return family, FAMILY_NAMES.get(family, "") if family else ""

    def used(self, paths: Iterable[Path]) -> None:
        """Written down once per picture."""
        now, given = time.monotonic(), frozenset(paths)
        before, when = self._used
        if given and (given != before or now - when > ONE_PICTURE):
            self._used = given, now
            for path in given:
                self.catalogue.used(path)
