"""The library of the web UI's folders, and the tab's backend on top of it."""

from __future__ import annotations

import secrets
import time
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path

from torch import nn

from lib_adapters.files.model_family import FAMILY_NAMES
from lib_adapters.hosts.tab.auth import auth_dependencies
from lib_adapters.hosts.tab.backend import TabBackend
from lib_adapters.hosts.webui import settings, webui_modules
from lib_adapters.hosts.webui.model_components import family_of
from lib_adapters.library import AdapterLibrary
from lib_adapters.library.preset_file import PresetFile

SAME_IMAGE_SECONDS = 5.0  # seconds: the host calls several times for one


class LibraryBackend:
    """`rescan`: what else must look at the folders again on Refresh."""

    def __init__(self, rescan: Callable[[], None]) -> None:
        self.library = AdapterLibrary(lambda: [path for _, path in settings.tab_folders()], settings.cache_folder())
        self.preset_file = PresetFile(settings.preset_file(), settings.installed_preset_files)
        key = secrets.token_urlsafe(24)
        self.tab = TabBackend(
            library=self.library,
            dependencies=auth_dependencies(key, webui_modules.credentials()),
            model=self.model_family,
            folders=settings.tab_folders,
            rescan=rescan,
            key=key,
            presets=self.preset_file,
            report=dict,  # the routes are given the real one, which knows more than cards
        )
        self._model_families: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()
        self._last_used: tuple[frozenset[Path], float] = (frozenset(), 0.0)

    def model_family(self) -> tuple[str, str]:
        """The loaded model's family and its name; nothing while none is loaded, or one is just being built."""
        model = webui_modules.current_model()
        if model is None:
            return "", ""
        if model not in self._model_families:
            try:
                self._model_families[model] = family_of(model)
            except RuntimeError:  # its modules are being exchanged at this moment
                return "", ""
        family = self._model_families[model]
        return family, FAMILY_NAMES.get(family, "") if family else ""

    def record_use(self, paths: Iterable[Path]) -> None:
        """Written down once per picture."""
        now, given = time.monotonic(), frozenset(paths)
        before, when = self._last_used
        if given and (given != before or now - when > SAME_IMAGE_SECONDS):
            self._last_used = given, now
            for path in given:
                self.library.record_use(path)
