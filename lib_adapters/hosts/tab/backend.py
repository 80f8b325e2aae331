"""The interface between the tab and its host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_adapters.library import AdapterLibrary
from lib_adapters.library.preset_file import PresetFile


@dataclass(frozen=True)
class TabBackend:
    library: AdapterLibrary
    dependencies: Sequence[Any]  # dependencies of fastapi that every route has
    model: Callable[[], tuple[str, str]]  # family and name of the loaded model, ("", "") for none; never loads one
    folders: Callable[[], list[tuple[str, Path]]]  # label and place, in the order that a card's `root` counts
    rescan: Callable[[], None]  # what else must look at the folders again on Refresh
    key: str  # of this process, for the page's own requests
    presets: PresetFile
    report: Callable[[], dict[str, Any]]  # what was done for the last picture, as `report_of` tells it
