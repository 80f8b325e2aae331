"""The section `LyCORIS` of the settings page. What the options mean is read in settings.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from lib_adapters.hosts.webui import host
from lib_adapters.hosts.webui.settings import CACHE_MB, CLIP_FOLDER, NEGATIVE, NOTHING, PARTS, REPORTS

MOST_CHOICES = 500
_SECTION = ("lycoris", "LyCORIS")


def declare(names: Callable[[], Sequence[str]], rescan: Callable[[], None]) -> None:
    """Add our options to the host's; `names` is called when the page is built."""
    shared = host.module("shared")

    def choices() -> dict[str, Any]:
        """All of ten thousand names would be sent with every page; others can be typed. The host also puts this into
        an update of the component, and that knows no more than choices."""
        return {"choices": [NOTHING, *names()[:MOST_CHOICES]]}

    options = _tags(shared.OptionInfo, choices, rescan) | _places(shared.OptionInfo)
    shared.options_templates.update(shared.options_section(_SECTION, options))


def _tags(info: Any, choices: Callable[[], dict[str, Any]], rescan: Callable[[], None]) -> dict[str, Any]:
    radio, dropdown, _ = _components()
    return {
        "lycoris_handle_lora": _explained(
            info(True, "Handle <lora:...> as well"),
            "every kind of adapter in either tag; off: <lora:...> stays with the built-in Lora",
        ),
        "lycoris_handle_hypernet": _explained(
            info(True, "Handle <hypernet:...> as well"),
            "only on the kind of model a file was made for, and with a line under the picture; off: as ever",
        ),
        "lycoris_default": _explained(
            info(NOTHING, "Add adapter to every prompt", dropdown, choices, refresh=rescan),
            'with the weight of "Default multiplier for extra networks"',
        ),
        "lycoris_report": _explained(
            info(REPORTS[0], "Under each picture, say", radio, {"choices": list(REPORTS)}),
            "which adapters were applied, to how many layers, and what could not be",
        ),
        "lycoris_parts": _explained(
            info(True, "Tags between two ANDs act on that part of the prompt alone", infotext=PARTS),
            "off: they act on the whole picture; a prompt without AND is not concerned",
        ),
        "lycoris_negative": _explained(
            info(False, "Tags in the negative prompt act on its side alone", infotext=NEGATIVE),
            "off: they are plain words there, as the web UI has it",
        ),
    }


def _places(info: Any) -> dict[str, Any]:
    *_, number = _components()
    return {
        "lycoris_cache_mb": _explained(
            info(CACHE_MB, "Memory for adapters that were used (MB)", number, {"precision": 0}),
            "an adapter that is still in memory is not read again; counts after the next change of checkpoint",
        ),
        "lycoris_folders": _explained(
            info("", "More folders with adapters"),
            "separated by ; (models/LyCORIS and models/Lora are always looked into)",
        ),
        "lycoris_show_lora": _explained(
            info(True, "Show the files of the Lora folder in the LyCORIS tab as well"),
            "counts from the tab's next Refresh; the tags find them in any case",
        ),
        "lycoris_clip_folder": _explained(
            info("", CLIP_FOLDER),
            "openai/clip-vit-large-patch14 on this machine. If empty, models/CLIP and the caches of Hugging Face and "
            "clip are searched. SD 1 needs it",
        ),
    }


def _components() -> tuple[Any, Any, Any]:
    import gradio

    return gradio.Radio, partial(gradio.Dropdown, allow_custom_value=True), gradio.Number


def _explained(option: Any, text: str) -> Any:
    return option.info(text) if hasattr(option, "info") else option
